# SPDX-License-Identifier: Apache-2.0
"""A lab for scenarios on real Xen: its nodes, the guests under hamgr, and what an outsider sees.

The outsider hears each guest's packets (deploy/lib/xenlab/guest: name, incarnation, step) on the
cluster's network and asks the storage's witness; neither knows anything of hamgr's.
"""

import argparse
import collections
import json
import os
import re
import subprocess
import sys
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "deploy", "lib"))

from xenlab import cluster, net, storage  # noqa: E402
from xenlab.errors import LabError, wait_until  # noqa: E402
from xenlab.lab import Lab  # noqa: E402
from xenlab.place import DEFAULT_DIR, Place  # noqa: E402

# An emulated node on a busy machine: a guest is made in 5 to 60 s, a fence agent takes as long.
START_S = 180
FAILOVER_S = 300
LISTEN = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 7799))
while True:
    text = s.recv(300).decode("ascii", "replace").strip()
    print(time.monotonic(), text, flush=True)
"""

Beat = collections.namedtuple("Beat", "at name incarnation step")


def check(condition, words):
    if not condition:
        raise AssertionError(words)


class Ear:
    """All that guests said, in the order it was heard."""

    def __init__(self, place):
        self.beats = []
        self.process = subprocess.Popen(
            [*net.inside(place.namespace), sys.executable, "-B", "-c", LISTEN],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self.hear, daemon=True).start()

    def hear(self):
        for line in self.process.stdout:
            words = line.split()
            if len(words) == 5:
                self.beats.append(Beat(float(words[0]), words[1], words[2], int(words[3])))

    def of(self, name, since=0.0):
        return [b for b in list(self.beats) if b.name == name and b.at > since]

    def close(self):
        self.process.kill()
        self.process.wait()

    def check_one_copy(self, name):
        """A guest's copies followed each other: none was heard again after a later one, none went
        back in its own time."""
        gone, last = set(), None
        for beat in self.of(name):
            check(beat.incarnation not in gone, f"{name}: copy {beat.incarnation} was heard again "
                                                "after a later one: it ran twice")
            if last and last.incarnation == beat.incarnation:
                check(beat.step >= last.step, f"{name}: step {beat.step} after {last.step}")
            elif last:
                gone.add(last.incarnation)
            last = beat


class World:
    """A lab that is up, with an ear."""

    def __init__(self, options, hypervisor, nodes):
        self.place = Place(DEFAULT_DIR, options.lab)
        self.lab = Lab(self.place)
        if self.lab.settings is None:
            wanted = argparse.Namespace(nodes=nodes, hypervisor=hypervisor, driver="xen",
                                        build=options.build, disks=4, token=3000, watchdog=15,
                                        memory=0)
            self.lab.up(wanted, self.note)
        self.nodes = {m.name: m for m in self.lab.machines}
        self.ear = Ear(self.place)
        self.guests = {}

    @staticmethod
    def note(words):
        print(f"    {words}", flush=True)

    def close(self, keep=False):
        self.ear.close()
        if not keep:
            self.lab.down()

    # --- hactl ---

    def on(self):
        return [m for m in self.nodes.values() if m.state() == "on"]

    def hactl(self, *words, node=None, timeout_s=120):
        """The answer (a document) of hactl on node, or on the first that is on."""
        machine = self.nodes[node] if node else self.on()[0]
        text = cluster.inside(machine, "hactl", "--json", *words, timeout_s=timeout_s,
                              is_checked=False)
        try:
            return json.loads(text)
        except ValueError:
            return {"ok": False, "errors": [{"message": text[-200:] or "no answer"}]}

    def status(self, node=None):
        return self.hactl("status", node=node).get("data") or {}

    def guest(self, name, node=None):
        return next((g for g in self.status(node).get("guests", []) if g["name"] == name), {})

    def refusal(self, *words):
        """The sentence and the fix hactl refuses with."""
        errors = self.hactl(*words).get("errors") or []
        check(errors, f"hactl {' '.join(words)} was not refused")
        return errors[0].get("message", ""), errors[0].get("fix", "")

    # --- guests ---

    def add(self, name, kind, steps=1, write_ms=200, memory=128):
        """Adds a guest and waits until it is heard."""
        options = argparse.Namespace(guest=name, type=kind, memory=memory, working_set=16,
                                     steps=steps, disk=True, write_ms=write_ms)
        self.lab.guest(options)
        answer = self.hactl("guest", "add", name, "--config", f"/root/{name}.cfg")
        check(not answer.get("errors"), f"guest add {name}: {answer.get('errors')}")
        self.wait_running(name)

    def wait_running(self, name, timeout_s=START_S, node=None, since=None):
        """Until hamgr says that it runs (on node, if given) and it is heard; its newest beat."""
        since = time.monotonic() if since is None else since

        def runs():
            guest = self.guest(name)
            if guest.get("phase") != "running" or (node and guest.get("node") != node):
                return None
            heard = self.ear.of(name, since)
            return heard[-1] if heard else None
        return wait_until(runs, f"{name} runs{' on ' + node if node else ''}, and is heard",
                          timeout_s, 1)

    def where(self, name):
        return self.guest(name).get("node")

    def other(self, name):
        """A member that does not run it."""
        return next(n["name"] for n in self.status().get("nodes", [])
                    if n["status"] == "member" and n["name"] != self.where(name))

    def domains(self, name):
        """[(node, state)] of all domains of that name, by xl."""
        found = []
        for machine in self.on():
            for line in cluster.inside(machine, "xl", "list").splitlines()[1:]:
                words = line.split()
                if len(words) >= 6 and words[0].startswith(name):
                    found.append((machine.name, words[4]))
        return found

    def lines(self, node, log):
        machine = self.nodes[node]
        return cluster.inside(machine, "cat", f"/var/log/{log}", is_checked=False).splitlines()

    def check_guest(self, name):
        """Exactly one copy, which runs and goes on; its chains are whole; nobody wrote twice."""
        before = time.monotonic()
        self.wait_running(name, since=before)

        def alone():
            found = self.domains(name)
            return found if len(found) == 1 and "p" not in found[0][1] else None
        wait_until(alone, f"one copy of {name} ({self.domains(name)})", 60, 1)
        self.ear.check_one_copy(name)
        for machine in self.on():
            said = cluster.inside(machine, "sh", "-c",
                                  f"cat /var/log/xen/guest-{name}*.log 2> /dev/null",
                                  is_checked=False)
            wrong = re.findall(r"guest: WRONG .*", said)
            check(not wrong, f"{name} on {machine.name}: {wrong[:3]}")
            bad = [line for line in re.findall(r"guest: \S+ \S+ step .*", said)
                   if not re.search(r" bad 0 disk \d+ disk_bad 0 ", line)]
            check(not bad, f"{name} on {machine.name}: {bad[:3]}")
        _, findings = storage.report(self.place)
        check(not findings, f"the storage's witness: {findings[:3]}")

    # --- what it took ---

    def took(self, node, verb, name):
        """(end, ms) of the newest verb of that kind for a guest, from hamgrd's log; wall seconds."""
        found = None
        for line in self.lines(node, "hamgrd.log"):
            match = re.match(rf"(\w+ \d+ (\d+):(\d+):([\d.]+)) .*hamgr-hv: {verb} of {name} epoch "
                             r"\d+ took (\d+) ms", line)
            if match:
                found = (wall(match), int(match.group(5)) / 1e3)
        check(found, f"{node}'s hamgrd tells of no {verb} of {name}")
        return found

    def committed(self, node, what):
        """When the newest entry of that kind was applied; wall seconds of the day."""
        found = None
        for line in self.lines(node, "hamgrd.log"):
            match = re.match(rf"(\w+ \d+ (\d+):(\d+):([\d.]+)) \[info\] {what}", line)
            if match:
                found = wall(match)
        check(found, f"{node}'s hamgrd tells of no {what}")
        return found


def wall(match):
    return int(match.group(2)) * 3600 + int(match.group(3)) * 60 + float(match.group(4))


__all__ = ["FAILOVER_S", "LabError", "START_S", "World", "check", "wait_until"]
