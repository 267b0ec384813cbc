#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Guests of real Xen that move, with memory and disk whole."""

import sys
import time

from harness import main, scenario
from world import check, wait_until

MOVE_S = 300


def move(world, name, *words):
    """Moves it to another node and back into view; returns the record of the migration."""
    source, to = world.where(name), world.other(name)
    before = world.ear.of(name)[-1]
    began = time.monotonic()
    answer = world.hactl("migrate", name, "--to", to, *words, timeout_s=MOVE_S)
    check(not answer.get("errors"), f"migrate {name}: {answer.get('errors')}")
    check(answer["data"]["moved"], f"{name} did not move: {answer}")
    beat = world.wait_running(name, node=to, since=time.monotonic())
    check(beat.incarnation == before.incarnation and beat.step > before.step,
          f"{name} was started anew instead of moved")
    beats = [b for b in world.ear.of(name, began) if b.incarnation == before.incarnation]
    silence = max((b.at - a.at for a, b in zip(beats, beats[1:])), default=0.0)
    record = world.hactl("migrations", "--count", "1")["data"]["migrations"][-1]
    world.note(f"{name} {source} > {to}: {time.monotonic() - began:.1f} s in all, "
               f"{record['raw_bytes'] >> 20} MiB as {record['wire_bytes'] >> 20} MiB, "
               f"not heard for {silence:.2f} s")
    world.check_guest(name)
    return record


def ready(world, name, kind):
    if not world.guest(name):
        world.add(name, kind)


@scenario(900)
def pv_live(world):
    """A PV guest moves live there and back, on a hypervisor with shadow paging."""
    ready(world, "pv1", "pv")
    move(world, "pv1", "--on-slow", "pause")
    move(world, "pv1", "--on-slow", "pause")


@scenario(900)
def pvh_live(world):
    """A PVH guest moves live there and back."""
    ready(world, "pvh1", "pvh")
    move(world, "pvh1", "--on-slow", "pause")
    move(world, "pvh1", "--on-slow", "pause")


@scenario(600)
def cancelled_in_mid_stream(world):
    """A migration that is cancelled while it copies leaves the guest where it was, and it can move."""
    ready(world, "pv1", "pv")
    source, to = world.where("pv1"), world.other("pv1")
    before = world.ear.of("pv1")[-1]
    ticket = world.hactl("migrate", "pv1", "--to", to, "--detach")["data"]["op"]
    wait_until(lambda: [m for m in world.status().get("moves", []) if m["step"] == "copying"],
               "pv1 is being copied", 120, 0.2)
    answer = world.hactl("cancel", str(ticket))
    check(not answer.get("errors"), f"cancel: {answer.get('errors')}")
    wait_until(lambda: not world.status().get("moves", [1]), "the migration is over", 120, 1)
    beat = world.wait_running("pv1", node=source, since=time.monotonic())
    check(beat.incarnation == before.incarnation, "pv1 was started anew")
    world.check_guest("pv1")
    move(world, "pv1", "--on-slow", "pause")


if __name__ == "__main__":
    sys.exit(main())
