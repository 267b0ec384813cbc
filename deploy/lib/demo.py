#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Shows hamgr on one machine: a cluster of nodes in namespaces, with guests that check themselves.

    sudo deploy/demo [--nodes N|a,b,c] [--guests N] [--token MS] [--json FILE] [--keep]
    sudo deploy/demo exec NODE COMMAND...    run a command on a node of a kept demo
    sudo deploy/demo down                    end a kept demo

It installs what is missing (deploy/packages.txt), builds, starts nodes with real corosync and the
daemons of hamgr, spreads guests over them, moves one live, cuts the power of the busiest node,
has it fenced and its guests restarted elsewhere, and lets the node come back. An observer outside
all nodes watches every step of every guest; what it saw is the verdict. The exit code is 0 only
if each guest's own check passed and the observer saw no guest in two places.

Nothing on the machine changes but installed packages: nodes have networks, processes and files of
their own, all below --dir, and all of it goes when the demo ends.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "deploy", "lib"))

from nslab import client, measure  # noqa: E402
from nslab.cluster import Cluster, HactlError  # noqa: E402
from nslab.picture import Picture, bar  # noqa: E402

DEFAULT_DIR = "/run/hamgr-demo"
TARGETS = ["hamgrd", "hamgr-hv", "hamgr-guest", "hamgr-disk", "hamgr-storage", "hamgr-fence",
           "hamgr-watchdog", "hamgr-stream", "hamgr-init", "hactl", "fence_hamgr_ns", "cpg_watch"]
TRAVELLER = "traveller"  # the guest that is moved live
DECOY = "decoy"          # the guest that is made to look doubled
TRAVELLER_MIB = 256
GUEST_MIB = 8
MOVE_TRIES = 3  # on a machine so busy that a move would break its contract, which then gives it up


# --- subcommands ----------------------------------------------------------------------------------

def directory_of(options):
    return os.path.abspath(options.dir)


def demo_exec(argv):
    parser = argparse.ArgumentParser(prog="demo exec", description="Runs a command on a node.")
    parser.add_argument("--dir", default=DEFAULT_DIR)
    parser.add_argument("node")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(argv)
    room = client.Room.find(directory_of(options))
    if room is None:
        return complain("no demo runs; start one with: deploy/demo --keep")
    if options.node not in room.nodes:
        return complain(f"no node {options.node}; there are {' '.join(room.nodes)}")
    command = options.command or ["/bin/bash"]
    try:
        return room.nodes[options.node].popen(command).wait()
    except client.RoomError as error:
        return complain(str(error))


def demo_down(argv):
    parser = argparse.ArgumentParser(prog="demo down", description="Ends a kept demo.")
    parser.add_argument("--dir", default=DEFAULT_DIR)
    options = parser.parse_args(argv)
    room = client.Room.find(directory_of(options))
    if room:
        room.down()
    client.Room.sweep(directory_of(options))
    print("down" if room else "no demo runs")
    return 0


def complain(words):
    print(f"demo: {words}", file=sys.stderr)
    return 2


# --- before the story -----------------------------------------------------------------------------

def parse(argv):
    parser = argparse.ArgumentParser(prog="demo", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", default="3", help="how many (3 to 5), or their names: a,b,c")
    parser.add_argument("--guests", type=int, default=9, help="how many guests (default 9)")
    parser.add_argument("--token", type=int, default=1000, metavar="MS",
                        help="corosync's token (default 1000; 300 fails over in a second)")
    parser.add_argument("--json", metavar="FILE", help="also write the results to FILE")
    parser.add_argument("--keep", action="store_true", help="leave the cluster running")
    parser.add_argument("--dir", default=DEFAULT_DIR, help=f"where (default {DEFAULT_DIR})")
    parser.add_argument("--build", metavar="DIR", help="use programs built there; builds nothing")
    options = parser.parse_args(argv)
    options.dir = directory_of(options)
    names = ([f"n{i}" for i in range(1, int(options.nodes) + 1)] if options.nodes.isdigit()
             else options.nodes.split(","))
    if not 3 <= len(names) <= 5 or len(set(names)) != len(names):
        parser.error("--nodes: 3 to 5, or as many different names")
    if not all(name and len(name) < 32 and name.isascii() and name.replace("-", "").isalnum()
               for name in names):
        parser.error("--nodes: names of letters, digits and -")
    if not 1 <= options.guests <= 500:
        parser.error("--guests: 1 to 500")
    if not 200 <= options.token <= 10000:
        parser.error("--token: 200 to 10000 ms")
    options.names = names
    return options


def run_quietly(words, argv, timeout_s):
    """Runs a step of preparation; prints what it said only if it failed."""
    print(f"{words} ...", flush=True)
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          stdin=subprocess.DEVNULL, timeout=timeout_s, check=False, cwd=ROOT)
    if done.returncode != 0:
        print(done.stdout[-4000:], file=sys.stderr)
        raise client.RoomError(f"{words}: failed (exit {done.returncode})")


def build(options):
    run_quietly("looking for missing packages", ["deploy/lib/packages", "build", "run"], 600)
    if options.build:
        return os.path.abspath(options.build)
    run_quietly("configuring", ["cmake", "--preset", "release"], 120)
    run_quietly("building", ["cmake", "--build", "--preset", "release", "--target", *TARGETS], 900)
    return os.path.join(ROOT, "build", "release")


# --- the story ------------------------------------------------------------------------------------

def open_room(options):
    """An empty room of our own."""
    if client.Room.find(options.dir):
        raise client.RoomError("a demo runs already; end it with: deploy/demo down")
    client.Room.sweep(options.dir)
    return client.Room.start(options.dir, options.names)


def start(picture, options, path, room):
    """Machines, corosync, daemons, cluster."""
    picture.title(f"{len(options.names)} machines")
    memory_mib = (options.guests * GUEST_MIB + TRAVELLER_MIB) * 2 + 128
    cluster = Cluster(room, path, options.token, memory_mib, "demo")
    cluster.prepare()
    began = time.monotonic()
    cluster.power_on()
    picture.say(f"power on; corosync formed a membership after {time.monotonic() - began:.1f} s")
    picture.cluster = cluster
    began = time.monotonic()
    cluster.create()
    picture.say(f"hamgr: cluster made, {len(options.names)} members, all watchdogs armed, after "
                f"{time.monotonic() - began:.1f} s")
    return cluster


def fill(picture, cluster, options):
    """Guests, spread over the nodes by the planner."""
    picture.title(f"{options.guests} guests")
    began = time.monotonic()
    for i in range(1, options.guests + 1):
        cluster.add_guest(f"g{i:02d}", GUEST_MIB, dirty_kib_s=512, disk="direct", writes_per_s=2)
    cluster.add_guest(TRAVELLER, TRAVELLER_MIB, dirty_mib_s=8, disk="direct", writes_per_s=5)
    cluster.add_guest(DECOY, GUEST_MIB)
    homes = cluster.wait_running(timeout_s=60)
    picture.say(f"all of them run after {time.monotonic() - began:.1f} s; each has checked all of "
                "its memory")
    counts = [sum(home == name for home in homes.values()) for name in options.names]
    picture.say("spread: " + ", ".join(f"{name} {count}" for name, count
                                       in zip(options.names, counts)))


def watch_move(picture, cluster, status):
    for line in status["moves"]:
        done = max(0, line["bytes"])
        share = done / (done + line["remaining_kib"] * 1024 + 1)
        picture.progress(f"{line['guest']} {line['from']} -> {line['to']} [{bar(share)}] "
                         f"{line['step']}, {line['rate_kib_s'] / 1024:.0f} MiB/s, "
                         f"{line['remaining_kib'] / 1024:.0f} MiB to go, ETA {line['eta_ms']} ms")
    return status


def move(picture, cluster, guest, target, watch=lambda status: status):
    """Moves a guest live. hamgr gives a move up rather than break its contract; then once more."""
    for _ in range(MOVE_TRIES):
        began = time.monotonic()
        op = cluster.hactl("migrate", guest, "--to", target, "--detach")["op"]
        cluster.wait_status(lambda s: not any(m["id"] == op for m in watch(s)["moves"]),
                            f"the move of {guest} to {target} is over", 60)
        picture.progress("")
        if cluster.wait_running([guest])[guest] == target:
            return time.monotonic() - began
        why = next((m["reason"] for m in cluster.hactl("migrations", "--count", "20")["migrations"]
                    if m["op"] == op), "")
        picture.say(f"given up, {guest} goes on where it was: {why}")
    raise HactlError(("migrate", guest), 3, None, f"given up {MOVE_TRIES} times")


def migrate(picture, cluster):
    """One guest moves live while it dirties its memory; returns the measured times."""
    home = cluster.homes()[TRAVELLER]
    target = next(node.name for node in cluster.nodes if node.name != home)
    picture.title("A live migration")
    picture.say(f"{TRAVELLER} ({TRAVELLER_MIB} MiB, 8 MiB/s dirty) moves from {home} to {target}, "
                "encrypted (TLS 1.3, both ends checked) and compressed")
    seen = {"bytes": 0, "wire": 0}

    def watch(status):
        for line in status["moves"]:
            seen["bytes"] = max(seen["bytes"], line["bytes"])
            seen["wire"] = max(seen["wire"], line["wire_bytes"])
        return watch_move(picture, cluster, status)

    seconds = move(picture, cluster, TRAVELLER, target, watch)
    client.wait_until(lambda: copies(cluster, TRAVELLER)[-1].is_restored, "its first step there",
                      10)
    pause_ms = copies(cluster, TRAVELLER)[-1].gap_ns / 1e6
    cluster.wait_checked([TRAVELLER])
    picture.say(f"there after {seconds:.1f} s; the guest itself saw a pause of {pause_ms:.0f} ms, "
                "and found every page as it left it")
    return {"seconds": round(seconds, 3), "pause_ms": round(pause_ms, 1),
            "bytes": seen["wire"] or seen["bytes"]}


def copies(cluster, guest):
    return cluster.observer.slot(cluster.slots[guest]).copies


def prove_observer(picture, cluster):
    picture.title("Would the observer notice?")
    cluster.plant_double_run(DECOY)
    picture.say(f"a second copy's step was planted into {DECOY}'s page, and {DECOY} saw it at its "
                "next step: yes")


def power_cut(picture, cluster):
    """The busiest node loses power. Returns (victim, times, number of guests it had)."""
    picture.title("A power cut")
    homes = [home for guest, home in cluster.homes().items() if guest != DECOY]
    victim = max(cluster.nodes, key=lambda node: homes.count(node.name))
    measure.wait_told(cluster.nodes)
    picture.notes[victim.name] = "dead"
    picture.say(f"{victim.name} runs most guests: its cable is pulled, then everything on it is "
                "killed, as hardware dies")
    times, lost, event = measure.failover(cluster, victim)
    picture.say(f"{times['membership_ms']:7.0f} ms  corosync says that {victim.name} is gone")
    picture.say(f"{times['fenced_ms']:7.0f} ms  fenced: {event['text']}")
    picture.say(f"{times['first_guest_ms']:7.0f} ms  the first of its {len(lost)} guests runs "
                "again and has checked its memory")
    size = TRAVELLER_MIB if times["last_guest"] == TRAVELLER else GUEST_MIB
    picture.say(f"{times['last_guest_ms']:7.0f} ms  the last one, too ({times['last_guest']}, "
                f"{size} MiB)")
    cluster.wait_checked([name for name in cluster.slots if name != DECOY])
    return victim, times, len(lost)


def come_back(picture, cluster, victim):
    """The node gets power again, joins, and takes a guest."""
    picture.title("The machine comes back")
    began = time.monotonic()
    picture.notes.pop(victim.name, None)
    victim.power_on()
    cluster.wait_members()
    picture.say(f"{victim.name} boots, reads its log, is a member again after "
                f"{time.monotonic() - began:.1f} s; it starts nothing on its own")
    guest = next(name for name, home in sorted(cluster.homes().items())
                 if home != victim.name and name not in (DECOY, TRAVELLER))
    move(picture, cluster, guest, victim.name)
    picture.say(f"{guest} moved back to it, live")


# --- the end --------------------------------------------------------------------------------------

def conclude(picture, cluster, options, migration, times, victim_guests):
    """Last checks, the table, the file. Returns the exit code."""
    picture.title("What the observer saw")
    honest = [name for name in cluster.slots if name != DECOY]
    cluster.wait_checked(honest)
    silent = [name for name in honest if not cluster.is_stepping(name)]
    double, corrupt = cluster.verdict(leave_out=(DECOY,))
    planted = cluster.observer.u64(cluster.slots[DECOY], 8)
    storage = cluster.storage_report()
    foreign = storage["violation_count"]
    rows = [
        ("machines, guests", f"{len(options.names)}, {options.guests} and 2 for special duty"),
        ("live migration", f"{migration['seconds']:.1f} s, {migration['bytes'] / 2**20:.0f} MiB "
                           "sent"),
        ("  pause seen by the guest", f"{migration['pause_ms']:.0f} ms"),
        ("failover, from the cut (ms)", f"{victim_guests} guests, token {options.token}"),
        ("  corosync says so", f"{times['membership_ms']:.0f}"),
        ("  node proven dead", f"{times['fenced_ms']:.0f}"),
        ("  first guest runs", f"{times['first_guest_ms']:.0f}"),
        ("  last guest runs", f"{times['last_guest_ms']:.0f}"),
        ("double runs seen", f"{double} (and {planted} that was planted to be seen)"),
        ("foreign disk writes", str(foreign)),
        ("guests with damaged memory", str(corrupt)),
        ("guests not running", " ".join(silent) or "0"),
    ]
    for name, value in rows:
        picture.say(f"{name:<30} {value}")
    result = {"nodes": len(options.names), "guests": options.guests, "token_ms": options.token,
              "migration": migration, "failover": times, "double_runs": double + foreign,
              "corrupt_guests": corrupt, "silent_guests": len(silent), "planted_seen": planted}
    if options.json:
        with open(options.json, "w", encoding="ascii") as file:
            json.dump(result, file, indent=1)
            file.write("\n")
    return 0 if double + foreign + corrupt + len(silent) == 0 and planted > 0 else 1


def tell(picture, options, path):
    """The whole story; returns the exit code. The room goes unless it is to be kept."""
    room = open_room(options)
    try:
        cluster = start(picture, options, path, room)
        fill(picture, cluster, options)
        migration = migrate(picture, cluster)
        prove_observer(picture, cluster)
        victim, times, lost = power_cut(picture, cluster)
        come_back(picture, cluster, victim)
        code = conclude(picture, cluster, options, migration, times, lost)
        if options.keep:
            room.keep()
            picture.say("")
            picture.say(f"It stays. Try: deploy/demo exec {options.names[0]} hactl status; "
                        "end it with: deploy/demo down")
        return code
    except (client.RoomError, TimeoutError, subprocess.TimeoutExpired):
        keep_logs(room)
        raise
    finally:
        picture.cluster = None
        if not room.is_kept:
            room.down()


def keep_logs(room):
    """After a failure: the logs outlive the room."""
    target = f"/tmp/hamgr-demo-logs-{os.getpid()}"
    room.save_logs(target)
    print(f"\ndemo: logs are in {target}", file=sys.stderr)


def main(argv):
    if argv[:1] == ["exec"]:
        return demo_exec(argv[1:])
    if argv[:1] == ["down"]:
        return demo_down(argv[1:])
    options = parse(argv)
    if os.getuid() != 0:
        return complain("namespaces need root: sudo deploy/demo")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        path = build(options)
        with Picture() as picture:
            return tell(picture, options, path)
    except KeyboardInterrupt:
        return complain("interrupted; everything is down")
    except (client.RoomError, TimeoutError, subprocess.TimeoutExpired, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
