#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Guests of real Xen that move, with memory and disk whole, also where a node dies meanwhile."""

import sys
import time

from harness import HELPERS, main, scenario
from moving import (TRIES, begin_move, check_goes_on, in_mid_move, left_of, move, power_off,
                    ready, wait_over, when_copying, when_early)
from world import FAILOVER_S, check, wait_until
from xenlab import cluster


@scenario(1200, helpers=HELPERS)
def pv_live(world):
    """A PV guest moves live there and back, on a hypervisor with shadow paging."""
    ready(world, "pv1", "pv")
    for _ in range(2 * world.trips):
        move(world, "pv1", "--on-slow", "pause")


@scenario(1200, helpers=HELPERS)
def pvh_live(world):
    """A PVH guest moves live there and back."""
    ready(world, "pvh1", "pvh")
    for _ in range(2 * world.trips):
        move(world, "pvh1", "--on-slow", "pause")


def cancelled_once(world, name):
    """Begins a move and cancels it while it copies: True, or False if it was faster than that."""
    before = world.ear.of(name)[-1]
    source, _, op = begin_move(world, name)
    when_copying(world, source, "hactl", "--json", "cancel", str(op))
    wait_over(world)
    check_goes_on(world, name, before)
    return world.where(name) == source


@scenario(1800, helpers=HELPERS[1:], extra=HELPERS[:1])
def cancelled_in_mid_stream(world):
    """A migration that is cancelled while it copies leaves the guest where it was, and it can move."""
    ready(world, "pv1", "pv")
    tries = 1
    while not cancelled_once(world, "pv1"):
        check(tries < TRIES, f"{tries} migrations were over before they could be cancelled")
        tries += 1
    world.note(f"cancelled at try {tries}")
    move(world, "pv1", "--on-slow", "pause")


def ended_early(world, name, *words):
    """Begins a move and ends it by a command on the destination, which has the devices already ("OP" is
    the migration's number). True, or False if it was faster than that. Nothing of it may be left."""
    before = world.ear.of(name)[-1]
    source, to, op = begin_move(world, name)
    is_done = when_early(world, to, *[str(op) if word == "OP" else word for word in words])
    wait_over(world)
    check_goes_on(world, name, before)
    if not is_done or world.where(name) != source:
        return False
    left = left_of(world, to, name)
    check(not left, f"left on {to} by {' '.join(words)}: {left}")
    return True


@scenario(1800, helpers=(), extra=HELPERS[1:])
def devices_made_early(world):
    """A migration is cancelled, or loses its restore or worker, when the devices are made: nothing stays."""
    ready(world, "pv1", "pv")
    for words in (("hactl", "--json", "cancel", "OP"), ("pkill", "-KILL", "-x", "hamgr-xen-mover"),
                  ("pkill", "-KILL", "-x", "hamgr-hv-worker")):
        tries = 1
        while not ended_early(world, "pv1", *words):
            check(tries < TRIES, f"{tries} migrations were over before {' '.join(words)}")
            tries += 1
        world.note(f"{words[0]} {words[-1]}: done at try {tries}")
    move(world, "pv1", "--on-slow", "pause")


HELPER = "/usr/local/sbin/hamgr-xen-helper"
GIVE = f"mv {HELPER}.away {HELPER}"
TAKE = f"mv {HELPER} {HELPER}.away"


def restart_with(world, node, command):
    """Changes what a node's hamgr-hv starts with, and starts it anew; guests go on."""
    for words in (command, "lab-service stop hamgr-hv", "lab-service start hamgr-hv"):
        cluster.inside(world.nodes[node], "sh", "-c", words)
    wait_until(lambda: (world.status(node).get("here") or {}).get("gate_open"), f"the gate of {node} is open",
               FAILOVER_S, 1)


@scenario(1800, helpers=(), extra=HELPERS[1:])
def helpers_mixed(world):
    """Only one of two nodes has hamgr's helper, the other libxl's: a guest moves live there and back."""
    ready(world, "pv1", "pv")
    here, there = world.where("pv1"), world.other("pv1")
    restart_with(world, there, TAKE)
    try:
        for to in (there, here):
            move(world, "pv1", "--on-slow", "pause", to=to, helpers=(here,))
            used = [line for line in world.lines(there, "hamgr-hv.log") if "libxl's own helper" in line]
            check(used, f"{there} has no helper of hamgr's, and its log says nothing of libxl's")
    finally:
        restart_with(world, there, GIVE)


@scenario(1500, helpers=HELPERS[1:])
def destination_dies(world):
    """The destination loses power while it is sent a guest: the guest goes on where it was."""
    ready(world, "pv1", "pv")
    source, to, _, before = in_mid_move(
        world, "pv1", lambda source, to: power_off(world, to, source))
    since = time.monotonic()
    wait_over(world, source, FAILOVER_S)
    world.note(f"{to} off, and the migration over {time.monotonic() - since:.1f} s later")
    beat = world.wait_running("pv1", node=source, since=time.monotonic())
    check(beat.incarnation == before.incarnation, "pv1 was started anew")
    world.all_back()
    world.check_guest("pv1")


@scenario(1500, helpers=HELPERS[1:])
def source_dies(world):
    """The source loses power while it sends a guest: the guest is started elsewhere, once."""
    ready(world, "pv1", "pv")
    source, _, _, before = in_mid_move(
        world, "pv1", lambda source, _: power_off(world, source, source))
    since = time.monotonic()
    beats = wait_until(lambda: [b for b in world.ear.of("pv1", since)
                                if b.incarnation != before.incarnation],
                       "another copy of pv1 is heard", FAILOVER_S, 1)
    world.note(f"{source} off, and pv1 heard again {beats[0].at - since:.1f} s later")
    check(world.wait_running_where("pv1") != source, f"pv1 is said to run on {source}, which is lost")
    world.all_back()
    world.check_guest("pv1")


if __name__ == "__main__":
    sys.exit(main())
