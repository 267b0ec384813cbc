#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Makes an initramfs of one static program: xen_initramfs.py PROGRAM IMAGE

The program is /init and /sbin/poweroff; a console device lets it speak before it mounts anything.
"""

import sys


def entry(name, mode, data=b"", device=(0, 0)):
    """One member of the kernel's cpio format (newc): a head in hexadecimal, name, data, padded."""
    raw = name.encode() + b"\0"
    fields = [0, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(raw), 0]
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + raw
    return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)


def main():
    with open(sys.argv[1], "rb") as file:
        program = file.read()
    image = b"".join((
        entry("dev", 0o040755), entry("proc", 0o040755), entry("sbin", 0o040755),
        entry("dev/console", 0o020600, device=(5, 1)),
        entry("init", 0o100755, program), entry("sbin/poweroff", 0o100755, program),
        entry("TRAILER!!!", 0)))
    with open(sys.argv[2], "wb") as file:
        file.write(image)


if __name__ == "__main__":
    main()
