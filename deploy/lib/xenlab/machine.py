# SPDX-License-Identifier: Apache-2.0
"""A node's machine: QEMU with Xen in it. Power is the process: off means that it is gone."""

import contextlib
import os
import uuid

from . import kernel, net, process, qmp
from .errors import LabError, read, run, wait_until

# More of a CPU does harm: with AVX, SMAP or RDTSCP emulated, dom0 or its guests crash.
CPU = "qemu64,+svm,+npt"
MEMORY_MIB, DOM0_MIB = 1536, 768
NAMESPACE_ID = uuid.UUID("6e0a4a3c-1c1e-4f0e-9a7a-4c616248614d")
# Nobody attacks a lab, and speculation that is not emulated needs no cure (what it costs each system call
# of a PV dom0, 60 to 120 us with and without, was not measured by itself). With rodata=on its kernel
# spends seconds of each boot on its page tables.
XEN = (f"dom0_mem={DOM0_MIB}M,max:{DOM0_MIB}M dom0_max_vcpus=1 com1=115200,8n1 console=com1 "
       "bootscrub=0 spec-ctrl=no")
LINUX = "console=hvc0 net.ifnames=0 quiet panic=1 mitigations=off rodata=off tsc=reliable"


class Machine:
    """Node number `index` (1..) of the lab at `place`."""

    def __init__(self, place, index, hypervisor="stock"):
        self.place = place
        self.index = index
        self.hypervisor = hypervisor
        self.name = f"n{index}"
        self.dir = place.of_lab(self.name)
        self.pid_file = os.path.join(self.dir, "pid")
        self.qmp_socket = os.path.join(self.dir, "qmp")
        self.console_log = os.path.join(self.dir, "console.log")
        self.own_disk = os.path.join(self.dir, "own.tar")
        # The cluster's cable and the other one.
        self.mac, self.admin_mac = (f"52:54:00:{n}:00:{index:02x}" for n in (77, 78))

    @property
    def uuid(self):
        return uuid.uuid5(NAMESPACE_ID, f"{self.place.name}/{self.name}")

    def state(self):
        """off, on, or hung (its processors stand still)."""
        if process.find(self.pid_file) is None:
            return "off"
        try:
            return "on" if qmp.ask(self.qmp_socket, "query-status")["running"] else "hung"
        except LabError:
            return "hung"

    # --- power ---

    def make_disk(self, base, kind):
        """An empty disk over another: what a node writes stays through power cuts, until down."""
        os.makedirs(self.dir, exist_ok=True)
        run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", kind, "-b", base,
             os.path.join(self.dir, "disk.qcow2")], 60, f"{self.name}: making its disk")

    def power_on(self, incoming=None):
        """Boots it, or loads its memory from `incoming` and leaves its processors standing still."""
        if process.find(self.pid_file) is not None:
            if self.state() == "hung":
                qmp.ask(self.qmp_socket, "cont")
            return
        pid_file = os.path.join(self.dir, "qemu.pid")
        more = ["-S", "-incoming", incoming] if incoming else []
        run([*self.command(pid_file), *more], 60, f"{self.name}: starting QEMU")
        process.remember(self.pid_file, int(read(pid_file)))

    def power_off(self):
        """As a cable that is torn out: nothing in the machine gets to know."""
        return process.end(self.pid_file)

    def hang(self):
        self.need_on()
        qmp.ask(self.qmp_socket, "stop")

    def reset(self):
        self.need_on()
        qmp.ask(self.qmp_socket, "system_reset")

    def cable(self, is_in):
        self.need_on()
        qmp.ask(self.qmp_socket, "set_link", name="cluster", up=is_in)

    def need_on(self):
        if process.find(self.pid_file) is None:
            raise LabError(f"{self.name} is off; switch it on first: "
                           f"deploy/lab power {self.name} on")

    def command(self, pid_file):
        image, shared = self.place.of_image, self.place.of_lab
        disk = "if=none,cache=writeback"
        return [
            *net.inside(self.place.namespace),
            "qemu-system-x86_64", "-name", f"hamgr-{self.place.name}-{self.name}",
            "-machine", "q35", "-accel", "tcg,thread=multi,tb-size=256", "-cpu", CPU,
            "-m", MEMORY_MIB, "-smp", "1", "-uuid", self.uuid, "-rtc", "base=utc",
            "-nodefaults", "-display", "none", "-daemonize", "-pidfile", pid_file,
            "-kernel", image(f"xen-{self.hypervisor}"), "-append", XEN,
            "-initrd", f"{kernel.plain(self.place)} {LINUX},{shared('initrd')}",
            "-chardev", f"socket,id=console,path={self.dir}/console,server=on,wait=off,"
                        f"logfile={self.console_log},logappend=on",
            "-serial", "chardev:console",
            "-qmp", f"unix:{self.qmp_socket},server=on,wait=off",
            "-drive", f"id=disk,file={self.dir}/disk.qcow2,format=qcow2,{disk}",
            "-device", "virtio-blk-pci,drive=disk",
            "-drive", f"id=shared,file={shared('shared.tar')},format=raw,readonly=on,{disk}",
            "-device", "virtio-blk-pci,drive=shared",
            "-drive", f"id=own,file={self.own_disk},format=raw,readonly=on,{disk}",
            "-device", "virtio-blk-pci,drive=own",
            "-drive", f"id=kernel,file={kernel.disk(self.place)},format=raw,readonly=on,{disk}",
            "-device", "virtio-blk-pci,drive=kernel",
            *self.nic("cluster", f"tap{self.index}", self.mac),
            *self.nic("admin", f"adm{self.index}", self.admin_mac),
            "-device", "i6300esb", "-action", "watchdog=reset",
        ]

    @staticmethod
    def nic(name, tap, mac):
        return ["-netdev", f"tap,id=net-{name},ifname={tap},script=no,downscript=no",
                "-device", f"virtio-net-pci,netdev=net-{name},id={name},mac={mac}"]

    # --- inside ---

    def ssh(self, *options):
        """The beginning of an ssh command line to this node."""
        key = self.place.of_lab("key")
        return [*net.inside(self.place.namespace), "ssh", "-F", "none", "-i", key,
                "-o", f"UserKnownHostsFile={self.place.of_lab('known_hosts')}",
                "-o", "ControlMaster=auto", "-o", "ControlPersist=300",
                "-o", f"ControlPath={self.dir}/ssh", "-o", "ConnectTimeout=30",
                "-o", "ServerAliveInterval=10", "-o", "LogLevel=ERROR", "-o", "BatchMode=yes",
                *options, f"root@{net.admin_address(self.index)}"]

    def forget_ssh(self):
        """The kept connection of an earlier boot would only hang."""
        if os.path.exists(os.path.join(self.dir, "ssh")):
            try:
                run(self.ssh("-O", "exit"), 20, f"{self.name}: closing its ssh")
            except LabError:
                with contextlib.suppress(FileNotFoundError):  # it ended by itself meanwhile
                    os.unlink(os.path.join(self.dir, "ssh"))

    def wait_ready(self, boots, timeout_s=300):
        """Waits until the console has told of more than `boots` finished boots."""
        wait_until(lambda: self.boots() > boots or self.explain_off(),
                   f"{self.name} boots (its console: {self.console_log})", timeout_s)

    def wait_console(self, words, timeout_s):
        wait_until(lambda: words in read(self.console_log) or self.explain_off(),
                   f"{self.name} says '{words}' (its console: {self.console_log})", timeout_s)

    def boots(self):
        return read(self.console_log).count("lab: ready")

    def explain_off(self):
        if process.find(self.pid_file) is None:
            raise LabError(f"{self.name}: QEMU ended while it booted; see {self.console_log}")
        return False
