#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Migrations of real Xen guests that lose their connections, a process or the leader in mid-copy."""

import collections
import json
import sys
import time

from harness import HELPERS, main, scenario
from knife import RESET, SILENT, Knife
from moving import (LATER_ROUND, TRIES, begin_move, check_goes_on, in_mid_move, move, power_off, ready,
                    record_of, wait_over, when_copying, when_logged, when_seen)
from world import FAILOVER_S, check, wait_until

REACH_S = 300  # a migration's way to where it is cut, on a busy machine
MIB = 1 << 20

# --- the stream -----------------------------------------------------------------------------------

# `after`: cut behind so many bytes, else by `reach`. What is `brief` ends when the source has noticed
# and dials again, and costs the migration nothing; the others last until it is over, which is as long
# as the lab's grace time (30 s) once it copies.
Cut = collections.namedtuple("Cut", "phase verdict after reach brief")

def in_later_round(world, source, _):
    return when_seen(world, source, LATER_ROUND, "true")


def when_stopped(world, source, op):
    return when_logged(world, source, f"migration {op}: the guest is stopped",
                       f"migration {op} is over here")


CUTS = (Cut("its first connection", RESET, 1, None, False),
        Cut("early in round 0", RESET, 2 * MIB, None, True),
        Cut("late in round 0", SILENT, 20 * MIB, None, True),
        Cut("a later round", RESET, 0, in_later_round, True),
        Cut("the guest's stop", SILENT, 0, when_stopped, False))


def land(world, cut, knife, source, op):
    """Until the stream is cut, or the migration was over before; says where that was."""
    if cut.reach and cut.reach(world, source, op):
        knife.cut()
    moves = []

    def landed():
        moves[:] = world.status(source).get("moves", [{}])[:1]
        return knife.counts()["lost"] or not moves
    wait_until(landed, f"the cut at {cut.phase} lands, or the migration is over", REACH_S, 0.2)
    now = moves[0] if moves else {"step": "over"}
    return (f"behind {knife.counts()['passed'] / MIB:.1f} MiB on the wire, seen in step "
            f"{now.get('step')}, round {now.get('round')}, {now.get('bytes', 0) >> 20} MiB of memory")


def cut_once(world, name, cut):
    """Moves a guest and cuts the stream. One copy afterwards, the one that ran before."""
    source, to, before = world.where(name), world.other(name), world.ear.of(name)[-1]
    began = time.monotonic()
    with Knife(world, (source, to), cut.verdict) as knife:
        if cut.after:
            knife.cut(cut.after)
        op = begin_move(world, name)[2]
        where = land(world, cut, knife, source, op)
        if cut.brief:
            wait_until(lambda: knife.counts()["dialled"] or not world.status(source).get("moves", [1]),
                       "the source dials again", REACH_S, 0.1)
            knife.heal()
        wait_over(world)
        lost = knife.counts()["lost"]
    record = record_of(world, op)
    how = "silence" if cut.verdict == SILENT else "resets"
    world.note(f"cut at {cut.phase}, {how}{' in brief' if cut.brief else ''}: {where}; {lost} packets; "
               f"{record['outcome']} after {time.monotonic() - began:.1f} s {record['reason']}")
    has_moved = record["outcome"] == "moved"
    check(has_moved or record["reason"], f"migration {op} does not say why it was {record['outcome']}")
    check_goes_on(world, name, before, node=to if has_moved else source)
    return lost > 0, has_moved


def cut_at(world, name, cut):
    """Until a cut has landed: a move may be over before its later phases could be seen, or, on a busy
    machine, be given up before it came so far."""
    for _ in range(TRIES):
        was_cut, has_moved = cut_once(world, name, cut)
        if was_cut:
            break
    check(was_cut, f"{TRIES} migrations were over before they could be cut at {cut.phase}")
    check(has_moved or not cut.brief, "a cut in brief ended the migration")
    check(not has_moved or cut.brief or not cut.after, f"it moved although cut at {cut.phase}")


@scenario(1800, helpers=HELPERS[1:], extra=HELPERS[:1])
def stream_cuts(world):
    """A migration's connections are cut at five phases: one copy each time, and it can move."""
    ready(world, "pv1", "pv")
    for cut in CUTS:
        cut_at(world, "pv1", cut)
    move(world, "pv1", "--on-slow", "pause")


# --- processes ------------------------------------------------------------------------------------

# hamgr-init starts the gate, the gate its workers, which call themselves so.
KILL_GATE = "pkill -KILL -x -P 1 hamgr-hv-xen"
KILL_WORKER = "pkill -KILL -x hamgr-hv-worker"


def dies_in_mid_move(world, what, end, kill):
    """Kills processes at one end of a move that copies: the guest goes on at the source, and moves."""
    source, to, op, before = in_mid_move(
        world, "pv1", lambda *ends: when_copying(world, ends[end], "sh", "-c", kill))
    since = time.monotonic()
    wait_over(world)
    record = record_of(world, op)
    world.note(f"{what} of {'source' if end == 0 else 'destination'} killed: {record['outcome']} "
               f"{time.monotonic() - since:.1f} s later {record['reason']}")
    check(record["outcome"] == "aborted" and record["reason"], f"{record['outcome']}, not aborted")
    check_goes_on(world, "pv1", before, node=source)
    world.all_back()
    wait_until(lambda: all((world.status(node).get("here") or {}).get("gate_open")
                           for node in (source, to)), "both gates are open", FAILOVER_S, 1)


@scenario(2400, helpers=HELPERS[1:])
def hypervisor_end_dies(world):
    """hamgr-hv itself, then its worker, is killed at either end of a migration in mid-copy: the guest goes on."""
    ready(world, "pv1", "pv")
    for what, kill in (("hamgr-hv", KILL_GATE), ("the worker", KILL_WORKER)):
        for end in (0, 1):
            dies_in_mid_move(world, what, end, kill)
    move(world, "pv1", "--on-slow", "pause")


# --- the leader -----------------------------------------------------------------------------------

def leader_of(world):
    return wait_until(lambda: next((n["name"] for n in world.status().get("nodes") or []
                                    if n["leader"]), None), "a leader", FAILOVER_S, 1)


def put(world, name, node):
    """Moves a guest there, if it is elsewhere."""
    if world.where(name) != node:
        answer = world.hactl("migrate", name, "--to", node, "--on-slow", "pause", timeout_s=REACH_S)
        check(not answer.get("errors"), f"migrate {name}: {answer.get('errors')}")
        world.wait_running(name, node=node)


def fences_of(world, node):
    """What the log tells of a node that was fenced."""
    events = (world.hactl("events", "--count", "200").get("data") or {}).get("events") or []
    return [event for event in events if event["type"] == "FENCED" and event["node"] == node]


@scenario(1800, helpers=HELPERS[1:])
def leader_dies(world):
    """The leader loses power while the two others move a guest: both guests run, each once."""
    for name in ("pv1", "pv2"):
        ready(world, name, "pv")
    leader = leader_of(world)
    put(world, "pv2", leader)  # else nobody would fence it
    if world.where("pv1") == leader:
        put(world, "pv1", world.other("pv1"))
    check(leader_of(world) == leader, "another leads by now")
    lost, fences = world.ear.of("pv2")[-1], len(fences_of(world, leader))
    source, to, op, before = in_mid_move(
        world, "pv1", lambda source, _: power_off(world, leader, source), but=leader)
    since = time.monotonic()
    wait_over(world, source, FAILOVER_S)
    record = record_of(world, op)
    world.note(f"{leader} off, and the migration {record['outcome']} {time.monotonic() - since:.1f} s "
               f"later {record['reason']}")
    has_moved = record["outcome"] == "moved"
    check(has_moved or record["reason"], f"migration {op} does not say why it was {record['outcome']}")
    wait_until(lambda: [b for b in world.ear.of("pv2", since) if b.incarnation != lost.incarnation],
               "another copy of pv2 is heard", FAILOVER_S, 1)
    told = fences_of(world, leader)[fences:]
    check(told and "agent" in json.dumps(told), f"{leader} was not fenced by an agent: {told}")
    check(leader_of(world) != leader, f"{leader}, which is off, is said to lead")
    check_goes_on(world, "pv1", before, node=to if has_moved else source)
    world.all_back()
    for name in ("pv1", "pv2"):
        world.check_guest(name)


if __name__ == "__main__":
    sys.exit(main())
