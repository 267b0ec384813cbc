#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What a campaign rests on, without a cluster: its schedule and how it judges writes."""

import os
import sys
from types import SimpleNamespace

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from harness import check, equal, main, scenario  # noqa: E402
from nslab.client import RoomError  # noqa: E402
import campaign_faults as how  # noqa: E402  (finds nslab through harness)
import campaign_plan as plan  # noqa: E402
from campaign_watch import LATE_MS, Watch, differing_histories  # noqa: E402

TIMING = plan.Timing(heartbeat=0.5, detection=0.66, watchdog=2.0, lease=3.8, wait=9.1)


@scenario(10)
def schedules(context):
    """A seed's rounds are always the same, others differ, and every kind can be done."""
    equal(set(how.DO), set(plan.KINDS), "kinds that can be done")
    seen, starts = set(), set()
    for seed in range(200):
        faults = plan.round_of(seed, 1, 45, TIMING)
        equal(plan.round_of(seed, 1, 45, TIMING), faults, f"seed {seed} once more")
        check(all(0 <= a.at_s <= b.at_s < 45 for a, b in zip(faults, faults[1:])), "their order")
        check(faults[-1].kind in plan.LAST and faults[-1].at_s > 45 - plan.LAST_S, "the last one")
        check(all(f.seconds <= plan.KINDS[f.kind][1] + 0.3 for f in faults[:-1]), "their length")
        seen |= {fault.kind for fault in faults}
        starts.add(faults[0].at_s)
    equal(seen, set(plan.KINDS), "kinds met by 200 seeds")
    equal(len(starts), 200, "different schedules")
    context.note(f"{len(seen)} kinds")


@scenario(10)
def late_writes(context):
    """Only a stale write within D of its own host's verified off is told from a double run."""
    watch = Watch.__new__(Watch)
    watch.cluster = SimpleNamespace(nodes=[SimpleNamespace(index=2, name="n2")])
    watch.cuts = [("n2", 1000.0)]
    for what, node, wall_ms, is_late in (
            ("stale epoch", 2, 1000, True), ("stale epoch", 2, 1000 + LATE_MS, True),
            ("stale epoch", 2, 999, False), ("stale epoch", 2, 1001 + LATE_MS, False),
            ("stale epoch", 1, 1500, False), ("second node", 2, 1500, False),
            ("rewritten", 2, 1500, False)):
        violation = {"what": what, "node": node, "wall_ms": wall_ms, "guest": "g"}
        equal(watch.is_late(violation), is_late, f"{violation}")
    context.note(f"D and the storage's own time: {LATE_MS} ms")


class LateNode:
    """A node that is off when it is asked, and does not answer at once when it is on."""

    def __init__(self, name, refusals):
        self.name = name
        self.refusals = refusals
        self.starts = 0

    def is_on(self):
        return self.starts > 0

    def power_on(self):
        self.starts += 1


@scenario(20)
def histories(context):
    """Each node is asked for its history, also one that a late fence switched off; what differs is
    told."""
    event = {"index": 7, "view": 3, "type": "FENCED", "guest": None, "node": "n2", "epoch": 0,
             "is_noop": False}
    told = {"n1": [event], "n2": [event, {**event, "index": 8}]}

    def events(node):
        if not node.is_on() or node.refusals > 0:
            node.refusals -= 1
            raise RoomError(f"{node.name} is off")
        return told[node.name]
    nodes = [LateNode("n1", 0), LateNode("n2", 2)]
    cluster = SimpleNamespace(nodes=nodes, events=events)
    equal(differing_histories(cluster), {}, "histories that differ")
    equal([node.starts for node in nodes], [1, 1], "starts")
    told["n1"] = [{**event, "is_noop": True}]
    equal(set(differing_histories(cluster)), {7}, "indexes that differ")
    context.note("a node that is off is switched on and waited for")


if __name__ == "__main__":
    sys.exit(main())
