# SPDX-License-Identifier: Apache-2.0
"""The birth of hamgr's cluster on freshly booted nodes, by hactl, as an operator would do it."""

import json
import subprocess

from . import net
from .errors import LabError, wait_until

CLUSTER_NAME = "lab"
COMMAND_S = 120


def inside(machine, *words, timeout_s=COMMAND_S, is_checked=True):
    """Runs a command on a node and returns what it printed."""
    line = " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)
    try:
        done = subprocess.run([*machine.ssh(), line], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        raise LabError(f"{machine.name}: {words[0]} is not done within {timeout_s} s") from None
    if is_checked and done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise LabError(f"{machine.name}: {' '.join(words)}: exit {done.returncode}: {' / '.join(said[-3:])}")
    return done.stdout


def feed(machine, file, *words, timeout_s=300):
    """Runs a command on a node with an open file as its input."""
    try:
        done = subprocess.run([*machine.ssh(), " ".join(words)], stdin=file, capture_output=True,
                              text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        raise LabError(f"{machine.name}: {words[0]} is not done within {timeout_s} s") from None
    if done.returncode != 0:
        raise LabError(f"{machine.name}: {words[0]}: {done.stderr.strip()}")


def hactl(machine, *words):
    """hactl --json on a node; the answer's data."""
    text = inside(machine, "hactl", "--json", *words)
    try:
        return json.loads(text)["data"]
    except (ValueError, KeyError):
        raise LabError(f"{machine.name}: hactl {words[0]} answered no JSON: {text[:200]}") from None


def try_status(machine):
    try:
        return hactl(machine, "status")
    except LabError:
        return None


def words_of(machine):
    return ["--node-name", machine.name, "--addr", net.address(machine.index), "--id",
            str(machine.index)]


def start_hamgrd(machine):
    wait_until(lambda: "hamgrd down" in inside(machine, "lab-service", "status"),
               f"{machine.name}: hamgrd is down", 30, 0.3)
    inside(machine, "lab-service", "start", "hamgrd")


def corosync_members(machine):
    """Ids of the nodes corosync counts as members there; empty if it does not answer."""
    text = inside(machine, "corosync-cmapctl", "-b", "runtime.members.", is_checked=False)
    pairs = (line.partition(" (str) = ") for line in text.splitlines())
    return {int(key.split(".")[2]) for key, _, value in pairs
            if key.endswith(".status") and value.strip() == "joined"}


def create(machines, say):
    """Makes the cluster on the first node and takes the others in; ends when all are members."""
    wanted = {m.index for m in machines}
    for machine in machines:
        wait_until(lambda: corosync_members(machine) == wanted,
                   f"{machine.name}: corosync's members {sorted(wanted)}", 90, 0.5)
        inside(machine, "lab-service", "stop", "hamgrd")
    say("corosync has formed")
    first = machines[0]
    made = hactl(first, "cluster", "init", "--name", CLUSTER_NAME, *words_of(first))
    start_hamgrd(first)
    wait_until(lambda: (try_status(first) or {}).get("open"), f"{first.name} opens the first view",
               60, 0.5)
    for machine in machines[1:]:
        hactl(first, "cluster", "add-node", machine.name, *words_of(machine)[2:])
        hactl(machine, "cluster", "join", "--cluster-id", made["cluster_id"], "--generation",
              str(made["generation"]), "--id", str(machine.index))
        start_hamgrd(machine)
    wait_members(first, {m.name for m in machines})


def wait_members(machine, names, timeout_s=120):
    """Waits until hamgr counts exactly these nodes as members, their watchdogs armed."""
    def is_so():
        status = try_status(machine)
        return status and status["open"] and names == {
            node["name"] for node in status["nodes"]
            if node["status"] == "member" and node["voter"] and node["armed"]}
    wait_until(is_so, f"hamgr's members {' '.join(sorted(names))}, watchdogs armed "
               f"(deploy/lab exec {machine.name} hactl status tells more)", timeout_s, 0.5)
