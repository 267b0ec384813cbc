#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Nodes of real Xen that are not gone but ill: they hang, they panic, their xenstored answers nobody."""

import os
import sys
import time

from harness import HELPERS, main, scenario
from moving import check_goes_on, ready, record_of, wait_over
from test_faults import SENT_S, boot_of, elsewhere
from world import FAILOVER_S, LabError, check, wait_until
from xenlab import bmc, cluster, net
from xenlab.errors import read

PANIC = "echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger"
PAUSE_S = 0.25  # P (ARCHITECTURE.md): what a node may take from its lease's end until its guests stand still
# What was written is put down by the storage, which a busy machine may keep from doing so for a while.
LATE_S = 2.0
HEARD_S = 60
DEADLINE_S = 45  # of a move that can't come to an end


def ill(world, strike):
    """Strikes the node of the guest, which runs on another afterwards; all nodes come back."""
    ready(world, "pv1", "pv")
    node, since = world.where("pv1"), time.monotonic()
    strike(world.nodes[node])
    elsewhere(world, "pv1", node, since)
    machine = world.nodes[node]
    wait_until(lambda: machine.state() != "hung", f"{node} is switched off or back", FAILOVER_S, 1)
    world.all_back()
    world.check_guest("pv1")


@scenario(1500, helpers=(), extra=HELPERS[:1])
def dom0_hangs(world):
    """All processors of a node stand still: its BMC switches it off, its guest runs elsewhere, once."""
    ill(world, lambda machine: machine.hang())


def panic(machine):
    try:
        cluster.inside(machine, "sh", "-c", PANIC, is_checked=False, timeout_s=5)
    except LabError:
        pass  # nobody is left to answer


@scenario(1500, helpers=(), extra=HELPERS[:1])
def dom0_panics(world):
    """A node's dom0 panics, and Xen with it: its guest runs elsewhere, once."""
    ill(world, panic)


def lease_s(world, node):
    """L and P of a node, together: how long it may take from the last acknowledged heartbeat until its
    guests stand still."""
    return (world.status(node).get("here") or {})["lease_ms"] / 1e3 + PAUSE_S


def writes_of(world, machine, since_ns):
    """The times, in ns, at which a node wrote to guests' disks."""
    address = net.admin_address(machine.index)
    found = []
    for line in read(os.path.join(world.place.of_lab("storage"), "writes.log")).splitlines():
        words = line.split()
        if len(words) == 5 and words[1] == address and int(words[0]) > since_ns:
            found.append(int(words[0]))
    return found


def is_heard(world, name):
    since = time.monotonic()
    return wait_until(lambda: world.ear.of(name, since), f"{name} is heard", HEARD_S, 0.5)


def move_in_vain(world, name):
    """A migration to a node that can't make domains: it is given up, with a reason, and the guest goes on."""
    source, to, before = world.where(name), world.other(name), world.ear.of(name)[-1]
    cluster.inside(world.nodes[to], "pkill", "-STOP", "-x", "xenstored")
    began = time.monotonic()
    answer = world.hactl("migrate", name, "--to", to, "--on-slow", "pause", "--deadline", f"{DEADLINE_S}s",
                         "--detach", node=source)
    errors = answer.get("errors") or []
    try:
        if errors:
            world.note(f"refused: {errors[0]['message']}")
        else:
            wait_over(world, source)
    finally:
        cluster.inside(world.nodes[to], "pkill", "-CONT", "-x", "xenstored")
    if not errors:
        record = record_of(world, answer["data"]["op"])
        world.note(f"{record['outcome']} after {time.monotonic() - began:.1f} s: {record['reason']}")
        check(record["outcome"] == "aborted" and record["reason"], f"it is {record}")
    check_goes_on(world, name, before, node=source)


@scenario(1800, helpers=(), extra=HELPERS[:1])
def xenstored_stops(world):
    """A node's xenstored answers nobody: no guest moves there; cut off as well, it stops its own in time.
    It resets then, for it can't prove that it is quiet."""
    ready(world, "pv1", "pv")
    move_in_vain(world, "pv1")
    node = world.where("pv1")
    machine, boot, most_s = world.nodes[node], boot_of(world, node), lease_s(world, node)
    cluster.inside(machine, "pkill", "-STOP", "-x", "xenstored")
    is_heard(world, "pv1")
    bmc.stop(machine)  # on a switch that works it would be off before its lease ends
    since, since_ns = time.monotonic(), time.time_ns()
    try:
        world.cable(node, False)
        wait_until(lambda: boot_of(world, node) not in ("", boot), f"{node} is in another boot", FAILOVER_S, 0.5)
        world.note(f"{node} is in another boot {time.monotonic() - since:.1f} s later")
        wrote = writes_of(world, machine, since_ns)
        check(wrote, f"{node} wrote nothing once it was cut off, although its lease went on")
        last_s = (wrote[-1] - since_ns) / 1e9
        world.note(f"its guest's last write came {last_s:.1f} s after the cable, {most_s:.1f} s are allowed")
        check(last_s <= most_s + LATE_S, f"{node} let its guest write for {last_s:.1f} s")
        heard = [b for b in world.ear.of("pv1", since + SENT_S) if b.at < since + last_s]
        check(not heard, f"another copy ran while {node}'s wrote: {heard[:1]}")
        elsewhere(world, "pv1", node, since)
    finally:
        world.cable(node, True)
        bmc.start(world.place, machine)
    world.all_back()
    world.check_guest("pv1")


if __name__ == "__main__":
    sys.exit(main())
