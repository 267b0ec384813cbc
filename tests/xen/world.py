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

# An emulated node on a busy machine: a guest is made in 5 to 60 s and boots in 5 to 200 s, a fence agent
# takes 5 to 60 s, a node's boot 13 to 60 s, a cluster that comes up as a whole three times that.
START_S = 300
FAILOVER_S = 600
BACK_S = 600
ALONE_S = 240  # xl list on all nodes, one of which may boot, until what an end leaves behind is gone
LISTEN = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 7799))
while True:
    text = s.recv(300).decode("ascii", "replace").strip()
    print(time.monotonic(), text, flush=True)
"""

Beat = collections.namedtuple("Beat", "at name incarnation step")


PIDS = """
for pid in $(pgrep -x "$1"); do echo "$(cat /proc/sys/kernel/random/boot_id) $pid"; done
"""
REPORT = re.compile(r"guest: \S+ [0-9a-f]{16} step \d+ checked \d+ bad (\d+) disk \d+ disk_bad (\d+) gap \d+")


def check(condition, words):
    if not condition:
        raise AssertionError(words)


def complaints(said):
    """What a guest's console tells of things that must not be. A line that a power cut or xl destroy
    cut short tells nothing."""
    wrong = re.findall(r"guest: WRONG .*", said)
    return wrong + [found.group(0) for found in REPORT.finditer(said)
                    if int(found.group(1)) or int(found.group(2))]


def domains_in(listing, name):
    """The states of all domains of a guest in what `xl list` prints; a copy that arrives has a longer
    name."""
    states = []
    for line in listing.splitlines()[1:]:
        words = line.split()
        if len(words) >= 6 and re.fullmatch(rf"{re.escape(name)}(--incoming-\d+)?", words[0]):
            states.append(words[4])
    return states


def why_not_alone(found, cut):
    """Why these domains, [(node, state)], are not exactly one copy that runs; None if they are. Nodes
    in `cut` are out of the cluster: what they have must be paused."""
    out = [entry for entry in found if entry[0] in cut]
    copies = [entry for entry in found if entry[0] not in cut]
    if any("p" not in state for _, state in out):
        return f"a copy runs outside the cluster: {out}"
    if len(copies) != 1:
        return f"{len(copies)} copies: {copies}"
    return f"it is paused: {copies}" if "p" in copies[0][1] else None


def are_back(status, count):
    """Does hactl's status tell of count armed members?"""
    nodes = status.get("nodes") or []
    return len(nodes) == count and all(n["status"] == "member" and n["armed"] for n in nodes)


def mismatch(settings, kind):
    """Why a lab (the settings of one that is alive, or None) can't be used for that kind of scenario."""
    for key, value in (("hypervisor", kind.hypervisor), ("xen_helper", kind.helper),
                       ("driver", kind.driver)):
        if settings and settings.get(key, value) != value:
            return f"the lab is up with {key} {settings[key]}, {value} is wanted"
    return None


def newest(lines, pattern):
    """The match of the newest of these lines, or None."""
    matches = [found for found in map(re.compile(pattern).match, lines) if found]
    return matches[-1] if matches else None


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

    def __init__(self, options, kind):
        self.is_full = getattr(options, "full", False)
        self.trips = 3 if self.is_full else 1
        self.build = options.build
        self.place = Place(DEFAULT_DIR, options.lab)
        self.lab = Lab(self.place)
        if self.lab.alive() is None:
            self.lab.up(argparse.Namespace(nodes=kind.nodes, hypervisor=kind.hypervisor, driver=kind.driver,
                                           xen_helper=kind.helper, build=options.build, disks=4,
                                           token=3000, watchdog=15, memory=0, cold=False),
                        self.note)
        self.settings = self.lab.settings
        self.nodes = {m.name: m for m in self.lab.machines}
        self.cut = set()  # names of nodes without their cable: nobody to ask
        self.ear = Ear(self.place)

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

    def on_all(self, *words):
        """[(node, what a command printed there)] of all that are on, asked at once."""
        return cluster.together(lambda machine: (machine.name, cluster.inside(machine, *words)), self.on())

    def hactl(self, *words, node=None, timeout_s=120):
        """The answer (a document) of hactl on node, or on the first that is on and has its cable. One
        without data, with an error, if there is none."""
        asked = [m for m in self.on() if m.name not in self.cut]
        machine = self.nodes[node] if node else asked[0] if asked else None
        try:
            text = cluster.inside(machine, "hactl", "--json", *words, timeout_s=timeout_s,
                                  is_checked=False) if machine else ""
        except LabError as error:  # it is booting, or dies just now
            text = str(error)
        try:
            return json.loads(text)
        except ValueError:
            return {"ok": False, "data": None, "errors": [{"message": text[-200:] or "no answer"}]}

    def status(self, node=None):
        return self.hactl("status", node=node).get("data") or {}

    def guest(self, name, node=None):
        return next((g for g in self.status(node).get("guests", []) if g["name"] == name), {})

    def refusal(self, *words):
        """The sentence and the fix hactl refuses with."""
        errors = self.hactl(*words).get("errors") or []
        check(errors, f"hactl {' '.join(words)} was not refused")
        return errors[0].get("message", ""), errors[0].get("fix", "")

    # --- nodes ---

    def cable(self, node, is_in):
        """Pulls or plugs the cluster's cable; one whose power is off by now gets a plugged one with it."""
        (self.cut.discard if is_in else self.cut.add)(node)
        try:
            self.nodes[node].cable(is_in)
        except LabError:
            check(is_in and self.nodes[node].state() == "off", f"{node}: its cable can't be moved")

    def all_back(self, timeout_s=BACK_S):
        """Until all nodes are armed members. Who was fenced, be it late, is switched on again."""
        def back():
            for machine in self.nodes.values():
                if machine.state() == "off":
                    self.note(f"{machine.name} is off: switched on again")
                    try:
                        self.lab.switch_on(machine)
                    except LabError as error:  # fenced only now, while it comes back
                        self.note(str(error))
            return are_back(self.status(), len(self.nodes))
        wait_until(back, "all nodes are armed members", timeout_s, 1)

    def pids(self, node, program):
        """Of the processes of that name, each with the boot it is of; none if the node can't be
        asked."""
        try:
            return set(cluster.inside(self.nodes[node], "sh", "-c", PIDS, "sh", program,
                                      is_checked=False).splitlines())
        except LabError:
            return set()

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
        """Until it is heard and hamgr says that it runs (on node, if given); its newest beat."""
        began = time.monotonic()
        since = began if since is None else since

        def runs():
            guest = self.guest(name)
            return guest.get("phase") == "running" and node in (None, guest.get("node"))
        try:
            # The ear costs nothing; a status takes an emulated node a third of a second.
            wait_until(lambda: self.ear.of(name, since), f"{name} is heard", timeout_s, 0.2)
            left_s = round(timeout_s - (time.monotonic() - began), 1)
            wait_until(runs, f"{name} runs{' on ' + node if node else ''}", left_s, 1)
        except LabError as error:
            raise LabError(f"{error}; hamgr says: {self.guest(name)}") from None
        return self.ear.of(name, since)[-1]

    def wait_beat(self, name, timeout_s=START_S):
        """Until it is heard, whoever keeps it."""
        since = time.monotonic()
        return wait_until(lambda: self.ear.of(name, since), f"{name} is heard", timeout_s, 0.2)[-1]

    def wait_running_where(self, name, timeout_s=START_S):
        """The node of which hamgr says that it runs there, and not since it was lost."""
        def runs():
            guest = self.guest(name)
            return guest["node"] if guest.get("phase") == "running" else None
        return wait_until(runs, f"{name} runs", timeout_s, 1)

    def where(self, name):
        return self.guest(name).get("node")

    def other(self, name, but=None):
        """A member that does not run it, and not that one."""
        out = (self.where(name), but)
        return next(n["name"] for n in self.status().get("nodes", [])
                    if n["status"] == "member" and n["name"] not in out)

    def domains(self, name):
        """[(node, state)] of all domains of that name, by xl."""
        return [(node, state) for node, listing in self.on_all("xl", "list")
                for state in domains_in(listing, name)]

    def lines(self, node, log):
        machine = self.nodes[node]
        return cluster.inside(machine, "cat", f"/var/log/{log}", is_checked=False).splitlines()

    def check_guest(self, name):
        """Exactly one copy, which runs and goes on; its chains are whole; nobody wrote twice."""
        self.wait_running(name, since=time.monotonic())
        self.check_copies(name)

    def check_copies(self, name):
        """The same of a guest whoever keeps it, by xl, its console and the storage."""
        seen = []

        def alone():
            try:
                seen[:] = [why_not_alone(self.domains(name), self.cut)]
            except LabError as error:  # who can't be asked is not taken for empty
                seen[:] = [str(error)]
            return seen[0] is None
        try:
            wait_until(alone, f"one copy of {name}", ALONE_S, 1)
        except LabError as error:
            raise AssertionError(f"{error}: {seen[0] if seen else ''}") from None
        self.ear.check_one_copy(name)
        for node, said in self.on_all("sh", "-c", f"cat /var/log/xen/guest-{name}*.log 2> /dev/null; true"):
            found = complaints(said)
            check(not found, f"{name} on {node}: {found[:3]}")
        _, findings = storage.report(self.place)
        check(not findings, f"the storage's witness: {findings[:3]}")

    # --- what it took ---

    def took(self, node, verb, name):
        """(end, s) of the newest verb of that kind for a guest, from hamgrd's log; wall seconds."""
        found = newest(self.lines(node, "hamgrd.log"),
                       TIME + rf".*hamgr-hv: {verb} of {re.escape(name)} epoch \d+ took (\d+) ms")
        check(found, f"{node}'s hamgrd tells of no {verb} of {name}")
        return wall(found), int(found.group(4)) / 1e3

    def committed(self, node, what):
        """When the newest entry of that kind was applied; wall seconds of the day."""
        found = newest(self.lines(node, "hamgrd.log"), TIME + rf"\[info\] {what}")
        check(found, f"{node}'s hamgrd tells of no {what}")
        return wall(found)


TIME = r"\w+ \d+ (\d+):(\d+):([\d.]+) "


def wall(match):
    return int(match.group(1)) * 3600 + int(match.group(2)) * 60 + float(match.group(3))


__all__ = ["FAILOVER_S", "LabError", "START_S", "World", "check", "wait_until"]
