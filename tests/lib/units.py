#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Holds the built systemd units to a low exposure: tests/lib/units.py build/release/deploy/systemd

Fails if systemd-analyze calls a unit's exposure higher than LIMITS allow, or finds it malformed.
"""

import os
import re
import subprocess
import sys

# 0 is nothing exposed, 10 everything. hamgr-hv drives a hypervisor: it stays root with some powers.
LIMITS = {"hamgr-hv.service": 4.0, "hamgr-fence.service": 3.0, "hamgrd.service": 2.5}
LIMIT = 2.0
# What a unit needs although it costs exposure: hamgrd reads the groups of who asks it in /proc.
NEEDED = {"hamgrd.service": "ProtectProc=default"}
# Said of any unit whose program or manual is not installed here.
NOT_INSTALLED = re.compile(r"not executable|exited with code|failed with code")


def analyze(*argv):
    done = subprocess.run(["systemd-analyze", *argv], capture_output=True, text=True, check=False,
                          timeout=60)
    return done.stdout + done.stderr


def main(argv):
    bad = 0
    units = sorted(name for name in os.listdir(argv[0]) if name.endswith(".service"))
    for name in units:
        path = os.path.join(argv[0], name)
        found = re.search(r"exposure level for \S+: ([\d.]+)",
                          analyze("security", "--offline=true", path))
        exposure = float(found.group(1)) if found else 99.0
        limit = LIMITS.get(name, LIMIT)
        print(f"{name}: exposure {exposure}, limit {limit}")
        bad += exposure > limit
        with open(path, encoding="ascii") as file:
            if NEEDED.get(name, "") not in file.read():
                print(f"{name}: {NEEDED[name]} is missing")
                bad += 1
        for line in analyze("verify", path).splitlines():
            if name in line and not NOT_INSTALLED.search(line):
                print(line)
                bad += 1
    return 1 if bad or not units else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
