#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What a migration promises: its pause, its deadline, its forecast, and the record it leaves."""

import glob
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import lab  # noqa: E402
from faults import processes  # noqa: E402
from harness import check, equal, main, scenario  # noqa: E402
from nslab.client import wait_until  # noqa: E402
from nslab.cluster import HactlError  # noqa: E402

# 100 Mbit/s move 12 MB/s of what does not compress: a guest that writes 40 MB/s is too fast for it.
SLOW = "\n[migration]\nbandwidth = 100\n"
FAST = {"memory_mib": 24, "zero_percent": 0, "text_percent": 0, "dirty_kib_s": 40000, "step_ms": 5}
# All of its memory in a quarter of a second, and 400 Mbit/s carry that in half of one. Writing so much
# takes several percent of a processor: the kernel can't give less than one.
MIDDLING = "\n[migration]\nbandwidth = 400\n"
FASTEST = {**FAST, "dirty_kib_s": 100000}
# Writes 1 MB/s that do not compress: a tenth of 100 Mbit/s, nearly half of 20.
MODERATE = {"memory_mib": 24, "zero_percent": 50, "text_percent": 0, "dirty_kib_s": 1024, "step_ms": 5}
CALM = {"memory_mib": 24, "zero_percent": 0, "text_percent": 0, "dirty_kib_s": 512, "step_ms": 5}


def start(context, guest, conf=""):
    cluster = lab.start(context, guests=1, conf=conf)
    cluster.add_guest("big", **guest)
    cluster.wait_running()
    return cluster


def ends(cluster, name="big"):
    home = cluster.homes()[name]
    return home, next(node.name for node in cluster.nodes if node.name != home)


def record(cluster, count):
    """The newest record, once there are so many."""
    def look():
        found = cluster.hactl("migrations")["migrations"]
        return found[-1] if len(found) >= count else None
    return wait_until(look, f"{count} records of migrations", 15)


def refused(cluster, *options):
    """A migration that must end where it began; what hactl said."""
    home, target = ends(cluster)
    try:
        cluster.hactl("migrate", "big", "--to", target, *options, timeout_s=120)
    except HactlError as error:
        equal(error.code, 3, "exit code of a refused migration")
        equal(cluster.homes().get("big"), home, "where the guest runs on")
        lab.all_step(cluster)
        return str(error)
    raise AssertionError("the migration was not refused")


def refused_on_the_way(cluster, allowed_ms, *options):
    """The same, but not before it began: where a switch alone takes longer, as on a busy machine, it is
    asked again with what was said would do, and a quarter more. Returns the pause it was allowed."""
    for _ in range(4):
        words = refused(cluster, "--max-downtime", f"{allowed_ms}ms", *options)
        would_do = re.search(r"the switch alone takes .*--max-downtime (\d+)ms would do", words)
        if not would_do:
            return allowed_ms
        allowed_ms = int(would_do.group(1)) * 5 // 4
    raise AssertionError(f"a switch gets slower and slower: {words}")


def moved_at_last(cluster, *options):
    """A migration that may be refused at its very end, harmlessly: on a busy machine the guest writes
    in bursts, and what is left when it stops may be more than there is time for. Then it is asked
    again, as an operator would. Returns the record of the one that moved."""
    home, target = ends(cluster)
    for count in range(1, 5):
        try:
            cluster.hactl("migrate", "big", "--to", target, *options, timeout_s=200)
            return record(cluster, count)
        except HactlError as error:
            if not re.search(r"stopped for \d+ ms, \d+ KiB are left: longer than", str(error)):
                raise
            equal(error.code, 3, "exit code of a refused migration")
            equal(cluster.homes().get("big"), home, "where the guest runs on")
            lab.all_step(cluster)
    raise AssertionError("four migrations were refused at their end")


def capped(before=frozenset()):
    """Control groups of guests that are slowed down, on this machine, that were not there before."""
    return {path for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/cpu")
            for path in glob.glob(f"{root}/hamgr-guest-*")} - before


@scenario(240)
def forecast_and_record(context):
    """A forecast moves nothing; the record tells what came true, from three clocks."""
    cluster = start(context, CALM)
    home, target = ends(cluster)
    # Asked on a node that is not the guest's: the question travels.
    other = next(node for node in cluster.nodes if node.name not in (home, target))
    asked = cluster.hactl("migrate", "big", "--to", target, "--forecast", node=other)
    check(asked["rate_from"] == ("probe" if asked["link"]["measured"] else "guess"), f"{asked}")
    check(asked["converging"], f"{asked}")
    check(asked["time_ms"]["low"] <= asked["time_ms"]["expected"] <= asked["time_ms"]["high"],
          f"{asked}")
    equal(cluster.homes()["big"], home, "where the guest is after a forecast")
    cluster.hactl("migrate", "big", "--to", target, timeout_s=60)
    moved = record(cluster, 1)
    equal((moved["outcome"], moved["from"], moved["to"], moved["guest"]),
          ("moved", home, target, "big"), "the record")
    check(moved["raw_bytes"] >= CALM["memory_mib"] << 20 and moved["wire_bytes"] > 0, f"{moved}")
    check(all(moved["pause_us"][view] > 0 for view in ("source", "destination", "guest")),
          f"{moved}")
    equal(moved["forecast"]["time_ms"], asked["time_ms"]["expected"], "the forecast kept")
    again = cluster.hactl("migrate", "big", "--to", home, "--forecast")
    check(again["rate_from"] == ("probe" if again["link"]["measured"] else "guess"),
          f"the rate of a source that has moved nothing yet: {again}")
    seen = [cluster.hactl("migrations", node=node)["migrations"] for node in cluster.nodes]
    check(all(len(found) == 1 and found[0]["op"] == moved["op"] for found in seen), f"{seen}")
    cluster.hactl("migrate", "big", "--to", home, timeout_s=60)
    again = cluster.hactl("migrate", "big", "--to", target, "--forecast")
    check(again["rate_from"] == "link" or (again["link"]["measured"] and again["rate_from"] == "probe"),
          f"the rate of a link that was used: {again}")
    again = cluster.hactl("migrate", "big", "--to", other.name, "--forecast")
    check(again["rate_from"] == ("probe" if again["link"]["measured"] else "others"),
          f"the rate of another link: {again}")
    lab.no_harm(cluster)


@scenario(240)
def too_fast_is_given_up(context):
    """--on-slow abort and a contract that can't be kept: refused with numbers, the guest runs on."""
    cluster = start(context, FAST, SLOW)
    words = refused(cluster, "--max-downtime", "100ms", "--on-slow", "abort")
    check("100 ms are allowed" in words and "--max-downtime" in words and "would do" in words, words)
    aborted = record(cluster, 1)
    equal(aborted["outcome"], "aborted", "the record")
    check("100 ms are allowed" in aborted["reason"], f"{aborted}")
    words = refused(cluster, "--max-downtime", "1ms")
    check("the switch alone takes" in words, words)
    lab.no_harm(cluster)


@scenario(300)
def too_fast_is_slowed_down(context):
    """--on-slow throttle: moved within the contract, and at full speed again afterwards."""
    if not os.path.isdir("/sys/fs/cgroup"):
        context.note("no control groups here: left out")
        return
    before = capped()  # of runs that were killed
    cluster = start(context, FASTEST, MIDDLING)
    moved = moved_at_last(cluster, "--max-downtime", "400ms")
    check(moved["throttle_percent"] < 100, f"it was not slowed down: {moved}")
    check(moved["pause_us"]["guest"] <= 400000, f"a broken contract: {moved}")
    wait_until(lambda: not capped(before), "no control group is left", 20)
    lab.all_step(cluster)
    lab.no_harm(cluster)


@scenario(240)
def deadline_and_cancel_release_the_throttle(context):
    """A deadline, and a cancel in the middle of it: the guest goes on at full speed."""
    before = capped()
    cluster = start(context, FAST, SLOW)
    allowed_ms = refused_on_the_way(cluster, 60, "--deadline", "6s")
    wait_until(lambda: not capped(before), "no control group is left after the deadline", 20)
    _, target = ends(cluster)
    begun = cluster.hactl("migrate", "big", "--to", target, "--max-downtime", f"{allowed_ms}ms", "--detach")
    wait_until(lambda: any(0 < m["throttle_percent"] < 100 for m in cluster.status()["moves"]),
               "it is slowed down", 60)
    cluster.hactl("cancel", str(begun["op"]))
    wait_until(lambda: not capped(before), "no control group is left after the cancel", 20)
    lab.all_step(cluster)
    lab.no_harm(cluster)


def slow_links(cluster, mbit):
    """Every cable carries so much from now on, each way, as tc sees it: not our own cap."""
    for node in cluster.nodes:
        node.run(["tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", f"{mbit}mbit",
                  "burst", "64kb", "latency", "50ms"])


def moves_in_time(context, cluster, mbit, limit_ms, count):
    """A migration with a contract over slow cables: moved, and the guest's own pause within it; or
    refused, and it runs on. Returns whether it moved."""
    home, target = ends(cluster)
    try:
        cluster.hactl("migrate", "big", "--to", target, "--max-downtime", f"{limit_ms}ms",
                      "--on-slow", "abort", timeout_s=120)
    except HactlError as error:
        equal(error.code, 3, f"exit code of a refused migration ({error})")
        equal(cluster.homes().get("big"), home, "where the guest runs on")
        context.note(f"{mbit} Mbit/s: refused: {str(error)[-200:]}")
        return False
    moved = record(cluster, count)
    context.note(f"{mbit} Mbit/s: {moved['pause_us']}, foreseen {moved['predicted_us']} us")
    check(moved["pause_us"]["guest"] <= limit_ms * 1000, f"a broken contract: {moved}")
    return True


@scenario(300)
def slow_links_keep_the_contract(context):
    """Cables of 100 and 20 Mbit/s: what a stream holds back is not forgotten in the pause."""
    cluster = start(context, MODERATE)
    for so_far, mbit in ((0, 100), (2, 20)):
        slow_links(cluster, mbit)
        moved = [moves_in_time(context, cluster, mbit, 300, so_far + n) for n in (1, 2)]
        check(any(moved), f"at {mbit} Mbit/s all of them were refused")
        lab.all_step(cluster)
    lab.no_harm(cluster)


def measured(cluster, name, target):
    """The first forecast whose link could be measured: on a busy machine a process may start too late."""
    def look():
        asked = cluster.hactl("migrate", name, "--to", target, "--forecast")
        return asked if asked["link"]["measured"] else None
    return wait_until(look, f"the link to {target} is measured", 60)


def begin(cluster, name, target):
    """Begins a migration; None if it is refused just now, as while a starved corosync has no quorum."""
    try:
        return cluster.hactl("migrate", name, "--to", target, "--detach")
    except HactlError:
        return None


@scenario(180)
def link_is_measured(context):
    """A forecast finds out what cables of 100 Mbit/s carry, within a quarter, and leaves nothing behind;
    beside a migration it says why it does not look."""
    cluster = start(context, CALM)
    slow_links(cluster, 100)
    home, target = ends(cluster)
    asked = measured(cluster, "big", target)
    context.note(f"100 Mbit/s: {asked['link']}, {asked['time_ms']}")
    check(75000 <= asked["link"]["kbit_s"] <= 125000, f"{asked}")
    check(asked["link"]["rtt_us"] > 0, f"{asked}")
    equal(asked["rate_from"], "probe", "where its rate is from")
    # 24 MiB at 12.5 MB/s and what connecting takes: not less than the link allows, whatever it guesses else.
    check(asked["time_ms"]["expected"] >= 24 * 8 * 1048 * 1000 / 125000, f"{asked}")
    wait_until(lambda: not any(name == "hamgr-stream" for node in cluster.nodes
                               for _, name, _, _ in processes(node)), "no process of the probe is left", 30)
    slow_links(cluster, 10)
    begun = wait_until(lambda: begin(cluster, "big", target), "the migration begins", 60)
    # Either its own node or the other one is an end of the migration.
    source = cluster.homes()["g1"]
    other = cluster.hactl("migrate", "g1", "--to", target if source != target else home, "--forecast")
    check("a migration of" in other["link"].get("reason", ""), f"{other}")
    check(other["rate_from"] != "probe", f"{other}")
    cluster.hactl("cancel", str(begun["op"]))
    lab.all_step(cluster)
    lab.no_harm(cluster)


@scenario(240)
def slow_links_refuse_in_time(context):
    """A guest that writes more than such a cable carries: refused with the numbers, by its deadline."""
    cluster = start(context, FAST)
    slow_links(cluster, 100)
    words = refused(cluster, "--max-downtime", "300ms", "--on-slow", "abort", "--deadline", "30s")
    check("300 ms are allowed" in words and "drains" in words, words)
    lab.no_harm(cluster)


@scenario(240)
def pause_is_the_operators_word(context):
    """--on-slow pause moves it all the same, for longer than allowed."""
    cluster = start(context, FAST, SLOW)
    _, target = ends(cluster)
    cluster.hactl("migrate", "big", "--to", target, "--max-downtime", "50ms", "--on-slow", "pause",
                  timeout_s=200)
    moved = record(cluster, 1)
    check(moved["pause_us"]["guest"] > 50000, f"{moved}")
    lab.all_step(cluster)
    lab.no_harm(cluster)


def read_until(process, words, seen):
    """Reads a program's lines into seen until one has the words; False at its end."""
    for line in process.stdout:
        seen.append(line)
        if words in line:
            return True
    return False


@scenario(240)
def drain_says_what_stays(context):
    """A drain keeps a guest's contract: it names the guest that can't leave within it, why, and the
    command that moves it all the same; taken, the node is empty."""
    cluster = start(context, FAST, SLOW + "on-slow = abort\n")
    home, target = ends(cluster)
    node = next(node for node in cluster.nodes if node.name == home)
    seen = []
    process = node.popen(["timeout", "200", "hactl", "maintenance", home, "on", "--wait"], text=True,
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        check(read_until(process, "hactl migrate big --on-slow pause", seen), f"no way out: {seen}")
        check(any("big did not move" in line and "--max-downtime" in line for line in seen), f"{seen}")
        equal(cluster.homes().get("big"), home, "where a guest is that can't keep its contract")
        cluster.hactl("migrate", "big", "--to", target, "--on-slow", "pause", timeout_s=200)
        check(read_until(process, f"{home} is empty", seen), f"not empty: {seen}")
        equal(process.wait(timeout=30), 0, f"exit code of the drain: {seen}")
    finally:
        process.kill()
        process.wait()
    lab.all_step(cluster)
    lab.no_harm(cluster)


if __name__ == "__main__":
    sys.exit(main())
