# SPDX-License-Identifier: Apache-2.0
"""Shared disks for the lab's guests: an NBD server outside all nodes (nbd.py), /dev/nbdK on each node.

Nodes reach it by their second cable: who lost the first can still write, which is what the witness
must see if hamgr lets it happen.
"""

import collections
import os
import sys

from . import net, process
from .errors import LabError, read
from .recipe import HERE

DISK_MIB = 32
DISKS_MAX = 16  # as many as the kernel's nbd makes by itself


def device(index):
    return f"/dev/nbd{index}"


def pid_file(place):
    return place.of_lab("storage", "pid")


def start(place, count):
    directory = place.of_lab("storage")
    os.makedirs(directory)
    for index in range(count):
        with open(os.path.join(directory, f"disk{index}.raw"), "wb") as file:
            file.truncate(DISK_MIB << 20)
    process.spawn(pid_file(place), [
        *net.inside(place.namespace), sys.executable, "-B", os.path.join(HERE, "nbd.py"),
        "--dir", directory, "--listen", f"{net.ADMIN}.{net.HOST_SUFFIX}"],
        os.path.join(directory, "log"))


def stop(place):
    process.end(pid_file(place))


def report(place):
    """(what the witness saw of writes as {(disk, node): count}, its findings)."""
    directory = place.of_lab("storage")
    if process.find(pid_file(place)) is None:
        raise LabError(f"the storage is gone; see {directory}/log")
    writes = collections.Counter()
    for line in read(os.path.join(directory, "writes.log")).splitlines():
        words = line.split()
        if len(words) == 5:
            writes[words[2], words[1]] += 1
    return writes, read(os.path.join(directory, "findings.log")).splitlines()
