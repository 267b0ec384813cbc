# SPDX-License-Identifier: Apache-2.0
"""hamgr on the nodes of a room: files, services, the cluster's birth, and hactl as a function."""

import json
import os
import subprocess
import time

from . import corosync, programs
from .client import HAMGR_UID, PYTHON, RoomError, wait_until
from .node import HERE
from .observer import Observer

PKI = os.path.join(os.path.dirname(os.path.dirname(HERE)), "pki")
BIN = "/run/hamgr-node/bin"
SLOTS = 1024  # guests an observer's page is made for
COMMAND_TIMEOUT_S = 120


class HactlError(RoomError):
    """hactl refused or failed: exit code and what it said."""

    def __init__(self, argv, code, answer, stderr):
        errors = answer.get("errors", []) if answer else []
        words = "; ".join(e.get("message", "") for e in errors) or stderr.strip()
        super().__init__(f"hactl {' '.join(argv)}: exit {code}: {words}")
        self.code = code
        self.errors = errors


def service_lines(node):
    """What hamgr-init starts on a node; siblings, as units are on a host."""
    return [corosync.PROGRAM,
            f"hamgr-watchdog 0:0 {BIN}/hamgr-watchdog",
            f"hamgr-hv 0:0 {BIN}/hamgr-hv --driver embedded --peer-user hamgr",
            f"hamgr-disk 0:0 {BIN}/hamgr-disk --node {node.index}",
            f"hamgr-fence 0:0 {BIN}/hamgr-fence --agents /run/hamgr-node/agents",
            f"hamgrd {HAMGR_UID}:{HAMGR_UID} {BIN}/hamgrd",
            f"cpg_watch 0:0 {BIN}/cpg_watch",  # measures, see measure.py
            f"!shutdown 0:0 {BIN}/hactl node-shutdown --timeout 120s"]


def fence_conf():
    """The room's power device, for all nodes."""
    return ("[device room]\nagent = fence_hamgr_ns\nlevel = 1\ntimeout = 15s\nmonitor = 1h\n"
            "path = /run/hamgr-node/bmc\n")


class Cluster:
    """hamgr on all nodes of a room."""

    def __init__(self, room, build, token_ms=1000, memory_mib=2048, name="demo"):
        self.room = room
        self.nodes = list(room.nodes.values())
        self.token_ms = token_ms
        self.memory_mib = memory_mib
        self.name = name
        self.found = programs.stage(room, build, is_complete=True)
        self.observer = Observer(os.path.join(room.dir, "observer"), SLOTS)
        self.witness = None
        self.slots = {}  # guest -> slot of the observer's page

    # --- files ---

    def hamgr_conf(self, node, extra, is_witness):
        return (f"[node]\nname = {node.name}\nhypervisor = embedded\n"
                f"witness = {'yes' if is_witness else 'no'}\nmemory = {self.memory_mib}MiB\n\n"
                "[watchdog]\ndevice = unix:/run/hamgr-node/watchdog\n" + extra)

    def prepare(self, extra_conf="", fence=None, witness=None):
        """Writes everything the nodes' services read.

        extra_conf is put behind each hamgr.conf, beginning in [watchdog]; witness names a node.
        """
        self.witness = witness
        corosync.install(self.nodes, self.token_ms)
        self.make_certificates()
        for node in self.nodes:
            node.write(["etc-hamgr", "hamgr.conf"], self.hamgr_conf(
                node, extra_conf, node.name == witness))
            node.write(["etc-hamgr", "fence.conf"], fence or fence_conf(), mode=0o600)
            node.set_programs(service_lines(node))
            os.chown(node.path("lib-hamgr"), HAMGR_UID, HAMGR_UID)
            os.chmod(node.path("lib-hamgr"), 0o700)
        self.start_storage()

    def make_certificates(self):
        """A CA of the cluster and a certificate for each node's name, by deploy/pki."""
        directory = os.path.join(self.room.dir, "pki")
        done = subprocess.run([PYTHON, PKI, "all", directory, *self.room.nodes],
                              capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            raise RoomError(done.stderr.strip())
        for node in self.nodes:
            for name, mode in (("ca.pem", 0o644), ("node.pem", 0o644), ("node.key", 0o640)):
                with open(os.path.join(directory, node.name, name), encoding="ascii") as file:
                    node.write(["etc-hamgr", "pki", name], file.read(), mode, gid=HAMGR_UID)

    def start_storage(self):
        self.room.call("spawn", name="storage", argv=[
            self.found["hamgr-storage"], "--dir", os.path.join(self.room.dir, "storage")])

    # --- hactl ---

    def live_node(self):
        for node in self.nodes:
            if node.is_on():
                return node
        raise RoomError("no node is on")

    def hactl(self, *argv, node=None, timeout_s=COMMAND_TIMEOUT_S):
        """Runs hactl --json on a node and returns the answer's data; HactlError if it failed."""
        done = (node or self.live_node()).run(["hactl", "--json", *argv], timeout_s=timeout_s,
                                              check=False)
        try:
            answer = json.loads(done.stdout) if done.stdout.strip() else {}
        except ValueError:
            answer = {}
        if done.returncode != 0 or not answer:
            raise HactlError(argv, done.returncode, answer, done.stderr or done.stdout)
        return answer["data"]

    def status(self, node=None):
        return self.hactl("status", node=node)

    def try_status(self, node=None):
        """status, or None while nobody can say: the daemon starts, the view is closed."""
        try:
            return self.status(node)
        except (HactlError, RoomError, subprocess.TimeoutExpired):
            return None

    def events(self, node=None, since=0):
        return self.hactl("events", "--since", str(since), "--count", "1000", node=node)["events"]

    def wait_status(self, condition, what, timeout_s, node=None, every_s=0.1):
        """Waits until condition(status) holds and returns that status."""
        def look():
            status = self.try_status(node)
            return status if status and condition(status) else None
        return wait_until(look, what, timeout_s, every_s)

    # --- birth ---

    def power_on(self):
        """All nodes on, corosync formed."""
        self.room.power_on_all()
        corosync.wait_members(self.nodes)

    def create(self):
        """Makes the cluster on the first node and takes the others in; ends with all as members."""
        for node in self.nodes:
            node.init("stop hamgrd")  # without a store it would only try again and again
        first = self.nodes[0]
        made = self.hactl("cluster", "init", "--name", self.name, *self.words_of(first), node=first)
        self.start_hamgrd(first)
        self.wait_status(lambda s: s["open"], f"{first.name} opens the first view", 30, node=first)
        for node in self.nodes[1:]:
            self.hactl("cluster", "add-node", node.name, *self.words_of(node)[2:],
                       *(["--witness"] if node.name == self.witness else []), node=first)
            self.hactl("cluster", "join", "--cluster-id", made["cluster_id"], "--generation",
                       str(made["generation"]), "--id", str(node.index), node=node)
            self.start_hamgrd(node)
        self.wait_members()

    def words_of(self, node):
        return ["--node-name", node.name, "--addr", node.addr, "--id", str(node.index)]

    def start_hamgrd(self, node):
        wait_until(lambda: node.services()["hamgrd"][0] == "down", "hamgrd is down", 15)
        node.init("start hamgrd")

    def wait_members(self, nodes=None, timeout_s=60):
        """Waits until hamgr counts exactly these nodes as members, all armed."""
        names = {node.name for node in nodes or self.nodes}

        def is_so(status):
            return status["open"] and {n["name"] for n in status["nodes"] if self.is_up(n)} == names
        return self.wait_status(is_so, f"members {' '.join(sorted(names))}", timeout_s,
                                node=(nodes or self.nodes)[0])

    @staticmethod
    def is_up(line):
        """A node's line of status: in the view, able to do its part."""
        return line["status"] == "member" and line["voter"] and (line["armed"] or line["witness"])

    # --- guests ---

    def definition(self, slot, memory_mib=8, **more):
        values = {"memory_mib": memory_mib, "observer_slot": slot, "seed": slot + 1, **more}
        return "".join(f"{key} = {value}\n" for key, value in values.items())

    def add_guest(self, name, memory_mib=8, options=(), **more):
        """Adds a guest that reports to a slot of its own; more = keys of its definition."""
        slot = len(self.slots)
        self.slots[name] = slot
        node = self.live_node()
        node.write(["hw", f"{name}.conf"], self.definition(slot, memory_mib, **more))
        self.hactl("guest", "add", name, "--config", f"/run/hamgr-node/{name}.conf", *options,
                   node=node)

    def homes(self, status=None):
        """guest -> node name, for guests that hamgr says run."""
        return {g["name"]: g["node"] for g in (status or self.status())["guests"]
                if g["phase"].upper() == "RUNNING"}

    def wait_running(self, names=None, timeout_s=60):
        """Waits until hamgr says the guests run and each passed its first check; their homes."""
        names = set(names if names is not None else self.slots)
        status = self.wait_status(lambda s: names <= set(self.homes(s)),
                                  f"{len(names)} guests run", timeout_s)
        wait_until(lambda: all(self.observer.u64(self.slots[name], 80) for name in names),
                   "first self-checks", timeout_s)
        return self.homes(status)

    def is_stepping(self, name, within_ms=500):
        """Does the observer see the guest make steps?"""
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        return now - self.observer.u64(self.slots[name], 56) < within_ms * 1000000

    def wait_checked(self, names, timeout_s=60):
        """Waits until the newest copy of each guest has checked all of its memory once.

        A restarted or moved copy does so first of all; later it goes round and round, slowly.
        """
        def is_checked(name):
            copies = self.observer.slot(self.slots[name]).copies
            return copies and copies[-1].first_check_ns
        wait_until(lambda: all(is_checked(name) for name in names), "self-checks of all memory",
                   timeout_s)

    def verdict(self, leave_out=()):
        """(double runs, damaged guests) the observer saw, leaving out guests made to be bad."""
        double = corrupt = 0
        for name, slot in self.slots.items():
            if name not in leave_out:
                double += self.observer.u64(slot, 8)
                corrupt += self.observer.u64(slot, 40) != 0
        return double, corrupt

    def plant_double_run(self, name, timeout_s=10):
        """Makes a foreign step in a guest's slot; TimeoutError if its own step does not see it."""
        slot = self.slots[name]
        before = self.observer.u64(slot, 8)
        self.observer.plant(slot)
        wait_until(lambda: self.observer.u64(slot, 8) > before,
                   f"{name} sees the planted double run", timeout_s, 0.01)

    def storage_report(self):
        """What the storage process, the witness of writes, has seen."""
        import socket
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(10)
            sock.connect(os.path.join(self.room.dir, "storage", "control.sock"))
            sock.sendall(b'{"cmd":"report"}\n')
            return json.loads(sock.makefile().readline())
