#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Follows deploy/INSTALL.md on bare nodes of a lab, under Debian's systemd, to guests that move.

What an operator types stands here as in the document, with the lab's names and addresses, and each such
line must be there. Not followed: chapter 1's build (the lab brings hamgr; only the units are made with the
document's option), 2's grub, 3's schedulers, 4's servers. Packages that a node lacks come from this
machine's apt.
"""

import os
import re
import subprocess
import sys
import tempfile
import time

from harness import main, scenario
from moving import move
from world import FAILOVER_S, ROOT, check, wait_until
from xenlab import bmc, cluster, net, seed
from xenlab.errors import read, run
from xenlab.net import address

ALL_S = 3600
INSTALL_S = 900  # dpkg on three emulated nodes that share two processors
ARMED_S = 300
MISSING = ("systemd", "dbus", "chrony")
HV_OPTIONS = "--driver xen --peer-user hamgr"
ENABLE = ("systemctl", "enable", "--now", "corosync", "hamgr-watchdog", "hamgr-fence", "hamgr-hv", "hamgrd",
          "hamgr-shutdown")
DOCUMENT = os.path.join(ROOT, "deploy", "INSTALL.md")
# An emulated node is slow: see seed.py for why each.
SLOW = ("[cluster]", "heartbeat = 1s", "[migration]", "idle-timeout = 120s", "grace = 60s", "level = 1",
        "cache = 0", "[watchdog]", "timeout = 15s", "")


def as_written(line):
    """A line that an operator types; it must stand in the document."""
    check(line in read(DOCUMENT), f"{DOCUMENT} does not say: {line}")
    return line.removeprefix("sudo ")


def put(machine, path, text, mode="0644", owner="root:root"):
    with tempfile.TemporaryFile("w+") as file:
        file.write(text)
        file.seek(0)
        cluster.feed(machine, file, f"mkdir -p {os.path.dirname(path)} && cat > {path} && chmod {mode} {path} "
                                    f"&& chown {owner} {path}")


def each(world, function):
    cluster.together(function, list(world.nodes.values()))


# --- chapter 1 ------------------------------------------------------------------------------------

def fetch_packages(world, directory):
    """The packages that a node lacks for systemd and chrony, by this machine's apt."""
    archives = os.path.join(directory, "archives")
    os.makedirs(os.path.join(archives, "partial"))
    status = os.path.join(directory, "status")
    with open(status, "w", encoding="utf-8") as file:
        file.write(cluster.inside(world.nodes["n1"], "cat", "/var/lib/dpkg/status"))
    run(["apt-get", "-y", "--download-only", "--no-install-recommends", "-o", f"Dir::State::status={status}",
         "-o", f"Dir::Cache::archives={archives}", "install", *MISSING], 300, "fetching packages")
    return archives


def has_systemd(machine):
    return "yes" in cluster.inside(machine, "sh", "-c", "[ -x /lib/systemd/systemd ] && echo yes", is_checked=False)


def give_packages(world, archives):
    def give(machine):
        with tempfile.TemporaryFile() as file:
            subprocess.run(["tar", "-c", "-C", archives, "--exclude=partial", "--exclude=lock", "."],
                           stdout=file, check=True, timeout=60)
            file.seek(0)
            cluster.feed(machine, file, "mkdir -p /root/debs && tar -x -C /root/debs -f -")
        cluster.inside(machine, "sh", "-c", "export DEBIAN_FRONTEND=noninteractive; cd /root/debs && "
                       "dpkg --force-confold -i *.deb && systemctl enable ssh", timeout_s=INSTALL_S)
    each(world, give)


def give_units(world, directory):
    """The unit of hamgr-hv as the document's option makes it. A lab's node unpacks hamgr anew at each
    boot, so what is its own stands in /etc."""
    check(f'-DHAMGR_HV_OPTIONS="{HV_OPTIONS}"' in read(DOCUMENT), "the document has other options")
    made = os.path.join(directory, "units")
    run(["cmake", "-S", ROOT, "-B", made, f"-DHAMGR_HV_OPTIONS={HV_OPTIONS}"], 300, "configuring")
    unit = read(os.path.join(made, "deploy", "systemd", "hamgr-hv.service"))
    opened = read(os.path.join(ROOT, "deploy", "systemd", "hamgr-hv-xen.conf"))

    def give(machine):
        put(machine, "/etc/systemd/system/hamgr-hv.service", unit)
        put(machine, "/etc/systemd/system/hamgr-hv.service.d/xen.conf", opened)
    each(world, give)


def boot_systemd(world):
    """From now on each node's first process is systemd."""
    def boot(machine):
        cluster.inside(machine, "sync")
        machine.power_off()
        world.lab.switch_on(machine)
        wait_until(lambda: cluster.inside(machine, "systemctl", "is-system-running", is_checked=False)
                   .strip() in ("running", "degraded"), f"{machine.name}'s systemd has started all", ARMED_S, 2)
    each(world, boot)


def programs(world):
    with tempfile.TemporaryDirectory(prefix="hamgr-install-") as directory:
        if not has_systemd(world.nodes["n1"]):  # a lab that was kept may
            give_packages(world, fetch_packages(world, directory))
        give_units(world, directory)
    boot_systemd(world)
    for line in (as_written("sudo systemctl disable --now corosync"),
                 as_written("sudo mv /etc/corosync/corosync.conf /etc/corosync/corosync.conf.debian")):
        each(world, lambda machine, words=line.split(): cluster.inside(machine, *words))
    for machine in world.nodes.values():
        line = as_written("sudo systemd-sysusers && sudo systemd-tmpfiles --create && sudo systemctl daemon-reload")
        cluster.inside(machine, "sh", "-c", line.replace("sudo ", ""))
        check("hactl" in cluster.inside(machine, "hactl", "--version"), "no hactl")
        cluster.inside(machine, "getent", "passwd", "hamgr")


# --- chapters 2 to 7 ------------------------------------------------------------------------------

def xen_and_files(world):
    for machine in world.nodes.values():
        check("4.17" in cluster.inside(machine, "xl", "info"), "xl info does not tell of Xen 4.17")
        check(cluster.inside(machine, "cat", "/sys/hypervisor/type").strip() == "xen", "this is not Xen")
        put(machine, "/etc/hamgr/xen-allow.conf", seed.XEN_ALLOW)


def configuration(world):
    pki = world.place.of_lab("pki")

    def give(machine):
        for name in ("ca.pem", "node.pem", "node.key"):
            put(machine, f"/etc/hamgr/pki/{name}", read(os.path.join(pki, machine.name, name)))
        line = as_written("sudo chown root:hamgr /etc/hamgr/pki/node.key && sudo chmod 0640 "
                          "/etc/hamgr/pki/node.key")
        cluster.inside(machine, "sh", "-c", line.replace("sudo ", ""))
        put(machine, "/etc/hamgr/hamgr.conf", "\n".join(SLOW))
        line = as_written("sudo openssl verify -CAfile /etc/hamgr/pki/ca.pem /etc/hamgr/pki/node.pem")
        cluster.inside(machine, *line.split())
        check("i6300ESB" in cluster.inside(machine, "cat", "/sys/class/watchdog/watchdog0/identity"),
              f"{machine.name} has no watchdog")
    each(world, give)


def fencing(world):
    machines = list(world.nodes.values())
    for machine in machines:
        others = [m for m in machines if m is not machine]
        put(machine, "/etc/hamgr/fence.conf", bmc.fence_conf(others), "0600")
    said = cluster.inside(machines[0], "fence_ipmilan", "-a", net.bmc_address(2), "-l", bmc.USER, "-p",
                          bmc.PASSWORD, "-P", "-C", "3", "-o", "status", timeout_s=240)
    check("ON" in said, f"fence_ipmilan says: {said}")


# --- chapter 8 ------------------------------------------------------------------------------------

def join(world, first, machine):
    """What add-node prints is done on the node it is about."""
    line = as_written("sudo hactl cluster add-node n2 --addr 10.0.0.2 --id 2")
    words = line.replace("n2", machine.name).replace("10.0.0.2", address(machine.index)).split()
    words[-1] = str(machine.index)
    printed = cluster.inside(first, *words)
    shown = re.search(r"(hactl cluster join .*)", printed)
    check(shown, f"add-node prints: {printed}")
    put(machine, "/etc/corosync/corosync.conf", cluster.inside(first, "cat", "/etc/corosync/corosync.conf"))
    key = cluster.inside(first, "base64", "-w0", "/etc/corosync/authkey")
    cluster.inside(machine, "sh", "-c", f"echo {key} | base64 -d > /etc/corosync/authkey; "
                                        "chmod 0400 /etc/corosync/authkey")
    cluster.inside(machine, *shown.group(1).split())


def add_to_nodelist(machine, others):
    """All nodes in corosync.conf's nodelist, as the document has it, and a token for emulated nodes."""
    conf = cluster.inside(machine, "cat", "/etc/corosync/corosync.conf")
    nodes = "".join(f"  node {{\n    name: {m.name}\n    nodeid: {m.index}\n    ring0_addr: {address(m.index)}\n"
                    "  }\n" for m in others)
    conf = re.sub(r"(nodelist \{\n)", rf"\1{nodes}", conf)
    put(machine, "/etc/corosync/corosync.conf", conf)


def make_cluster(world):
    first, *others = world.nodes.values()
    line = as_written("sudo hactl cluster init --name east --addr 10.0.0.1")
    cluster.inside(first, *line.replace("10.0.0.1", address(1)).split(), "--token", "3s")
    add_to_nodelist(first, others)
    check("sudo " + " ".join(ENABLE) in read(DOCUMENT), "the document starts other services")
    cluster.inside(first, *ENABLE, timeout_s=ARMED_S)
    wait_until(lambda: any(n["armed"] for n in world.status("n1").get("nodes") or []), "n1 is armed",
               ARMED_S, 1)
    for machine in others:
        join(world, first, machine)
    cluster.together(lambda m: cluster.inside(m, *ENABLE, timeout_s=ARMED_S), others)
    world.all_back()
    findings = (world.hactl("doctor").get("data") or {}).get("findings") or []
    errors = [f for f in findings if f["severity"] == "error"]
    world.note("doctor: " + ", ".join(sorted({f"{f['severity']} {f['code']}" for f in findings})))
    check(not errors, f"hactl doctor: {errors}")


# --- chapters 9 and 10 ----------------------------------------------------------------------------

def prove_fencing(world):
    as_written("sudo hactl fence n2")
    answer = world.hactl("fence", "n2", "--yes", node="n1", timeout_s=FAILOVER_S)
    check(not answer.get("errors"), f"fence n2: {answer.get('errors')}")
    wait_until(lambda: world.nodes["n2"].state() == "off", "n2 goes dark", FAILOVER_S, 1)
    world.all_back()


def guests(world):
    """A guest of each kind starts, and moves there and back."""
    as_written("sudo hactl guest add web1 --config web1.cfg")
    for name, kind in (("pv1", "pv"), ("pvh1", "pvh")):
        began = time.monotonic()
        world.add(name, kind)
        world.note(f"{name} is heard {time.monotonic() - began:.1f} s after guest add")
        told = cluster.inside(world.nodes["n1"], *as_written("hactl explain web1").replace("web1", name).split())
        check(name in told, f"explain {name}: {told}")
        move(world, name, "--on-slow", "pause")
        move(world, name, "--on-slow", "pause")


def power_cut(world):
    """Pull the power of a guest's node, and it runs elsewhere."""
    node = world.where("pv1")
    before, began = world.wait_beat("pv1").incarnation, time.monotonic()
    world.nodes[node].power_off()
    wait_until(lambda: [b for b in world.ear.of("pv1", began) if b.incarnation != before],
               "pv1 runs elsewhere", FAILOVER_S, 0.5)
    world.note(f"pv1 is heard again {time.monotonic() - began:.1f} s after {node}'s power cut")
    world.all_back()
    for name in ("pv1", "pvh1"):
        world.check_guest(name)


def units(world):
    """No program of hamgr's was stopped by what its unit forbids, none has failed."""
    for machine in world.nodes.values():
        said = cluster.inside(machine, "journalctl", "-k", "-b", "-g", "type=1326", is_checked=False)
        check("type=1326" not in said, f"{machine.name}: {said[-300:]}")
        failed = cluster.inside(machine, "systemctl", "--failed", "--plain", "--no-legend")
        check("hamgr" not in failed and "corosync" not in failed, f"{machine.name}: {failed}")


CHAPTERS = (programs, xen_and_files, configuration, fencing, make_cluster, prove_fencing, guests, power_cut,
            units)


@scenario(ALL_S, driver="none", helpers=(), extra=("stock",))
def install_by_the_document(world):
    """Bare nodes become a cluster whose guests move and survive a power cut, as INSTALL.md says."""
    for chapter in CHAPTERS:
        began = time.monotonic()
        chapter(world)
        print(f"  {chapter.__name__}: done in {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
