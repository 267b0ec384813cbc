#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Guests that stay where they are, on real Xen: started, destroyed behind hamgr's back, daemons killed."""

import sys
import time

from harness import main, scenario
from world import START_S, check, wait_until
from xenlab import cluster


@scenario(900)
def run_and_stay(world):
    """A PV and a PVH guest start; one that is destroyed behind hamgr's back comes back, once."""
    for name, kind in (("pv1", "pv"), ("pvh1", "pvh")):
        began = time.monotonic()
        world.add(name, kind)
        world.note(f"{name} is heard {time.monotonic() - began:.1f} s after guest add")
    for name in ("pv1", "pvh1"):
        world.check_guest(name)
    node = world.where("pv1")
    before = world.ear.of("pv1")[-1].incarnation
    since = time.monotonic()
    cluster.inside(world.nodes[node], "xl", "destroy", "pv1")
    # What it said until then may still be on its way.
    wait_until(lambda: [b for b in world.ear.of("pv1", since) if b.incarnation != before],
               "another copy of pv1 is heard", START_S, 1)
    world.note(f"pv1 is heard again {time.monotonic() - since:.1f} s after xl destroy")
    world.check_guest("pv1")


@scenario(600)
def daemons_die(world):
    """hamgr-hv, hamgrd and corosync are killed on the node of a guest: it does not notice."""
    if not world.guest("pv1"):
        world.add("pv1", "pv")
    node = world.where("pv1")
    before = world.ear.of("pv1")[-1].incarnation
    for name in ("hamgr-hv-xen", "hamgrd", "corosync"):
        since = time.monotonic()
        cluster.inside(world.nodes[node], "pkill", "-KILL", "-x", name)
        wait_until(lambda: all(n["status"] == "member" and n["armed"]
                               for n in world.status().get("nodes", [])),
                   f"all nodes are members after {name} was killed", 240, 1)
        beat = world.wait_running("pv1", since=time.monotonic())
        world.note(f"{name} killed: all well again after {time.monotonic() - since:.1f} s")
        if name != "corosync":  # to its peers that is a lost node, and its guests may start elsewhere
            check(beat.incarnation == before, f"pv1 was started anew when {name} was killed")
        before = beat.incarnation
        world.check_guest("pv1")


if __name__ == "__main__":
    sys.exit(main())
