#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Guests of real Xen that move, with memory and disk whole."""

import sys
import time

from harness import HELPERS, main, scenario
from world import check, wait_until
from xenlab import cluster

MOVE_S = 420
CANCEL_TRIES = 5
# In the node itself, for a look from outside takes longer than such a migration.
CANCEL = """
while hactl --json status > /tmp/lab-status; do
    if grep -q '"step": *"copying"' /tmp/lab-status; then exec hactl --json cancel "$1"; fi
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


def cancelled_once(world, name):
    """Begins a move and cancels it while it copies: True, or False if it was faster than that."""
    source, to = world.where(name), world.other(name)
    before = world.ear.of(name)[-1]
    answer = world.hactl("migrate", name, "--to", to, "--detach", node=source)
    check(not answer.get("errors"), f"migrate {name}: {answer.get('errors')}")
    op = answer["data"]["op"]
    cluster.inside(world.nodes[source], "sh", "-c", CANCEL, "sh", str(op), timeout_s=MOVE_S,
                   is_checked=False)
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


if __name__ == "__main__":
    sys.exit(main())
