#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Migrations that are hit in the middle, and certificates that don't fit: one copy, and it runs."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import faults  # noqa: E402
import lab  # noqa: E402
from faults import copies, kill, processes  # noqa: E402
from harness import check, equal, main, scenario  # noqa: E402
from nslab import measure  # noqa: E402
from nslab.client import HAMGR_UID, PYTHON, wait_until  # noqa: E402
from nslab.cluster import PKI, HactlError  # noqa: E402

# 48 MiB that don't compress at 12.5 MB/s: 4 s in which a migration can be hit.
BIG = {"memory_mib": 48, "zero_percent": 0, "text_percent": 0, "dirty_kib_s": 512}
SLOW = "\n[migration]\nbandwidth = 100\n"
HIT_AFTER = 6 << 20  # bytes of memory sent: well within the first round

def kill_stream(node):
    kill(node, [pid for pid, name, _, _ in processes(node) if name == "hamgr-stream"])


def kill_worker(node):
    gate = node.services()["hamgr-hv"][1]
    kill(node, [pid for pid, name, _, parent in processes(node)
                if name.startswith("hamgr-hv") and parent == gate])


def start(context):
    cluster, _ = faults.start(context, guests=2, conf=SLOW)
    cluster.add_guest("big", **BIG)
    cluster.wait_running()
    return cluster


def begin(cluster, name="big"):
    """Begins a migration and returns (source, destination, operation) with it well under way."""
    home = cluster.room.nodes[cluster.homes()[name]]
    target = next(node for node in cluster.nodes if node is not home)
    cluster.hactl("migrate", name, "--to", target.name, "--detach", node=home)
    status = cluster.wait_status(lambda s: any(m["bytes"] > HIT_AFTER for m in s["moves"]),
                                 "bytes flow", 20, node=home, every_s=0.05)
    return home, target, status["moves"][0]["id"]


def check_settled(context, cluster, what, seen_by, before, homes, timeout_s=30):
    """The migration is over: one copy of each guest, all run, nothing is left anywhere."""
    status = cluster.wait_status(lambda s: s["open"] and not s["moves"]
                                 and cluster.homes(s).get("big") in homes,
                                 f"{what}: the migration is given up", timeout_s, node=seen_by)
    lab.all_step(cluster)
    wait_until(lambda: copies(cluster) == (len(cluster.slots), 0),
               f"{what}: one copy of each guest, all running (now {copies(cluster)})", 20, 0.2)
    count, _ = lab.epochs(cluster)["big"]
    context.note(f"{what}: big is on {cluster.homes(status)['big']}")
    check(count == before or cluster.homes(status)["big"] != homes[0],
          f"{what}: big was restarted at its source")
    lab.no_harm(cluster)


def check_moves(cluster):
    """The next migration works."""
    home = cluster.homes()["big"]
    target = next(node.name for node in cluster.nodes if node.name != home)
    cluster.hactl("migrate", "big", "--to", target)
    equal(cluster.homes().get("big"), target, "where big is")
    lab.all_step(cluster, ["big"])


def hit(context, cluster, what, strike):
    """One fault in the middle of a migration; strike(source, destination, operation)."""
    before, _ = lab.epochs(cluster)["big"]
    home, target, operation = begin(cluster)
    strike(home, target, operation)
    check_settled(context, cluster, what, home, before, [home.name])
    equal(lab.cuts(cluster), [], f"{what}: power cuts")


@scenario(60)
def move_cancelled(context):
    """hactl cancel in the middle: the guest goes on at its source, the next migration works. Its pages
    come to the destination's hypervisor through shared memory."""
    cluster = start(context)

    def strike(home, target, op):
        maps = target.run(["sh", "-c", "cat /proc/[0-9]*/maps 2>/dev/null; true"]).stdout
        check("hamgr-ring" in maps, "no process of the destination has a ring")
        cluster.hactl("cancel", str(op), node=home)
    hit(context, cluster, "cancel", strike)
    event = next(e for e in reversed(cluster.events()) if e["type"] == "ABORT")
    check("operator" in event["text"] or "cancel" in event["text"], f"told: {event['text']}")
    check_moves(cluster)
    lab.no_harm(cluster)


@scenario(60)
def move_processes_killed(context):
    """kill -9 of hamgr-stream at each end, of a worker at each end: the guest goes on, once."""
    cluster = start(context)
    hit(context, cluster, "stream at the source", lambda home, *_: kill_stream(home))
    hit(context, cluster, "stream at the destination", lambda _, target, __: kill_stream(target))
    hit(context, cluster, "worker at the source", lambda home, *_: kill_worker(home))
    hit(context, cluster, "worker at the destination", lambda _, target, __: kill_worker(target))
    check_moves(cluster)
    lab.no_harm(cluster)


MIGRATION = "tcp dport 7780-7799"


def wall(node, verdict):
    """Rules on what comes to a node's migration ports, or none."""
    rules = f"add chain inet cut i {{ type filter hook input priority 0; }}\n" \
            f"add rule inet cut i {MIGRATION} {verdict}\n" if verdict else "delete table inet cut\n"
    node.run(["nft", "-f", "-"], text="add table inet cut\n" + rules)


def said(node, pattern):
    """How many lines of a node's logs have it."""
    found = 0
    for directory, _, names in os.walk(node.path("log")):
        for name in names:
            with open(os.path.join(directory, name), encoding="utf-8", errors="replace") as file:
                found += sum(re.search(pattern, line) is not None for line in file)
    return found


@scenario(60)
def move_connections_cut(context):
    """A migration's connections are reset, again and again, and then swallowed for 3 s: it completes."""
    cluster = start(context)
    before, _ = lab.epochs(cluster)["big"]
    home, target, _ = begin(cluster)
    for seconds, verdict in ((0.3, "reject with tcp reset"), (0.3, "reject with tcp reset"), (3, "drop")):
        wall(target, verdict)
        time.sleep(seconds)  # the fault itself lasts so long
        wall(target, None)
        time.sleep(0.7)
    cluster.wait_status(lambda status: cluster.homes(status).get("big") == target.name,
                        "the migration completes", 40)
    lab.all_step(cluster)
    wait_until(lambda: copies(cluster) == (len(cluster.slots), 0), "one copy of each guest", 20)
    count, _ = lab.epochs(cluster)["big"]
    equal(count, before + 1, "copies of big that ever ran")
    equal([e for e in cluster.events() if e["type"] == "ABORT"], [], "migrations given up")
    back = said(home, "lane [0-9]+ is back")
    check(back > 0, "no connection was made again: the cuts missed")
    context.note(f"{back} connections were made again")
    equal(lab.cuts(cluster), [], "power cuts")
    check_moves(cluster)
    lab.no_harm(cluster)


def kill_service(cluster, name):
    def strike(node):
        starts = node.services()[name][2]
        node.signal(name, signal.SIGKILL)
        wait_until(lambda: node.services()[name][0] == "up" and node.services()[name][2] > starts,
                   f"{name} is up again", 15)
        cluster.wait_members()
    return strike


@scenario(60)
def move_daemons_killed(context):
    """kill -9 of hamgrd and hamgr-hv at each end of a migration: the guest goes on, once."""
    cluster = start(context)
    for name in ("hamgrd", "hamgr-hv"):
        strike = kill_service(cluster, name)
        hit(context, cluster, f"{name} at the source", lambda home, _, __, s=strike: s(home))
        hit(context, cluster, f"{name} at the destination", lambda _, target, __, s=strike:
            s(target))
    check_moves(cluster)
    lab.no_harm(cluster)


@scenario(60)
def move_loses_destination(context):
    """The destination's cable is cut in the middle of a migration: the guest goes on, once."""
    cluster = start(context)
    before, _ = lab.epochs(cluster)["big"]
    home, target, _ = begin(cluster)
    target.cable(False)
    check_settled(context, cluster, "destination cut off", home, before, [home.name])
    target.cable(True)
    if not target.is_on():
        target.power_on()
    cluster.wait_members()
    check_moves(cluster)
    lab.no_harm(cluster)


@scenario(60)
def move_loses_source(context):
    """The source's cable is cut in the middle of a migration: the guest is restarted, once."""
    cluster = start(context)
    home, target, _ = begin(cluster)
    home.cable(False)
    check_settled(context, cluster, "source cut off", target, 0,
                  [""] + [node.name for node in cluster.nodes if node is not home])
    home.cable(True)
    if not home.is_on():
        home.power_on()
    cluster.wait_members()
    wait_until(lambda: copies(cluster) == (len(cluster.slots), 0), "one copy of each guest", 20)
    check_moves(cluster)
    lab.no_harm(cluster)


# --- certificates ---------------------------------------------------------------------------------

def pki(*arguments):
    subprocess.run([PYTHON, PKI, *arguments], check=True, capture_output=True, timeout=60)


def put(node, directory):
    """A node's certificate files are those of a directory made by deploy/pki."""
    for name, mode in (("ca.pem", 0o644), ("node.pem", 0o644), ("node.key", 0o640)):
        with open(os.path.join(directory, name), encoding="ascii") as file:
            node.write(["etc-hamgr", "pki", name], file.read(), mode, gid=HAMGR_UID)


def bad_certificates(context, cluster):
    """what -> (function that installs it on a node, words the refusal must have)."""
    good = os.path.join(cluster.room.dir, "pki")
    foreign = os.path.join(cluster.room.dir, "foreign")
    expired = os.path.join(cluster.room.dir, "expired")
    names = [node.name for node in cluster.nodes]
    pki("all", foreign, *names)
    shutil.copytree(good, expired)
    for name in names:
        pki("node", expired, name, "--renew", "--not-before", "2020-01-01", "--not-after",
            "2020-02-01")
    other = {node.name: cluster.nodes[(i + 1) % len(names)].name
             for i, node in enumerate(cluster.nodes)}

    def missing(node):
        os.unlink(node.path("etc-hamgr", "pki", "node.pem"))

    def garbage(node):
        node.write(["etc-hamgr", "pki", "node.pem"], os.urandom(3000), gid=HAMGR_UID)

    return {"another CA's": (lambda node: put(node, os.path.join(foreign, node.name)),
                              ("certificate",)),
            "another node's": (lambda node: put(node, os.path.join(good, other[node.name])),
                               ("certificate", "name")),
            "expired": (lambda node: put(node, os.path.join(expired, node.name)), ("expired",)),
            "missing": (missing, ("node.pem",)),
            "garbage": (garbage, ("PEM",))}


@scenario(60)
def certificates(context):
    """Certificates of another CA or node, expired, missing or garbage, at either end: refused."""
    cluster, _ = faults.start(context, guests=3)
    good = os.path.join(cluster.room.dir, "pki")
    before = lab.epochs(cluster)
    home = cluster.room.nodes[cluster.homes()["g1"]]
    target = next(node for node in cluster.nodes if node is not home)
    for what, (install, words) in bad_certificates(context, cluster).items():
        for node in (home, target):
            install(node)
            where = f"{what} certificate at the {'source' if node is home else 'destination'}"
            try:
                cluster.hactl("migrate", "g1", "--to", target.name, timeout_s=30)
            except HactlError as error:
                said = str(error)
            else:
                raise AssertionError(f"{where}: the guest moved")
            context.note(f"{where}: {said.split('exit ')[-1]}")
            check(any(word in said for word in words), f"{where}: {said}, wanted {words}")
            put(node, os.path.join(good, node.name))
            lab.all_step(cluster, ["g1"])
    equal(lab.epochs(cluster), before, "copies of guests")
    wait_until(lambda: copies(cluster) == (len(cluster.slots), 0), "one copy of each guest", 20)
    cluster.hactl("migrate", "g1", "--to", target.name)
    lab.no_harm(cluster)


@scenario(60)
def certificates_expired_everywhere(context):
    """All certificates have expired: a node that dies is failed over all the same."""
    cluster, _ = faults.start(context, guests=3)
    for node in cluster.nodes:
        bad_certificates_once = os.path.join(cluster.room.dir, "expired-all")
        if not os.path.isdir(bad_certificates_once):
            pki("all", bad_certificates_once, *[n.name for n in cluster.nodes], "--not-before",
                "2020-01-01", "--not-after", "2020-02-01")
        put(node, os.path.join(bad_certificates_once, node.name))
    for node in cluster.nodes:
        node.signal("hamgrd", signal.SIGKILL)
    cluster.wait_members()
    victim = lab.busiest(cluster)
    lost = lab.guests_of(cluster, victim)
    at = victim.power_off()
    measure.wait_restarted(cluster, lost, at["mono_ns"])
    lab.all_step(cluster)
    lab.no_harm(cluster)


if __name__ == "__main__":
    sys.exit(main())
