# SPDX-License-Identifier: Apache-2.0
"""Images of guest memory for tests/bench/stream: made once, kept in a directory, named by kind and
size. See image.c for what they hold and real.py for the image of a guest that really ran."""
import os
import struct
import subprocess
import tempfile

from . import rig as rigging

PERCENT_DELTA = 10  # of the lines of every page
PERCENT_PAIR = 25  # of the pages


PACKED = (".gz", ".xz", ".bz2", ".zst", ".png", ".jpg", ".svgz", ".pdf", ".whl", ".zip")


def files_below(*roots, part=""):
    found = []
    for root in roots:
        for directory, names, files in os.walk(root):
            names.sort()
            found += [os.path.join(directory, name) for name in sorted(files)
                      if part in name and not name.endswith(PACKED) and "\n" not in name]
    return [path for path in found if os.path.isfile(path)]


class Images:
    """The images of one size."""

    def __init__(self, rig, directory, mib):
        self.rig, self.directory, self.mib = rig, directory, mib
        os.makedirs(directory, exist_ok=True)

    def lists(self):
        """The machine's own files: text (documentation and libraries), programs."""
        paths = []
        documents = files_below("/usr/share/doc", "/usr/share/man")
        libraries = files_below("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", part=".so")
        # A library after each twenty documents: small files and large ones.
        text = [path for i, library in enumerate(libraries)
                for path in [*documents[20 * i:20 * i + 20], library]]
        for name, files in (("text", text), ("programs", files_below("/usr/bin", "/usr/sbin"))):
            paths.append(os.path.join(self.rig.work, name + ".list"))
            with open(paths[-1], "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write("".join(path + "\n" for path in files))
        return paths

    def path(self, name):
        return os.path.join(self.directory, f"{name}-{self.mib}.img")

    def make(self, path, *arguments):
        if not os.path.exists(path):
            subprocess.run([self.rig.tool("image"), *map(str, arguments[:2]), path + ".new",
                            *map(str, arguments[2:])], check=True)
            os.rename(path + ".new", path)
        return path

    def plain(self, kind):
        """zero, text, random, mix"""
        path = self.path(kind)
        if os.path.exists(path):
            return path
        text, programs = self.lists()
        return self.make(path, kind, self.mib, "--text", text, "--programs", programs)

    def delta(self, base, step):
        """base with PERCENT_DELTA of its lines changed, step times (each over the one before)."""
        before = base if step == 1 else self.delta(base, step - 1)
        path = base.removesuffix(".img") + f"-delta{step}.img"
        return self.make(path, "delta", PERCENT_DELTA, "--from", before, "--seed", 100 + step)

    def written(self, base):
        """base after the writes that image.c documents."""
        return self.make(base.removesuffix(".img") + "-pair.img", "pair", PERCENT_PAIR, "--from", base,
                         "--seed", 7)


def of_file(path):
    """An xl save file, a libxl or libxc stream, or raw memory."""
    name = os.path.basename(path).split(".")[0]
    return rigging.Source(name, ["--image", os.path.abspath(path)], image=os.path.abspath(path))


def of_pair(first, second, name="pair"):
    paths = [os.path.abspath(first), os.path.abspath(second)]
    return rigging.Source(name, ["--image", paths[0], "--image", paths[1]], counted=1, image=paths[0])


def of_class(images, kind):
    if kind == "same":  # every page again, as it was
        base = images.plain("mix")
        return rigging.Source("same", ["--resend", "--image", base, "--image", base], counted=1, image=base)
    if kind == "delta":  # the third send: caches are filled at the second
        base = images.plain("text")
        steps = [base, images.delta(base, 1), images.delta(base, 2)]
        return rigging.Source("delta", [word for path in steps for word in ("--image", path)], counted=2,
                              image=base)
    path = images.plain(kind)
    return rigging.Source(kind, ["--image", path], image=path)


def sparse(pages, gib):
    return rigging.Source("sparse", ["--resend", "--sparse", f"{pages}:{gib}"])


def changed_bytes_by_zstd(first, second):
    """What zstd -1 alone makes of the pages of second that differ from first."""
    with open(first, "rb") as one, open(second, "rb") as two, tempfile.TemporaryFile() as changed:
        while True:
            old, new = one.read(1 << 20), two.read(1 << 20)
            if not new:
                break
            changed.write(b"".join(new[at:at + 4096] for at in range(0, len(new), 4096)
                                   if new[at:at + 4096] != old[at:at + 4096]))
        changed.seek(0)
        return len(subprocess.run(["zstd", "-1", "-T0", "-c"], stdin=changed, stdout=subprocess.PIPE,
                                  check=True).stdout)


def record(kind, body=b""):
    return struct.pack("<II", kind, len(body)) + body


def native_stream(path):
    """(libxl stream, libxc stream inside it) of raw memory, as a hypervisor would have recorded it."""
    parts = [struct.pack(">QIIHHI", 2**64 - 1, 0x58454E46, 3, 0, 0, 0) + struct.pack("<IHHII", 2, 12, 0, 4, 17),
             record(16)]
    with open(path, "rb") as file:
        for first in range(0, os.path.getsize(path) // 4096, 1000):
            data = file.read(1000 * 4096)
            count = len(data) // 4096
            # Xen's streams have holes, too: one behind each batch's pages.
            entries = [*range(first, first + count), 0xF << 60 | 1 << 24 | first]
            parts.append(record(1, struct.pack(f"<II{count + 1}Q", count + 1, 0, *entries) + data))
    parts += [record(9, b"some state" * 20), record(0)]
    libxc = b"".join(parts)
    return struct.pack(">QII", 0x4C6962786C466D74, 2, 0) + record(1) + libxc + record(0), libxc


def save_file(stream):
    """What `xl save` writes: its header, the domain's configuration, the libxl stream."""
    configuration = b'{"c_info": {"name": "bench"}}\0\0\0'
    head = b"Xen saved domain, xl format\n \0 \r" + struct.pack("<IIII", 0x01020304, 2, 1, len(configuration))
    return head + configuration + stream
