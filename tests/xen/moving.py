# SPDX-License-Identifier: Apache-2.0
"""Moves of guests between nodes of real Xen, for scenarios: whole ones, and moments in their middle."""

import subprocess
import threading
import time

from world import LabError, check, wait_until
from xenlab import cluster

MOVE_S = 420
TRIES = 5  # of what must be done in the middle of a move, which may be faster
COPYING = '"step": *"copying"'
LATER_ROUND = '"round": *[1-9]'
# In the node itself, for a look from outside takes longer than such a migration.
WHEN_SEEN = """
seen=$1; shift
while hactl --json status > /tmp/lab-status; do
    if grep -q "$seen" /tmp/lab-status; then exec "$@"; fi
    if grep -q '"moves": *\\[\\]' /tmp/lab-status; then exit 1; fi
done
"""
# At a destination, as soon as its devices are made while memory comes: the restore's front has ended.
WHEN_EARLY = """
for n in $(seq 600); do
    if pgrep -x hamgr-xen-mover > /dev/null && ! pgrep -x hamgr-xen-helpe > /dev/null; then exec "$@"; fi
    sleep 0.1
done
exit 1
"""
# What a restore of a guest has left: its process, a domain, devices of one that is gone.
LEFT = """
pgrep -x hamgr-xen-mover
xl list | grep "^$1"
ls /sys/bus/xen-backend/devices | while read -r device; do
    domid=${device#*-}
    xl domname "${domid%-*}" > /dev/null 2>&1 || echo "$device"
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


def move(world, name, *words, to=None, helpers=None):
    """Moves it to another node (that one, if given) and back into view; returns the record of the migration.
    helpers: the nodes that must use hamgr's own helper, where it is wanted (None: both)."""
    source, to = world.where(name), to or world.other(name)
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
    for node in (source, to) if helpers is None else helpers:
        check_helper(world, node)
    world.note(f"{name} {source} > {to}: {took_s:.1f} s in all, "
               f"{record['raw_bytes'] >> 20} MiB as {record['wire_bytes'] >> 20} MiB, "
               f"not heard for {silence:.2f} s")
    world.check_guest(name)
    return record


def ready(world, name, kind):
    if world.guest(name):
        world.wait_running(name)
    else:
        began = time.monotonic()
        world.add(name, kind)
        world.note(f"{name} is heard {time.monotonic() - began:.1f} s after guest add")


def begin_move(world, name, but=None):
    """(source, destination, the migration's number) of a move that has begun, not to that node."""
    source, to = world.where(name), world.other(name, but)
    answer = world.hactl("migrate", name, "--to", to, "--on-slow", "pause", "--detach", node=source)
    check(not answer.get("errors"), f"migrate {name}: {answer.get('errors')}")
    return source, to, answer["data"]["op"]


def when_seen(world, node, pattern, *words):
    """Runs a command on a node as soon as its status shows a pattern while something moves; False: the
    move was over before, or the command failed."""
    try:
        cluster.inside(world.nodes[node], "sh", "-c", WHEN_SEEN, "sh", pattern, *words,
                       timeout_s=MOVE_S)
    except LabError:
        return False
    return True


def when_copying(world, node, *words):
    """The same as soon as memory is on its way."""
    return when_seen(world, node, COPYING, *words)


def when_early(world, node, *words):
    """Runs a command on the destination as soon as libxl makes a guest's devices before its memory is
    there; False: that was not seen, or the command failed."""
    try:
        cluster.inside(world.nodes[node], "sh", "-c", WHEN_EARLY, "sh", *words, timeout_s=MOVE_S)
    except LabError:
        return False
    return True


def left_of(world, node, name):
    """What a restore of a guest that failed left on a node; empty: nothing."""
    return cluster.inside(world.nodes[node], "sh", "-c", LEFT, "sh", name).strip()


def when_logged(world, node, wanted, over):
    """Returns as soon as a node's hamgrd has logged what is wanted; False: what says that it is too late
    came first, or neither within MOVE_S."""
    tail = subprocess.Popen([*world.nodes[node].ssh(), "tail -n +1 -F /var/log/hamgrd.log"],
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    limit = threading.Timer(MOVE_S, tail.kill)
    limit.start()
    try:
        for line in tail.stdout:
            if wanted in line or over in line:
                return wanted in line
        return False
    finally:
        limit.cancel()
        tail.kill()
        tail.wait()


def wait_over(world, node=None, timeout_s=MOVE_S):
    """Until nothing moves, as that node sees it."""
    wait_until(lambda: not world.status(node).get("moves", [1]), "the migration is over", timeout_s, 1)


def check_goes_on(world, name, before, node=None):
    """The guest runs (on node, if given), is the copy that was heard before, and is whole."""
    beat = world.wait_running(name, node=node, since=time.monotonic())
    check(beat.incarnation == before.incarnation, f"{name} was started anew")
    world.check_guest(name)


def in_mid_move(world, name, strike, but=None):
    """Begins a move (not to that node) and strikes while it copies: strike(source, destination), False
    if that was too late. Returns (source, destination, the migration's number, the guest's newest beat
    before)."""
    for _ in range(TRIES):
        before = world.ear.of(name)[-1]
        source, to, op = begin_move(world, name, but)
        if strike(source, to):
            return source, to, op, before
        wait_over(world)
        world.wait_running(name)
    raise AssertionError(f"{TRIES} migrations were over before anything could be done to them")


def power_off(world, node, source):
    """Takes a node's power as soon as the source copies; False if that was too late."""
    if not when_copying(world, source, "true"):
        return False
    world.nodes[node].power_off()
    return True
