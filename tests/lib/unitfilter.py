# SPDX-License-Identifier: Apache-2.0
"""What a systemd unit allows its program: SystemCallFilter= and CapabilityBoundingSet= (systemd.exec(5))."""

import re
import subprocess


def groups():
    """@name -> the lines of that group, which may name groups again, as this systemd has them."""
    done = subprocess.run(["systemd-analyze", "--no-pager", "syscall-filter"], capture_output=True,
                          text=True, check=True, timeout=60)
    found, name = {}, None
    for line in done.stdout.splitlines():
        if line.startswith("@"):
            name = line.strip()
            found[name] = []
        elif name and re.match(r"\s+[@a-z]", line):
            found[name].append(line.strip())
    return found


def expand(word, known):
    """The system calls that a word of a filter stands for."""
    if not word.startswith("@"):
        return {word.split(":")[0]}
    return set().union(*(expand(each, known) for each in known[word]))


def allowed(unit, known):
    """The system calls that a unit's text allows; None: it restricts none. Only lists that begin with
    what is allowed are read: ours all do."""
    result = None
    for line in re.findall(r"^SystemCallFilter=(.*)$", unit, re.M):
        is_taken_away = line.startswith("~")
        calls = set().union(*(expand(word, known) for word in line.lstrip("~").split()))
        if result is None:
            if is_taken_away:
                raise ValueError("a SystemCallFilter that begins with what is forbidden")
            result = expand("@default", known)
        result = result - calls if is_taken_away else result | calls
    return result


def capabilities(unit):
    """The numbers of the capabilities that a unit's text leaves to root."""
    with open("/usr/include/linux/capability.h", encoding="ascii") as file:
        known = {name: int(number) for name, number in
                 re.findall(r"^#define (CAP_[A-Z_]+)\s+(\d+)$", file.read(), re.M)}
    lines = re.findall(r"^CapabilityBoundingSet=(.*)$", unit, re.M)
    if not lines:
        return sorted(known.values())
    return sorted(known[name] for name in " ".join(lines).split())
