# SPDX-License-Identifier: Apache-2.0
"""What scenarios of whole clusters share: a running cluster, and what must never be seen in one."""

import glob
import os
import time

from harness import check, equal
from nslab.client import together, wait_until
from nslab.cluster import Cluster

# Small and quick, with margins for two noisy cores: L = 2 (300 + 360) + 3 x 500 + 1000 = 3820 ms;
# T_wait = (3820 + 250 + 2000) x 1.01 + 1000 + 2000 = 9131 ms.
TOKEN_MS = 300
LEASE_MS = 3820
WAIT_MS = 9131
CONF = "timeout = 2s\n"


def start(context, names=("n1", "n2", "n3"), guests=3, token_ms=TOKEN_MS, conf="", memory_mib=512,
          witness=None, prepared=None, **more):
    """A cluster with guests g1.. that all run and have checked themselves.

    prepared is called with the cluster when its files are written, before any node is on.
    """
    room = context.room(names)
    cluster = Cluster(room, context.build, token_ms, memory_mib, context.name)
    context.clusters.append(cluster)
    cluster.prepare(extra_conf=CONF + conf, witness=witness)
    if prepared:
        prepared(cluster)
    cluster.power_on()
    cluster.create()
    values = {"dirty_kib_s": 256, "disk": "direct", "writes_per_s": 5, **more}
    for i in range(1, guests + 1):
        cluster.add_guest(f"g{i}", 8, **values)
    cluster.wait_running()
    return cluster


def guests_of(cluster, node):
    return sorted(name for name, home in cluster.homes().items() if home == node.name)


def busiest(cluster):
    homes = list(cluster.homes().values())
    return max(cluster.nodes, key=lambda node: homes.count(node.name))


def leader(cluster):
    """The node that leads the open view."""
    status = cluster.wait_status(lambda s: s["open"], "an open view", 30)
    name = next(n["name"] for n in status["nodes"] if n["leader"])
    return cluster.room.nodes[name]


def cuts(cluster, why=None):
    """Power cuts so far: (node, why)."""
    return [(e["node"], e["why"]) for e in cluster.room.events()
            if e["event"] == "cut" and why in (None, e["why"])]


def no_harm(cluster, leave_out=()):
    """What holds in every scenario, always: nothing ran twice, no memory or disk was damaged."""
    double, corrupt = cluster.verdict(leave_out)
    equal(double, 0, "double runs seen by the observer")
    equal(corrupt, 0, "guests with damaged memory")
    report = cluster.storage_report()
    equal(report["violation_count"], 0, f"foreign disk writes: {report}")


def all_step(cluster, names=None, timeout_s=30):
    """Waits until every guest makes steps."""
    names = list(names if names is not None else cluster.slots)
    wait_until(lambda: all(cluster.is_stepping(name) for name in names),
               f"{' '.join(names)} make steps", timeout_s)


def none_steps(cluster, names, timeout_s):
    """Waits until none of the guests makes steps."""
    wait_until(lambda: not any(cluster.is_stepping(name) for name in names),
               f"{' '.join(names)} stand still", timeout_s)


def return_all(cluster, timeout_s=60):
    """Power on for all until all are members: who is back too soon may be fenced for having left."""
    def are_back():
        off = [node for node in cluster.nodes if not node.is_on()]
        together([node.power_on for node in off])
        status = cluster.try_status(cluster.nodes[0]) if not off else None
        return status and status["open"] and all(cluster.is_up(n) for n in status["nodes"])
    wait_until(are_back, "all nodes are members", timeout_s, 0.2)


def epochs(cluster):
    """guest -> (copies that ever ran, epoch of the newest step): changes when it is restarted."""
    return {name: (cluster.observer.u64(slot, 96), cluster.observer.slot(slot).word.epoch)
            for name, slot in cluster.slots.items()}


def stand_for(cluster, names, seconds, what):
    """Asserts for some seconds that guests keep making steps: for what must not happen."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        silent = [name for name in names if not cluster.is_stepping(name, 1500)]
        check(not silent, f"{what}: {' '.join(silent)} stood still")
        time.sleep(0.1)


# --- secrets --------------------------------------------------------------------------------------

def read_bytes(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:  # a process that has ended meanwhile
        return b""


def secrets(cluster):
    """Pieces of what must stay in its files: of the nodes' private keys and corosync's key."""
    pieces = set()
    for node in cluster.nodes:
        key = read_bytes(node.path("etc-hamgr", "pki", "node.key"))
        pieces |= {line.strip() for line in key.splitlines() if b"-----" not in line and len(line) > 30}
        ring = read_bytes(node.path("etc-corosync", "authkey"))
        pieces |= {ring[:16], ring[:16].hex().encode()}
    check(len(pieces) > 2 and min(map(len, pieces)) >= 16, "the room has keys to look for")
    return pieces


def seen_in(pieces, paths):
    return sorted(path for path in paths if any(piece in read_bytes(path) for piece in pieces))


def no_secrets(cluster):
    """I13: no key is in the arguments or environment of any process, nor in any log."""
    pieces = secrets(cluster)
    logs = [path for node in cluster.nodes for path in glob.glob(node.path("log", "**"), recursive=True)
            if os.path.isfile(path)]
    logs += glob.glob(os.path.join(cluster.room.dir, "*.log")) + glob.glob(
        os.path.join(cluster.room.dir, "*.out"))
    processes = glob.glob("/proc/[0-9]*/cmdline") + glob.glob("/proc/[0-9]*/environ")
    check(any(b"hamgrd" in read_bytes(path) for path in processes), "the daemons' arguments are read")
    check(any(map(read_bytes, logs)), "there are logs")
    equal(seen_in(pieces, logs + processes), [], "where a key is seen")
    keys = [node.path("etc-hamgr", "pki", "node.key") for node in cluster.nodes]
    equal(seen_in(pieces, keys), sorted(keys), "where keys are, as the search finds them")
