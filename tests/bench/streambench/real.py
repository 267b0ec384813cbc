# SPDX-License-Identifier: Apache-2.0
"""The image `real`: RAM of a booted, emulated Linux with a database under load, made from programs
this machine has (PostgreSQL, Python, redis if installed) and a kernel. QEMU emulates it: KVM in a
machine that is virtual itself may hang. Its RAM is a file, and that file is the image. Nothing of the
machine but programs gets into it."""
import glob
import os
import re
import stat
import subprocess
import tempfile
import time

from . import rig as rigging
from .baselines import Missing, need
from .qemu import Qmp

MIB = 1024  # of RAM; what the guest does fills it
BOOT_S = 1200  # two minutes on an idle machine
CACHE_MIB = 120  # of documents, beside programs and libraries, as page cache
KERNEL = "linux-image-cloud-amd64"
HERE = os.path.dirname(os.path.abspath(__file__))


def libraries(program):
    """What the loader maps for it, and the loader."""
    text = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    return re.findall(r"(/[^ ]+) \(0x", text)


def below(*roots):
    for root in roots:
        for directory, _, files in os.walk(root):
            if "__pycache__" not in directory and "/test" not in directory:
                yield from (os.path.join(directory, name) for name in files)


def collect():
    """Paths on this machine that go into the guest, at the same place."""
    postgres = sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres"))
    if not postgres or not os.path.exists("/usr/bin/python3"):
        raise Missing("postgresql is not installed")
    version = postgres[-1].split("/")[4]
    python = os.path.realpath("/usr/bin/python3")
    programs = glob.glob(f"/usr/lib/postgresql/{version}/bin/*") + [python]
    programs += [path for path in ("/usr/bin/redis-server", "/bin/sh") if os.path.exists(path)]
    paths = {*programs, *below(f"/usr/lib/postgresql/{version}/lib", f"/usr/share/postgresql/{version}",
                               "/usr/lib/" + os.path.basename(python))}
    paths |= {"/usr/share/zoneinfo/UTC", "/usr/share/postgresql-common/supported-versions"}
    for path in list(paths):
        if path in programs or ".so" in path:
            paths |= set(libraries(path))
    room = CACHE_MIB << 20
    for path in sorted(below("/usr/share/doc", "/usr/share/perl", "/usr/include", "/usr/share/locale")):
        room -= os.path.getsize(path) if os.path.isfile(path) else 0
        if room < 0:
            break
        paths.add(path)
    # A compiler that the database only needs for plans of its own would be a tenth of the guest.
    return {path for path in paths if os.path.isfile(path) and not re.search("LLVM|libz3", path)}, python


class Archive:
    """A cpio archive (newc) the kernel unpacks as its first file system."""

    def __init__(self, file):
        self.file, self.known, self.number = file, set(), 0

    def pad(self):
        self.file.write(bytes(-self.file.tell() % 4))

    def entry(self, name, mode, data=b"", device=(0, 0)):
        self.number += 1
        raw = name.encode() + b"\0"
        fields = (self.number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(raw), 0)
        self.file.write(b"070701" + b"".join(b"%08X" % field for field in fields) + raw)
        self.pad()
        self.file.write(data)
        self.pad()

    def directory(self, path):
        if path in ("", "/") or path in self.known:
            return
        self.directory(os.path.dirname(path))
        self.known.add(path)
        self.entry(path.lstrip("/"), stat.S_IFDIR | 0o755)

    def add(self, path, data=None, mode=0o755, link=None):
        self.directory(os.path.dirname(path))
        if link is not None:
            self.entry(path.lstrip("/"), stat.S_IFLNK | 0o777, link.encode())
            return
        if data is None:
            with open(path, "rb") as file:
                data = file.read()
        self.entry(path.lstrip("/"), stat.S_IFREG | mode, data)


def initial(path):
    paths, python = collect()
    with open(path, "wb") as file:
        archive = Archive(file)
        for name in ("bin", "lib", "lib64"):  # merged, as on the machine the paths come from
            archive.known.add("/" + name)
            archive.directory("/usr/" + name)
            archive.entry(name, stat.S_IFLNK | 0o777, b"usr/" + name.encode())
        archive.directory("/dev")
        archive.entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
        merged = {re.sub(r"^/(bin|lib|lib64)/", r"/usr/\1/", name): name for name in paths}
        for target in sorted(merged):
            with open(merged[target], "rb") as source:
                archive.add(target, source.read())
        if python != "/usr/bin/python3":
            archive.add("/usr/bin/python3", link=os.path.basename(python))
        archive.add("/etc/passwd", b"root:x:0:0::/:/bin/sh\npostgres:x:1000:1000::/pg:/bin/sh\n", 0o644)
        archive.add("/etc/group", b"root:x:0:\npostgres:x:1000:\n", 0o644)
        with open(os.path.join(HERE, "guest_init.py"), "rb") as source:
            archive.add("/init", source.read())
        archive.entry("TRAILER!!!", 0)
    return path


def wait_ready(console, process):
    """The guest's last word on its serial console."""
    deadline = time.monotonic() + BOOT_S
    while time.monotonic() < deadline and process.poll() is None:
        with open(console, "r", encoding="utf-8", errors="replace") as file:
            text = file.read()
        found = re.search(r"^(READY .*|FAILED .*|.*Kernel panic.*)$", text, re.MULTILINE)
        if found and found.group(1).startswith("READY"):
            return
        if found:
            raise Missing(f"the guest: {found.group(1)}")
        time.sleep(0.2)  # a file has no event to wait for
    raise Missing(f"the guest was not up within {BOOT_S} s")


def boot(rig, binary, kernel, memory):
    # root= makes the kernel's first file system one without a limit of half the memory.
    archive = initial(os.path.join(rig.work, "initial"))
    console, control = os.path.join(rig.work, "console"), os.path.join(rig.work, "qmp-real")
    open(console, "w", encoding="ascii").close()
    process = subprocess.Popen([
        binary, "-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg",
        "-machine", "pc,memory-backend=ram0", "-m", str(MIB), "-smp", "1", "-cpu", "max",
        "-object", f"memory-backend-file,id=ram0,size={MIB}M,mem-path={memory},share=on",
        "-kernel", kernel, "-initrd", archive, "-append", "console=ttyS0 rdinit=/init root=none quiet panic=-1 "
        "random.trust_cpu=on PYTHONHASHSEED=4",
        "-no-reboot", "-serial", f"file:{console}", "-qmp", f"unix:{control},server=on,wait=off"],
        stdin=subprocess.DEVNULL, stdout=rig.log, stderr=rig.log)
    rig.processes.append(process)
    try:
        qmp = Qmp(control)
        wait_ready(console, process)
        qmp.call("stop")
        qmp.close()
    finally:
        rig.tidy()


def kernels(directory):
    """This machine's own, or what fetch_kernel unpacked."""
    return sorted(glob.glob("/boot/vmlinuz-*")) or sorted(glob.glob(os.path.join(directory, "kernel/boot/vmlinuz-*")))


def fetch_kernel(directory):
    """Debian's kernel for virtual machines, unpacked beside the images and not installed; nothing if one
    is there. To be called while there is a network; without one, or without apt, image() says so."""
    if kernels(directory) or os.path.exists(os.path.join(directory, f"real-{MIB}.img")):
        return
    place = os.path.join(directory, "kernel")
    os.makedirs(place, exist_ok=True)
    try:
        text = subprocess.run(["apt-cache", "depends", KERNEL], capture_output=True, text=True, check=True).stdout
        package = re.search(r"Depends: (linux-image-\S+)", text)
        if package:
            subprocess.run(["apt-get", "download", "-q", package.group(1)], cwd=place, check=True, timeout=300)
            for path in glob.glob(os.path.join(place, "*.deb")):
                subprocess.run(["dpkg-deb", "-x", path, place], check=True)
                os.unlink(path)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"real: no kernel could be fetched: {error}", flush=True)


def image(rig, directory, kernel=None):
    """The path of the image, made if it is not there. Raises Missing with the reason."""
    path = os.path.join(directory, f"real-{MIB}.img")
    if os.path.exists(path):
        return path
    binary = need("qemu-system-x86_64")
    found = [kernel] if kernel else kernels(directory)
    if not found:
        raise Missing(f"no kernel: --kernel FILE, for example of Debian's {KERNEL}")
    print("real: booting a guest", flush=True)
    with tempfile.NamedTemporaryFile(dir=directory, prefix="real-", suffix=".new", delete=False) as made:
        made.truncate(MIB << 20)
    try:
        boot(rig, binary, found[-1], made.name)
        os.rename(made.name, path)
    except rigging.Failed as error:
        raise Missing(str(error)) from None
    finally:
        if os.path.exists(made.name):
            os.unlink(made.name)
    return path
