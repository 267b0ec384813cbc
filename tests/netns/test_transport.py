#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""quorum/transport.h against real corosync in three network namespaces.

Asserts members, messages, refusals, reconnects and health, and that the loop never waits for
corosync, whatever that does: killed, restarted, stopped, flooded while stopped. Prints how long the
loop was held at most (the time it waited for a processor apart), and the latency of multicast rounds.
"""
import argparse
import os
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import corosync_lab as lab_of  # noqa: E402


# Far below the shortest hang that is made here (a corosync stopped for seconds), far above what two
# cores shared by three real-time corosyncs hold back a loop that waits for nobody (150 ms were seen
# while all three started). How long it is on a free machine is for the benches, not for a test.
HELD_MAX_US = 500_000
NOBODY = 65534


def check(condition, text):
    if not condition:
        raise AssertionError(text)


def gap_of(driver, what):
    """How long the loop was held at most since the last look, waiting for a processor apart."""
    driver.tell("stat")
    stat = driver.expect("stat")
    print(f"  n{driver.node.number} {what}: loop held for at most {stat['held_us']} us (gap with "
          f"waiting for a processor {stat['gap_us']} us), {stat['heard']} messages heard")
    check(stat["held_us"] < HELD_MAX_US, f"the loop was held: {stat}")
    return stat


def all_members(drivers, nodes, timeout_s=20):
    for driver in drivers:
        driver.expect("members", timeout_s, nodes=nodes)


def starts_first(lab, drivers, text):
    """hamgrd may be there before corosync."""
    for driver in drivers:
        check("not running" in driver.expect("health", health="down")["why"], "no reason given")
        driver.tell("stat")
        stat = driver.expect("stat")
        check(stat["votes"] == -1, f"votes without corosync: {stat}")
    for node in lab.nodes:
        node.start_corosync(text)
    for driver in drivers:
        config = driver.expect("config")
        check(config["token_ms"] == 1000 and config["consensus_ms"] == 1200, str(config))
        check(config["self"] == driver.node.number and config["cluster"] == "lab", str(config))
        check(config["nodes"] == [[n, f"n{n}", f"10.77.0.{n}"] for n in (1, 2, 3)], str(config))
        check(config["refusal"] == "", config["refusal"])
    all_members(drivers, [1, 2, 3])
    for driver in drivers:
        check(driver.seen("health")[-1]["health"] == "ok", str(driver.seen("health")))
        gap_of(driver, "start")
    print("members: three drivers started before corosync found each other")


def messages(drivers):
    for size in (8, 1000, 32_768, 131_072, 524_288):
        drivers[0].tell(f"send {size}")
        heard = [d.expect("message", size=size) for d in drivers]
        check(len({h["digest"] for h in heard}) == 1 and all(h["from"] == 1 for h in heard),
              f"{size} bytes arrived differently: {heard}")
    print("messages: 8 bytes to 512 KiB arrive whole at all three, the sender included")


def latency(drivers, count):
    for driver in drivers:
        driver.tell(f"round {count}")
        rounds = driver.expect("rounds", 60)
        print(f"  n{driver.node.number} multicast round among 3 (ask, three answers heard), "
              f"{rounds['count']} times: min {rounds['min_us']} median {rounds['median_us']} "
              f"p99 {rounds['p99_us']} max {rounds['max_us']} us")
        check(rounds["median_us"] < 20_000, f"rounds are slow: {rounds}")


def flooded(drivers, count=1500, size=4096):
    """All three send more at once than corosync takes: everything arrives, nothing blocks."""
    for driver in drivers:
        gap_of(driver, "before")
    start = time.monotonic()
    for driver in drivers:
        driver.tell(f"burst {count} {size}")
    for driver in drivers:
        heard = 0
        while heard < 3 * count:
            check(time.monotonic() - start < 60, f"only {heard} of {3 * count} messages arrived")
            stat = gap_of(driver, "flooded")
            heard += stat["heard"]
            time.sleep(0.2)
        check(heard == 3 * count, f"{heard} messages for {3 * count}")
        check(not driver.seen("down"), "a flood within the queue's bounds broke the connection")
    print(f"flood: 3 x {count} messages of {size} bytes arrived in "
          f"{time.monotonic() - start:.1f} s")


def killed(lab, drivers):
    """Killed corosync: down at once here, gone there, back by itself."""
    for driver in drivers:
        driver.tell("beat 20")
        gap_of(driver, "before")
    start = time.monotonic()
    lab.nodes[1].kill_corosync()
    down = drivers[1].expect("down")
    print(f"killed corosync: down after {(time.monotonic() - start) * 1000:.0f} ms: {down['why']}")
    drivers[1].expect("health", health="down")
    all_members([drivers[0], drivers[2]], [1, 3])
    lab.nodes[1].start_corosync()
    all_members(drivers, [1, 2, 3])
    check(drivers[1].seen("health")[-1]["health"] == "ok", "not ok after the restart")
    for driver in drivers:
        gap_of(driver, "killed and restarted")


def restarted_quickly(lab, drivers):
    """Killed and started at once, ten times faster than the token: others may never see it go."""
    lab.nodes[2].kill_corosync()
    lab.nodes[2].start_corosync()
    drivers[2].expect("down")
    all_members([drivers[2]], [1, 2, 3])
    drivers[2].tell("send 77")
    for driver in drivers:
        driver.expect("message", size=77)
        gap_of(driver, "restarted at once")


def stopped(lab, drivers, seconds):
    """A stopped corosync under full load: the place where libqb would spin for ever."""
    for driver in drivers:
        driver.tell("beat 5")
        driver.tell("load 2 2000")
        gap_of(driver, "before")
    start = time.monotonic()
    lab.nodes[2].signal_corosync(signal.SIGSTOP)
    drivers[2].expect("health", health="hangs")
    print(f"stopped corosync: hangs is told after {(time.monotonic() - start) * 1000:.0f} ms")
    all_members(drivers[:2], [1, 2])
    while time.monotonic() - start < seconds:
        gap_of(drivers[2], "while corosync is stopped")
        time.sleep(1)
    check(not drivers[2].seen("down") or drivers[2].events.index(drivers[2].seen("down")[-1]) <
          drivers[2].events.index(drivers[2].seen("health")[-1]), "down although only stopped")
    lab.nodes[2].signal_corosync(signal.SIGCONT)
    # How long rings that meet again take is corosync's own affair: seen from 2 s to over 20 s.
    all_members(drivers, [1, 2, 3], timeout_s=90)
    drivers[2].tell("beat 0")
    drivers[2].tell("load 0 0")
    drivers[2].tell("send 99")
    for driver in drivers:
        driver.expect("message", size=99)
    for driver in drivers:
        driver.tell("beat 0")
        driver.tell("load 0 0")
        gap_of(driver, "stopped and continued")
    check(drivers[2].seen("health")[-1]["health"] == "ok", str(drivers[2].seen("health")[-3:]))


def overflowing(lab, drivers):
    """More than the queue holds while corosync is stopped: the connection is dropped, loudly."""
    gap_of(drivers[0], "before")
    lab.nodes[0].signal_corosync(signal.SIGSTOP)
    drivers[0].tell("load 1 65536")
    down = drivers[0].expect("down", 30)
    print(f"overflow: {down['why']}")
    drivers[0].tell("load 0 0")
    gap_of(drivers[0], "overflowing")
    lab.nodes[0].signal_corosync(signal.SIGCONT)
    all_members(drivers[:1], [1, 2, 3])
    gap_of(drivers[0], "back")


def closing_while_stopped(lab, drivers, program):
    """Neither closing nor connecting waits for a stopped corosync."""
    node = lab.nodes[1]
    node.signal_corosync(signal.SIGSTOP)
    late = lab_of.Driver(node, [program, "group"])
    late.expect("health", health="hangs")
    gap_of(late, "connecting to a stopped corosync")
    for driver in (late, drivers[1]):
        closed = driver.stop()
        check(closed["event"] == "closed" and closed["took_us"] < 400_000, str(closed))
        print(f"closing beside a stopped corosync took {closed['took_us']} us")
    node.signal_corosync(signal.SIGCONT)
    drivers[1] = lab_of.Driver(node, [program, "group"], uid=NOBODY)
    all_members(drivers, [1, 2, 3])
    print("an unprivileged process named in uidgid.d is a member")


def partitioned(lab, drivers):
    lab.cable(3, False)
    all_members(drivers[:2], [1, 2])
    all_members(drivers[2:], [3])
    lab.cable(3, True)
    all_members(drivers, [1, 2, 3], 30)
    print("partition and reunion: members told on both sides")


def refused_by_owner(drivers):
    """config -> false keeps it out of the group; accepting brings it back."""
    drivers[0].tell("refuse")
    drivers[0].node.kill_corosync()
    drivers[0].node.start_corosync()
    drivers[0].expect("down")
    drivers[0].expect("config")
    drivers[0].expect("config")  # asked again: it may have been mended
    check(not any(e["event"] == "members" for e in drivers[0].events[drivers[0].position:]),
          "a member although refused")
    drivers[0].tell("accept")
    all_members(drivers[:1], [1, 2, 3])


def unsafe_options(lab, program):
    """Each unsafe option is seen through cmap and refused with its own words."""
    node = lab.nodes[0]
    cases = {
        "two_node": lab_of.conf(2, quorum="two_node: 1"),
        "last_man_standing": lab_of.conf(3, quorum="last_man_standing: 1"),
        "auto_tie_breaker": lab_of.conf(2, quorum="auto_tie_breaker: 1"),
        "no_crypto": lab_of.conf(3, crypto=False),
    }
    for option, text in cases.items():
        node.kill_corosync()
        node.start_corosync(text)
        driver = lab_of.Driver(node, [program, "group"])
        config = driver.expect("config")
        check(config[option] == 1 and config["refusal"], f"{option} was not seen: {config}")
        others = [o for o in cases if o != option and config[o] == 1]
        check(not others, f"{option}: also {others}")
        health = driver.seen("health")
        check(not driver.seen("members") and all(h["health"] != "ok" for h in health), option)
        driver.stop()
    print("unsafe options are refused: " + ", ".join(cases))


def changed_by_reload(lab, program):
    """A reload that makes it unsafe drops a living connection."""
    node = lab.nodes[0]
    node.kill_corosync()
    node.start_corosync(lab_of.conf(1))
    driver = lab_of.Driver(node, [program, "group"])
    driver.expect("members", nodes=[1])
    with open(os.path.join(node.directory, "etc/corosync.conf"), "w", encoding="ascii") as file:
        file.write(lab_of.conf(1, quorum="last_man_standing: 1", token=1400))
    reload_of = node.popen(["corosync-cfgtool", "-R"])
    check(reload_of.wait(timeout=20) == 0, "corosync-cfgtool -R failed")
    config = driver.expect("config", 20, token_ms=1400)
    check(config["last_man_standing"] == 1, str(config))
    driver.expect("down")
    gap_of(driver, "reload")
    driver.stop()
    print("a reload is noticed within 5 s and judged again")


def made_by_init(lab, program, maker):
    """corosync itself takes what cluster init writes: the times are in effect as written."""
    for token, consensus in ((1000, 1200), (300, 360)):
        text = subprocess.run([maker, "--conf", str(token)], check=True, capture_output=True,
                              text=True, timeout=20).stdout
        for node in lab.nodes:
            node.kill_corosync()
            node.start_corosync(text)
        drivers = [lab_of.Driver(node, [program, "group"]) for node in lab.nodes]
        for driver in drivers:
            config = driver.expect("config", token_ms=token)
            check(config["consensus_ms"] == consensus and config["refusal"] == "", str(config))
        all_members(drivers, [1, 2, 3])
        for driver in drivers:
            driver.stop()
    print("corosync.conf as cluster init makes it: tokens 1000 and 300 in effect, accepted")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("driver", help="the built transport_driver")
    parser.add_argument("--setup", help="the built test_cluster_setup, whose corosync.conf to try")
    parser.add_argument("--stop-seconds", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=500)
    options = parser.parse_args()
    why = lab_of.missing()
    if why:
        print(f"skipped: {why}")
        return 77
    program = os.path.abspath(options.driver)
    with lab_of.Lab(3) as lab:
        for node in lab.nodes:
            with open(os.path.join(node.directory, "etc/uidgid.d/test"), "w",
                      encoding="ascii") as file:
                file.write(f"uidgid {{\n  uid: {NOBODY}\n}}\n")
        drivers = [lab_of.Driver(node, [program, "group"]) for node in lab.nodes]
        starts_first(lab, drivers, lab_of.conf(3))
        messages(drivers)
        latency(drivers, options.rounds)
        flooded(drivers)
        killed(lab, drivers)
        restarted_quickly(lab, drivers)
        stopped(lab, drivers, options.stop_seconds)
        overflowing(lab, drivers)
        partitioned(lab, drivers)
        closing_while_stopped(lab, drivers, program)
        refused_by_owner(drivers)
        for driver in drivers:
            driver.stop()
        unsafe_options(lab, program)
        changed_by_reload(lab, program)
        if options.setup:
            made_by_init(lab, program, os.path.abspath(options.setup))
    print("ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
