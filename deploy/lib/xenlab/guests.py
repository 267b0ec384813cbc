# SPDX-License-Identifier: Apache-2.0
"""Guests of the lab: a kernel of Debian's and one program (guest/), and their xl configuration."""

import os
import uuid

from . import initramfs, kernel, storage
from .errors import LabError, run
from .machine import NAMESPACE_ID

DIRECTORY = "/var/lib/hamgr-lab"  # on a node
FIRST_SUFFIX, GUESTS_MAX = 150, 50  # 10.77.0.150 and on


def make_initrd(place, build):
    """The guest's initramfs, in the lab's directory; returns its path."""
    program = find_program(build)
    archive = initramfs.Archive()
    for name in ("dev", "proc"):
        archive.directory(name)
    archive.console()
    stripped = place.of_lab("lab-guest")
    run(["strip", "-o", stripped, program], 60, "stripping the guest's program")
    with open(stripped, "rb") as file:
        archive.file("init", file.read(), 0o755)
    initramfs.with_modules(archive, place.of_image("modules-guest"))
    path = place.of_lab("guest.initrd")
    with open(path, "wb") as file:
        file.write(archive.bytes())
    return path


def find_program(build):
    path = os.path.join(build, "deploy", "lab-guest")
    if not os.access(path, os.X_OK):
        raise LabError(f"{path} is missing; build it (a build with sanitizers has none)")
    return path


def files(place, build):
    """(name on a node, path here) of what guests boot from."""
    return [(f"{DIRECTORY}/initrd".lstrip("/"), make_initrd(place, build))]


def boot_file(kind):
    """An HVM guest's kernel is started by QEMU, which knows packed ones only."""
    return f"{kernel.DIRECTORY}/{'vmlinuz' if kind == 'hvm' else 'vmlinux'}"


def config(place, name, index, options):
    """xl's configuration of guest number `index` (0..)."""
    extra = [f"lab.name={name}", f"lab.mem={options.working_set}", f"lab.steps={options.steps}",
             f"lab.ip=10.77.0.{FIRST_SUFFIX + index}"]
    if getattr(options, "gap_ms", None):
        extra.append(f"lab.gap_ms={options.gap_ms}")  # pauses worth a line on its console
    lines = [f'name = "{name}"', f'uuid = "{uuid.uuid5(NAMESPACE_ID, f"{place.name}/guest/{name}")}"',
             f'type = "{options.type}"', f"memory = {options.memory}", f"maxmem = {options.memory}",
             "vcpus = 1", f'kernel = "{boot_file(options.type)}"', f'ramdisk = "{DIRECTORY}/initrd"',
             f'vif = ["mac=00:16:3e:77:00:{index:02x},bridge=xenbr0"]']
    console = "hvc0"
    if options.type == "hvm":
        lines += ['vga = "none"', 'serial = "pty"', "vnc = 0"]
        console = "ttyS0 console=hvc0"
    if options.disk:
        # Of an HVM guest's first four disks QEMU has a hand in: nobody could prove those quiet.
        vdev, backend = ("xvde", "backendtype=phy,") if options.type == "hvm" else ("xvda", "")
        extra += [f"lab.disk=/dev/{vdev}", f"lab.write_ms={options.write_ms}"]
        lines.append(f'disk = ["format=raw,vdev={vdev},access=rw,{backend}target={storage.device(index)}"]')
    lines.append(f'extra = "console={console} quiet panic=1 net.ifnames=0 {" ".join(extra)}"')
    lines += ['on_crash = "destroy"', 'on_reboot = "destroy"', 'on_poweroff = "destroy"']
    return "\n".join(lines) + "\n"


