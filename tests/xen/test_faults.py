#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Nodes of real Xen that fail: power, cable, all at once; fenced by their BMCs, or by themselves."""

import sys
import time

from harness import main, scenario
from moving import ready
from world import FAILOVER_S, LabError, check, domains_in, wait_until
from xenlab import bmc, cluster

PARTS_S = 1.0  # FENCED committed to create called, and create done to unpaused, together
SENT_S = 5.0  # what was on its way when a cable was pulled has been heard


def elsewhere(world, name, node, since):
    """Waits until a guest of a lost node runs on another, anew; returns where."""
    before = [b.incarnation for b in world.ear.of(name) if b.at <= since][-1]
    beats = wait_until(lambda: [b for b in world.ear.of(name, since) if b.incarnation != before],
               f"another copy of {name} is heard", FAILOVER_S, 1)
    world.note(f"{name} is heard again {beats[0].at - since:.1f} s later")
    # STARTED is committed after the guest's first packet, now and then.
    where = world.wait_running_where(name)
    check(where != node, f"{name} is said to run on {node}, which is lost")
    world.check_guest(name)
    return where


def parts(world, node, name):
    """(FENCED to create called, create done to unpaused) in seconds, on the node that took over."""
    fenced = world.committed(node, "FENCED ")
    created, create_s = world.took(node, "create", name)
    ran, _ = world.took(node, "run", name)
    return created - create_s - fenced, ran - created


@scenario(1200)
def power_cut(world):
    """The node of a guest loses power: fenced by its BMC, the guest runs elsewhere, once."""
    ready(world, "pv1", "pv")
    node, since = world.where("pv1"), time.monotonic()
    world.nodes[node].power_off()
    where = elsewhere(world, "pv1", node, since)
    before, after = parts(world, where, "pv1")
    world.note(f"FENCED to create called {before:.2f} s, create done to unpaused {after:.2f} s")
    world.all_back()
    world.check_guest("pv1")
    check(before + after <= PARTS_S, f"{before:.2f} + {after:.2f} s, {PARTS_S} are allowed")


def boot_of(world, node):
    """Which boot a node is in; "" while it can't be asked."""
    try:
        return cluster.inside(world.nodes[node], "cat", "/proc/sys/kernel/random/boot_id",
                              is_checked=False).strip()
    except LabError:
        return ""


def quarantines(world, node):
    """How often its hamgr-hv has said that it paused all and proved it."""
    try:
        return sum("closed, quarantined" in line for line in world.lines(node, "hamgr-hv.log"))
    except LabError:
        return 0


def fate(world, node, boot, quarantined):
    """What a node that is cut off did by itself: "quarantined" (beyond so many), or "reset" by its
    watchdog (it is in another boot)."""
    def done():
        if quarantines(world, node) > quarantined:
            return "quarantined"
        return "reset" if boot_of(world, node) not in ("", boot) else None
    return wait_until(done, f"{node} stops its guests by itself", FAILOVER_S, 0.5)


@scenario(1500)
def cable_cut(world):
    """The node of a guest loses its cable and its BMC, not its disk: it stops the guest itself first."""
    ready(world, "pv1", "pv")
    node = world.where("pv1")
    machine, boot, quarantined = world.nodes[node], boot_of(world, node), quarantines(world, node)
    bmc.stop(machine)  # on a switch that works it would be off before its lease ends
    since = time.monotonic()
    try:
        world.cable(node, False)
        how, stopped = fate(world, node, boot, quarantined), time.monotonic()
        world.note(f"{node} is {how} {stopped - since:.1f} s later")
        if how == "quarantined":
            states = domains_in(cluster.inside(machine, "xl", "list"), "pv1")
            check(len(states) == 1 and "p" in states[0], f"{node} is quarantined, pv1 there is {states}")
            early = [b for b in world.ear.of("pv1", since + SENT_S) if b.at < stopped]
            check(not early, f"pv1 was heard before {node} had paused its copy: {early[:1]}")
        elsewhere(world, "pv1", node, since)  # what the node that is cut off still has is paused
    finally:
        world.cable(node, True)
        bmc.start(world.place, machine)
    world.all_back()
    world.check_guest("pv1")


def switch_all_off(world):
    for machine in world.nodes.values():
        machine.power_off()


@scenario(1500)
def cold_start(world):
    """All nodes lose power at once and come back: the guest runs again, once, its disk whole."""
    ready(world, "pv1", "pv")
    before = world.ear.of("pv1")[-1].incarnation
    switch_all_off(world)
    since = time.monotonic()
    try:
        cluster.together(world.lab.switch_on, list(world.nodes.values()))
    except LabError as error:  # a node that is fenced while it comes back: all_back sees to it
        world.note(str(error))
    world.all_back()
    beats = wait_until(lambda: [b for b in world.ear.of("pv1", since) if b.incarnation != before],
                       "pv1 is heard again", FAILOVER_S, 1)
    world.note(f"pv1 is heard again {beats[0].at - since:.1f} s after power came back")
    world.check_guest("pv1")


if __name__ == "__main__":
    sys.exit(main())
