#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Guests in everyday use, on real Xen: started, drained, destroyed behind hamgr's back, daemons killed."""

import os
import pty
import re
import select
import subprocess
import sys
import time

from harness import main, scenario
from moving import ready
from world import ROOT, START_S, check, wait_until
from xenlab import cluster

DRAIN_S = 600
VERB_S = 60
SETTLED_S = 420  # a node that is fenced comes back, at its slowest


@scenario(1200)
def run_and_stay(world):
    """A PV and a PVH guest start; one that is destroyed behind hamgr's back comes back, once."""
    for name, kind in (("pv1", "pv"), ("pvh1", "pvh")):
        began = time.monotonic()
        if not world.guest(name):
            world.add(name, kind)
            world.note(f"{name} is heard {time.monotonic() - began:.1f} s after guest add")
    for name in ("pv1", "pvh1"):
        world.check_guest(name)
    node = world.where("pv1")
    before = world.ear.of("pv1")[-1].incarnation
    since = time.monotonic()
    cluster.inside(world.nodes[node], "xl", "destroy", "pv1")
    # What it said until then may still be on its way.
    beats = wait_until(lambda: [b for b in world.ear.of("pv1", since) if b.incarnation != before],
                       "another copy of pv1 is heard", START_S, 1)
    world.note(f"pv1 is heard again {beats[0].at - since:.1f} s after xl destroy")
    world.check_guest("pv1")


def verb(world, *words, stdio=subprocess.PIPE):
    """deploy/lab with these words, as a person types it."""
    argv = [os.path.join(ROOT, "deploy", "lab"), "--dir", world.place.directory, "--name", world.place.name, *words]
    stdin = subprocess.DEVNULL if stdio == subprocess.PIPE else stdio
    return subprocess.Popen(argv, stdin=stdin, stdout=stdio, stderr=subprocess.STDOUT)


def said_by(world, *words):
    """What a verb says that ends by itself, and well."""
    process = verb(world, *words)
    said = process.communicate(timeout=VERB_S)[0].decode()
    check(process.returncode == 0, f"deploy/lab {' '.join(words)} failed: {said}")
    return said


def until_said(terminal, word, end):
    """What comes from a terminal until a word does."""
    said = b""
    while word not in said:
        left_s = end - time.monotonic()
        if left_s <= 0 or not select.select([terminal], [], [], left_s)[0]:
            break
        said += os.read(terminal, 4096)
    return said


@scenario(600)
def lab_verbs(world):
    """What deploy/lab tells people: its nodes, who wrote to the guests' disks, a guest's console."""
    ready(world, "pv1", "pv")
    nodes = said_by(world, "status")
    check(all(f"{name}  on" in nodes for name in world.nodes), f"deploy/lab status: {nodes}")
    seen = said_by(world, "witness")
    check(re.search(r"^disk\d+  \S+  \d+ writes$", seen, re.M) and "\n0 findings" in seen,
          f"deploy/lab witness: {seen}")
    terminal, theirs = pty.openpty()
    process = verb(world, "console", "pv1", stdio=theirs)
    os.close(theirs)
    try:
        said = until_said(terminal, b"guest: pv1 ", time.monotonic() + VERB_S)
        check(b"guest: pv1 " in said, f"deploy/lab console pv1 shows {said}")
        os.write(terminal, b"\x1d")  # Ctrl-]
        process.wait(VERB_S)
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


def node_of(world, name):
    return next(n for n in world.status()["nodes"] if n["name"] == name)


def maintain(world, node, *words):
    """hactl maintenance of a node; with --wait, it is empty behind that."""
    answer = world.hactl("maintenance", node, *words, timeout_s=DRAIN_S)
    check(not answer.get("errors"), f"maintenance {node} {words}: {answer.get('errors')}")
    line = node_of(world, node)
    check(line["maintenance"] == (words[0] == "on"), f"maintenance {node} {words}: {line}")
    check("--wait" not in words or line["guests"] == 0, f"{node} is not empty: {line}")


def drain_node(world, node):
    """Drains a node of its guests; they go on elsewhere, whole."""
    began = time.monotonic()
    before = {name: world.ear.of(name)[-1] for name in ("pv1", "pvh1") if world.where(name) == node}
    maintain(world, node, "on", "--wait")
    world.note(f"{node} had {', '.join(before)}, and is empty after {time.monotonic() - began:.1f} s")
    for name, beat in before.items():
        now = world.wait_running(name, since=time.monotonic())
        check(world.where(name) != node, f"{name} is still said to be on {node}")
        check(now.incarnation == beat.incarnation and now.step > beat.step, f"{name} was started anew")
        world.check_guest(name)


@scenario(1200)
def drain(world):
    """hactl maintenance --wait empties a node of one guest, then another of two; they run on, whole."""
    for name, kind in (("pv1", "pv"), ("pvh1", "pvh")):
        if not world.guest(name):
            world.add(name, kind)
        # An emulated node can't keep what is promised by default.
        answer = world.hactl("guest", "set", name, "--max-downtime", "300s")
        check(not answer.get("errors"), f"guest set {name}: {answer.get('errors')}")
    first, last = world.where("pv1"), world.where("pvh1")
    if first != last:  # with the third one closed pv1 has one way: to the other guest
        third = next(name for name in world.nodes if name not in (first, last))
        maintain(world, third, "on", "--wait")
        drain_node(world, first)
        check(world.where("pv1") == last, f"pv1 went to {world.where('pv1')}, which is closed")
        maintain(world, third, "off")
        maintain(world, first, "off")
    drain_node(world, last)
    maintain(world, last, "off")


def incarnation(world, node):
    """Of a node, by the cluster; 0 where it can't be told."""
    nodes = world.status().get("nodes") or []
    return next((n["incarnation"] for n in nodes if n["name"] == node), 0)


def settle(world, node, program, pids, was):
    """Until another process of that program runs on the node, and the cluster has taken the node in
    again if it had to (was: its incarnation before; None: it stays in)."""
    def again():
        now = world.pids(node, program)
        if not now or now & pids:
            if world.nodes[node].state() == "off":
                world.all_back()  # it was fenced, as a lost node is
            return False
        return was is None or incarnation(world, node) not in (0, was)
    wait_until(again, f"{program} of {node} runs again, and the cluster knows", SETTLED_S, 1)
    world.all_back()
    # hamgrd and hamgr-hv have found each other, and the lease is there.
    wait_until(lambda: (world.status(node).get("here") or {}).get("gate_open"),
               f"the gate of {node} is open", SETTLED_S, 1)


@scenario(1500)
def daemons_die(world):
    """hamgr-hv, hamgrd and corosync are killed on the node of a guest: it does not notice."""
    if not world.guest("pv1"):
        world.add("pv1", "pv")
    for name in ("hamgr-hv-xen", "hamgrd", "corosync"):
        before, node = world.wait_running("pv1").incarnation, world.where("pv1")
        # A hamgrd that begins anew is another incarnation; one whose corosync is back in time is not.
        was = incarnation(world, node) if name == "hamgrd" else None
        pids, since = world.pids(node, name), time.monotonic()
        check(pids, f"{node} runs no {name}")
        cluster.inside(world.nodes[node], "pkill", "-KILL", "-x", name)
        settle(world, node, name, pids, was)
        beat = world.wait_running("pv1", since=time.monotonic())
        world.note(f"{name} killed: all well again after {time.monotonic() - since:.1f} s")
        if name != "corosync":  # to its peers that is a lost node, and its guests may start elsewhere
            check(beat.incarnation == before, f"pv1 was started anew when {name} was killed")
        world.check_guest("pv1")


if __name__ == "__main__":
    sys.exit(main())
