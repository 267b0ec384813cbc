#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Proves that a static library is pure: no clock, no I/O, no allocation, no globals.

    tests/lib/purity.py build/release/libha_pure.a

What the library needs from outside must be on a short list of functions that only look at their
arguments; and it must have no writable data. Sanitizer and coverage builds can't be checked.
"""

import re
import subprocess
import sys

ALLOWED = re.compile(
    r"""^(mem(cpy|move|set|cmp|chr|rchr|mem) | str(n?len|n?cmp|r?chr|str|spn|cspn|pbrk|nlen)
    | v?snprintf | qsort | bsearch
    | __(mem(cpy|move|set)|v?snprintf)_chk   # _FORTIFY_SOURCE's forms of the above
    | __stack_chk_fail | __assert_fail | abort | ha_assert_fail
    | _GLOBAL_OFFSET_TABLE_ )$""", re.VERBOSE)
WRITABLE = re.compile(r"^\.(data|bss|tdata|tbss)(\.|$)")
CONSTANT = re.compile(r"^\.data\.rel\.ro(\.|$)")  # constants that hold addresses


def run(argv):
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout


def foreign_symbols(library):
    """(member, symbol) of what no member defines and the list does not allow."""
    defined = set()
    wanted = []
    member = "?"
    for line in run(["nm", library]).splitlines():
        words = line.split()
        if line.endswith(":"):
            member = line[:-1]
        elif len(words) == 2 and words[0] in "Uw":
            wanted.append((member, words[1]))
        elif len(words) == 3:
            defined.add(words[2])
    return [(m, s) for m, s in wanted if s not in defined and not ALLOWED.match(s)]


def writable_sections(library):
    """(member, section, bytes) of non-empty writable sections."""
    found = []
    member = "?"
    for line in run(["size", "-A", library]).splitlines():
        words = line.split()
        if "(ex " in line:
            member = words[0]
        elif len(words) == 3 and WRITABLE.match(words[0]) and not CONSTANT.match(words[0]) \
                and int(words[1]) > 0:
            found.append((member, words[0], int(words[1])))
    return found


def main(argv):
    if len(argv) != 1:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    foreign = foreign_symbols(argv[0])
    writable = writable_sections(argv[0])
    for member, symbol in foreign:
        print(f"{member}: needs {symbol}, which is not pure")
    for member, section, size in writable:
        print(f"{member}: {size} writable bytes in {section}")
    members = run(["ar", "t", argv[0]]).split()
    if not members:
        print("empty library")
    print(f"purity: {len(members)} members, "
          + (f"{len(foreign) + len(writable)} breaches" if foreign or writable else "ok"))
    return 1 if foreign or writable or not members else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
