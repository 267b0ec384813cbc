#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Migrations cut at every step in every way: one copy afterwards, undamaged, and the ticket closed.

Rows are the steps of a migration, reached exactly: hamgrd is held at a line of its log (preloaded
tests/lib/pointshim.c), or the network or a disk is. Columns are what strikes there. Without --full
only a selection runs, in which each row and each column occurs; with it all of them do.
"""

import mmap
import os
import signal
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Callable

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import faults  # noqa: E402
import lab  # noqa: E402
import reached  # noqa: E402
from faults import copies, kill, processes  # noqa: E402
from harness import check, main, scenario  # noqa: E402
from nslab import cluster as nscluster  # noqa: E402
from nslab.client import HAMGR_UID, wait_until  # noqa: E402
from nslab.cluster import HactlError  # noqa: E402

GUEST = "m"
# 64 MiB that don't compress, at 25 MB/s: far more than the 19 MiB that the ends of a stream hold back,
# so that each step can be seen; some are written again meanwhile: rounds.
MEMORY = {"memory_mib": 64, "zero_percent": 0, "text_percent": 0, "dirty_kib_s": 6144,
          "disk": "direct", "writes_per_s": 5}
SLOW = "\n[migration]\nbandwidth = 200\n"
FIRST_BYTES = 2 << 20
REACH_S = 40  # seconds: a busy machine is slow, what is waited for is exact
LINK_S = 6  # a link that is cut: longer than a lease, so that something must be decided
DOMAINS = "/run/hamgr/embedded/domains"


class Point:
    """The page of one node's preloaded hamgrd (tests/lib/pointshim.c)."""

    def __init__(self, node):
        path = node.path("hw", "points")
        with open(path, "wb") as file:
            file.write(bytes(4096))
        os.chown(path, HAMGR_UID, HAMGR_UID)
        with open(path, "r+b") as file:
            self.page = mmap.mmap(file.fileno(), 4096)

    def arm(self, text):
        self.release()
        self.page[16:128] = text.encode().ljust(112, b"\0")
        self.page[0:4] = struct.pack("<I", 1)

    def is_held(self):
        return struct.unpack("<I", self.page[4:8])[0] == 1

    def release(self):
        self.page[0:8] = bytes(8)


@dataclass
class Case:
    """One migration under way, and who is who in it."""

    cluster: object
    orders: dict  # node name -> faults.Orders
    points: dict  # node name -> Point
    src: object
    dst: object
    leader: object
    operation: int = 0

    def third(self):
        return next(n for n in self.cluster.nodes if n not in (self.src, self.dst))

    def begin(self, max_downtime="5s"):
        """A busy machine must not make the planner refuse: pauses are measured elsewhere."""
        self.cluster.hactl("migrate", GUEST, "--to", self.dst.name, "--detach", "--max-downtime",
                           max_downtime, "--on-slow", "pause", node=self.third())

    def progress(self, node=None):
        status = self.cluster.try_status(node or self.src)
        return status["moves"][0] if status and status["moves"] else None

    def wait_progress(self, condition, what):
        wait_until(lambda: (m := self.progress()) and condition(m), what, REACH_S)


# --- rows: each begins the migration and returns when its step is reached -------------------------

def held(end, text):
    """hamgrd at one end is held where it says text."""
    def reach(case):
        node = getattr(case, end)
        case.points[node.name].arm(text)
        case.begin()
        wait_until(case.points[node.name].is_held, f"{node.name}'s hamgrd says '{text}'", REACH_S)
    return reach


def handshake(case):
    case.cluster.room.filters([{"match": "meta l4proto tcp"}])
    case.begin()
    case.wait_progress(lambda m: m["step"] == "preparing", "the ends want to connect")


def first_pass(case):
    case.begin()
    case.wait_progress(lambda m: m["bytes"] > FIRST_BYTES, "bytes flow")


def dirty_rounds(case):
    case.begin("300ms")
    case.wait_progress(lambda m: m["round"] >= 1, "the second round")


def stored_by_one(case):
    """SWITCH is in one store, of three: the disks of all but the leader hang before it comes."""
    held("src", "suspended and drained")(case)
    others = [node for node in case.cluster.nodes if node is not case.leader]
    for node in others:
        case.orders[node.name].sync(faults.SYNC_STALL)
    case.points[case.src.name].release()
    wait_until(lambda: all(case.orders[n.name].stalled() for n in others), "stores that hang",
               REACH_S)


def committed_not_applied(case):
    """SWITCH is committed, but the destination can't know: its disk hangs."""
    held("src", "suspended and drained")(case)
    case.orders[case.dst.name].sync(faults.SYNC_STALL)
    case.points[case.src.name].arm(f"SWITCH {GUEST}")
    wait_until(case.points[case.src.name].is_held, "SWITCH is applied at the source", REACH_S)


def reverted(case):
    """The arrived copy vanishes before it ever ran, so the source's must go on."""
    held("dst", f"SWITCH {GUEST}")(case)
    guests = [line for line in processes(case.dst) if line[1] == "hamgr-guest"]
    newest = max(case.dst.run(["ls", DOMAINS]).stdout.split(), key=int)
    check(guests, "no arrived copy")
    case.dst.run(["sh", "-ec", f"kill -KILL {max(g[0] for g in guests)}; "
                  f"rm -r {DOMAINS}/{newest}"])
    case.points[case.src.name].arm(f"REVERT {GUEST}")
    case.points[case.dst.name].release()
    wait_until(case.points[case.src.name].is_held, "REVERT is applied at the source", REACH_S)


@dataclass
class Row:
    """A step: how to get there, and where the guest's memory is believed from then on."""

    reach: Callable
    homes: tuple  # ends whose loss may cost the memory


BEFORE, BETWEEN, AFTER = ("src",), ("src", "dst"), ("dst",)
ROWS = {
    "P0 ordered, at the destination": Row(held("dst", f"MIGRATE {GUEST}"), BEFORE),
    "P0 ordered, at the source": Row(held("src", f"MIGRATE {GUEST}"), BEFORE),
    "P1 handshake": Row(handshake, BEFORE),
    "P4 first pass": Row(first_pass, BEFORE),
    "P5 dirty rounds": Row(dirty_rounds, BEFORE),
    "P7 suspended": Row(held("src", "the guest is stopped"), BEFORE),
    "P8 complete and paused": Row(held("dst", "the destination is complete"), BEFORE),
    "P9 drained": Row(held("src", "suspended and drained"), BEFORE),
    "P9 HANDOVER heard": Row(held("dst", "HANDOVER heard"), BETWEEN),
    "P10a SWITCH in one store": Row(stored_by_one, BETWEEN),
    "P10b SWITCH not applied at the destination": Row(committed_not_applied, BETWEEN),
    "P10c SWITCH applied at the destination": Row(held("dst", f"SWITCH {GUEST}"), BETWEEN),
    "P11 resumed": Row(held("dst", " runs"), AFTER),
    "P12 ARRIVED": Row(held("src", f"ARRIVED {GUEST}"), AFTER),
    "P13 cleanup": Row(held("src", "is over here"), AFTER),
    "REVERT": Row(reverted, BEFORE),
}


# --- columns --------------------------------------------------------------------------------------

class NotThere(Exception):
    """What should be struck does not exist at this step."""


def kill_service(end, service):
    def strike(case):
        getattr(case, end).signal(service, signal.SIGKILL)
    return strike


def kill_helper(end, is_it):
    def strike(case):
        node = getattr(case, end)
        gate = node.services()["hamgr-hv"][1]
        pids = [pid for pid, name, _, parent in processes(node) if is_it(name, parent, gate)]
        if not pids:
            raise NotThere
        kill(node, pids)
    return strike


def is_stream(name, _, __):
    return name == "hamgr-stream"


def is_worker(name, parent, gate):
    return name.startswith("hamgr-hv") and parent == gate


def power(end):
    return lambda case: getattr(case, end).power_off()


def cable(end):
    def strike(case):
        getattr(case, end).cable(False)
        time.sleep(LINK_S)  # the length of the fault
        getattr(case, end).cable(True)
    return strike


def link(case):
    """The two ends don't hear each other; the third node hears both."""
    a, b = case.src.name, case.dst.name
    case.cluster.room.filters([{"from": a, "to": b}, {"from": b, "to": a}])
    time.sleep(LINK_S)
    case.cluster.room.filters([])


def cancel(case):
    """An operator's word; refused when it comes too late, not answered when nobody can commit it."""
    move = case.progress(case.third())  # the source may be held
    if not move:
        raise NotThere
    try:
        case.cluster.hactl("cancel", str(move["id"]), node=case.third(), timeout_s=5)
    except HactlError as error:
        check(error.code in (3, 4, 6), f"cancel: {error}")
    except subprocess.TimeoutExpired:
        pass


# name -> (strike, whose loss it is: then the guest may begin anew if its memory was there)
COLUMNS = {
    "cancel": (cancel, ""),
    "hamgrd killed at the source": (kill_service("src", "hamgrd"), ""),
    "hamgrd killed at the destination": (kill_service("dst", "hamgrd"), ""),
    "gate killed at the source": (kill_service("src", "hamgr-hv"), ""),
    "gate killed at the destination": (kill_service("dst", "hamgr-hv"), ""),
    "stream killed at the source": (kill_helper("src", is_stream), ""),
    "stream killed at the destination": (kill_helper("dst", is_stream), ""),
    "worker killed at the source": (kill_helper("src", is_worker), ""),
    "worker killed at the destination": (kill_helper("dst", is_worker), ""),
    "source without power": (power("src"), "src"),
    "destination without power": (power("dst"), "dst"),
    "leader without power": (power("leader"), "leader"),
    "source without cable": (cable("src"), "src"),
    "destination without cable": (cable("dst"), "dst"),
    "the link between them cut": (link, "any"),
}


# --- a case ---------------------------------------------------------------------------------------

def start(context):
    """A cluster whose hamgrds can be held, and whose disks can hang."""
    points, orders = {}, {}

    def prepared(cluster):
        orders.update(faults.preload_all(cluster, context.build))
        for node in cluster.nodes:
            points[node.name] = Point(node)
            with open(node.path("hw", "programs"), encoding="ascii") as file:
                lines = file.read().splitlines()
            node.set_programs([line.replace(
                "LD_PRELOAD=", f"HAMGR_POINTS=/run/hamgr-node/points "
                f"LD_PRELOAD={nscluster.BIN}/hamgr_points.so:") for line in lines])
        cluster.room.stage({"hamgr_points.so": os.path.join(
            context.build, "tests", "hamgr_points.so")}, {})

    cluster = lab.start(context, guests=1, conf=SLOW, prepared=prepared)
    cluster.add_guest(GUEST, **MEMORY)
    cluster.wait_running()
    return cluster, orders, points


def make_case(cluster, orders, points):
    """The destination does not lead: then its disk may hang without a change of views."""
    leader = lab.leader(cluster)
    src = cluster.room.nodes[cluster.homes()[GUEST]]
    dst = next(node for node in cluster.nodes if node not in (src, leader))
    return Case(cluster, orders, points, src, dst, leader)


def restarts(cluster):
    """Copies of the guest that began anew, not from another's memory."""
    slot = cluster.observer.slot(cluster.slots[GUEST])
    return sum(not copy.is_restored for copy in slot.copies), slot.history_count


def recover(case):
    cluster = case.cluster
    for point in case.points.values():
        point.release()
    for orders in case.orders.values():
        orders.sync(faults.SYNC_OK)
    cluster.room.filters([])
    off = {node.name for node in cluster.nodes if not node.is_on()}
    if off:  # back before its loss is noticed it would be fenced for it
        cluster.wait_status(lambda s: s["open"] and not off & {
            line["name"] for line in s["nodes"] if line["status"] == "member"},
            f"the loss of {' '.join(off)} is noticed", 30)
    lab.return_all(cluster)


def check_one(case, what):
    """Exactly one copy of each guest, all run, nothing is left; its memory is whole."""
    cluster = case.cluster
    cluster.wait_status(lambda s: s["open"] and not s["moves"]
                        and set(cluster.homes(s)) == set(cluster.slots),
                        f"{what}: the ticket is closed and all run", 45)
    lab.all_step(cluster)
    wait_until(lambda: copies(cluster) == (len(cluster.slots), 0),
               f"{what}: one copy of each guest (now {copies(cluster)})", 20, 0.2)
    cluster.wait_checked([GUEST])
    lab.no_harm(cluster)


def is_loss_allowed(case, row, lost):
    """May the guest have begun anew? Only if what held its memory was lost."""
    ends = [lost]
    if lost == "leader":
        ends = [end for end in ("src", "dst") if getattr(case, end) is case.leader]
    return lost == "any" or any(end in row.homes for end in ends)


def run_case(context, room, row_name, column_name):
    """One cell of the matrix; False if there was nothing to strike."""
    row, (strike, lost) = ROWS[row_name], COLUMNS[column_name]
    what = f"{row_name}; {column_name}"
    case = make_case(*room)
    before, _ = restarts(case.cluster)
    began = time.monotonic()
    row.reach(case)
    reached.note(f"step: {row_name}")
    try:
        strike(case)
        reached.note(f"strike: {column_name}")
        is_struck = True
    except NotThere:
        is_struck = False
    recover(case)
    check_one(case, what)
    after, _ = restarts(case.cluster)
    check(after == before or is_loss_allowed(case, row, lost),
          f"{what}: {GUEST} began anew, though its memory was not lost")
    home = case.cluster.homes()[GUEST]
    end = "source" if home == case.src.name else \
        "destination" if home == case.dst.name else "third node"
    context.note(f"{what}: {'' if is_struck else 'nothing to strike, '}at the {end}"
                 f"{', anew' if after != before else ''} ({time.monotonic() - began:.1f} s)")
    return is_struck


def run_cases(context, cells):
    room = start(context)
    struck = sum(run_case(context, room, row, column) for row, column in cells)
    context.note(f"{struck} of {len(cells)} cells struck")
    check(struck, "no cell was struck")


# Each row and each column at least once.
SELECTED = [
    ("P0 ordered, at the destination", "hamgrd killed at the destination"),
    ("P0 ordered, at the source", "cancel"),
    ("P1 handshake", "stream killed at the destination"),
    ("P4 first pass", "worker killed at the destination"),
    ("P4 first pass", "stream killed at the source"),
    ("P5 dirty rounds", "worker killed at the source"),
    ("P7 suspended", "hamgrd killed at the source"),
    ("P8 complete and paused", "gate killed at the source"),
    ("P9 drained", "the link between them cut"),
    ("P9 HANDOVER heard", "source without power"),
    ("P10a SWITCH in one store", "leader without power"),
    ("P10b SWITCH not applied at the destination",
     "destination without cable"),
    ("P10c SWITCH applied at the destination", "gate killed at the destination"),
    ("P11 resumed", "hamgrd killed at the destination"),
    ("P12 ARRIVED", "source without cable"),
    ("P13 cleanup", "hamgrd killed at the source"),
    ("REVERT", "destination without power"),
]
assert {row for row, _ in SELECTED} == set(ROWS)
assert {column for _, column in SELECTED} == set(COLUMNS)
FAILPOINTS = (*(f"step: {row}" for row in ROWS), *(f"strike: {column}" for column in COLUMNS))


HALF = len(SELECTED) // 2


@scenario(180)
def cuts_before_handover(context):
    """Struck from the order to the complete copy: one copy goes on, whole."""
    run_cases(context, SELECTED[:HALF])


@scenario(180)
def cuts_after_handover(context):
    """Struck from the hand-over to the cleanup, and at a REVERT: one copy goes on, whole."""
    run_cases(context, SELECTED[HALF:])


def make_full():
    """One scenario for each row, with all columns."""
    for number, row in enumerate(ROWS):
        def run_row(context, row=row):
            run_cases(context, [(row, column) for column in COLUMNS])
        run_row.__name__ = f"row_{number:02d}"
        run_row.__doc__ = f"All columns at {row}."
        scenario(600)(run_row)


if __name__ == "__main__":
    if "--full" in sys.argv:
        sys.argv.remove("--full")
        make_full()
    sys.exit(main())
