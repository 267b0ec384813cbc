# SPDX-License-Identifier: Apache-2.0
"""When what happened: times of failovers and migrations, from the observer's page, from a bare CPG
client on each node and from the cluster's own history. All nodes share the machine's clocks."""

import json
import mmap
import time

from .client import wait_until

DEADLINE_S = 120


def told_members(node):
    """What corosync told the bare CPG client (cpg_watch) on a node, oldest first."""
    told = []
    try:
        with open(node.path("log", "cpg_watch.log"), encoding="utf-8") as file:
            for line in file:
                if line.startswith("{") and line.endswith("}\n"):
                    told.append(json.loads(line))
    except OSError:
        pass
    return told


def wait_told(nodes, timeout_s=30):
    """Waits until the CPG clients on all of nodes know each other."""
    wanted = {node.index for node in nodes}
    for node in nodes:
        wait_until(lambda node=node: [m for m in told_members(node)[-1:]
                                      if set(m["members"]) == wanted],
                   f"{node.name}: CPG clients {sorted(wanted)}", timeout_s)


def told_lost_ns(node, lost_index, since_ns, timeout_s=DEADLINE_S):
    """When (MONOTONIC) node's CPG client was told that another node is gone, after since_ns."""
    def find():
        return next((m["mono_ns"] for m in told_members(node)
                     if m["mono_ns"] > since_ns and lost_index not in m["members"]), None)
    return wait_until(find, f"{node.name}: corosync notices the loss of node {lost_index}",
                      timeout_s)


def first_check_after(slot, since_ns):
    """When a copy that began after since_ns passed its first self-check: it runs. None: not yet."""
    times = [copy.first_check_ns for copy in slot.copies
             if copy.first_step_ns > since_ns and copy.first_check_ns]
    return min(times) if times else None


def wait_restarted(cluster, guests, since_ns, timeout_s=DEADLINE_S):
    """Waits until each guest has a copy that started and checked itself after since_ns.

    Returns guest -> MONOTONIC ns.
    """
    found = {}

    def look():
        for guest in guests:
            if guest not in found:
                at = first_check_after(cluster.observer.slot(cluster.slots[guest]), since_ns)
                if at:
                    found[guest] = at
        return len(found) == len(guests)

    try:
        wait_until(look, f"{len(guests)} guests run again", timeout_s)
    except TimeoutError as error:
        missing = sorted(set(guests) - set(found))
        raise TimeoutError(f"{error}; missing: {' '.join(missing)}") from None
    return found


def fenced_event(cluster, node, victim, since_wall_ms, timeout_s=DEADLINE_S):
    """The history's line that a victim was fenced, after since_wall_ms, as `node` tells it."""
    def find():
        return next((e for e in cluster.events(node=node) if e["type"] == "FENCED"
                     and e["node"] == victim.name and e["wall_ms"] >= since_wall_ms
                     and not e["is_noop"]), None)
    return wait_until(find, f"{victim.name} is fenced", timeout_s)


def failover(cluster, victim, timeout_s=DEADLINE_S):
    """Cuts the victim's power and waits until its guests run elsewhere.

    Returns (times in ms since the cut, names of the guests it had, the FENCED event).
    """
    others = [node for node in cluster.nodes if node is not victim and node.is_on()]
    lost = sorted(name for name, home in cluster.homes().items() if home == victim.name)
    at = victim.power_off()
    since = at["mono_ns"]
    running = wait_restarted(cluster, lost, since, timeout_s)
    told = min(told_lost_ns(node, victim.index, since) for node in others)
    event = fenced_event(cluster, others[0], victim, at["real_ns"] // 1000000)
    times = {"membership_ms": round((told - since) / 1e6, 1),
             "fenced_ms": round(event["wall_ms"] - at["real_ns"] / 1e6, 1),
             "first_guest_ms": round((min(running.values()) - since) / 1e6, 1) if running else None,
             "last_guest_ms": round((max(running.values()) - since) / 1e6, 1) if running else None,
             "last_guest": max(running, key=running.get) if running else None}
    return times, lost, event


def touch_s_per_gib():
    """Seconds this machine needs to populate a GiB of fresh memory: a floor for every restart."""
    size = 256 << 20
    began = time.monotonic()
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
    took = time.monotonic() - began
    memory.close()
    return took * (1 << 30) / size
