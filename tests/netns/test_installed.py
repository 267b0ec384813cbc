#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What `cmake --install` leaves on a host, run from there: rooms stage programs themselves else. And
daemons under what their units allow them, which nothing but systemd would forbid else."""

import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "lib")]

import lab  # noqa: E402
import unitfilter  # noqa: E402
from harness import check, equal, main, scenario  # noqa: E402
from nslab import cluster as nscluster  # noqa: E402
from nslab.client import wait_until  # noqa: E402

FILES = (("share/man/man8", "hamgrd.8"), ("share/man/man8", "hactl.8"),
            ("share/man/man5", "hamgr.conf.5"), ("share/bash-completion/completions", "hactl"),
            ("lib/sysusers.d", "hamgr.conf"), ("lib/tmpfiles.d", "hamgr.conf"))


def install(build, prefix):
    done = subprocess.run(["cmake", "--install", build, "--prefix", prefix], check=False, timeout=60,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True)
    equal(done.returncode, 0, f"cmake --install: {done.stderr}")


def units(prefix):
    """unit -> the program it starts, as a path below the prefix it was configured for."""
    directory = os.path.join(prefix, "lib", "systemd", "system")
    found = {}
    for name in sorted(os.listdir(directory)):
        with open(os.path.join(directory, name), encoding="ascii") as file:
            for line in file:
                match = re.match(r"ExecSt\w+=[-+!:@]*(\S+)", line)
                if match:
                    found.setdefault(name, []).append(match.group(1))
    return found


def move_there(node, prefix):
    """The room's own programs are replaced by the installed ones."""
    lines = []
    for line in nscluster.service_lines(node):
        words = line.split(" ")
        for i, word in enumerate(words):
            base = os.path.basename(word)
            for folder in ("sbin", "bin"):
                path = os.path.join(prefix, folder, base)
                if word.startswith(nscluster.BIN) and os.path.exists(path):
                    words[i] = path
        lines.append(" ".join(words))
    node.set_programs(lines)


@scenario(90)
def installed_tree(context):
    """An installed hamgr starts, runs a guest, and moves it: nothing but what was installed."""
    prefix = tempfile.mkdtemp(prefix="hamgr-installed-", dir="/var/tmp")
    os.chmod(prefix, 0o755)  # the daemons are no root; and each node has a /run of its own
    try:
        install(context.build, prefix)
        for folder, name in FILES:
            check(os.path.exists(os.path.join(prefix, folder, name)), f"{folder}/{name} is missing")
        for unit, programs in units(prefix).items():
            for program in programs:
                base = os.path.basename(program)
                check(any(os.access(os.path.join(prefix, folder, base), os.X_OK)
                          for folder in ("sbin", "bin")) or base in ("systemctl", "true"),
                      f"{unit} starts {program}, which is not installed")
        cluster = lab.start(context, guests=1, prepared=lambda c: [move_there(node, prefix)
                                                                   for node in c.nodes])
        home = cluster.homes()["g1"]
        target = next(node.name for node in cluster.nodes if node.name != home)
        cluster.hactl("migrate", "g1", "--to", target)
        cluster.wait_checked(["g1"])
        equal(cluster.homes()["g1"], target, "the guest's node")
        for node in cluster.nodes:
            pid = node.services()["hamgrd"][1]
            self = node.run(["readlink", f"/proc/{pid}/exe"]).stdout.strip()
            equal(self, os.path.join(prefix, "sbin", "hamgrd"), f"hamgrd of {node.name}")
        lab.no_harm(cluster)
    finally:
        shutil.rmtree(prefix, ignore_errors=True)


def write_filters(build, directory):
    """Copies as_unit there, and writes unit's name -> file of what it allows for all that restrict."""
    shutil.copy(os.path.join(build, "tests", "as_unit"), directory)
    known, found = unitfilter.groups(), {}
    source = os.path.join(build, "deploy", "systemd")
    for name in os.listdir(source):
        if not name.endswith(".service"):
            continue
        with open(os.path.join(source, name), encoding="ascii") as file:
            unit = file.read()
        calls = unitfilter.allowed(unit, known)
        if calls is not None:
            found[name.removesuffix(".service")] = path = os.path.join(directory, name)
            with open(path, "w", encoding="ascii") as file:
                print("capabilities", *unitfilter.capabilities(unit), file=file)
                print(*sorted(calls), sep="\n", file=file)
    return found


def shut_in(node, directory, filters):
    """Daemons start under what their units allow."""
    lines = []
    for line in nscluster.service_lines(node):
        words = line.split(" ")
        if words[0] in filters:
            words[2:2] = [os.path.join(directory, "as_unit"), filters[words[0]]]
        lines.append(" ".join(words))
    node.set_programs(lines)


def starts(cluster, filters):
    """(node, daemon) -> how often it was started, of nodes that are on."""
    return {(node.name, name): entry[2] for node in cluster.nodes if node.is_on()
            for name, entry in node.services().items() if name in filters}


def is_filtered(node, service):
    pid = node.services()[service][1]
    return re.search(r"^Seccomp:\s+2$", node.run(["cat", f"/proc/{pid}/status"]).stdout, re.M)


@scenario(120)
def under_their_units(context):
    """No daemon does what its unit forbids: guests are added, moved and failed over, operators ask."""
    directory = tempfile.mkdtemp(prefix="hamgr-units-", dir="/var/tmp")
    os.chmod(directory, 0o755)
    try:
        filters = write_filters(context.build, directory)
        daemons = ("hamgrd", "hamgr-hv", "hamgr-fence", "hamgr-watchdog", "hamgr-disk")
        check(set(daemons) <= set(filters), f"units that restrict: {sorted(filters)}")
        cluster = lab.start(context, guests=2, prepared=lambda c: [shut_in(node, directory, filters)
                                                                   for node in c.nodes])
        before = starts(cluster, filters)  # hamgrd's are some: there was no cluster yet
        for node in cluster.nodes:
            for name in daemons:
                check(is_filtered(node, name), f"{name} on {node.name} has no filter")
        home = cluster.homes()["g1"]
        target = next(node.name for node in cluster.nodes if node.name != home)
        for words in (["status"], ["events"], ["explain", "g1"],
                      ["migrate", "g1", "--to", target, "--forecast"],
                      ["migrate", "g1", "--to", target], ["migrations"]):
            cluster.hactl(*words)
        cluster.nodes[0].run(["hactl", "doctor"], check=False)  # its exit code tells what it found
        cluster.wait_checked(["g1"])
        equal(starts(cluster, filters), before, "starts of each daemon")
        victim = cluster.room.nodes[target]
        victim.power_off()
        wait_until(lambda: target not in cluster.homes().values(), "the guest runs elsewhere", 40)
        lab.all_step(cluster)
        left = starts(cluster, filters)
        equal(left, {key: before[key] for key in left}, "starts of each daemon that is left")
        lab.no_harm(cluster)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
