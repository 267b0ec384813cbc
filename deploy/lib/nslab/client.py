# SPDX-License-Identifier: Apache-2.0
"""The hand of a program on a room: start one or find one, use its power, cables and nodes."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

from .node import HAMGR_UID, HERE, only_child, stamp

PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
MARKER = "nslab-room"  # a directory with this file is ours to remove
CALL_TIMEOUT_S = 60


class RoomError(Exception):
    """The room said no, with its reason."""


def wait_until(condition, what, timeout_s, every_s=0.02):
    """Waits for a condition and returns its value; TimeoutError names what did not come."""
    end = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {timeout_s:g} s")
        time.sleep(every_s)


def start_time(pid):
    """When a process started, in ticks since boot: tells it from a later one with its pid."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return int(file.read().rsplit(")", 1)[1].split()[19])
    except OSError:
        return 0


def specs_of(names):
    """The nodes of a room: numbered from 1, 10.77.0.N inside the room's own network."""
    return [{"name": name, "id": i, "addr": f"10.77.0.{i}"} for i, name in enumerate(names, 1)]


class Node:
    """A node's name with the verbs that act on it."""

    def __init__(self, room, spec):
        self.room = room
        self.name = spec["name"]
        self.index = spec["id"]
        self.addr = spec["addr"]
        self.dir = os.path.join(room.dir, "nodes", self.name)

    def describe(self):
        return next(n for n in self.room.call("nodes")["nodes"] if n["name"] == self.name)

    def is_on(self):
        return self.describe()["state"] == "on"

    def power_on(self):
        self.room.call("power_on", node=self.name)

    def power_off(self):
        """A power cut. Returns the clocks' stamps of its moment, after the node is gone."""
        return self.room.call("power_off", node=self.name).get("at")

    def cable(self, is_in):
        self.room.call("cable", node=self.name, is_in=is_in)

    def bmc(self, mode):
        self.room.call("bmc", node=self.name, mode=mode)

    def watchdog(self):
        """(armed, timeout ms, left ms) as the device sees it."""
        words = self.room.call("watchdog", node=self.name)["state"].split()
        return words[1] == "1", int(words[2]), int(words[3])

    # --- services ---

    def init(self, command):
        return self.room.call("init", node=self.name, command=command)["text"]

    def services(self):
        """name -> (state, pid inside the node, starts)"""
        lines = (line.split() for line in self.init("status").splitlines())
        return {w[0]: (w[1], int(w[2]), int(w[3])) for w in lines}

    def signal(self, service, number):
        """Sends a signal to a service's process; returns its pid inside the node."""
        state, pid, _ = self.services()[service]
        if state != "up":
            raise RoomError(f"{self.name}: {service} is {state}")
        self.run(["kill", f"-{int(number)}", str(pid)])
        return pid

    # --- commands inside ---

    def prefix(self):
        """What to put in front of a command that shall run inside the node."""
        pid = self.describe()["pid"]
        if pid == 0:
            raise RoomError(f"{self.name} is off")
        return ["nsenter", "-t", str(self.room.pid), "-m", "-n", "-p", "--",
                "nsenter", "-t", str(pid), "-m", "-u", "-i", "-n", "-p", "--"]

    def environment(self):
        path = "/run/hamgr-node/bin:/run/hamgr-node/agents:/usr/sbin:/usr/bin:/sbin:/bin"
        keep = {key: os.environ[key] for key in ("TERM", "LANG") if key in os.environ}
        return {"PATH": path, "HOME": "/root", **keep}

    def run(self, argv, timeout_s=30, check=True, text=None):
        """Runs a command inside the node; returns its CompletedProcess (text)."""
        done = subprocess.run(self.prefix() + argv, env=self.environment(), cwd="/", input=text,
                              stdin=None if text else subprocess.DEVNULL, text=True,
                              capture_output=True, timeout=timeout_s, check=False)
        if check and done.returncode != 0:
            raise RoomError(f"{self.name}: {' '.join(argv)}: exit {done.returncode}: "
                            f"{(done.stderr or done.stdout).strip()}")
        return done

    def popen(self, argv, **more):
        return subprocess.Popen(self.prefix() + argv, env=self.environment(), cwd="/", **more)

    # --- files ---

    def path(self, *parts):
        """A path on the node's disk (etc-hamgr, etc-corosync, lib-hamgr, log, hw)."""
        return os.path.join(self.dir, *parts)

    def write(self, parts, text, mode=0o644, uid=0, gid=0):
        """Writes a file of the node's disk, also while it is off."""
        path = self.path(*parts)
        data = text if isinstance(text, bytes) else text.encode()
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path + ".new", "wb") as file:
            os.fchmod(file.fileno(), mode)
            os.fchown(file.fileno(), uid, gid)
            file.write(data)
        os.rename(path + ".new", path)

    def set_programs(self, lines):
        """What hamgr-init starts from the next power-on on."""
        self.write(["hw", "programs"], "\n".join(lines) + "\n")


class Room:
    """A running room. Made by Room.start or Room.find."""

    def __init__(self, directory, specs, pid, process=None):
        self.dir = directory
        self.pid = pid  # of the room's PID 1, as seen here
        self.process = process
        self.is_kept = False
        self.nodes = {spec["name"]: Node(self, spec) for spec in specs}

    # --- start, find, end ---

    @classmethod
    def start(cls, directory, names):
        """Makes directory (absolute; must not exist or be empty) and a room with nodes, all off.

        The room ends, and the directory goes, when this process ends, unless keep() was called.
        """
        specs = specs_of(names)
        os.makedirs(directory, exist_ok=True)
        if os.listdir(directory):
            raise RoomError(f"{directory} is not empty")
        os.chmod(directory, 0o755)
        for name in ("bin", "agents", "observer", "storage", "nodes"):
            os.mkdir(os.path.join(directory, name))
        write_users(directory)
        for name in (MARKER, "remove-when-down"):
            with open(os.path.join(directory, name), "w", encoding="ascii"):
                pass
        with open(os.path.join(directory, "room.out"), "ab") as log:
            process = subprocess.Popen(
                ["unshare", "-n", "-m", "-p", "--fork", "--kill-child", "--mount-proc",
                 PYTHON, "-I", os.path.join(HERE, "room.py"), "--dir", directory,
                 "--nodes", json.dumps(specs)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd="/",
                start_new_session=True, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
        if process.stdout.readline() != b"ready\n":
            process.kill()
            process.wait()
            with open(os.path.join(directory, "room.out"), encoding="utf-8") as log:
                raise RoomError(f"the room did not start: {log.read()[-2000:]}")
        pid = only_child(process.pid)
        with open(os.path.join(directory, "room.json"), "w", encoding="ascii") as file:
            json.dump({"pid": pid, "started": start_time(pid), "nodes": specs}, file)
        return cls(directory, specs, pid, process)

    @classmethod
    def find(cls, directory):
        """The running room of a directory, or None."""
        try:
            with open(os.path.join(directory, "room.json"), encoding="ascii") as file:
                known = json.load(file)
        except (OSError, ValueError):
            return None
        if known["started"] == 0 or start_time(known["pid"]) != known["started"]:
            return None
        return cls(directory, known["nodes"], known["pid"])

    @staticmethod
    def sweep(directory):
        """Removes what a dead room left; refuses to touch what is not a room's."""
        if os.path.isdir(directory) and os.listdir(directory):
            if not os.path.exists(os.path.join(directory, MARKER)):
                raise RoomError(f"{directory} is not empty and not ours")
            shutil.rmtree(directory)

    def keep(self):
        """The room goes on when this process ends."""
        self.call("keep")
        self.is_kept = True

    def set_remove(self, is_removed):
        """Whether the directory goes with the room (it does, unless told otherwise)."""
        path = os.path.join(self.dir, "remove-when-down")
        if is_removed:
            with open(path, "w", encoding="ascii"):
                pass
        elif os.path.exists(path):
            os.unlink(path)

    def down(self):
        """Ends the room and everything in it; returns when the kernel is done with it."""
        pidfd = -1
        try:
            pidfd = os.pidfd_open(self.pid)
            if start_time(self.pid) == 0:
                return
            try:
                self.call("down", timeout_s=5)
            except (OSError, RoomError):
                pass
            if not wait_pidfd(pidfd, 15):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                wait_pidfd(pidfd, 15)
        except ProcessLookupError:
            pass
        finally:
            if pidfd >= 0:
                os.close(pidfd)
            if self.process:
                self.process.stdin.close()
                self.process.stdout.close()
                self.process.wait(timeout=15)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.down()

    # --- commands ---

    def call(self, do, timeout_s=CALL_TIMEOUT_S, **more):
        """Sends a command to the room and returns its answer; RoomError if it refuses."""
        directory = os.open(self.dir, os.O_PATH | os.O_DIRECTORY)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.settimeout(timeout_s)
                sock.connect(f"/proc/self/fd/{directory}/room.sock")
                sock.send(json.dumps({"do": do, **more}).encode())
                packet = sock.recv(262144)
        finally:
            os.close(directory)
        answer = json.loads(packet) if packet else {"ok": False, "error": "no answer"}
        if not answer["ok"]:
            raise RoomError(f"{do}: {answer.get('error')}")
        return answer

    def power_on_all(self):
        """All nodes at once, as after a blackout."""
        together([node.power_on for node in self.nodes.values()])

    def filters(self, filters):
        """Replaces the switch's filters; see wires.set_filters (ports by node name)."""
        self.call("filters", filters=filters)

    def events(self):
        """The room's log: cuts with their reasons and stamps."""
        with open(os.path.join(self.dir, "room.log"), encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def save_logs(self, target):
        """Copies the room's and its nodes' logs to a fresh directory."""
        shutil.rmtree(target, ignore_errors=True)
        os.makedirs(target)
        for name in os.listdir(self.dir):
            if name.endswith((".log", ".out")):
                shutil.copy(os.path.join(self.dir, name), target)
        for node in self.nodes.values():
            shutil.copytree(node.path("log"), os.path.join(target, node.name),
                            ignore_dangling_symlinks=True)

    def stage(self, programs, agents):
        """Copies programs (name -> path) to where the nodes see them; agents likewise."""
        for directory, files in (("bin", programs), ("agents", agents)):
            for name, path in files.items():
                target = os.path.join(self.dir, directory, name)
                shutil.copyfile(path, target + ".new")
                os.chmod(target + ".new", 0o755)
                os.rename(target + ".new", target)


def together(calls):
    """Runs calls on threads of their own; raises the first error after all have ended."""
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(max_workers=len(calls) or 1) as pool:
        for future in [pool.submit(call) for call in calls]:
            future.result()


def wait_pidfd(pidfd, timeout_s):
    """True when the process behind the pidfd has ended."""
    import select
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(int(timeout_s * 1000)))


def write_users(directory):
    """passwd and group of the nodes: the host's, and hamgr."""
    ids = f"{HAMGR_UID}:{HAMGR_UID}"
    for name, line in (("passwd", f"hamgr:x:{ids}::/var/lib/hamgr:/usr/sbin/nologin"),
                       ("group", f"hamgr:x:{HAMGR_UID}:")):
        with open(f"/etc/{name}", encoding="utf-8") as file:
            lines = [entry for entry in file.read().splitlines() if not entry.startswith("hamgr:")]
        with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
            file.write("\n".join(lines + [line]) + "\n")


__all__ = ["Room", "RoomError", "Node", "stamp", "together", "wait_until", "HAMGR_UID"]
