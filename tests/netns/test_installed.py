#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What `cmake --install` leaves on a host, run from there: rooms stage programs themselves else."""

import os
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import lab  # noqa: E402
from harness import check, equal, main, scenario  # noqa: E402
from nslab import cluster as nscluster  # noqa: E402

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


if __name__ == "__main__":
    sys.exit(main())
