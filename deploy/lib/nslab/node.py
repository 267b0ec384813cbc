# SPDX-License-Identifier: Apache-2.0
"""A node as the room sees it: power, a cable, and a PID namespace that lives or does not."""

import os
import signal
import subprocess
import threading
import time
import uuid

from . import wires

OFF, STARTING, ON, ENDING = "off", "starting", "on", "ending"
START_TIMEOUT_S = 20
NAMESPACES = ["-n", "-m", "-u", "-i", "-p"]
# A user of the nodes' own; the host needs none of that name.
HAMGR_UID = 64117
HERE = os.path.dirname(os.path.abspath(__file__))


def stamp():
    """Now, on the clocks that every namespace of this machine shares."""
    return {"mono_ns": time.clock_gettime_ns(time.CLOCK_MONOTONIC),
            "raw_ns": time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW),
            "real_ns": time.clock_gettime_ns(time.CLOCK_REALTIME)}


def wait_for(condition, what, timeout_s=START_TIMEOUT_S):
    """Polls each millisecond: for what the kernel gives no event for."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"{what}: not within {timeout_s} s")
        time.sleep(0.001)


def only_child(pid):
    """The child of a single-threaded process, or 0."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            words = file.read().split()
    except OSError:
        return 0
    return int(words[0]) if words else 0


class Node:
    """One node. Everything but boot() runs on the room's main thread."""

    def __init__(self, room_dir, spec):
        self.name = spec["name"]
        self.index = spec["id"]
        self.addr = spec["addr"]
        self.room_dir = room_dir
        self.dir = os.path.join(room_dir, "nodes", self.name)
        self.port = f"port{self.index}"
        self.state = OFF
        self.has_cable = True
        self.is_cut_wanted = None  # a reason: power was cut while it started
        self.process = None
        self.pid = 0
        self.pidfd = -1
        self.cut_stamp = None
        self.sweeper = None
        self.make_disk()

    def make_disk(self):
        """The node's disk and its hardware identity; kept if they are there."""
        for name in ("run", "hw", "hw/bin", "hw/agents", "hw/log", "log", "etc-corosync",
                     "etc-hamgr", "lib-corosync", "lib-hamgr"):
            os.makedirs(os.path.join(self.dir, name), exist_ok=True)
        path = os.path.join(self.dir, "hw", "product_uuid")
        if not os.path.exists(path):
            self.write_hw("product_uuid", f"{uuid.uuid4()}\n")

    def write_hw(self, name, text):
        with open(os.path.join(self.dir, "hw", name), "w", encoding="ascii") as file:
            file.write(text)

    def describe(self):
        return {"name": self.name, "id": self.index, "addr": self.addr, "state": self.state,
                "has_cable": self.has_cable, "pid": self.pid}

    # --- power on: boot() on a thread of its own, then booted() or boot_failed() ---

    def boot(self):
        """Starts the namespaces, plugs the cable, waits until hamgr-init runs."""
        if self.sweeper:
            self.sweeper.join()
        self.write_hw("boot_id", f"{uuid.uuid4()}\n")
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8",
               "NODE_NAME": self.name, "NODE_ADDR": f"{self.addr}/24", "NODE_DIR": self.dir,
               "ROOM_DIR": self.room_dir, "HAMGR_NODE_ID": str(self.index),
               "HAMGR_UID": str(HAMGR_UID)}
        with open(os.path.join(self.dir, "log", "boot.log"), "ab") as log:
            self.process = subprocess.Popen(
                ["unshare", *NAMESPACES, "--fork", "--kill-child", "--mount-proc",
                 os.path.join(HERE, "node-setup")],
                stdin=subprocess.PIPE, stdout=log, stderr=log, env=env, cwd="/",
                start_new_session=True)
        wait_for(lambda: only_child(self.process.pid) or self.process.poll() is not None,
                 f"{self.name}: first process")
        self.pid = only_child(self.process.pid)
        if self.pid == 0:
            raise RuntimeError(f"{self.name}: unshare ended, see log/boot.log")
        self.pidfd = os.pidfd_open(self.pid)
        wires.plug_in(self.port, self.pid, f"02:00:00:00:00:{self.index:02x}", self.has_cable)
        self.process.stdin.write(b"go\n")
        self.process.stdin.close()
        control = f"/proc/{self.pid}/root/run/hamgr-init.sock"
        wait_for(lambda: os.path.exists(control) or self.process.poll() is not None,
                 f"{self.name}: hamgr-init")
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name}: ended while starting, see log/boot.log, log/init.log")

    def booted(self):
        self.state = ON

    def boot_failed(self):
        """Takes apart what boot() left; the node is off."""
        if self.process:
            self.process.kill()
        self.gone()

    # --- power off ---

    def set_cable(self, is_in):
        self.has_cable = is_in
        if self.state == ON:
            wires.set_link(self.port, is_in)

    def cut(self):
        """Power off: first the cable, then PID 1. gone() follows when the kernel is done."""
        if self.state != ON:
            return
        self.cut_stamp = stamp()
        self.state = ENDING
        try:
            wires.set_link(self.port, False)
        except OSError:
            pass  # the namespace is dissolving already, and took the cable with it
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def gone(self):
        """PID 1 was the last of its namespace: the kernel reaps all others before it ends.

        What is left to sweep takes milliseconds, so it is not done here.
        """
        if self.pidfd >= 0:
            os.close(self.pidfd)
        self.pidfd = -1
        self.pid = 0
        self.state = OFF
        self.sweeper = threading.Thread(target=self.sweep, args=(self.process,), daemon=True)
        self.process = None
        self.sweeper.start()

    def sweep(self, process):
        """Reaps unshare and removes the cable, which the dying namespace may have taken along."""
        if process:
            process.wait()
        wires.unplug(self.port)
