# SPDX-License-Identifier: Apache-2.0
"""The memory of a booted dom0 that is no node yet; the nodes of a lab go on from there.

Xen and a dom0 take an emulated machine 7 s of a processor of its own to boot, and three of them on two
busy ones minutes. What they have done by then is the same for all, so one machine does it once: it
boots, falls asleep before it has a name (dom0/lab-init), and its memory and disk are kept beside the
image. A node is woken from them, on a disk of its own over that disk, and told how long it slept; then
it reads who it is. Switched off and on, it boots as any.
"""

import hashlib
import os
import shutil
import struct
import time

from . import initramfs, net, process, qmp, seed
from .errors import LabError, read, read_bytes, run, wait_until, write
from .machine import Machine
from .place import Place
from .recipe import HERE

NAME = "snapshot"  # of the lab that the machine is alone in
MAKE_S, LOAD_S = 900, 300  # on a machine that has much else to do
STATE, DISK, STOPPED = "state", "disk.qcow2", "stopped"


def template(place, hypervisor):
    """The machine that is to fall asleep."""
    apart = Place(place.directory, NAME)
    apart.image = place.image
    return Machine(apart, 1, hypervisor)


def key(place, hypervisor):
    """What a snapshot was made with: on anything else it must not go on."""
    made = hashlib.sha256()
    words = [str(word) for word in template(place, hypervisor).command("")]
    words += [run(["qemu-system-x86_64", "--version"], 30, "QEMU's version"), processor()]
    for name in ("root.img", f"xen-{hypervisor}", "vmlinuz"):
        about = os.stat(place.of_image(name))
        words.append(f"{name} {about.st_size} {about.st_mtime_ns}")
    made.update("\0".join(words).encode())
    made.update(initrd(place))
    made.update(lab_init().encode())
    return made.hexdigest()


def processor():
    """Emulated time stamps count as the processor's own, whose speed Xen measured when it booted."""
    return next((line for line in read("/proc/cpuinfo").splitlines()
                 if line.startswith("model name")), "")


def initrd(place):
    return initramfs.of_dom0(place, read(os.path.join(HERE, "dom0", "initramfs-init")))


def lab_init():
    return read(os.path.join(HERE, "dom0", "lab-init"))


class Snapshot:
    """A directory with memory, disk, and the time when they stood still."""

    def __init__(self, directory):
        self.directory = directory

    def path(self, name):
        return os.path.join(self.directory, name)

    @property
    def disk(self):
        return self.path(DISK)

    @property
    def incoming(self):
        return f"exec:exec cat '{self.path(STATE)}'"

    def exists(self):
        return os.path.exists(self.path(STOPPED))

    def wake(self, machine):
        """Starts a node's machine from here; its disks are made."""
        machine.power_on(self.incoming)

        def is_loaded():
            if process.find(machine.pid_file) is None:
                raise LabError(f"QEMU does not let {machine.name} go on from {self.directory}; boot "
                               "nodes instead (deploy/lab up --cold), or remove that directory: it is "
                               "made anew")
            return status(machine, "query-status") not in (None, "inmigrate")
        wait_until(is_loaded, f"{machine.name} remembers (deploy/lab up --cold does without)", LOAD_S,
                   0.05)
        tell_to_wake(machine.own_disk, time.time_ns() - int(read(self.path(STOPPED))))
        qmp.ask(machine.qmp_socket, "cont")


def tell_to_wake(path, slept_ns):
    """The last sector of a node's own disk is what the sleeper looks at."""
    with open(path, "r+b") as file:
        file.seek(-seed.WAKE_BYTES, os.SEEK_END)
        file.write(struct.pack(f"{seed.WAKE_BYTES}s", f"wake {slept_ns}\n".encode()))


def status(machine, query):
    """What QEMU says; None if it has no time to."""
    try:
        return qmp.ask(machine.qmp_socket, query)["status"]
    except LabError:
        return None


# --- making one -----------------------------------------------------------------------------------

def ensure(place, hypervisor, say):
    """The snapshot for this image and hypervisor, made if there is none or it is of another time."""
    place.need_image()
    with place.lock(NAME, MAKE_S):
        found = Snapshot(place.of_image(f"snapshot-{hypervisor}-{key(place, hypervisor)[:12]}"))
        if not found.exists():
            began = time.monotonic()
            make(place, hypervisor, found.directory)
            say(f"memory of a booted machine kept, for all nodes to go on from: "
                f"{time.monotonic() - began:.1f} s")
            forget_old(place, f"snapshot-{hypervisor}-", found.directory)
    return found


def make(place, hypervisor, directory):
    machine = template(place, hypervisor)
    clean(machine)
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(machine.dir, mode=0o700)
    try:
        net.make(machine.place.namespace, 1)
        prepare(machine)
        machine.power_on()
        machine.wait_console("lab: asleep", MAKE_S)
        keep(machine)
        os.rename(machine.dir, directory)
    finally:
        clean(machine)


def prepare(machine):
    """Its disks: lab-init and no name."""
    write(machine.place.of_lab("initrd"), initrd(machine.place))
    shared = seed.Tar(machine.place.of_lab("shared.tar"))
    shared.add("sbin/lab-init", lab_init(), 0o755)
    shared.done(seed.SHARED_BYTES)
    own = seed.Tar(machine.own_disk)
    own.add("etc/hamgr-lab", "NODE=\n")
    own.done(seed.OWN_BYTES)
    machine.make_disk(machine.place.of_image("root.img"), "raw")


def keep(machine):
    """Writes its memory into its directory and leaves there what a snapshot has."""
    qmp.ask(machine.qmp_socket, "stop")
    stopped = time.time_ns()
    state = os.path.join(machine.dir, STATE)
    qmp.ask(machine.qmp_socket, "migrate-set-parameters", **{"max-bandwidth": 1 << 40})
    qmp.ask(machine.qmp_socket, "migrate", uri=f"exec:exec cat > '{state}'")

    def is_kept():
        now = status(machine, "query-migrate")
        if process.find(machine.pid_file) is None or now in ("failed", "cancelled"):
            raise LabError(f"QEMU could not write {state}")
        return now == "completed"
    wait_until(is_kept, "a machine's memory is kept", MAKE_S, 0.05)
    machine.power_off()
    for name in os.listdir(machine.dir):
        if name not in (STATE, DISK, os.path.basename(machine.console_log)):
            os.unlink(os.path.join(machine.dir, name))
    write(os.path.join(machine.dir, STOPPED), str(stopped))


def clean(machine):
    """What a try leaves behind, ended or broken off."""
    machine.power_off()
    net.remove(machine.place.namespace)
    shutil.rmtree(machine.place.lab, ignore_errors=True)


def forget_old(place, prefix, current):
    """Snapshots that nothing will wake from again, unless a lab's disks lie on them."""
    labs = os.path.join(place.directory, "labs")
    used = [read(os.path.join(labs, name, "lab.json")) for name in os.listdir(labs)]
    for name in os.listdir(place.image):
        path = place.of_image(name)
        if name.startswith(prefix) and path != current and not any(path in text for text in used):
            shutil.rmtree(path, ignore_errors=True)
