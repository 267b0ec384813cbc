# SPDX-License-Identifier: Apache-2.0
"""What a node gets beside Debian: plain tar archives that its initramfs unpacks at each boot.

shared.tar: the lab's own files and hamgr as `cmake --install` leaves it: a new build needs no new
image. own.tar: name, addresses, keys, certificate, corosync's and hamgr's configuration.
"""

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time

from . import bmc, net
from .errors import LabError, read, read_bytes, run
from .place import HERE, ROOT

sys.path.insert(0, os.path.dirname(HERE))
from nslab import corosync  # noqa: E402

# Disks keep their sizes while what is on them differs: a machine's memory knows them (snapshot.py).
SHARED_BYTES, OWN_BYTES = 256 << 20, 1 << 20
WAKE_BYTES = 512  # at the end of the own one: what a sleeping machine looks at
HAMGR_UID = 990  # as lab-init makes it
SBIN = "/usr/local/sbin"
SSHD_CONFIG = """HostKey /etc/ssh/lab_host_key
PermitRootLogin prohibit-password
PasswordAuthentication no
UseDNS no
Subsystem sftp internal-sftp
AcceptEnv LANG
"""
# ipmitool reads all vendors of the world before anything else: a minute or more in an emulated node.
# It insists on one of them.
IPMI_VENDORS = "Decimal\n0\n  Reserved\n    Internet Assigned Numbers Authority\n      iana&iana.org\n"
# A token that goes round takes an emulated node 15 ms of its processor, and with some messages each
# second it would never rest: 40 % of the processor, for nothing.
IDLE_TURNS = 3
# Where guests' kernels and disks may be: what guests.py and storage.py name.
XEN_ALLOW = "root = /var/lib/hamgr-lab\nroot = /dev\n"
SSH_CONFIG = """Host *
    IdentityFile /root/.ssh/lab_key
    UserKnownHostsFile /root/.ssh/known_hosts
    LogLevel ERROR
"""


class Tar:
    """A tar archive under way."""

    def __init__(self, path):
        self.path = path
        self.tar = tarfile.open(f"{path}.new", "w", format=tarfile.GNU_FORMAT)

    def add(self, name, content, mode=0o644, gid=0):
        data = content.encode() if isinstance(content, str) else content
        member = tarfile.TarInfo(name)
        member.size, member.mode, member.gid = len(data), mode, gid
        member.mtime = time.time()
        self.tar.addfile(member, io.BytesIO(data))

    def add_tree(self, directory):
        for name in sorted(os.listdir(directory)):  # not the directory itself: / is not ours
            self.tar.add(os.path.join(directory, name), arcname=name, filter=as_root)

    def done(self, disk_bytes):
        """Fills it up to a disk of that size; returns the size of the archive itself."""
        self.tar.close()
        with open(f"{self.path}.new", "ab") as file:
            size = file.tell()
            if size > disk_bytes - WAKE_BYTES:
                raise LabError(f"{self.path} has {size >> 20} MiB, its disk no more than "
                               f"{disk_bytes >> 20}; a build without sanitizers is smaller")
            file.truncate(disk_bytes)
        os.rename(f"{self.path}.new", self.path)
        return size


def as_root(member):
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


# --- what all nodes share -------------------------------------------------------------------------

def install(build, directory):
    """cmake --install of a build directory into `directory`, stripped."""
    if not os.path.exists(os.path.join(build, "cmake_install.cmake")):
        raise LabError(f"{build} is no build directory; make one (cmake --preset release && cmake "
                       "--build --preset release), or name one with --build DIR")
    run(["cmake", "--install", build, "--strip"], 120, f"installing {build}",
        env={**os.environ, "DESTDIR": directory})
    if not os.access(directory + os.path.join(SBIN, "hamgr-init"), os.X_OK):
        raise LabError(f"{build} does not install {SBIN}/hamgr-init; configure it with the prefix "
                       "/usr/local (the default) and build it")


def make_shared(place, build, guests=()):
    """shared.tar from a build; guests = [(name in the node, path here)]. Returns the archive's size."""
    with tempfile.TemporaryDirectory(prefix="install-", dir=place.lab) as directory:
        install(build, directory)
        archive = Tar(place.of_lab("shared.tar"))
        archive.add_tree(directory)
        archive.add("sbin/lab-init", read(os.path.join(HERE, "dom0", "lab-init")), 0o755)
        for name in ("lab-service", "lab-join", "lab-hamgrd", "lab-fence"):
            archive.add(f"usr/local/sbin/{name}", read(os.path.join(HERE, "dom0", name)), 0o755)
        hotplug = os.path.join(build, "deploy", "lab-hotplug")
        if os.path.exists(hotplug):  # built where Xen's headers are
            for name in ("block", "vif-bridge"):
                archive.add(f"etc/xen/scripts/{name}", read_bytes(hotplug), 0o755)
        archive.add("usr/share/misc/enterprise-numbers.txt", IPMI_VENDORS)
        for name, path in guests:
            with open(path, "rb") as file:
                archive.add(name, file.read())
        return archive.done(SHARED_BYTES)


# --- what is a node's own -------------------------------------------------------------------------

def make_keys(place, machines):
    """One ssh key for the lab and its nodes among themselves, one host key for all nodes."""
    for name in ("key", "host_key"):
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", place.of_lab(name)], 30,
            "making ssh keys")
    host = " ".join(read(place.of_lab("host_key.pub")).split()[:2])
    names = [name for m in machines for name in (m.name, net.address(m.index),
                                                 net.admin_address(m.index))]
    with open(place.of_lab("known_hosts"), "w", encoding="ascii") as file:
        file.write("".join(f"{name} {host}\n" for name in names))


def make_certificates(place, machines):
    pki = os.path.join(ROOT, "deploy", "pki")
    run([sys.executable, pki, "all", place.of_lab("pki"), *(m.name for m in machines)], 60,
        "making certificates")


def hamgr_conf(machine, options):
    lines = ["[node]", f"name = {machine.name}", f"hypervisor = {options.driver}"]
    lines += [f"memory = {options.memory}MiB"] if options.memory else []
    # Half as often as by default: a heartbeat costs some 10 ms of an emulated processor.
    lines += ["", "[cluster]", "heartbeat = 1s"]
    # libxc looks at a million page numbers of a PVH guest, most of which are no pages, one by one.
    # And on a busy machine an emulated node may stand still for longer than a peer's default grace, 8 s:
    # twice the watchdog's 15 s, for a node that stands still beyond that is fenced, and its moves are over.
    # Of its one processor everything has a part, the compressor as well as what a byte on the wire costs
    # (TLS, the kernel, each end): the choice by itself takes the link for the faster one and stores pages.
    # No cache of pages sent: each page of it is touched once at both ends, which costs such a node 40 us,
    # and what guests write here shrinks the same without it.
    lines += ["", "[migration]", "idle-timeout = 120s", "grace = 30s", "level = 1", "cache = 0"]
    return "\n".join([*lines, "", "[watchdog]", "device = /dev/watchdog",
                      f"timeout = {options.watchdog}s", ""])


def services(driver, xen_helper="stock"):
    """What hamgr-init starts, as siblings: sshd, and hamgr's daemons unless there is no driver.
    xen_helper: who moves memory of Xen's guests, as hamgr-hv's --xen-helper has it."""
    sshd = "sshd 0:0 /usr/sbin/sshd -D\n"
    if driver == "none":
        return sshd
    helper = f" --xen-helper {xen_helper}" if driver == "xen" else ""
    return sshd + "\n".join([
        corosync.PROGRAM,
        f"hamgr-watchdog 0:0 {SBIN}/hamgr-watchdog",
        f"hamgr-hv 0:0 {SBIN}/hamgr-hv --driver {driver} --peer-user hamgr{helper}",
        f"hamgr-fence 0:0 {SBIN}/lab-fence",
        f"hamgrd {HAMGR_UID}:{HAMGR_UID} {SBIN}/lab-hamgrd",
        "!shutdown 0:0 /usr/local/bin/hactl node-shutdown --timeout 120s", ""])


def make_own(place, machine, machines, options, corosync_key):
    """own.tar of a node."""
    archive = Tar(machine.own_disk)
    archive.add("etc/hamgr-lab", f"NODE={machine.name}\nINDEX={machine.index}\nUUID={machine.uuid}\n"
                f"MAC={machine.mac}\nADMIN_MAC={machine.admin_mac}\n"
                f"ADDR={net.address(machine.index)}\nADMIN={net.admin_address(machine.index)}\n"
                f"DISKS={options.disks}\nSTORAGE={net.ADMIN}.{net.HOST_SUFFIX}\n")
    archive.add("etc/hamgr-lab.seed", os.urandom(512), 0o600)
    hosts = "127.0.0.1 localhost\n" + "".join(f"{net.address(m.index)} {m.name}\n" for m in machines)
    archive.add("etc/hosts", hosts)
    archive.add("etc/hostname", f"{machine.name}\n")
    archive.add("etc/hamgr-lab.services", services(options.driver, options.xen_helper))
    archive.add("etc/ssh/sshd_config", SSHD_CONFIG)
    archive.add("etc/ssh/lab_host_key", read(place.of_lab("host_key")), 0o600)
    archive.add("root/.ssh/authorized_keys", read(place.of_lab("key.pub")), 0o600)
    archive.add("root/.ssh/lab_key", read(place.of_lab("key")), 0o600)
    archive.add("root/.ssh/config", SSH_CONFIG, 0o600)
    archive.add("root/.ssh/known_hosts", read(place.of_lab("known_hosts")))
    if options.driver != "none":
        configure(archive, place, machine, machines, options, corosync_key)
    archive.done(OWN_BYTES)


def configure(archive, place, machine, machines, options, corosync_key):
    """What deploy/INSTALL.md has an operator write; a lab without a driver is for that operator."""
    entries = [(m.name, m.index, net.address(m.index)) for m in machines]
    archive.add("etc/corosync/corosync.conf",
                corosync.config(entries, options.token, ping_ms=1000, idle_turns=IDLE_TURNS))
    archive.add("etc/corosync/authkey", corosync_key, 0o400)
    archive.add("etc/corosync/uidgid.d/hamgr", corosync.UIDGID)
    archive.add("etc/hamgr/hamgr.conf", hamgr_conf(machine, options))
    archive.add("etc/hamgr/fence.conf", bmc.fence_conf(machines), 0o600)
    archive.add("etc/hamgr/xen-allow.conf", XEN_ALLOW)
    for name, mode in (("ca.pem", 0o644), ("node.pem", 0o644), ("node.key", 0o640)):
        archive.add(f"etc/hamgr/pki/{name}", read(place.of_lab("pki", machine.name, name)), mode,
                    HAMGR_UID)


def supports(build, driver):
    """Does the built hamgr-hv know this driver? It lists them in its help."""
    for path in ("hamgr/hv/hamgr-hv", "sbin/hamgr-hv"):
        binary = os.path.join(build, path)
        if os.access(binary, os.X_OK):
            done = subprocess.run([binary, "--help"], capture_output=True, text=True, timeout=20,
                                  check=False)
            line = next((x for x in done.stdout.splitlines() if "--driver" in x), "")
            return driver in line
    return False
