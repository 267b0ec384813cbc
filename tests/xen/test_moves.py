#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Guests of real Xen that move, with memory and disk whole, also where a node dies meanwhile."""

import sys
import time

from harness import HELPERS, main, scenario
from world import FAILOVER_S, LabError, check, wait_until
from xenlab import cluster

MOVE_S = 420
CANCEL_TRIES = 5
# In the node itself, for a look from outside takes longer than such a migration.
WHEN_COPYING = """
while hactl --json status > /tmp/lab-status; do
    if grep -q '"step": *"copying"' /tmp/lab-status; then exec "$@"; fi
    if grep -q '"moves": *\\[\\]' /tmp/lab-status; then exit 1; fi
done
"""


def record_of(world, op):
    """The record of a migration: an entry of its own, behind its end."""
    def found():
        moves = (world.hactl("migrations", "--count", "20").get("data") or {}).get("migrations") or []
        return next((m for m in moves if m["op"] == op), None)
    return wait_until(found, f"the record of migration {op}", 60, 1)


def check_helper(world, node):
    """Where hamgr's own helper is wanted, it is what moved memory."""
    if world.settings.get("xen_helper") != "auto":
        return
    refused = [line for line in world.lines(node, "hamgr-hv.log") if "libxl's own helper" in line]
    check(not refused, f"{node}: {refused[-1:]}")


def move(world, name, *words):
    """Moves it to another node and back into view; returns the record of the migration."""
    source, to = world.where(name), world.other(name)
    before = world.ear.of(name)[-1]
    began = time.monotonic()
    answer = world.hactl("migrate", name, "--to", to, *words, node=source, timeout_s=MOVE_S)
    took_s = time.monotonic() - began
    check(not answer.get("errors"), f"migrate {name}: {answer.get('errors')}")
    check(answer["data"]["moved"], f"{name} did not move: {answer}")
    beat = world.wait_running(name, node=to, since=time.monotonic())
    check(beat.incarnation == before.incarnation and beat.step > before.step,
          f"{name} was started anew instead of moved")
    beats = [b for b in world.ear.of(name, began) if b.incarnation == before.incarnation]
    silence = max((b.at - a.at for a, b in zip(beats, beats[1:])), default=0.0)
    record = record_of(world, answer["data"]["op"])
    check_helper(world, source)
    check_helper(world, to)
    world.note(f"{name} {source} > {to}: {took_s:.1f} s in all, "
               f"{record['raw_bytes'] >> 20} MiB as {record['wire_bytes'] >> 20} MiB, "
               f"not heard for {silence:.2f} s")
    world.check_guest(name)
    return record


def ready(world, name, kind):
    if world.guest(name):
        world.wait_running(name)
    else:
        world.add(name, kind)


@scenario(1200, helpers=HELPERS)
def pv_live(world):
    """A PV guest moves live there and back, on a hypervisor with shadow paging."""
    ready(world, "pv1", "pv")
    move(world, "pv1", "--on-slow", "pause")
    move(world, "pv1", "--on-slow", "pause")


@scenario(1200, helpers=HELPERS)
def pvh_live(world):
    """A PVH guest moves live there and back."""
    ready(world, "pvh1", "pvh")
    move(world, "pvh1", "--on-slow", "pause")
    move(world, "pvh1", "--on-slow", "pause")


def begin_move(world, name):
    """(source, destination, the migration's number) of a move that has begun."""
    source, to = world.where(name), world.other(name)
    answer = world.hactl("migrate", name, "--to", to, "--on-slow", "pause", "--detach", node=source)
    check(not answer.get("errors"), f"migrate {name}: {answer.get('errors')}")
    return source, to, answer["data"]["op"]


def when_copying(world, node, *words):
    """Runs a command on a node as soon as memory is on its way there; False: it was over before, or the
    command failed."""
    try:
        cluster.inside(world.nodes[node], "sh", "-c", WHEN_COPYING, "sh", *words, timeout_s=MOVE_S)
    except LabError:
        return False
    return True


def cancelled_once(world, name):
    """Begins a move and cancels it while it copies: True, or False if it was faster than that."""
    before = world.ear.of(name)[-1]
    source, _, op = begin_move(world, name)
    when_copying(world, source, "hactl", "--json", "cancel", str(op))
    wait_until(lambda: not world.status().get("moves", [1]), "the migration is over", MOVE_S, 1)
    beat = world.wait_running(name, since=time.monotonic())
    check(beat.incarnation == before.incarnation, f"{name} was started anew")
    world.check_guest(name)
    return world.where(name) == source


@scenario(1800, helpers=HELPERS)
def cancelled_in_mid_stream(world):
    """A migration that is cancelled while it copies leaves the guest where it was, and it can move."""
    ready(world, "pv1", "pv")
    tries = 1
    while not cancelled_once(world, "pv1"):
        check(tries < CANCEL_TRIES, f"{tries} migrations were over before they could be cancelled")
        tries += 1
    world.note(f"cancelled at try {tries}")
    move(world, "pv1", "--on-slow", "pause")


def cut_in_mid_move(world, name, victim_of):
    """Begins a move and takes the power of one of its ends while it copies. Returns (source, victim,
    the guest's newest beat before, when)."""
    for _ in range(CANCEL_TRIES):
        before = world.ear.of(name)[-1]
        source, to, _ = begin_move(world, name)
        victim = victim_of(source, to)
        if when_copying(world, source, "true"):
            since = time.monotonic()
            world.nodes[victim].power_off()
            return source, victim, before, since
        wait_until(lambda: not world.status().get("moves", [1]), "the migration is over", MOVE_S, 1)
        world.wait_running(name)
    raise AssertionError(f"{CANCEL_TRIES} migrations were over before anything could be cut")


@scenario(1500, helpers=HELPERS[1:])
def destination_dies(world):
    """The destination loses power while it is sent a guest: the guest goes on where it was."""
    ready(world, "pv1", "pv")
    source, victim, before, since = cut_in_mid_move(world, "pv1", lambda _, to: to)
    wait_until(lambda: not world.status(source).get("moves", [1]), "the migration is over", FAILOVER_S, 1)
    world.note(f"{victim} off, and the migration over {time.monotonic() - since:.1f} s later")
    beat = world.wait_running("pv1", node=source, since=time.monotonic())
    check(beat.incarnation == before.incarnation, "pv1 was started anew")
    world.all_back()
    world.check_guest("pv1")


@scenario(1500, helpers=HELPERS[1:])
def source_dies(world):
    """The source loses power while it sends a guest: the guest is started elsewhere, once."""
    ready(world, "pv1", "pv")
    source, victim, before, since = cut_in_mid_move(world, "pv1", lambda source, _: source)
    beats = wait_until(lambda: [b for b in world.ear.of("pv1", since)
                                if b.incarnation != before.incarnation],
                       "another copy of pv1 is heard", FAILOVER_S, 1)
    world.note(f"{victim} off, and pv1 heard again {beats[0].at - since:.1f} s later")
    check(world.wait_running_where("pv1") != source, f"pv1 is said to run on {source}, which is lost")
    world.all_back()
    world.check_guest("pv1")


if __name__ == "__main__":
    sys.exit(main())
