# SPDX-License-Identifier: Apache-2.0
"""The kernel that dom0s, PV and PVH guests boot: Debian's, unpacked; for guests on a read-only disk,
with the packed one for HVM guests.

Xen's builder unpacks a compressed kernel in dom0: 100 MB of fresh memory and half a minute of an
emulated processor for each start of a guest; Xen itself takes 4 s for dom0's. Both take a plain ELF
file as well.
"""

import lzma
import os
import shutil
import struct
import tempfile

from .errors import LabError, read_bytes, run, write

DIRECTORY = "/var/lib/hamgr-lab/kernel"  # on a node
XZ_MAGIC = b"\xfd7zXZ\x00"
ELF_HEADER, PROGRAM_HEADER = 64, 56


def payload(image):
    """What is packed in a bzImage (Documentation/x86/boot.rst of Linux)."""
    if image[0x202:0x206] != b"HdrS":
        raise LabError("the kernel is no bzImage")
    start = ((image[0x1f1] or 4) + 1) * 512
    offset, size = struct.unpack_from("<II", image, 0x248)
    packed = image[start + offset:start + offset + size]
    if not packed.startswith(XZ_MAGIC):
        raise LabError("the kernel is not packed with xz, as Debian 12's is")
    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ).decompress(packed)


def compact(elf):
    """The segments of an ELF file alone, without the zeroes at their ends: half of a kernel."""
    entry_at, count = struct.unpack_from("<Q", elf, 32)[0], struct.unpack_from("<H", elf, 56)[0]
    headers, places, at = [], {}, 4096
    for n in range(count):
        fields = list(struct.unpack_from("<IIQQQQQQ", elf, entry_at + n * PROGRAM_HEADER))
        headers.append(fields)
    made = bytearray(at)
    for fields in sorted(headers, key=lambda f: f[0] != 1):  # what is loaded first, notes lie in it
        kind, offset, size = fields[0], fields[2], fields[5]
        if kind == 1:
            content = elf[offset:offset + size].rstrip(b"\0")
            places[offset] = (size, len(made))
            fields[2], fields[5] = len(made), len(content)
            made += content + bytes(-len(content) % 4096)
        else:
            base = next(o for o, (s, _) in places.items() if o <= offset < o + s)
            fields[2] = places[base][1] + offset - base
    made[:ELF_HEADER] = elf[:ELF_HEADER]
    struct.pack_into("<QQ", made, 32, ELF_HEADER, 0)
    struct.pack_into("<HHH", made, 58, 0, 0, 0)
    for n, fields in enumerate(headers):
        struct.pack_into("<IIQQQQQQ", made, ELF_HEADER + n * PROGRAM_HEADER, *fields)
    return bytes(made)


def plain(place):
    """The kernel itself, made when it is first wanted; returns its path."""
    path = place.of_image("vmlinux")
    if not os.path.exists(path):
        write(path, compact(payload(read_bytes(place.of_image("vmlinuz")))))
    return path


def disk(place):
    """The disk with it, made when it is first wanted; returns its path."""
    path = place.of_image("kernels.img")
    if os.path.exists(path):
        return path
    with tempfile.TemporaryDirectory(prefix="kernel-", dir=place.directory) as work:
        root, made = os.path.join(work, "root"), os.path.join(work, "img")
        os.mkdir(root)
        kernel = read_bytes(plain(place))
        with open(os.path.join(root, "vmlinux"), "wb") as file:
            file.write(kernel)
        packed = shutil.copy(place.of_image("vmlinuz"), root)
        run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", root, made,
             f"{((len(kernel) + os.path.getsize(packed)) >> 20) + 8}M"], 60, "making the guests' kernels")
        os.rename(made, path)
    return path
