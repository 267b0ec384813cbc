#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A fuzz target with a planted bug must find it: must_fail.py WORDS SECONDS COMMAND...

Ends well only if COMMAND fails and says WORDS (a sanitizer's report, a broken property) within
SECONDS."""
import subprocess
import sys


def main():
    words, seconds, command = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        print(f"the planted bug was not found within {seconds} s")
        return 1
    text = done.stdout.decode(errors="replace")
    if done.returncode == 0 or words not in text:
        print(text[-2000:])
        print(f"the planted bug was not found: exit {done.returncode}, no \"{words}\"")
        return 1
    print(f"found: exit {done.returncode}, \"{words}\"")
    return 0


if __name__ == "__main__":
    sys.exit(main())
