# SPDX-License-Identifier: Apache-2.0
"""What scenarios of faults use: a hamgrd whose disk and clock obey, strangers, and their measures."""

import json
import mmap
import os
import struct
import threading
import time

import lab
import reached
from harness import check, equal
from nslab import cluster as nscluster
from nslab.client import HAMGR_UID

SYNC_OK, SYNC_STALL, SYNC_FAIL = 0, 1, 2
GAP_LIMIT_MS = 50
# What the preloaded library counts, by its place in the page.
COUNTERS = {"fault: fsync hangs": 4, "fault: fsync fails": 24, "fault: the wall clock is wrong": 28,
            "fault: the host was suspended": 32}
FAILPOINTS = tuple(COUNTERS)


class Orders:
    """The page of one node's preloaded hamgrd (tests/lib/faultshim.c)."""

    def __init__(self, node):
        path = node.path("hw", "faults")
        with open(path, "wb") as file:
            file.write(bytes(4096))
        os.chown(path, HAMGR_UID, HAMGR_UID)
        with open(path, "r+b") as file:
            self.page = mmap.mmap(file.fileno(), 4096)
        reached.watch(self.counts)

    def counts(self):
        """How often what happened that was ordered."""
        return {name: struct.unpack("<I", self.page[at:at + 4])[0] for name, at in COUNTERS.items()}

    def sync(self, order):
        self.page[0:4] = struct.pack("<I", order)

    def stalled(self):
        return struct.unpack("<I", self.page[4:8])[0]

    def wall_offset(self, seconds):
        self.page[8:16] = struct.pack("<q", seconds)

    def slept(self, seconds):
        """The host was suspended for so long since it booted."""
        self.page[16:24] = struct.pack("<q", seconds)


def preload_all(cluster, build, services=("hamgrd",)):
    """Before power-on: the named services of all nodes obey; returns node name -> Orders."""
    orders = {}
    for node in cluster.nodes:
        orders[node.name] = Orders(node)
        lines = nscluster.service_lines(node)
        for name in services:
            wrapped = (f"/usr/bin/env LD_PRELOAD={nscluster.BIN}/hamgr_faults.so "
                       f"HAMGR_FAULTS=/run/hamgr-node/faults {nscluster.BIN}/{name}")
            lines = [line.replace(f"{nscluster.BIN}/{name}", wrapped)
                     if line.startswith(f"{name} ") else line for line in lines]
        node.set_programs(lines)
    cluster.room.stage({"hamgr_faults.so": os.path.join(build, "tests", "hamgr_faults.so")}, {})
    return orders


def start(context, preload=False, services=("hamgrd",), **more):
    """lab.start; with preload the services obey: returns (cluster, node name -> Orders)."""
    orders = {}

    def prepared(cluster):
        orders.update(preload_all(cluster, context.build, services))

    cluster = lab.start(context, prepared=prepared if preload else None, **more)
    return cluster, orders


def ask(node, timeout_s=10):
    """hactl status of one node: (view counter, data, seconds it took)."""
    began = time.monotonic()
    done = node.run(["hactl", "--json", "status"], timeout_s=timeout_s, check=False)
    took = time.monotonic() - began
    check(done.stdout.strip(), f"{node.name}: hactl status: {done.stderr}")
    answer = json.loads(done.stdout)
    return answer["view"]["counter"], answer["data"], took


def line_of(status, node):
    return next(line for line in status["nodes"] if line["name"] == node.name)


class Probe:
    """How long this machine lets a ready process wait: what no program's loop can be better than.

    A thread that wants to run every 2 ms and remembers how late it was, while the scenario looks.
    """

    def __enter__(self):
        self.late_ms = 0.0
        self.is_over = False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        return self

    def run(self):
        while not self.is_over:
            due = time.monotonic() + 0.002
            time.sleep(0.002)
            self.late_ms = max(self.late_ms, (time.monotonic() - due) * 1000)

    def __exit__(self, *_):
        self.is_over = True
        self.thread.join()


def check_gap(context, node, here, probe, what):
    """The loop's longest gap is below the limit, but for what the machine itself made it wait."""
    gap_ms = here["loop_gap_ms"]
    context.note(f"{what}: longest gap of {node.name}'s loop {gap_ms} ms "
                 f"(the machine's own: {probe.late_ms:.0f} ms)")
    check(gap_ms < GAP_LIMIT_MS + probe.late_ms, f"{what}: the loop was away for {gap_ms} ms")


class Calm:
    """What must be the same afterwards: no power cut, no view change, no copy of a guest anew."""

    def __init__(self, cluster, has_epochs=True):
        self.cluster = cluster
        self.cuts = lab.cuts(cluster)
        self.epochs = lab.epochs(cluster) if has_epochs else None
        self.view = ask(cluster.live_node())[0]
        self.pids = {node.name: {name: (line[1], line[2]) for name, line in node.services().items()}
                     for node in cluster.nodes}

    def check(self, what, but=(), has_view=True):
        """but = services that were allowed to restart."""
        equal(lab.cuts(self.cluster), self.cuts, f"{what}: power cuts")
        if self.epochs is not None:
            equal(lab.epochs(self.cluster), self.epochs, f"{what}: copies of guests")
        if has_view:
            equal(ask(self.cluster.live_node())[0], self.view, f"{what}: view")
        for node in self.cluster.nodes:
            for name, (_, pid, starts) in node.services().items():
                check(name in but or (pid, starts) == self.pids[node.name][name],
                      f"{what}: {node.name}'s {name} ended and was restarted")
        lab.no_harm(self.cluster)


PROCESSES = r"""
import json, os
found = []
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        with open(f"/proc/{pid}/stat") as file:
            text = file.read()
    except OSError:
        continue
    name = text[text.index("(") + 1:text.rindex(")")]
    state, parent = text[text.rindex(")") + 2:].split()[:2]
    if name.startswith("hamgr"):
        found.append((int(pid), name, state, int(parent)))
print(json.dumps(found))
"""


def processes(node):
    """hamgr's processes on a node: (pid, name, state, parent)."""
    return [tuple(line) for line in json.loads(node.run(["python3", "-c", PROCESSES]).stdout)]


def kill(node, pids):
    check(pids, f"{node.name}: nothing to kill")
    node.run(["kill", "-KILL", *map(str, pids)], check=False)  # one of them may end by itself


def copies(cluster):
    """Guest processes of all nodes that are on: (how many, how many of them stand still)."""
    found = [line for node in cluster.nodes if node.is_on() for line in processes(node)
             if line[1] == "hamgr-guest"]
    return len(found), sum(state in "Tt" for _, _, state, _ in found)
