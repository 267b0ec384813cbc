#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What is not clear is refused with one line and exit code 2, by hamgr-sim and by its front.

    tests/sim/refusals.py BINARY

A typing error must neither run other seeds than were meant, nor none, and pass.
"""

import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
BOTH = (
    "--seeds 10..1", "--seeds 0..5", "--seeds abc", "--seeds 5", "--seeds 1..", "--seeds 1..2x",
    "--seeds -1..3", "--seeds", "--seeds 1..99999999999999999999", "--seed -1", "--seed 0",
    "--seed 99999999999999999999", "--seed 7x", "--seed", "--shrink x", "--seed 7 --plant nosuch",
    "--seeds 1..2 --plant nosuch", "--seed 7 --nodes 1", "--seed 7 --nodes 10",
    "--seed 7 --seconds 29", "--seed 7 --seconds x", "--seed 7 --faults nosuch",
    "--seed 7 --faults isolate,nosuch", "--seed 7 --keep 3-1", "--seed 7 --keep 3,,4",
    "--seed 7 --keep -", "--seed 7 --until none", "--seed 7 --bogus", "--seed 7 more",
    "--matrix --cell zz", "--matrix --cell 208", "--matrix --cell -1", "--matrix --seed 7",
    "--cell 3 --seed 7", "--trace", "--script /nonexistent",
)
FRONT = (
    "--seeds 1..2 --jobs 0", "--seeds 1..2 --jobs x", "--seeds 1..2 --jobs -1", "--seeds 1..2 --jobs",
    "--kept --bogus", "--seeds 1..2 --plants", "--seeds 1..2 --kept", "--plants --kept",
    "--seeds 1..2 --seed 3", "--seeds 1..2 --seeds 3..4", "--seeds 1..2 --stride 2", "--jobs 2 --seed 7",
    "--seeds=3..1", "scenario /nonexistent.json", "scenario /etc/passwd", "--seeds 1..2 --bogus", "--matrix --jobs 2",
)


def refused(command):
    """None, or what is wrong with how it is refused."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=20, check=False)
    lines = set(done.stderr.splitlines())
    if done.returncode != 2 or len(lines) != 1 or "Traceback" in done.stderr or done.stdout:
        return f"exit code {done.returncode}, {done.stdout[-200:]!r}, {done.stderr[-300:]!r}"
    return None


def main():
    binary = sys.argv[1]
    front = [os.path.join(HERE, "run"), "--binary", binary]
    cases = [[binary, *words.split()] for words in BOTH]
    cases += [[*front, *words.split()] for words in BOTH + FRONT]
    bad = 0
    for command in cases:
        why = refused(command)
        if why:
            bad += 1
            print(f"{' '.join(command)}: {why}")
    print(f"{len(cases)} unclear command lines, {bad} not refused as they should be")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
