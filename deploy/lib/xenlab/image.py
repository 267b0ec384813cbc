# SPDX-License-Identifier: Apache-2.0
"""The disk image of a dom0, the hypervisor and the kernels: Debian packages, nothing else.

What is the lab's or hamgr's own comes to a node on disks of its own (seed.py), so that an image
lasts until its list of packages changes.
"""

import gzip
import os
import shutil
import tempfile

from .errors import LabError, run, write
from .recipe import (DISK, IMAGE_MIB, MODULES, NO_FILES, NO_MODULES, SUITE, image_key,
                     wanted_packages)

BUILD_TIMEOUT_S = 1500


def build(place, say, mirror=None):
    """Makes the image unless it is there."""
    if place.is_built():
        return False
    os.makedirs(place.directory, exist_ok=True)
    work = tempfile.mkdtemp(prefix="image.new-", dir=place.directory)
    try:
        root = os.path.join(work, "root")
        say("packages: a minimal Debian with Xen")
        bootstrap(root, mirror)
        say("kernel")
        version = kernel(root)
        made = os.path.join(work, "image")
        os.mkdir(made)
        boot_files(root, version, made)
        say("disk image")
        disk(root, os.path.join(made, "root.img"))
        write(os.path.join(made, "key"), image_key())
        shutil.rmtree(place.image, ignore_errors=True)
        os.rename(made, place.image)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return True


def bootstrap(root, mirror):
    argv = ["mmdebstrap", "--variant=minbase", "--format=directory",
            f"--include={','.join(wanted_packages())}"]
    argv += [f"--dpkgopt=path-exclude={pattern}" for pattern in NO_FILES]
    # The kernel's package wants an initramfs of its own making, which nobody needs: only fetched.
    find = "apt-cache depends linux-image-amd64 | sed -n 's/ *Depends: \\(linux-image-[0-9].*\\)/\\1/p'"
    argv += ["--customize-hook=export APT_CONFIG=\"$MMDEBSTRAP_APT_CONFIG\"; cd \"$1/boot\" && "
             f"apt-get download -q $({find})"]
    run([*argv, SUITE, root] + ([mirror] if mirror else []), BUILD_TIMEOUT_S,
        "making a root file system")


def kernel(root):
    """Unpacks the kernel, without what it has no use for here; returns its version."""
    names = [name for name in os.listdir(os.path.join(root, "boot")) if name.endswith(".deb")]
    if len(names) != 1:
        raise LabError(f"the archive gave {len(names)} kernels, not one; try deploy/lab build again")
    version = names[0].split("_")[0].removeprefix("linux-image-")
    apart = os.path.join(root, "tmp", "kernel")
    deb = os.path.join(root, "boot", names[0])
    run(["dpkg-deb", "-x", deb, apart], 120, "unpacking the kernel")
    modules = os.path.join(apart, "lib", "modules", version)
    for name in NO_MODULES:
        shutil.rmtree(os.path.join(modules, name), ignore_errors=True)
    os.makedirs(os.path.join(root, "usr/lib/modules"), exist_ok=True)
    shutil.move(modules, os.path.join(root, "usr/lib/modules", version))
    for name in ("vmlinuz", "config"):
        shutil.move(os.path.join(apart, "boot", f"{name}-{version}"), os.path.join(root, "boot"))
    shutil.rmtree(apart)
    os.unlink(deb)
    run(["chroot", root, "depmod", version], 120, "depmod")
    return version


def boot_files(root, version, made):
    """What QEMU and guests are booted with: Xen without gzip (QEMU's multiboot loader knows none), the
    kernel, and what their initramfs are put together from."""
    boot = os.path.join(root, "boot")
    xen = [name for name in os.listdir(boot) if name.startswith("xen-4") and name.endswith(".gz")]
    with gzip.open(os.path.join(boot, xen[0])) as packed:
        write(os.path.join(made, "xen-stock"), packed.read())
    shutil.copy(os.path.join(boot, f"vmlinuz-{version}"), os.path.join(made, "vmlinuz"))
    shutil.copy(os.path.join(root, "bin", "busybox"), made)
    for what, names in MODULES.items():
        modules(root, version, names, os.path.join(made, f"modules-{what}"))


def modules(root, version, names, made):
    """Copies modules and what they need; `order` lists their files in the order to load them."""
    os.mkdir(made)
    order = []
    for name in names:
        said = run(["chroot", root, "modprobe", "--show-depends", "-S", version, name], 60,
                   f"module {name}")
        for line in said.splitlines():
            word, _, path = line.strip().partition(" ")
            base = os.path.basename(path.split(" ")[0])
            if word == "insmod" and base not in order:
                order.append(base)
                shutil.copy(root + path.split(" ")[0], made)
    write(os.path.join(made, "order"), "".join(f"{name}\n" for name in order))


def disk(root, path):
    run(["mke2fs", "-q", *DISK, "-d", root, path, f"{IMAGE_MIB}M"], 300, "making the disk image")
