# SPDX-License-Identifier: Apache-2.0
"""What an image is made of; a change here is another image."""

import hashlib
import os

from .errors import read

HERE = os.path.dirname(os.path.abspath(__file__))
SUITE = "bookworm"
IMAGE_MIB = 1536
# What a dom0 in QEMU has no use for: 350 of the kernel's 400 MB of modules.
NO_MODULES = ("kernel/drivers/gpu", "kernel/drivers/media", "kernel/drivers/infiniband",
              "kernel/drivers/scsi", "kernel/drivers/staging", "kernel/drivers/iio",
              "kernel/drivers/usb", "kernel/drivers/net/ethernet", "kernel/drivers/net/wireless",
              "kernel/drivers/isdn", "kernel/drivers/hid", "kernel/drivers/input",
              "kernel/drivers/platform", "kernel/drivers/video", "kernel/drivers/mtd",
              "kernel/drivers/hwmon", "kernel/drivers/ata", "kernel/drivers/comedi",
              "kernel/drivers/target", "kernel/drivers/mfd", "kernel/drivers/edac",
              "kernel/sound", "kernel/net/wireless", "kernel/net/bluetooth", "kernel/net/mac80211",
              "kernel/fs/btrfs", "kernel/fs/xfs", "kernel/fs/ocfs2", "kernel/fs/cifs",
              "kernel/fs/nfsd", "kernel/fs/ceph", "kernel/fs/gfs2")
NO_FILES = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*",
            "/usr/share/fonts/*")
# dom0 must find its root, guests their disk and their cable; insmod has no modprobe's knowledge.
MODULES = {"dom0": ("virtio_blk", "virtio_net", "virtio_pci", "ext4"),
           "guest": ("xen-blkfront", "xen-netfront")}
DISK = ("-t", "ext4", "-J", "size=16", "-E", "lazy_itable_init=1", "-m", "0", "-L", "dom0")
FORMAT = 1  # of everything below; another number: another image


def wanted_packages():
    lines = read(os.path.join(HERE, "dom0", "packages.txt")).splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def image_key():
    """What an image was made from."""
    words = [SUITE, str(FORMAT), str(IMAGE_MIB), *wanted_packages(), *NO_MODULES, *NO_FILES,
             *DISK, *(f"{what} {name}" for what, names in MODULES.items() for name in names)]
    return hashlib.sha256("\0".join(words).encode()).hexdigest()
