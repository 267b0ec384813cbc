#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Guests on Debian's own Xen, which has no shadow paging: PV guests stand still to move, HVM guests need not."""

import re
import sys
import time

from harness import HELPERS, main, scenario
from moving import move, ready
from world import FAILOVER_S, check, wait_until
from xenlab import cluster

SOON_S = 180  # what nodes found out about a new guest is known to all
REFUSED = re.compile(r"can't move live.* stand still for about (\d+)\.(\d) s(?: \(a guess, [^)]*\))?, "
                     r"(\d+) ms may be \((its contract|--max-downtime)\)")
OFFERED = re.compile(r"--max-downtime (\d+)s")


def refused(world, name, to, *words):
    """(predicted pause in seconds, (allowed in milliseconds, by what), offered seconds) of a migration that is
    refused: the limit named is the one that applied, and what is offered lifts it."""
    message, fix = world.refusal("migrate", name, "--to", to, *words)
    said, offered = REFUSED.search(message), OFFERED.search(fix)
    check(said and offered, f"migrate {name} {words} is refused otherwise: {message}; {fix}")
    pause_s = float(f"{said.group(1)}.{said.group(2)}")
    allowed_ms, offered_s = int(said.group(3)), int(offered.group(1))
    check(pause_s * 1000 > allowed_ms and offered_s >= pause_s, f"its numbers contradict each other: {message}; {fix}")
    return pause_s, (allowed_ms, said.group(4)), offered_s


def warned(world, code):
    """The nodes that doctor warns of with that code."""
    findings = (world.hactl("doctor").get("data") or {}).get("findings") or []
    return {f.get("node") for f in findings if f["code"] == code and f["severity"] == "warning"}


@scenario(900, hypervisor="stock", nodes=2)
def stock_non_live(world):
    """A PV guest that can't move live: doctor and migrate say so first; it moves if its pause is allowed."""
    ready(world, "pv1", "pv")
    wait_until(lambda: warned(world, "no-pv-live") == set(world.nodes), "doctor warns of all nodes",
               SOON_S, 2)
    source, to, before = world.where("pv1"), world.other("pv1"), world.ear.of("pv1")[-1]
    pause_s, contract, offered_s = refused(world, "pv1", to)
    world.note(f"refused: {pause_s} s foreseen, {contract[0]} ms allowed, {offered_s} s offered")
    check(contract[1] == "its contract", f"refused for {contract}, nothing else was said")
    asked = refused(world, "pv1", to, "--max-downtime", "500ms", "--on-slow", "pause")[1]
    check(asked == (500, "--max-downtime"), f"500 ms were allowed, refused for {asked}")
    check(refused(world, "pv1", to, "--forecast")[1] == contract, "a forecast is refused otherwise")
    check(not world.status()["moves"] and world.where("pv1") == source, "something moved all the same")
    check(world.wait_beat("pv1").incarnation == before.incarnation, "pv1 was started anew")
    record = move(world, "pv1", "--max-downtime", f"{offered_s}s")
    check(record["outcome"] == "moved" and world.where("pv1") == to, f"pv1 is not on {to}: {record}")
    paused_s = max(record["pause_us"].values()) / 1e6
    check(paused_s <= offered_s, f"{offered_s} s were allowed, it stood still for {paused_s} s")
    # Now that something moved, that is what is foreseen.
    again_s, _, _ = refused(world, "pv1", source)
    world.note(f"stood still for {paused_s:.1f} s; next time {again_s} s are foreseen")
    check(again_s >= paused_s, f"it stood still for {paused_s} s, {again_s} s are foreseen")


def emulators(world, name):
    """{node: how many emulators it has for that guest}, of nodes with some."""
    found = {}
    for machine in world.on():
        lines = cluster.inside(machine, "pgrep", "-af", f"[q]emu-system.* -name {name}",
                               is_checked=False).splitlines()
        if lines:
            found[machine.name] = len(lines)
    return found


def move_hvm(world, name):
    """Moves it live; its emulator is where it is, and nowhere else."""
    move(world, name, "--on-slow", "pause")
    where = world.where(name)
    wait_until(lambda: emulators(world, name) == {where: 1}, f"the one emulator of {name} is on {where}",
               SOON_S, 1)


@scenario(1200, hypervisor="stock", extra=HELPERS[1:], nodes=2)
def hvm_live(world):
    """An HVM guest (QEMU beside it, PV drivers in it) moves live; in full there and back."""
    ready(world, "hvm1", "hvm")
    for _ in range(2 if world.is_full else 1):
        move_hvm(world, "hvm1")


if __name__ == "__main__":
    sys.exit(main())
