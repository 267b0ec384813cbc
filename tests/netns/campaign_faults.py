# SPDX-License-Identifier: Apache-2.0
"""How a campaign's faults are done to a cluster and undone.

A function do_KIND(field, fault) does it and returns what undoes it, or None. A fault that can't be
done now (its node is off, too many nodes are hit already) raises Skip.
"""

import contextlib
import json
import signal
import socket
import subprocess
import os
import threading
import time

from faults import SYNC_FAIL, SYNC_OK, SYNC_STALL
from nslab.client import RoomError, together, wait_until

ASK_S = 6
POWER_S = 120
FILLER = "/var/lib/hamgr/filler"
# What a fault may run into on a cluster that is being broken: no reason to end.
EXPECTED = (RoomError, OSError, subprocess.SubprocessError, TimeoutError, KeyError, ValueError)


class Skip(Exception):
    """The fault can't be done now."""


class Field:
    """The cluster with who is hit at present. Faults run on threads: claims go through one lock."""

    def __init__(self, cluster, network, orders, note):
        self.cluster = cluster
        self.network = network
        self.orders = orders
        self.note = note
        self.lock = threading.RLock()
        self.claims = {}  # node name -> number of faults that keep it from its part
        self.limit = (len(cluster.nodes) - 1) // 2  # nodes that a quorum can do without
        self.members = set()
        self.status = None  # the newest that any node gave
        self.is_healing = False

    # --- who ---

    def refresh_members(self):
        """Who does its part, as the cluster says."""
        for node in self.cluster.nodes:
            try:
                status = json.loads(node.run(["hactl", "--json", "status"], timeout_s=ASK_S,
                                             check=False).stdout or "null")
            except EXPECTED:
                continue
            if status and status.get("data") and status["data"]["open"]:
                self.status = status["data"]
                self.members = {line["name"] for line in self.status["nodes"]
                                if self.cluster.is_up(line)}
                return

    def impaired(self):
        return {name for name, count in self.claims.items() if count} | \
               {node.name for node in self.cluster.nodes if node.name not in self.members}

    def claim(self, names):
        """Marks nodes as hit, unless a quorum would be gone by that."""
        with self.lock:
            if self.is_healing:
                raise Skip("the round is over")
            if len(self.impaired() | set(names)) > self.limit:
                raise Skip(f"{' '.join(sorted(self.impaired()))} hit already")
            for name in names:
                self.claims[name] = self.claims.get(name, 0) + 1

    def claim_all(self):
        """For a blackout: nothing else may be wrong when it begins."""
        with self.lock:
            if self.is_healing or (self.impaired() and self.limit < len(self.cluster.nodes)):
                raise Skip("some node is hit already")
            for node in self.cluster.nodes:
                self.claims[node.name] = self.claims.get(node.name, 0) + 1

    def release(self, names):
        with self.lock:
            for name in names:
                self.claims[name] -= 1

    def node(self, fault):
        """Whom it meets: any node that is on."""
        on = [node for node in self.cluster.nodes if node.is_on()]
        if not on:
            raise Skip("all nodes are off")
        return on[fault.lot % len(on)]

    def guest(self, fault):
        names = sorted(self.cluster.slots)
        return names[fault.lot // 16 % len(names)]

    def hactl(self, *argv):
        """What an operator types, at a node that seems to work; a refusal is an answer."""
        node = next((n for n in self.cluster.nodes if n.name in self.members and n.is_on()), None)
        try:
            self.cluster.hactl(*argv, node=node, timeout_s=ASK_S)
        except EXPECTED as error:
            self.note(f"refused: {str(error)[:160]}")

    def storage(self, **command):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(ASK_S)
            sock.connect(os.path.join(self.cluster.room.dir, "storage", "control.sock"))
            sock.sendall(json.dumps(command).encode() + b"\n")
            answer = json.loads(sock.makefile().readline())
        if not answer["ok"]:
            raise RoomError(f"storage: {answer}")


def claimed(field, names, undo=None):
    """An undo that also gives the nodes back."""
    def back():
        try:
            if undo:
                undo()
        finally:
            field.release(names)
    return back


def attempt(field, names, act, undo=None):
    """Claims nodes, acts, and returns the undo; a failed act gives them back."""
    field.claim(names)
    try:
        act()
    except BaseException:
        field.release(names)
        raise
    return claimed(field, names, undo)


# --- daemons --------------------------------------------------------------------------------------

def kill_daemon(service):
    def do(field, fault):
        node = field.node(fault)
        if service == "corosync":  # to the others that is a dead node
            return attempt(field, [node.name], lambda: node.signal(service, signal.SIGKILL))
        node.signal(service, signal.SIGKILL)
        return None
    return do


def stop_daemon(service):
    def do(field, fault):
        node = field.node(fault)

        def resume():
            with contextlib.suppress(*EXPECTED):
                node.signal(service, signal.SIGCONT)
        act = lambda: node.signal(service, signal.SIGSTOP)  # noqa: E731
        if service in ("hamgr-fence", "hamgr-disk"):
            act()
            return resume
        return attempt(field, [node.name], act, resume)
    return do


def kill_named(word):
    """One of hamgr's short-lived processes; none there is no fault."""
    def do(field, fault):
        node = field.node(fault)
        gate = node.services()["hamgr-hv"][1]
        listing = node.run(["ps", "-e", "-o", "pid=,ppid=,comm="]).stdout
        for line in listing.splitlines():
            pid, parent, name = line.split(None, 2)
            if name == word or (word == "worker" and name.startswith("hamgr-hv")
                                and int(parent) == gate):
                node.run(["kill", "-KILL", pid], check=False)
                return
        raise Skip(f"{node.name} has no {word}")
    return do


def do_kill_all_daemons(field, fault):
    node = field.node(fault)

    def act():
        for service in ("hamgrd", "hamgr-hv", "hamgr-disk", "hamgr-fence", "hamgr-watchdog"):
            node.signal(service, signal.SIGKILL)
    return attempt(field, [node.name], act)


# --- power and network ----------------------------------------------------------------------------

def do_power(field, fault):
    node = field.node(fault)
    return attempt(field, [node.name], node.power_off)


def do_cable(field, fault):
    node = field.node(fault)
    return attempt(field, [node.name], lambda: node.cable(False), lambda: node.cable(True))


def do_flap(field, fault):
    """The cable goes out and in five times a second."""
    node = field.node(fault)
    over = threading.Event()

    def flap():
        while not over.wait(0.1):
            node.cable(False)
            over.wait(0.1)
            node.cable(True)

    thread = threading.Thread(target=flap, daemon=True)

    def undo():
        over.set()
        thread.join()
        node.cable(True)
    return attempt(field, [node.name], thread.start, undo)


def cut(field, names, pairs):
    network = field.network

    def spoil(**rule):
        with field.lock:
            network.set(pairs, **rule)
    return attempt(field, names, lambda: spoil(loss=100), spoil)


def do_one_way(field, fault):
    node = field.node(fault)
    is_out = bool(fault.lot & 1024)
    return cut(field, [node.name], field.network.pairs_of(node, is_out, not is_out))


def do_pair(field, fault):
    """Two nodes don't hear each other, all others do; one way or both."""
    node = field.node(fault)
    others = [other.name for other in field.cluster.nodes if other is not node]
    other = others[fault.lot // 64 % len(others)]
    pairs = [(node.name, other)] + ([(other, node.name)] if fault.lot & 1024 else [])
    return cut(field, [node.name], pairs)


def do_lossy_node(field, fault):
    """One node's cable loses almost half of everything: membership comes and goes."""
    node = field.node(fault)
    pairs = field.network.pairs_of(node)

    def spoil(**rule):
        with field.lock:
            field.network.set(pairs, **rule)
    return attempt(field, [node.name], lambda: spoil(loss=30 + fault.lot % 30), spoil)


def do_split(field, fault):
    """The switch falls in two, or, with four nodes and more, in a ring: each misses some."""
    names = [node.name for node in field.cluster.nodes]
    if fault.lot & 1 and len(names) > 3:
        count = len(names)
        pairs = {(names[i], names[j]) for i in range(count) for j in range(count)
                 if (i - j) % count not in (0, 1, count - 1)}
    else:
        left = {name for bit, name in enumerate(names) if fault.lot >> (8 + bit) & 1}
        pairs = {(a, b) for a in names for b in names if (a in left) != (b in left)}
    if not pairs:
        raise Skip("all on one side")

    def spoil(**rule):
        with field.lock:
            field.network.set(sorted(pairs), **rule)
    field.claim_all()
    spoil(loss=100)
    return claimed(field, names, spoil)


def do_shutdown(field, fault):
    """A host goes down in order: its guests move away first, it leaves."""
    node = field.node(fault)
    return attempt(field, [node.name], lambda: node.init("shutdown"))


def do_blackout(field, fault):
    """The switch, or the power of all, fails; bounded by the fault's length."""
    nodes = field.cluster.nodes
    names = [node.name for node in nodes]
    field.claim_all()
    try:
        if fault.lot & 1:
            together([node.power_off for node in nodes])
            return claimed(field, names)
        for node in nodes:
            node.cable(False)
    except BaseException:
        field.release(names)
        raise
    return claimed(field, names, lambda: [node.cable(True) for node in nodes])


def spoil_all(**rule):
    """Something that a cluster must bear without losing anybody."""
    def do(field, fault):
        def spoil(**now):
            with field.lock:
                pairs = [pair for pair in field.network.all_pairs()
                         if field.network.rules.get(pair, {}).get("loss") != 100]
                field.network.set(pairs, **now)
        spoil(**rule)
        return spoil
    return do


# --- disks, clocks, power devices, storage --------------------------------------------------------

def order_sync(order):
    def do(field, fault):
        node = field.node(fault)
        orders = field.orders[node.name]

        def undo():
            orders.sync(SYNC_OK)
            if order == SYNC_FAIL:  # what the kernel lost once it reports once: a restart ends it
                restart_hamgrd(node)
        return attempt(field, [node.name], lambda: orders.sync(order), undo)
    return do


def restart_hamgrd(node):
    with contextlib.suppress(*EXPECTED):
        node.signal("hamgrd", signal.SIGKILL)


def do_disk_full(field, fault):
    node = field.node(fault)

    def undo():
        with contextlib.suppress(*EXPECTED):
            node.run(["rm", "-f", FILLER])
        restart_hamgrd(node)
    return attempt(field, [node.name], lambda: node.run(
        ["sh", "-c", f"cat /dev/zero > {FILLER} 2>/dev/null"], check=False), undo)


def do_clock(field, fault):
    """The wall clock of one node's daemons is wrong: seconds, an hour, years; ahead or behind."""
    node = field.node(fault)
    seconds = (3, 3600, 10 * 365 * 86400)[fault.lot % 3] * (1 if fault.lot & 64 else -1)
    field.orders[node.name].wall_offset(seconds)
    return lambda: field.orders[node.name].wall_offset(0)


def bmc(mode):
    """The power device as one node, or as all reach it."""
    def do(field, fault):
        nodes = field.cluster.nodes if fault.lot & 1 else [field.node(fault)]
        for node in nodes:
            node.bmc(mode)
        return lambda: [node.bmc("ok") for node in nodes]
    return do


def do_storage_held(field, fault):
    node = field.node(fault)
    field.storage(cmd="hold", node=node.index)
    return lambda: field.storage(cmd="release", node=node.index)


def do_storage_late(field, fault):
    node = field.node(fault)
    field.storage(cmd="delay", node=node.index, ms=50 + fault.lot % 450)
    return lambda: field.storage(cmd="delay", node=node.index, ms=0)


def do_storage_path(field, fault):
    node = field.node(fault)
    field.storage(cmd="disconnect", node=node.index)
    return lambda: field.storage(cmd="connect", node=node.index)


# --- operators ------------------------------------------------------------------------------------

def do_migrate(field, fault):
    """To any other node, half of the time the guest that takes seconds to move."""
    name = "big" if fault.lot & 1 else field.guest(fault)
    home = next((g["node"] for g in field.status["guests"] if g["name"] == name), "")
    targets = sorted(field.members - {home})
    if not targets:
        raise Skip("no other node is there")
    field.hactl("migrate", name, "--to", targets[fault.lot // 2 % len(targets)], "--detach")


def do_cancel(field, fault):
    status = field.cluster.try_status(field.node(fault))
    if not status or not status["moves"]:
        raise Skip("nothing moves")
    moves = status["moves"]
    field.hactl("cancel", str(moves[fault.lot % len(moves)]["id"]))


def do_drain(field, fault):
    node = field.node(fault)
    field.hactl("maintenance", node.name, "on")
    return lambda: field.hactl("maintenance", node.name, "off")


def do_failover(field, fault):
    field.hactl("failover", field.guest(fault), "--yes")


def do_fence(field, fault):
    node = field.node(fault)
    return attempt(field, [node.name], lambda: field.hactl("fence", node.name, "--yes"))


def do_restart_guest(field, fault):
    name = field.guest(fault)
    field.hactl("guest", "stop", name)
    return lambda: field.hactl("guest", "start", name)


def do_disarm(field, fault):
    field.hactl("disarm")
    return lambda: field.hactl("arm")


DAEMONS = ("hamgrd", "hamgr-hv", "hamgr-disk", "hamgr-fence", "hamgr-watchdog", "corosync")
DO = {
    **{f"kill-{name}": kill_daemon(name) for name in DAEMONS},
    **{f"stop-{name}": stop_daemon(name) for name in DAEMONS},
    "kill-stream": kill_named("hamgr-stream"), "kill-worker": kill_named("worker"),
    "kill-all-daemons": do_kill_all_daemons, "power": do_power, "cable": do_cable,
    "flap": do_flap, "one-way": do_one_way, "pair": do_pair, "blackout": do_blackout,
    "loss": spoil_all(loss=10), "delay": spoil_all(delay_ms=40, jitter_ms=5),
    "reorder": spoil_all(delay_ms=1, jitter_ms=30), "duplicate": spoil_all(twice=30, jitter_ms=3),
    "store-stall": order_sync(SYNC_STALL), "store-fails": order_sync(SYNC_FAIL),
    "disk-full": do_disk_full, "clock": do_clock, "bmc-refuses": bmc("refuse"),
    "bmc-dead": bmc("dead"), "bmc-slow": bmc("slow"), "storage-held": do_storage_held,
    "storage-late": do_storage_late, "storage-path": do_storage_path, "migrate": do_migrate,
    "cancel": do_cancel, "drain": do_drain, "failover": do_failover, "fence": do_fence,
    "restart-guest": do_restart_guest, "damage": spoil_all(flip=5), "lossy-node": do_lossy_node,
    "split": do_split, "shutdown": do_shutdown, "disarm": do_disarm,
}


# --- healing --------------------------------------------------------------------------------------

def power_on(field, node):
    """A start takes half a minute at most, on a machine so busy that it fails: then once more."""
    try:
        node.power_on()
        return True
    except RoomError as error:
        field.note(f"{node.name} does not start: {error}")
        return False


def heal(field):
    """Undoes what any fault may have left; returns when the last of it is done."""
    cluster = field.cluster
    with field.lock:
        field.network.heal()
    for node in cluster.nodes:
        node.cable(True)
        node.bmc("ok")
        field.orders[node.name].sync(SYNC_OK)
        field.orders[node.name].wall_offset(0)
    field.storage(cmd="release")
    for node in cluster.nodes:
        field.storage(cmd="delay", node=node.index, ms=0)
        field.storage(cmd="connect", node=node.index)
    wait_until(lambda: all([power_on(field, node) for node in cluster.nodes]),
               "all nodes are on", POWER_S, 0.5)
    for node in cluster.nodes:
        with contextlib.suppress(*EXPECTED):
            node.run(["rm", "-f", FILLER])
        for service in DAEMONS:
            with contextlib.suppress(*EXPECTED):
                node.signal(service, signal.SIGCONT)
    field.claims.clear()


def end_operations(field):
    """What operators began: maintenance and stopped guests end; failed guests stay, to be seen.

    Returns False while the cluster does not take the words.
    """
    cluster = field.cluster
    try:
        status = cluster.status()
        if status["disarmed"]:
            cluster.hactl("arm", timeout_s=ASK_S)
        for line in status["nodes"]:
            if line["maintenance"]:
                cluster.hactl("maintenance", line["name"], "off", timeout_s=ASK_S)
        for guest in status["guests"]:
            if guest["want"] == "stopped":
                cluster.hactl("guest", "start", guest["name"], timeout_s=ASK_S)
        for node in cluster.nodes:
            here = cluster.status(node)["here"]
            if here["store_failed"]:
                restart_hamgrd(node)
                return False
    except EXPECTED:
        return False
    return time.monotonic()
