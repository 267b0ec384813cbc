#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The contract of hv.h on real Xen, as far as it is about live moves: within one dom0, without hamgr's daemons."""

import os
import subprocess
import sys

from harness import main, scenario
from world import ROOT, check

TEST = "test_live_round_trip"
KINDS = ("pv", "pvh")
RUN_S = 900


def run_contract(world, kind, helper):
    """Ten live moves of a guest without devices. libxc sends each page once more and compares: it prints what
    differs, and returns 0 all the same; hamgr's driver listens, and gives the restore up."""
    place = world.place
    variables = {"HAMGR_LAB_DIR": place.directory, "HAMGR_LAB_NAME": place.name, "HAMGR_XEN_HELPER": helper,
                 "HAMGR_XEN_VERIFY": "1"}
    argv = [os.path.join(ROOT, "tests", "contract", "on_xen"), world.build, next(iter(world.nodes)), kind, TEST]
    done = subprocess.run(argv, env={**os.environ, **variables}, stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=RUN_S, check=False)
    # A driver that skips ends well, too, and runs none.
    check(done.returncode == 0 and "[  PASSED  ] 1 test(s)." in done.stdout, done.stdout[-2000:])


@scenario(4 * RUN_S, helpers=(), extra=("stock",), nodes=1, driver="none")
def live_contract(world):
    """The driver's contract for live moves, PV and PVH, by either helper; every page is compared with a second copy."""
    for helper in ("stock", "auto"):
        for kind in KINDS:
            run_contract(world, kind, helper)
            world.note(f"{kind} by {'hamgr' if helper == 'auto' else 'libxl'}'s helper: ten moves, all pages alike")


if __name__ == "__main__":
    sys.exit(main())
