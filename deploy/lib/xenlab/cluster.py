# SPDX-License-Identifier: Apache-2.0
"""The birth of hamgr's cluster on freshly booted nodes, by hactl, as an operator would do it."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor

from . import net
from .errors import LabError

MADE = "/var/lib/hamgr-lab/made"  # lets hamgr-fence start (dom0/lab-fence)
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


def data(machine, text):
    """What hactl --json answered."""
    try:
        return json.loads(text)["data"]
    except (ValueError, KeyError):
        raise LabError(f"{machine.name}: hactl answered no JSON: {text[:200]}") from None


def together(function, machines):
    """function(machine) for all at once; the first error counts."""
    with ThreadPoolExecutor(len(machines) or 1) as pool:
        return list(pool.map(function, machines))


def create(machines, say):
    """Makes the cluster on the first node and takes the others in; ends when all are members with
    armed watchdogs. Each node's part is one command there (dom0/lab-join)."""
    first, others, count = machines[0], machines[1:], str(len(machines))
    made = data(first, inside(first, "lab-join", "init", count, "--name", CLUSTER_NAME, "--node-name",
                              first.name, "--addr", net.address(first.index), "--id",
                              str(first.index), timeout_s=480))
    say("corosync has formed, and the first node is armed")
    if others:
        inside(first, "lab-join", "add", *(word for m in others for word in
                                           (m.name, net.address(m.index), str(m.index))))
    together(lambda m: inside(m, "lab-join", "join", "--cluster-id", made["cluster_id"],
                              "--generation", str(made["generation"]), "--id", str(m.index),
                              timeout_s=240), others)
    inside(first, "lab-join", "members", count, timeout_s=360)
    together(lambda m: inside(m, "touch", MADE), machines)
