# SPDX-License-Identifier: Apache-2.0
"""Initramfs, put together at up: the newc format of cpio, as the kernel unpacks it."""

import os
import stat

HEADER = "070701" + "{:08X}" * 13


class Archive:
    """Collects members; bytes() is the finished archive."""

    def __init__(self):
        self.parts = []
        self.count = 0

    def add(self, name, mode, data=b"", device=(0, 0)):
        """One member; mode with its type bits. The same names in the same order give the same bytes."""
        self.count += 1
        words = name.encode() + b"\0"
        header = HEADER.format(self.count, mode, 0, 0, 1, 0, len(data), 0, 0, *device,
                               len(words), 0).encode()
        self.parts += [self._padded(header + words), self._padded(data)]

    def directory(self, name):
        self.add(name, stat.S_IFDIR | 0o755)

    def file(self, name, data, mode=0o644):
        self.add(name, stat.S_IFREG | mode, data)

    def console(self):
        """What a program without devtmpfs speaks to."""
        self.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))

    @staticmethod
    def _padded(data):
        return data + b"\0" * (-len(data) % 4)

    def bytes(self):
        done = Archive()
        done.count = self.count
        done.add("TRAILER!!!", 0)
        return b"".join(self.parts + done.parts)


def with_modules(archive, directory):
    """Adds the modules an image keeps in `directory`, and the order to load them in."""
    archive.directory("modules")
    for name in sorted(os.listdir(directory)):
        with open(os.path.join(directory, name), "rb") as file:
            archive.file(f"modules/{name}", file.read())


def of_dom0(place, init):
    """The initramfs of a dom0: busybox, modules, a script."""
    archive = Archive()
    for name in ("bin", "dev", "proc", "sys", "root"):
        archive.directory(name)
    archive.console()
    with open(place.of_image("busybox"), "rb") as file:
        archive.file("bin/busybox", file.read(), 0o755)
    archive.file("init", init.encode(), 0o755)
    with_modules(archive, place.of_image("modules-dom0"))
    return archive.bytes()
