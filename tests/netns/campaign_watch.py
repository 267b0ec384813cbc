# SPDX-License-Identifier: Apache-2.0
"""The outside observer of a campaign: looks at the guests' pages and at the storage all the time."""

import re
import subprocess
import threading
import time

from nslab.client import RoomError, wait_until

LOOK_S = 0.1
STORAGE_EVERY = 10  # looks
HISTORY_S = 60  # a node that was switched off late boots, joins and catches up meanwhile
LATE_MS = 2100  # D, hamgr-storage's default for a dead node's writes, and its own time to look


class Guest:
    """What was seen of one guest."""

    def __init__(self, name, slot):
        self.name = name
        self.slot = slot
        self.count = 0       # copies that made a step, ever
        self.restarts = 0    # of them begun anew, but for the first
        self.arrivals = 0    # of them continued from another node
        self.stepped_s = 0.0  # MONOTONIC when it was last seen to step


class Watch:
    """A thread that reads and counts; harm() is what must stay None."""

    def __init__(self, cluster, decoy):
        self.cluster = cluster
        self.decoy = decoy  # its double run is planted
        self.guests = {name: Guest(name, slot) for name, slot in cluster.slots.items()}
        self.storage = {"violations": [], "writes": 0}
        self.cuts = []  # (node, wall ms): switched off, by device or hand
        self.error = None
        self.is_over = threading.Event()
        self.uuids = {}
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        looks = 0
        while not self.is_over.wait(LOOK_S):
            try:
                self.look()
                if looks % STORAGE_EVERY == 0:
                    self.look_at_storage()
            except (OSError, ValueError) as error:
                self.error = f"the observer can't see: {error}"
                return
            looks += 1

    def look_at_storage(self):
        report = self.cluster.storage_report()
        # Read behind the report: a write that is late came after its host's cut.
        self.cuts = [(event["node"], event["at"]["real_ns"] / 1e6)
                     for event in self.cluster.room.events()
                     if event["event"] == "cut" and event["why"] != "watchdog"]
        self.storage = report

    def look(self):
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        for guest in self.guests.values():
            seen = self.cluster.observer.slot(guest.slot)
            fresh = seen.history_count - guest.count
            for copy in seen.copies[-fresh:] if fresh > 0 else []:
                guest.arrivals += copy.is_restored
                guest.restarts += not copy.is_restored
            guest.count = seen.history_count
            if now_ns - seen.last_step_ns < 500e6:
                guest.stepped_s = time.monotonic()

    def end(self):
        self.is_over.set()
        self.thread.join()

    # --- what was seen ---

    def failovers(self):
        """Guests begun anew after their first start."""
        return sum(max(0, guest.restarts - 1) for guest in self.guests.values())

    def migrations(self):
        return sum(guest.arrivals for guest in self.guests.values())

    def foreign_writes(self):
        """Writes to a disk that the storage process did not find its one owner's, decoy apart."""
        decoy = self.uuids.get(self.decoy)
        return [v for v in self.storage["violations"]
                if v["guest"] != decoy and not self.is_late(v)]

    def late_writes(self):
        """Writes that were under way when their host was switched off; see is_late."""
        return [v for v in self.storage["violations"] if self.is_late(v)]

    def is_late(self, violation):
        """Had its host been switched off less than D before?

        A fence agent's verified "off" is taken as the end of that host's I/O, too. Storage that
        holds writes back longer (here: on a campaign's order) is not covered by that; only T_wait
        has D in it. So these are told apart: they are no second run. After a watchdog's reset, which
        nobody has verified, there must be none.
        """
        if violation["what"] != "stale epoch":
            return False
        names = {node.index: node.name for node in self.cluster.nodes}
        return any(node == names.get(violation["node"]) and
                   0 <= violation["wall_ms"] - cut_ms <= LATE_MS for node, cut_ms in self.cuts)

    def double_runs(self):
        pages, _ = self.cluster.verdict(leave_out=(self.decoy,))
        return pages + sum(v["what"] in ("stale epoch", "second node")
                           for v in self.foreign_writes())

    def corrupt(self):
        _, memory = self.cluster.verdict()
        return memory + len({v["guest"] for v in self.foreign_writes()
                             if v["what"] not in ("stale epoch", "second node")})

    def harm(self):
        """What is wrong, in words, or None."""
        if self.error:
            return self.error
        if self.double_runs():
            return f"double run: {self.describe()}"
        if self.corrupt():
            return f"damaged guest: {self.describe()}"
        return None

    def describe(self):
        words = []
        for guest in self.guests.values():
            seen = self.cluster.observer.slot(guest.slot)
            if (seen.violations or seen.corrupt) and guest.name != self.decoy:
                words.append(f"{guest.name}: {seen.violations} foreign steps, the newest of "
                             f"{seen.foreign}, now {seen.word}; {seen.corrupt} damaged")
        return "; ".join(words + [str(v) for v in self.foreign_writes()[:4]])

    def silent(self, within_s=0.8):
        """Guests that make no steps now."""
        since = time.monotonic() - within_s
        return sorted(g.name for g in self.guests.values() if g.stepped_s < since)


CRASHED = re.compile(r"hamgr-init: (\S+) \(pid \d+\) ended by signal (?!9$|15$)(\d+)$")


def crashes(cluster):
    """Programs that ended by a signal nobody sent: (node, line of its hamgr-init)."""
    found = []
    for node in cluster.nodes:
        with open(node.path("log", "init.log"), encoding="utf-8", errors="replace") as file:
            found += [(node.name, line.strip()) for line in file if CRASHED.match(line.strip())]
    return found


def history_of(cluster, node):
    """The events a node tells. A fence that was under way may have switched it off just now."""
    def ask():
        try:
            if not node.is_on():
                node.power_on()
            return cluster.events(node=node)
        except (RoomError, subprocess.SubprocessError):
            return None
    return wait_until(ask, f"{node.name} tells its history", HISTORY_S, 0.5)


def differing_histories(cluster):
    """Entries that members applied differently: index -> what each says. There must be none (I4)."""
    told = {}  # index -> {what: names}
    for node in cluster.nodes:
        for event in history_of(cluster, node):
            what = tuple(event[key] for key in ("view", "type", "guest", "node", "epoch", "is_noop"))
            told.setdefault(event["index"], {}).setdefault(what, []).append(node.name)
    return {index: says for index, says in told.items() if len(says) > 1}
