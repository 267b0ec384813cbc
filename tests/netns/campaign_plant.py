# SPDX-License-Identifier: Apache-2.0
"""Double runs made on purpose, so that the observer's silence about all others says something."""

import os
import subprocess

from nslab.client import wait_until

RUNS_S = 3
RUN_DIR = "/run/second-guest"


def second_guest(cluster, build, name):
    """Runs a second copy of a guest, with its own label, on a node that does not own it.

    Returns (foreign steps in the guest's page, foreign writes to its disk) that were seen; each
    must be more than none. The storage process knows writes only if the guest has a disk.
    """
    guest = next(g for g in cluster.status()["guests"] if g["name"] == name)
    node = next(n for n in cluster.nodes if n.is_on() and n.name != guest["node"])
    cluster.room.stage({"second_guest": os.path.join(build, "tests", "second_guest")}, {})
    with open(os.path.join(cluster.room.dir, "second.conf"), encoding="ascii") as definition:
        process = node.popen(["second_guest", RUN_DIR, str(node.index), guest["uuid"],
                              str(guest["epoch"]), str(RUNS_S)], stdin=definition,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    slot = cluster.slots[name]
    before = cluster.observer.u64(slot, 8)

    def writes():
        return sum(v["guest"] == guest["uuid"] for v in cluster.storage_report()["violations"])
    try:
        said = process.stdout.readline()
        if said != "runs\n":
            raise AssertionError(f"the second {name} does not run: {said}{process.stdout.read()}")
        wait_until(lambda: cluster.observer.u64(slot, 8) > before and writes(),
                   f"steps and writes of a second {name} are seen", RUNS_S, 0.05)
        process.wait(timeout=RUNS_S + 30)
    finally:
        process.kill()
        process.wait(timeout=10)
    return cluster.observer.u64(slot, 8) - before, writes()


def save_definition(cluster, text):
    """Keeps what a second copy will be made from."""
    with open(os.path.join(cluster.room.dir, "second.conf"), "w", encoding="ascii") as file:
        file.write(text)


def lying_device(cluster, name, victim, since_ns, timeout_s=40):
    """Cuts off a guest's node while all power devices say "off" without acting.

    Its peers believe them and start the guest, while the node still has a lease: a real double run.
    Returns the foreign steps seen; 0 if the liar was found out by luck of timing.
    """
    slot = cluster.slots[name]
    before = cluster.observer.u64(slot, 8)
    for node in cluster.nodes:
        node.bmc("lie")
    victim.cable(False)

    def begun_elsewhere():
        return any(copy.first_step_ns > since_ns and copy.word.node != victim.index
                   for copy in cluster.observer.slot(slot).copies)
    wait_until(begun_elsewhere, f"{name} is started elsewhere on a liar's word", timeout_s)
    try:
        wait_until(lambda: cluster.observer.u64(slot, 8) > before, "the double run is seen", 5)
    except TimeoutError:
        pass
    for node in cluster.nodes:
        node.bmc("ok")
    victim.power_off()
    victim.cable(True)
    return cluster.observer.u64(slot, 8) - before
