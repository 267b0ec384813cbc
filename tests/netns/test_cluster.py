#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Whole clusters on real corosync: nodes lose power, cables, daemons; guests must survive, once."""

import itertools
import os
import signal
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import lab  # noqa: E402
import campaign_plant  # noqa: E402  (finds nslab through lab)
from harness import check, equal, main, scenario  # noqa: E402
from nslab import corosync, measure  # noqa: E402
from nslab.client import together, wait_until  # noqa: E402
from nslab.cluster import HactlError  # noqa: E402


# --- nodes ----------------------------------------------------------------------------------------

@scenario(120)
def power_cut_and_return(context):
    """The busiest node loses power, its guests run elsewhere; it returns and gets guests again."""
    cluster = lab.start(context, guests=6)
    victim = lab.busiest(cluster)
    measure.wait_told(cluster.nodes)
    times, lost, event = measure.failover(cluster, victim)
    check(lost, "the victim had no guests")
    context.note(f"{times}")
    check("status off" in event["text"] or "off" in event["text"], f"evidence: {event['text']}")
    lab.all_step(cluster)
    victim.power_on()
    cluster.wait_members()
    equal(lab.guests_of(cluster, victim), [], "guests on the node that came back")
    cluster.hactl("migrate", lost[0], "--to", victim.name)
    cluster.wait_status(lambda s: cluster.homes(s).get(lost[0]) == victim.name,
                        f"{lost[0]} runs on {victim.name}", 60)
    cluster.wait_checked(list(cluster.slots))
    lab.no_harm(cluster)


@scenario(150)
def leader_dies(context):
    """The leader loses power: another leads, and its guests run elsewhere."""
    cluster = lab.start(context, guests=6)
    measure.wait_told(cluster.nodes)
    victim = lab.leader(cluster)
    times, _, _ = measure.failover(cluster, victim)
    context.note(f"{times}")
    check(lab.leader(cluster) is not victim, "the dead node leads")
    cluster.wait_checked(list(cluster.slots))
    lab.no_harm(cluster)


@scenario(120)
def cut_off_fenced(context):
    """A node loses its cable: the survivors have it switched off and start its guests."""
    cluster = lab.start(context)
    victim = lab.busiest(cluster)
    lost = lab.guests_of(cluster, victim)
    since = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    victim.cable(False)
    measure.wait_restarted(cluster, lost, since)
    equal(lab.cuts(cluster), [(victim.name, "power device")], "power cuts")
    lab.no_harm(cluster)
    victim.cable(True)
    victim.power_on()
    cluster.wait_members()
    lab.no_harm(cluster)


@scenario(150)
def cut_off_without_device(context):
    """A node is cut off and no device answers: it pauses, T_wait passes, guests start once."""
    cluster = lab.start(context)
    victim = lab.busiest(cluster)
    lost = lab.guests_of(cluster, victim)
    for node in cluster.nodes:
        node.bmc("refuse")
    since = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    victim.cable(False)
    running = measure.wait_restarted(cluster, lost, since)
    first_ms = (min(running.values()) - since) / 1e6
    context.note(f"guests run {first_ms:.0f} ms after the cut, T_wait {lab.WAIT_MS} ms")
    check(first_ms > lab.WAIT_MS - lab.LEASE_MS, f"started after {first_ms:.0f} ms: too soon")
    check(victim.is_on(), "quarantine should have kept the node from being reset")
    lab.no_harm(cluster)
    victim.cable(True)
    cluster.wait_members()
    equal(lab.guests_of(cluster, victim), [], "guests of the node that was cut off")
    lab.all_step(cluster)
    lab.no_harm(cluster)


@scenario(60 + 75 * 6)
def total_outage(context):
    """All cables out for 20 s, back one by one in every order: guests pause and resume, no more."""
    cluster = lab.start(context)
    for order in itertools.permutations(cluster.nodes):
        before = lab.epochs(cluster)
        began = time.monotonic()
        for node in cluster.nodes:
            node.cable(False)
        lab.none_steps(cluster, list(cluster.slots), 15)
        time.sleep(max(0.0, 20 - (time.monotonic() - began)))  # the outage is 20 s long
        for node in order:
            node.cable(True)
            time.sleep(1)  # one by one
        lab.all_step(cluster, timeout_s=60)
        cluster.wait_members()
        context.note(f"back in order {' '.join(node.name for node in order)}")
        equal(lab.epochs(cluster), before, "copies of guests: one was restarted")
        equal(lab.cuts(cluster), [], "power cuts")
        for name, slot in cluster.slots.items():
            gap_s = cluster.observer.slot(slot).max_gap_ns / 1e9
            check(gap_s > 10, f"{name} was not paused: longest gap {gap_s:.1f} s")
            cluster.observer.reset_gap(slot)
        lab.no_harm(cluster)


@scenario(120)
def idle_node_hangs(context):
    """An idle node's hamgrd hangs, a busy node dies: the failover waits for the eviction only."""
    cluster = lab.start(context, names=("n1", "n2", "n3", "n4", "n5"), guests=3)
    homes = cluster.homes().values()
    idle = next((node for node in cluster.nodes if node.name not in homes), None)
    check(idle, "no node is idle")
    victim = next(node for node in cluster.nodes if node.name in homes)
    measure.wait_told(cluster.nodes)
    idle.signal("hamgrd", signal.SIGSTOP)
    times, _, _ = measure.failover(cluster, victim)
    context.note(f"{times}")
    # A silent member is left out after L/2, or, in a new PREPARE, after h; and a view change more.
    check(times["last_guest_ms"] < times["membership_ms"] + lab.LEASE_MS / 2 + 500 + 1500,
          f"the hung idle node delayed the failover: {times}")
    idle.signal("hamgrd", signal.SIGCONT)
    cluster.wait_members([node for node in cluster.nodes if node is not victim])
    lab.no_harm(cluster)


@scenario(240)
def two_nodes_and_witness(context):
    """Two nodes and a witness survive the loss of any one of the three."""
    cluster = lab.start(context, names=("a", "b", "w"), guests=4, witness="w")
    equal(lab.guests_of(cluster, cluster.room.nodes["w"]), [], "guests on the witness")
    for node in cluster.nodes:
        lost = lab.guests_of(cluster, node)
        at = node.power_off()
        if lost:
            measure.wait_restarted(cluster, lost, at["mono_ns"])
        lab.all_step(cluster)
        others = [other for other in cluster.nodes if other is not node]
        cluster.wait_members(others)
        node.power_on()
        cluster.wait_members()
        lab.no_harm(cluster)


@scenario(150)
def minority_pauses(context):
    """Two of three nodes die: the third pauses its guests, and resumes them when one is back."""
    cluster = lab.start(context)
    last = lab.busiest(cluster)
    others = [node for node in cluster.nodes if node is not last]
    kept = lab.guests_of(cluster, last)
    together([node.power_off for node in others])
    lab.none_steps(cluster, kept, 20)
    time.sleep(2)
    check(not any(cluster.is_stepping(name) for name in kept), "a guest runs without a quorum")
    check(last.is_on(), "the last node was reset though its guests were quiet")
    others[0].power_on()
    lab.all_step(cluster, timeout_s=60)
    others[1].power_on()
    cluster.wait_members()
    lab.no_harm(cluster)


# --- daemons --------------------------------------------------------------------------------------

@scenario(240)
def daemons_killed(context):
    """kill -9 of each daemon in turn: it comes back, no guest notices, nobody is fenced."""
    cluster = lab.start(context, guests=6)
    node = lab.busiest(cluster)
    before = lab.epochs(cluster)
    for service in ("hamgrd", "hamgr-hv", "hamgr-fence", "hamgr-watchdog", "hamgr-disk"):
        starts = node.services()[service][2]
        node.signal(service, signal.SIGKILL)
        wait_until(lambda s=service, n=starts: node.services()[s][0] == "up"
                   and node.services()[s][2] > n, f"{service} is up again", 15)
        lab.stand_for(cluster, list(cluster.slots), 3, f"{service} killed")
        cluster.wait_members()
        equal(lab.epochs(cluster), before, f"copies of guests after {service} was killed")
        equal(lab.cuts(cluster), [], f"power cuts after {service} was killed")
    # Adopted, not only alive: the new daemons can still move and stop what the old ones started.
    guest = lab.guests_of(cluster, node)[0]
    target = next(other for other in cluster.nodes if other is not node)
    cluster.hactl("migrate", guest, "--to", target.name)
    cluster.wait_status(lambda s: cluster.homes(s).get(guest) == target.name,
                        f"{guest} runs on {target.name}", 60)
    lab.no_harm(cluster)


@scenario(120)
def corosync_killed(context):
    """kill -9 of a busy node's corosync: to others that is a dead node; guests run on, once."""
    cluster = lab.start(context)
    node = lab.busiest(cluster)
    node.signal("corosync", signal.SIGKILL)
    others = [other for other in cluster.nodes if other is not node]
    wait_until(lambda: lab.cuts(cluster, "power device"), "it is fenced", 30)
    lab.all_step(cluster, timeout_s=60)
    cluster.wait_members(others)
    equal(lab.cuts(cluster), [(node.name, "power device")], "power cuts")
    node.power_on()
    cluster.wait_members()
    lab.no_harm(cluster)


@scenario(240)
def daemons_stopped(context):
    """SIGSTOP of each daemon for longer than a lease, then SIGCONT: nothing runs twice."""
    cluster = lab.start(context, guests=3)
    for service in ("hamgr-fence", "hamgr-hv", "hamgrd", "corosync", "hamgr-watchdog"):
        node = lab.busiest(cluster)
        node.signal(service, signal.SIGSTOP)
        end = time.monotonic() + (lab.LEASE_MS + lab.WAIT_MS) / 1000 + 3
        while time.monotonic() < end:
            lab.no_harm(cluster)
            time.sleep(0.5)
        if node.is_on():
            node.signal(service, signal.SIGCONT)
        else:
            node.power_on()
        cluster.wait_members()
        lab.all_step(cluster, timeout_s=60)
        context.note(f"{service} stopped on {node.name}: cuts so far {lab.cuts(cluster)}")
        lab.no_harm(cluster)


@scenario(90)
def two_hamgrd(context):
    """A second hamgrd on a node is refused with the reason; the first one does not care."""
    cluster = lab.start(context)
    node = cluster.nodes[0]
    before = lab.epochs(cluster)
    pid = node.services()["hamgrd"][1]
    done = node.run(["setpriv", "--reuid", "hamgr", "--regid", "hamgr", "--clear-groups",
                     "/run/hamgr-node/bin/hamgrd"], timeout_s=20, check=False)
    check(done.returncode != 0, "a second hamgrd ran")
    context.note((done.stderr or done.stdout).strip().splitlines()[-1])
    lab.stand_for(cluster, list(cluster.slots), 3, "second hamgrd")
    equal(node.services()["hamgrd"][1], pid, "pid of the first hamgrd")
    equal(lab.epochs(cluster), before, "copies of guests")
    cluster.wait_members()


# --- guests ---------------------------------------------------------------------------------------

@scenario(60)
def planted_double_run(context):
    """A real second copy of a guest is seen: without that the observer's silence says nothing."""
    cluster = lab.start(context, guests=2)
    lab.no_harm(cluster)
    campaign_plant.save_definition(cluster, cluster.definition(
        cluster.slots["g1"], 8, disk="direct", writes_per_s=5))
    steps, writes = campaign_plant.second_guest(cluster, context.build, "g1")
    context.note(f"seen: {steps} foreign steps, {writes} foreign writes")
    equal(cluster.verdict(leave_out=("g1",)), (0, 0), "verdict over the others")
    check(steps > 0 and writes > 0, "the planted double run was not seen")
    check(cluster.verdict()[0] > 0, "the planted double run was not counted")
    cluster.plant_double_run("g2")  # what benches plant: a foreign step alone
    check(cluster.verdict(leave_out=("g1",))[0] > 0, "a foreign step was not counted")


@scenario(45)
def planted_liar(context):
    """All power devices say "off" and lie: the double run that this leads to is seen."""
    cluster = lab.start(context)
    lab.no_harm(cluster)
    home = cluster.room.nodes[cluster.homes()["g1"]]
    steps = campaign_plant.lying_device(cluster, "g1", home,
                                        time.clock_gettime_ns(time.CLOCK_MONOTONIC))
    context.note(f"seen: {steps} foreign steps")
    check(steps > 0, "the double run after a lie was not seen")
    check(cluster.verdict()[0] > 0, "the double run after a lie was not counted")


@scenario(120)
def live_migration(context):
    """A guest moves live, back and forth, while it writes: no page lost, pause below its limit."""
    cluster = lab.start(context, guests=1, memory_mib=1024)
    cluster.add_guest("big", 128, dirty_mib_s=20, disk="direct", writes_per_s=20)
    cluster.wait_running()
    for _ in range(3):
        home = cluster.homes()["big"]
        target = next(node.name for node in cluster.nodes if node.name != home)
        began = time.monotonic()
        cluster.hactl("migrate", "big", "--to", target)
        cluster.wait_status(lambda s, t=target: cluster.homes(s).get("big") == t,
                            f"big runs on {target}", 60)
        took = time.monotonic() - began
        wait_until(lambda: cluster.observer.slot(cluster.slots["big"]).copies[-1].is_restored,
                   "its first step there", 10)
        copy = cluster.observer.slot(cluster.slots["big"]).copies[-1]
        context.note(f"{home} -> {target}: {took:.2f} s, pause {copy.gap_ns / 1e6:.0f} ms")
        check(copy.gap_ns < 500e6, f"a pause of {copy.gap_ns / 1e6:.0f} ms")
        cluster.wait_checked(["big"])
    lab.no_harm(cluster)
    lab.no_secrets(cluster)


@scenario(120)
def migration_target_dies(context):
    """The destination loses power in the middle of a migration: the guest goes on at its source."""
    cluster = lab.start(context, guests=1, memory_mib=2048)
    cluster.add_guest("big", 512, dirty_mib_s=50)
    cluster.wait_running()
    before = lab.epochs(cluster)["big"]
    home = cluster.homes()["big"]
    target = next(node for node in cluster.nodes if node.name != home)
    cluster.hactl("migrate", "big", "--to", target.name, "--detach")
    cluster.wait_status(lambda s: any(m["bytes"] > 0 for m in s["moves"]), "bytes flow", 20,
                        node=cluster.room.nodes[home], every_s=0.02)
    target.power_off()
    cluster.wait_status(lambda s: not s["moves"] and cluster.homes(s).get("big") == home,
                        "the migration is given up", 40, node=cluster.room.nodes[home])
    lab.all_step(cluster, ["big"])
    equal(lab.epochs(cluster)["big"][0], before[0], "copies of big")
    cluster.wait_checked(["big"])
    lab.no_harm(cluster)


@scenario(120)
def migration_source_dies(context):
    """The source loses power in the middle of a migration: the guest is restarted, once."""
    cluster = lab.start(context, guests=1, memory_mib=2048)
    cluster.add_guest("big", 512, dirty_mib_s=50)
    cluster.wait_running()
    home = cluster.room.nodes[cluster.homes()["big"]]
    target = next(node for node in cluster.nodes if node is not home)
    cluster.hactl("migrate", "big", "--to", target.name, "--detach")
    cluster.wait_status(lambda s: any(m["bytes"] > 0 for m in s["moves"]), "bytes flow", 20,
                        node=home, every_s=0.02)
    at = home.power_off()
    measure.wait_restarted(cluster, ["big"], at["mono_ns"])
    cluster.wait_checked(["big"])
    lab.no_harm(cluster)


@scenario(120)
def maintenance(context):
    """Maintenance empties a node by migration, survives its reboot, and ends when told so."""
    cluster = lab.start(context, guests=6)
    node = lab.busiest(cluster)
    before = {name: copies for name, (copies, _) in lab.epochs(cluster).items()}
    moved = lab.guests_of(cluster, node)
    cluster.hactl("maintenance", node.name, "on")
    cluster.wait_status(lambda s: line_of(s, node)["guests"] == 0 and not s["moves"],
                        "the node is empty", 60)
    for name in moved:
        copies = cluster.observer.slot(cluster.slots[name]).copies
        check(len(copies) == before[name] + 1 and copies[-1].is_restored,
              f"{name} was restarted instead of moved")
    node.power_off()
    node.power_on()
    cluster.wait_members(timeout_s=90)
    check(line_of(cluster.status(), node)["maintenance"], "a reboot ended the maintenance")
    refused = refusal(lambda: cluster.hactl("migrate", moved[0], "--to", node.name))
    equal(refused.code, 3, "exit code of a migration to a node in maintenance")
    cluster.hactl("maintenance", node.name, "off")
    cluster.hactl("migrate", moved[0], "--to", node.name)
    lab.no_harm(cluster)


@scenario(150)
def host_shutdown(context):
    """A host shuts down in order: its guests move away first, it leaves, nobody is fenced."""
    cluster = lab.start(context, guests=6)
    node = lab.busiest(cluster)
    moved = lab.guests_of(cluster, node)
    before = {name: copies for name, (copies, _) in lab.epochs(cluster).items()}
    node.init("shutdown")
    wait_until(lambda: not node.is_on(), "the host is off", 90)
    others = [other for other in cluster.nodes if other is not node]
    for name in moved:
        copies = cluster.observer.slot(cluster.slots[name]).copies
        check(len(copies) == before[name] + 1 and copies[-1].is_restored,
              f"{name} was restarted instead of moved")
    status = cluster.wait_status(lambda s: line_of(s, node)["status"] != "member", "it is gone", 30,
                                 node=others[0])
    equal(line_of(status, node)["status"], "left", "what the others say of it")
    equal(lab.cuts(cluster), [], "power cuts")
    lab.all_step(cluster)
    node.power_on()
    cluster.wait_members()
    lab.no_harm(cluster)


def line_of(status, node):
    return next(line for line in status["nodes"] if line["name"] == node.name)


def refusal(call):
    """The error a refused command raises."""
    try:
        call()
    except HactlError as error:
        return error
    raise AssertionError("nothing was refused")


@scenario(120)
def crash_and_poweroff(context):
    """A guest that crashes is restarted; one that powers itself off is too, within its limits."""
    cluster = lab.start(context, guests=1)
    cluster.add_guest("crasher", 8, crash_after_s=3)
    slot = cluster.slots["crasher"]
    wait_until(lambda: cluster.observer.u64(slot, 96) >= 3, "crasher was restarted twice", 60)
    lab.all_step(cluster, ["g1"])
    lab.no_harm(cluster)


@scenario(120)
def total_power_loss(context):
    """All nodes lose power at once and come back: every guest runs again, once."""
    cluster = lab.start(context, guests=4)
    at = together_off(cluster)
    cluster.power_on()
    measure.wait_restarted(cluster, list(cluster.slots), at)
    cluster.wait_members()
    cluster.wait_checked(list(cluster.slots))
    lab.no_harm(cluster)


def together_off(cluster):
    together([node.power_off for node in cluster.nodes])
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


@scenario(120)
def lossy_network(context):
    """A tenth of all packets is lost for half a minute: nobody is fenced, no guest stands still."""
    cluster = lab.start(context, token_ms=1000)
    cluster.room.filters([{"loss": 10}])
    lab.stand_for(cluster, list(cluster.slots), 30, "10 % loss")
    cluster.room.filters([])
    equal(lab.cuts(cluster), [], "power cuts")
    equal(corosync.members(cluster.nodes[0]), {1, 2, 3}, "corosync's members")
    lab.no_harm(cluster)


if __name__ == "__main__":
    sys.exit(main())
