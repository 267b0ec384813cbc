#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The line that hamgr-sim prints for a violation gives the same run again.

    tests/sim/replays.py BINARY

Planted failures that need options (--faults, --seconds, --nodes, --no-corners) are found and shrunk;
each printed line is run as it stands, and must come to the same finding with the same hash. And --until stops
at the rules that it names, not at others that begin like them.
"""

import re
import subprocess
import sys

# What must break, and with which options: one that needs faults, one that needs none of them
# ("--keep none"), one whose world is all given.
CASES = (
    ("I3,I4,L1", ["--plant", "disk-lies", "--faults", "power", "--seconds", "90", "--nodes", "3"]),
    ("L1", ["--plant", "nothing-starts", "--faults", "clock-jump", "--seconds", "30", "--nodes", "2"]),
    ("I5", ["--plant", "keeper-always-pets", "--faults", "isolate,operator", "--seconds", "60",
            "--nodes", "3", "--no-corners"]),
)
SEEDS = "1..200"


def run(binary, *words):
    done = subprocess.run([binary, *words, "--hash"], stdout=subprocess.PIPE, text=True,
                          timeout=120, check=False)
    assert done.returncode == 1, f"{' '.join(words)}: exit code {done.returncode}, not 1"
    return done.stdout


def line_of(text):
    return re.search(r"^ *replay: tests/sim/run (--seed .*)$", text, re.M).group(1).split()


def finding(text):
    """(seed, words, hash) of the first violation, and the line that replays it."""
    seed, words = re.search(r"^seed (\d+)(?: with \d+ faults)?: (\w+: .*)$", text, re.M).groups()
    code = re.search(rf"^seed {seed} hash (\w+)$", text, re.M).group(1)
    return (seed, words, code), line_of(text)


def replay(binary, text):
    """Runs the line that a text ends with, and returns what both found."""
    found, line = finding(text)
    again, same = finding(run(binary, *line))
    assert again == found, f"{' '.join(line)}: {again}, not {found}"
    assert same == line, f"{' '.join(line)} says of itself: {' '.join(same)}"
    return found


def check_until(binary):
    """I1 is not I10: only the latter is where it stops."""
    found = {}
    for rules in ("I1", "L1,I10"):
        text = subprocess.run([binary, "--seeds", "1..3", "--plant", "acts-at-once", "--until", rules],
                              stdout=subprocess.PIPE, text=True, timeout=120, check=False).stdout
        found[rules] = re.findall(r"^seed \d+: (\w+):", text, re.M)
    assert found == {"I1": ["I10"] * 3, "L1,I10": ["I10"]}, found


def main():
    binary = sys.argv[1]
    check_until(binary)
    for rules, words in CASES:
        seed, told, _ = replay(binary, run(binary, "--seeds", SEEDS, *words, "--until", rules))
        _, small, _ = replay(binary, run(binary, "--shrink", seed, *words))
        print(f"{words[1]}: seed {seed}, {told}; shrunk: {small}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
