#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Bad disks, bad clocks, bad input: what a cluster must survive without anybody being harmed."""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import faults  # noqa: E402
import lab  # noqa: E402
from faults import ask, line_of  # noqa: E402
from harness import check, equal, main, scenario  # noqa: E402
from nslab import measure  # noqa: E402
from nslab.client import HAMGR_UID, wait_until  # noqa: E402
from nslab.cluster import HactlError  # noqa: E402

DB = "/var/lib/hamgr/hamgr.db"
WATCHDOGS_S = 7  # several timeouts of a watchdog: a keeper that does not pet would show


def others_of(cluster, node):
    return [other for other in cluster.nodes if other is not node]


def commit(cluster, node, guest, priority):
    """Makes the cluster commit something and sees it applied at node."""
    cluster.hactl("guest", "set", guest, "--priority", str(priority), node=node)
    equal(cluster.hactl("guest", "show", guest, node=node)["policy"]["priority"], priority,
          "priority as set")


# --- the store ------------------------------------------------------------------------------------

def stall(context, cluster, node, order, names):
    """10 s of it; the guests named make steps all the while. Returns the node's status at its end.
    """
    lab.stand_for(cluster, list(cluster.slots), 5, "before the stall")
    began = time.monotonic()
    with faults.Probe() as probe:
        order.sync(faults.SYNC_STALL)
        commit(cluster, others_of(cluster, node)[-1], "g1", 10)
        wait_until(order.stalled, "a write that hangs", 5)
        while time.monotonic() < began + 10:
            lab.stand_for(cluster, names, 1, f"{node.name}'s disk hangs")
            if not node.is_on():
                break
            _, status, took = ask(node)
            check(took < 1, f"status took {took:.2f} s")
    faults.check_gap(context, node, status["here"], probe, f"stall of {node.name}")
    return status["here"]


@scenario(60)
def store_stalls(context):
    """fsync hangs for 10 s on a node: leases go on, the view stays, its loop turns."""
    cluster, orders = faults.start(context, preload=True)
    node = others_of(cluster, lab.leader(cluster))[0]
    calm = faults.Calm(cluster)
    here = stall(context, cluster, node, orders[node.name], list(cluster.slots))
    check(here["open"], "the view closed")
    check(here["store_stall_ms"] > 7000, f"stall shown: {here['store_stall_ms']} ms")
    calm.check("while it hangs")
    orders[node.name].sync(faults.SYNC_OK)
    commit(cluster, node, "g1", 20)
    wait_until(lambda: ask(node)[1]["here"]["store_stall_ms"] == 0, "the stall is over", 10)
    calm.check("after the stall")


@scenario(60)
def leaders_store_stalls(context):
    """fsync hangs for 10 s on the leader: another leads after L/2; nothing runs twice."""
    cluster, orders = faults.start(context, preload=True)
    node = lab.leader(cluster)
    kept = [name for name in cluster.slots if name not in lab.guests_of(cluster, node)]
    stall(context, cluster, node, orders[node.name], kept)
    orders[node.name].sync(faults.SYNC_OK)
    context.note(f"power cuts: {lab.cuts(cluster)}")
    if not node.is_on():
        node.power_on()
    cluster.wait_members()
    lab.all_step(cluster)
    commit(cluster, node, "g1", 20)
    lab.no_harm(cluster)


def check_goes_on(context, cluster, node, calm):
    """A node without a store: said loudly, its vote resigned, and the others go on."""
    writer = others_of(cluster, node)[0]
    status = cluster.wait_status(lambda s: "store failed" in line_of(s, node)["alarm"],
                                 "the alarm reaches the others", 15, node=writer)
    context.note(f"alarm: {line_of(status, node)['alarm']}")
    check(ask(node)[1]["here"]["store_failed"], "the node does not say so itself")
    commit(cluster, writer, "g1", 33)
    lab.stand_for(cluster, list(cluster.slots), 5, "a node without a store")
    calm.check("a node without a store", has_view=False)


def restart_hamgrd(cluster, node):
    node.init("stop hamgrd")
    cluster.start_hamgrd(node)


def check_recovers(cluster, node, calm):
    """Its hamgrd begins anew and has what the others have."""
    restart_hamgrd(cluster, node)
    cluster.wait_members()
    status = cluster.wait_status(lambda s: s["here"]["open"] and not s["here"]["store_failed"]
                                 and not line_of(s, node)["alarm"], "no alarm", 15, node=node)
    check(line_of(status, node)["voter"], "it has no vote")
    equal(cluster.hactl("guest", "show", "g1", node=node)["policy"]["priority"], 33,
          "what was committed without it")
    commit(cluster, node, "g1", 44)
    lab.stand_for(cluster, list(cluster.slots), 2, "recovered")
    calm.check("recovered", but=("hamgrd",), has_view=False)


@scenario(60)
def fsync_fails(context):
    """fsync fails (EIO), on a follower, then on the leader: the node resigns, the others go on."""
    cluster, orders = faults.start(context, preload=True)
    chief = lab.leader(cluster)
    for node in (others_of(cluster, chief)[0], lab.leader(cluster)):
        calm = faults.Calm(cluster)
        orders[node.name].sync(faults.SYNC_FAIL)
        commit(cluster, others_of(cluster, node)[0], "g1", 22)
        check_goes_on(context, cluster, node, calm)
        orders[node.name].sync(faults.SYNC_OK)
        check_recovers(cluster, node, calm)


@scenario(60)
def disk_full(context):
    """The store's disk is full: the node resigns, the others go on; with room it comes back."""
    cluster, _ = faults.start(context)
    node = lab.busiest(cluster)
    calm = faults.Calm(cluster)
    node.init("stop hamgrd")
    wait_until(lambda: node.services()["hamgrd"][0] == "down", "hamgrd is down", 15)
    node.run(["sh", "-ec", "mkdir /run/full; mount -t tmpfs -o size=6m,mode=700 none /run/full; "
              f"cp -a /var/lib/hamgr/. /run/full; chown {HAMGR_UID}:{HAMGR_UID} /run/full; "
              "mount --bind /run/full /var/lib/hamgr"])
    cluster.start_hamgrd(node)
    cluster.wait_members()
    node.run(["sh", "-c", "cat /dev/zero > /var/lib/hamgr/filler 2>/dev/null"], check=False)
    writer = others_of(cluster, node)[0]
    for turn in range(200):
        commit(cluster, writer, "g1", turn % 90)
        if turn % 10 == 9 and ask(node)[1]["here"]["store_failed"]:
            break
    calm.check("a full disk", but=("hamgrd",), has_view=False)
    check_goes_on(context, cluster, node, faults.Calm(cluster))
    node.run(["rm", "/var/lib/hamgr/filler"])
    check_recovers(cluster, node, faults.Calm(cluster))


def settled_store(node):
    """The path of a node's store with nothing left beside it: what is damaged is all there is."""
    path = node.path("lib-hamgr", "hamgr.db")
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("pragma wal_checkpoint(truncate)")
    for name in os.listdir(node.path("lib-hamgr")):
        os.chown(node.path("lib-hamgr", name), HAMGR_UID, HAMGR_UID)
    return path


def damage_torn(node):
    """Zeroes the second half of each page but the first: what a disk that lies leaves behind."""
    with open(settled_store(node), "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        for at in range(4096, size, 4096):
            file.seek(at + 2048)
            file.write(bytes(2048))


def damage_flip(node):
    """One bit of a guest's definition in the log."""
    with open(settled_store(node), "r+b") as file:
        at = file.read().index(b"writes_per_s")
        file.seek(at)
        file.write(bytes([ord("w") ^ 0x10]))


def damage_cut(node):
    path = settled_store(node)
    os.truncate(path, os.path.getsize(path) // 2)


def damage_lost(node):
    for name in os.listdir(node.path("lib-hamgr")):
        os.unlink(node.path("lib-hamgr", name))


def log_text(node, name="hamgrd"):
    with open(node.path("log", f"{name}.log"), encoding="utf-8", errors="replace") as file:
        return file.read()


def join_anew(cluster, node):
    """What the operator does for a node that lost its store."""
    node.init("stop hamgrd")
    wait_until(lambda: node.services()["hamgrd"][0] == "down", "hamgrd is down", 15)
    identity = cluster.hactl("status", node=others_of(cluster, node)[0])
    generation = str(cluster.generation)
    cluster.hactl("cluster", "join", "--cluster-id", identity["cluster_id"], "--generation",
                  generation, "--id", str(node.index), node=node)
    cluster.start_hamgrd(node)
    cluster.wait_members()


def store_is_refused(context, damage, is_aside):
    """A node comes back without a store that can be trusted; the operator joins it anew."""
    cluster, _ = faults.start(context, guests=6)
    cluster.generation = 1
    node = others_of(cluster, lab.leader(cluster))[0]
    lost = lab.guests_of(cluster, node)
    at = node.power_off()
    measure.wait_restarted(cluster, lost, at["mono_ns"])
    before = lab.epochs(cluster)
    damage(node)
    began = len(log_text(node))
    node.power_on()
    words = ("no store in", "cluster join") if not is_aside else ("hamgr.db", "aside")
    wait_until(lambda: all(word in log_text(node)[began:] for word in words),
               f"hamgrd says {words}", 20)
    said = next(line for line in log_text(node)[began:].splitlines() if "can't start" in line)
    context.note(said.split("hamgrd can't start: ")[-1])
    if is_aside:
        check(any(name != "hamgr.db" and name.startswith("hamgr.db") and "-" in name[8:]
                  or "damaged" in name or "aside" in name or "corrupt" in name
                  for name in os.listdir(node.path("lib-hamgr"))),
              f"nothing was set aside: {os.listdir(node.path('lib-hamgr'))}")
    writer = others_of(cluster, node)[0]
    check(line_of(ask(writer)[1], node)["status"] != "member", "it was let in without its store")
    join_anew(cluster, node)
    commit(cluster, node, "g1", 55)
    # Its vote counts: with another node gone, the two of them are the majority.
    third = next(other for other in others_of(cluster, node) if other is not lab.leader(cluster))
    moved = lab.guests_of(cluster, third)
    equal({n: e for n, e in lab.epochs(cluster).items()}, before, "copies of guests")
    at = third.power_off()
    measure.wait_restarted(cluster, moved, at["mono_ns"])
    commit(cluster, node, "g1", 56)
    lab.no_harm(cluster)


@scenario(60)
def torn_store(context):
    """Half-written pages in the store: refused with its name, set aside; the node joins anew."""
    store_is_refused(context, damage_torn, True)


@scenario(60)
def cut_store(context):
    """Half of the store's file is gone: refused with its name, set aside; the node joins anew."""
    store_is_refused(context, damage_cut, True)


@scenario(60)
def flipped_store(context):
    """One bit of the store's file is another: refused with its name, set aside; joins anew."""
    store_is_refused(context, damage_flip, True)


@scenario(60)
def lost_store(context):
    """The store is gone: hamgrd says what to do and makes none by itself; the node joins anew."""
    store_is_refused(context, damage_lost, False)


@scenario(60)
def rolled_back_store(context):
    """The store's newest writes are gone without a trace: it does not count until it has caught up.
    """
    cluster, _ = faults.start(context, guests=3)
    node = others_of(cluster, lab.leader(cluster))[0]
    commit(cluster, node, "g1", 71)
    saved = os.path.join(cluster.room.dir, "saved")
    # A copy taken by the machine's admin, put back later: the classic.
    node.init("stop hamgrd")
    wait_until(lambda: node.services()["hamgrd"][0] == "down", "hamgrd is down", 15)
    shutil.copytree(node.path("lib-hamgr"), saved)
    cluster.start_hamgrd(node)
    cluster.wait_members()
    for turn in range(5):
        commit(cluster, node, "g1", 72 + turn)
    lost = lab.guests_of(cluster, node)
    at = node.power_off()
    measure.wait_restarted(cluster, lost, at["mono_ns"])
    shutil.rmtree(node.path("lib-hamgr"))
    shutil.copytree(saved, node.path("lib-hamgr"))
    os.chown(node.path("lib-hamgr"), HAMGR_UID, HAMGR_UID)
    os.chmod(node.path("lib-hamgr"), 0o700)
    for name in os.listdir(node.path("lib-hamgr")):
        os.chown(node.path("lib-hamgr", name), HAMGR_UID, HAMGR_UID)
    node.power_on()
    other = others_of(cluster, node)[0]
    wait_until(lambda: node.services()["hamgrd"][0] == "up"
               and node.run(["hactl", "status"], check=False).returncode != 5,
               "its hamgrd answers", 15)
    context.note(f"on {node.name} itself: {ask(node)[1]['warnings']} {ask(node)[1]['quorum']}")
    lab.stand_for(cluster, list(cluster.slots), 3, "an old store")
    line = line_of(ask(other)[1], node)
    context.note(f"{node.name} is {line['status']}: {line['text']} {line['alarm']}")
    check(line["status"] != "member", "a store that forgot what it acknowledged counts")
    for asked in (node, other):
        warnings = " ".join(ask(asked)[1]["warnings"])
        check("remembers more than this store holds" in warnings,
              f"{asked.name}'s status does not say why {node.name} stays out: {warnings}")
    cluster.generation = 1
    node.init("stop hamgrd")
    wait_until(lambda: node.services()["hamgrd"][0] == "down", "hamgrd is down", 15)
    damage_lost(node)
    join_anew(cluster, node)
    commit(cluster, node, "g1", 78)
    lab.no_harm(cluster)


# --- corosync, clocks -----------------------------------------------------------------------------

@scenario(60)
def corosync_stops(context):
    """corosync stands still for 10 s: hamgrd says so, answers, and its loop turns."""
    cluster, _ = faults.start(context)
    node = lab.busiest(cluster)
    names = list(cluster.slots)
    lab.stand_for(cluster, names, 6, "before")
    before = lab.epochs(cluster)
    # To the others the node looks dead, and T_wait is shorter than this: disarmed, nobody fences.
    cluster.hactl("disarm", node=node)
    began = time.monotonic()
    with faults.Probe() as probe:
        node.signal("corosync", signal.SIGSTOP)
        is_said = False
        while time.monotonic() < began + 10:
            _, status, took = ask(node)
            check(took < 1, f"status took {took:.2f} s")
            is_said = is_said or "hangs" in status["here"]["corosync"]
            time.sleep(0.2)
    node.signal("corosync", signal.SIGCONT)
    check(is_said, f"health says: {status['here']['corosync']}")
    faults.check_gap(context, node, status["here"], probe, "corosync stopped")
    lab.all_step(cluster, timeout_s=30)
    cluster.hactl("arm", node=node)
    cluster.wait_members()
    equal(lab.epochs(cluster), before, "copies of guests")
    equal(lab.cuts(cluster), [], "power cuts")
    lab.no_harm(cluster)


@scenario(60)
def clocks_jump(context):
    """The wall clock of one hamgrd, then of the leader's, jumps by an hour and back: no effect."""
    cluster, orders = faults.start(context, preload=True)
    chief = lab.leader(cluster)
    calm = faults.Calm(cluster)
    for node in (others_of(cluster, chief)[0], chief):
        for hours in (1, -1, 0):
            orders[node.name].wall_offset(hours * 3600)
            lab.stand_for(cluster, list(cluster.slots), 2, f"{node.name}'s clock {hours:+} h")
            commit(cluster, node, "g1", 50 + hours)
            calm.check(f"{node.name}'s clock {hours:+} h")
    orders[chief.name].wall_offset(-3600)
    victim = others_of(cluster, chief)[0]
    lost = lab.guests_of(cluster, victim)
    at = victim.power_off()
    measure.wait_restarted(cluster, lost, at["mono_ns"])
    lab.no_harm(cluster)


@scenario(60)
def keeper_wakes(context):
    """A keeper whose host was suspended voids its lease, takes the next and pets on: no reset."""
    cluster, orders = faults.start(context, preload=True, services=("hamgr-watchdog",))
    node = lab.busiest(cluster)
    homes, before = cluster.homes(), lab.epochs(cluster)

    def told():
        with open(node.path("log", "hamgr-watchdog.log"), encoding="utf-8") as file:
            return file.read().count("the host was suspended")
    equal(told(), 0, "suspends before")
    for times, slept_s in enumerate((30, 3600), 1):
        orders[node.name].slept(slept_s)
        wait_until(lambda: told() >= times, f"the keeper notices suspend {times}", 30)
        wait_until(lambda: node.describe()["state"] == "on" and not
                   line_of(ask(node)[1], node)["quarantined"], "its lease is back", 30)
        lab.all_step(cluster, timeout_s=30)
    lab.stand_for(cluster, list(cluster.slots), WATCHDOGS_S, "after both suspends")
    equal(told(), 2, "suspends told")
    equal(cluster.homes(), homes, "homes")
    equal(lab.epochs(cluster), before, "copies of guests")
    equal(lab.cuts(cluster), [], "power cuts")
    lab.no_harm(cluster)


# --- input ----------------------------------------------------------------------------------------

@scenario(60)
def rogue_in_group(context):
    """A stranger in the hamgrds' group sends noise, damaged and foreign messages, and floods."""
    cluster, _ = faults.start(context)
    cluster.room.stage({"rogue_cpg": os.path.join(context.build, "tests", "rogue_cpg")}, {})
    names = list(cluster.slots)
    node = lab.busiest(cluster)
    calm = faults.Calm(cluster)
    for seed, what in enumerate(("noise", "cut", "flip", "foreign", "replay", "flood")):
        done = node.run(["rogue_cpg", str(seed), what], timeout_s=30)
        context.note(f"{what}: {done.stdout.strip()}")
        calm.check(what)
        lab.stand_for(cluster, names, 1, what)
    commit(cluster, node, "g1", 60)
    calm.check("after all")
    # Forged under a valid digest by root on a member: corosync trusts nodes, and so do we. It may
    # order things, but no guest may run twice for it and no daemon may crash.
    before = {n.name: n.services()["hamgrd"][2] for n in cluster.nodes}
    done = node.run(["rogue_cpg", "7", "resign"], timeout_s=30)
    context.note(f"resign: {done.stdout.strip()}")
    equal({n.name: n.services()["hamgrd"][2] for n in cluster.nodes if n.is_on()}, before,
          "starts of hamgrd after forged messages")
    lab.no_harm(cluster)


IPC_NOISE = r"""
import os, random, socket, struct, sys, array
random.seed(int(sys.argv[1]))
def header(kind, size, magic=0x31524d48, version=1, number=None):
    number = random.getrandbits(64) if number is None else number
    return struct.pack("<IHHQI", magic, version, kind, number, size)
def packets():
    for _ in range(60):
        yield random.randbytes(random.choice((1, 4, 19, 20, 21, 200, 5000)))
    for kind in list(range(0, 80)) + [65535]:
        for size in (0, 1, 8, 16, 24, 40, 333):
            yield header(kind, size) + random.randbytes(size)
    yield header(1, 4000) + b"x"
    yield header(1, 0) + b"x" * 4000
    yield header(1, 8, version=2) + b"12345678"
    yield header(1, 8, magic=1) + b"12345678"
    yield header(2, 130000) + random.randbytes(130000)
refused = sent = 0
for path in sys.argv[2:]:
    for packet in packets():
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(2)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 600000)
            sock.connect(path)
            if random.random() < 0.2:
                fds = array.array("i", [0] * random.randint(1, 8))
                sock.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
            else:
                sock.send(packet)
            sent += 1
        except OSError as error:
            refused += 1
        finally:
            sock.close()
print(sent, refused)
"""

QB_NOISE = r"""
import random, socket, struct, sys
random.seed(int(sys.argv[1]))
tries = 0
for turn in range(150):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(1)
    try:
        sock.connect("\0hamgr" + "\0" * 102)
        kind = turn % 5
        if kind == 0:
            sock.send(random.randbytes(random.randint(1, 300)))
        elif kind == 1:
            sock.send(struct.pack("<iiii", -1, 0, random.getrandbits(31), 0))
        elif kind == 2:
            sock.send(struct.pack("<iiiii", -1, 0, 24, 0, random.getrandbits(31)))
        elif kind == 3:
            sock.send(struct.pack("<qqq", -1, 24, random.getrandbits(62)))
        elif kind == 4:
            sock.send(struct.pack("<qq", -1, 24))
        tries += 1
        sock.settimeout(0.02)
        sock.recv(4096)
    except OSError:
        pass
    finally:
        sock.close()
print(tries)
"""

QB_BAD_REQUESTS = r"""
import ctypes, json, random, struct, sys
random.seed(int(sys.argv[1]))
qb = ctypes.CDLL("libqb.so.100")
qb.qb_ipcc_connect.restype = ctypes.c_void_p
qb.qb_ipcc_connect.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
qb.qb_ipcc_send.restype = ctypes.c_ssize_t
qb.qb_ipcc_send.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
qb.qb_ipcc_recv.restype = ctypes.c_ssize_t
qb.qb_ipcc_recv.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int32]
qb.qb_ipcc_disconnect.argtypes = [ctypes.c_void_p]
VERBS = ["status", "guest-show", "explain", "events", "guest-add", "guest-set", "guest-start",
         "guest-stop", "guest-remove", "migrate", "failover", "fence", "confirm-fenced",
         "maintenance", "freeze", "cancel", "node-add", "node-remove", "", "x" * 3000]
# Not those that need no arguments and would be obeyed.
KEYS = ["guest", "node", "name", "to", "on", "op", "since", "count", "definition", "priority", "id",
        "address", "uuid", "yes", "want", "memory_kib", "zzz"]
def value():
    return random.choice([None, True, -1, 0, 1 << 62, 3.5, "", "g1x", "\u0000", "x" * 500, [], {},
                          [[[]]], {"a": 1}, "n9", "../../etc"])
def bodies():
    for verb in VERBS:
        for _ in range(4):
            body = {"cmd": verb}
            for key in random.sample(KEYS, random.randint(0, 6)):
                body[key] = value()
            yield json.dumps(body).encode()
    for bad in (b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"cmd":1}', b'{"cmd":null}', b"[" * 5000,
                b'{"cmd":"status","cmd":"status"}', random.randbytes(3000)):
        yield bad
answers = 0
for number, body in enumerate(bodies()):
    handle = qb.qb_ipcc_connect(b"hamgr", 1 << 18)
    if not handle:
        continue
    kind = random.choice((int(sys.argv[2]), int(sys.argv[2]), int(sys.argv[2]) + 1, 0, -5, 99))
    data = struct.pack("<qq", kind & 0xffffffff, 16 + len(body)) + body
    qb.qb_ipcc_send(handle, data, len(data))
    answer = ctypes.create_string_buffer(1 << 18)
    answers += qb.qb_ipcc_recv(handle, answer, 1 << 18, 150 if number % 3 else 0) > 0
    qb.qb_ipcc_disconnect(handle)
print(answers)
"""


def request_id():
    """The number of a request, as the source has it."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "hamgr", "server",
                        "request.h")
    for line in open(path, encoding="utf-8"):
        words = line.split()
        if words[:2] == ["#define", "REQUEST_ID"]:
            return words[2]
    raise AssertionError("no REQUEST_ID in request.h")


@scenario(60)
def malformed_ipc(context):
    """Garbage at every local socket, as nobody, as hamgrd's user and as root."""
    cluster, _ = faults.start(context)
    node = lab.busiest(cluster)
    calm = faults.Calm(cluster)
    sockets = [f"/run/hamgr/{name}.sock" for name in ("hv", "keeper", "fence")]
    for user in ("nobody", "hamgr", "root"):
        prefix = [] if user == "root" else ["setpriv", "--reuid", user, "--clear-groups",
                                            "--regid", "nogroup" if user == "nobody" else user]
        done = node.run(prefix + ["python3", "-c", IPC_NOISE, "7", *sockets], timeout_s=40)
        sent, refused = map(int, done.stdout.split())
        context.note(f"{user}: {sent} packets sent, {refused} refused")
        check(sent == 0 if user == "nobody" else sent > 0, f"{user}: {sent} packets were taken")
        done = node.run(prefix + ["python3", "-c", QB_NOISE, "8"], timeout_s=40)
        check(int(done.stdout) > 0, "hamgrd's IPC took no connection")
        lab.all_step(cluster)
        calm.check(f"garbage as {user}")
    done = node.run(["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups",
                     "python3", "-c", QB_BAD_REQUESTS, "9", request_id()], timeout_s=40)
    context.note(f"bad requests as nobody: {done.stdout.strip()} answers")
    lab.stand_for(cluster, list(cluster.slots), 1, "bad requests")
    calm.check("bad requests as nobody")
    cluster.wait_members()
    commit(cluster, node, "g1", 61)


@scenario(60)
def malformed_requests(context):
    """Requests of root that make no sense: refused one by one, hamgrd and the cluster go on."""
    cluster, _ = faults.start(context)
    node = lab.busiest(cluster)
    calm = faults.Calm(cluster)
    done = node.run(["python3", "-c", QB_BAD_REQUESTS, "10", request_id()], timeout_s=50)
    context.note(f"{done.stdout.strip()} answers")
    check(int(done.stdout) > 20, "requests were not answered")
    calm.check("bad requests as root", has_view=False)


@scenario(60)
def malformed_config(context):
    """hamgr.conf with an error: hamgrd refuses to start, with file and line; the others go on."""
    cluster, _ = faults.start(context, guests=2)
    node = lab.busiest(cluster)
    path = node.path("etc-hamgr", "hamgr.conf")
    with open(path, encoding="ascii") as file:
        good = file.read()
    calm = faults.Calm(cluster)
    lines = good.count("\n")
    for text, words in ((good + "nonsense = 1\n", (f":{lines + 1}", "nonsense")),
                        (good + "[cluster]\nheartbeat = soon\n", (f":{lines + 2}", "heartbeat")),
                        (good + "[cluster]\nlease = 1ms\n", (f":{lines + 2}", "lease")),
                        (good + "[what]\nx = y\n", (f":{lines + 2}", "what")),
                        (good + "\x00\xff\x01 = [[[\n", (f":{lines + 1}",)),
                        (good + "x" * 70000 + "\n", ())):
        node.write(["etc-hamgr", "bad.conf"], text.encode("latin-1"))
        done = node.run(["setpriv", "--reuid", "hamgr", "--regid", "hamgr", "--clear-groups",
                         "/run/hamgr-node/bin/hamgrd", "-c", "/etc/hamgr/bad.conf"], timeout_s=10,
                        check=False)
        context.note(done.stderr.strip()[:150])
        equal(done.returncode, 2, "exit code")
        check("/etc/hamgr/bad.conf" in done.stderr and all(w in done.stderr for w in words),
              f"said: {done.stderr[:300]}, wanted {words}")
    calm.check("a bad file")
    # And as the service's own file: down until it is mended, the guests run on meanwhile.
    node.write(["etc-hamgr", "hamgr.conf"], good + "nonsense = 1\n")
    node.signal("hamgrd", signal.SIGKILL)
    wait_until(lambda: "nonsense" in log_text(node), "the refusal is in the log", 10)
    node.write(["etc-hamgr", "hamgr.conf"], good)
    cluster.wait_members()
    lab.all_step(cluster)
    calm.check("a bad file and a restart", but=("hamgrd",), has_view=False)


# --- fencing --------------------------------------------------------------------------------------

@scenario(60)
def fenced_through_another(context):
    """Only one node, which does not lead, has a power device: its result reaches the leader."""
    def prepared(cluster):
        for node in cluster.nodes[:2]:
            node.write(["etc-hamgr", "fence.conf"], "", mode=0o600)

    cluster = lab.start(context, prepared=prepared, guests=3)
    chief = lab.leader(cluster)
    holder = cluster.nodes[2]
    victim = next(node for node in cluster.nodes if node not in (chief, holder))
    check(chief is not holder, "the holder leads")
    lost = lab.guests_of(cluster, victim)
    at = victim.power_off()
    since = at["mono_ns"]
    if not lost:
        context.note("the victim had no guests")
    event = measure.fenced_event(cluster, chief, victim, at["real_ns"] // 1000000, 30)
    took_ms = event["wall_ms"] - at["real_ns"] / 1e6
    context.note(f"fenced after {took_ms:.0f} ms: {event['text']}")
    check(took_ms < lab.WAIT_MS - lab.LEASE_MS, "the device's result was lost")
    measure.wait_restarted(cluster, lost, since)
    lab.no_harm(cluster)


# What a leader says to hamgr-fence (hamgr/ipc/sock.h, fenceproto.h): an order that stands for so many
# seconds, and, when wanted, that it is void.
TAKE_BACK = """
import socket, struct, sys, time
def packet(kind, number, body):
    return struct.pack("<IHHQI", 0x31524d48, 1, kind, number, len(body)) + body
def text(word):
    return struct.pack("<H", len(word)) + word.encode()
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.settimeout(20)
s.connect("/run/hamgr/fence.sock")
end_ms = int((time.clock_gettime(time.CLOCK_BOOTTIME) + float(sys.argv[2])) * 1000)
s.send(packet(4, 77, text("room") + text(sys.argv[1]) + bytes([1]) + struct.pack("<IQ", 0, end_ms)))
if sys.argv[3] == "void":
    s.send(packet(3, 78, struct.pack("<Q", 77)))
print("said", flush=True)
while True:
    answer = s.recv(65536)
    kind, number = struct.unpack_from("<HQ", answer, 6)
    if (kind, number) == (65, 77):
        print("outcome", answer[20])
        break
"""


def order_in_vain(context, seconds, word):
    """hamgr-fence hangs while it is given an order, and goes on when that stands no longer."""
    cluster = lab.start(context, guests=2)
    chief = lab.leader(cluster)
    victim = others_of(cluster, chief)[0]
    chief.signal("hamgr-fence", signal.SIGSTOP)
    client = chief.popen([sys.executable, "-I", "-c", TAKE_BACK, victim.name,
                           str(seconds), word],
                         stdout=subprocess.PIPE, text=True)
    try:
        equal(client.stdout.readline().strip(), "said", "what the client says first")
        chief.signal("hamgr-fence", signal.SIGCONT)
        rest, _ = client.communicate(timeout=30)
    finally:
        client.kill()
        client.wait()
    equal(rest.strip(), "outcome 5", "the order's end (5: cancelled)")
    check(victim.is_on(), f"{victim.name} was switched off")
    lab.no_harm(cluster)


@scenario(60)
def order_taken_back(context):
    """hamgr-fence hangs while a node is to be fenced and the order is taken back: nobody is shot."""
    order_in_vain(context, 60, "void")


@scenario(60)
def order_not_vouched_for(context):
    """hamgr-fence hangs with an order, and who gave it says no more: it is not begun late."""
    order_in_vain(context, 0, "stands")


if __name__ == "__main__":
    sys.exit(main())
