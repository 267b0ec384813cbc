#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""deploy/lab without a lab: arguments, the archives it makes, its storage and what the witness sees."""

import argparse
import asyncio
import io
import json
import lzma
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from unittest import mock

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(ROOT, "deploy", "lib"))

from xenlab import bmc, guests, initramfs, kernel, nbd, process, seed, snapshot  # noqa: E402
from xenlab.errors import LabError, wait_until, write  # noqa: E402
from xenlab.lab import Lab  # noqa: E402
from xenlab.place import Place  # noqa: E402


def lab(*words):
    return subprocess.run([os.path.join(ROOT, "deploy", "lab"), *words], capture_output=True,
                          text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)


class Arguments(unittest.TestCase):
    """What cannot be done is said in words, with exit code 2, before anything is touched."""

    def refused(self, words, *argv):
        done = lab(*argv)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn(words, done.stderr)
        self.assertNotIn("Traceback", done.stderr)

    def test_help_tells_of_each_verb(self):
        done = lab("--help")
        self.assertEqual(done.returncode, 0)
        self.assertIn("[--cold]", done.stdout)
        for verb in ("build", "up", "status", "ssh", "exec", "copy", "install", "power", "cable",
                     "guest", "witness", "console", "down"):
            self.assertIn(f"deploy/lab {verb}", done.stdout)

    def test_refusals(self):
        self.refused("invalid choice: 'frob'", "frob")
        self.refused("1 to 8 nodes", "up", "--nodes", "9")
        self.refused("0 to 16 disks", "up", "--disks", "17")
        self.refused("invalid choice: 'sideways'", "power", "n1", "sideways")
        self.refused("invalid choice: 'own'", "up", "--xen-helper", "own")
        self.refused("a guest's name", "console", "a;b")
        self.refused("1 to 8 of a-z and 0-9", "--name", "../x", "status")

    def test_no_lab(self):
        with tempfile.TemporaryDirectory() as directory:
            self.refused("deploy/lab up" if os.getuid() == 0 else "need root",
                         "--dir", directory, "exec", "n1", "true")


class Kernel(unittest.TestCase):
    """The kernel of PV and PVH guests: what is packed in Debian's, without the zeroes."""

    @staticmethod
    def elf(segments):
        """An ELF file: segments = [(kind, file offset, content, size in memory)]."""
        made = bytearray(0x8000)
        made[:4] = b"\x7fELF"
        struct.pack_into("<QQ", made, 24, 0x1000000, 64)  # entry, program headers
        struct.pack_into("<HHHHH", made, 54, 56, len(segments), 64, 9, 8)
        for n, (kind, offset, content, size) in enumerate(segments):
            struct.pack_into("<IIQQQQQQ", made, 64 + n * 56, kind, 5, offset, offset, offset,
                             len(content), size, 4096)
            made[offset:offset + len(content)] = content
        return bytes(made)

    @staticmethod
    def segments(elf):
        """[(kind, address, content, size in memory)] as a loader sees it."""
        at, count = struct.unpack_from("<Q", elf, 32)[0], struct.unpack_from("<H", elf, 56)[0]
        found = []
        for n in range(count):
            kind, _, offset, _, address, size, memory, _ = struct.unpack_from(
                "<IIQQQQQQ", elf, at + n * 56)
            found.append((kind, address, elf[offset:offset + size], memory))
        return found

    def test_a_loader_sees_the_same_memory(self):
        text = b"code" * 100 + b"NOTE" + b"more" * 10
        elf = self.elf([(1, 0x1000, text, len(text)), (1, 0x3000, b"data" + bytes(0x3000), 0x4000),
                        (4, 0x1000 + 400, b"NOTE", 4)])
        small = kernel.compact(elf)
        self.assertLess(len(small), len(elf))
        self.assertEqual(struct.unpack_from("<Q", small, 24)[0], 0x1000000)
        for (kind, address, content, size), (kind2, address2, content2, size2) in zip(
                self.segments(elf), self.segments(small)):
            self.assertEqual((kind, address, size), (kind2, address2, size2))
            self.assertEqual(content.ljust(size, b"\0"), content2.ljust(size, b"\0"))

    def test_unpacks_a_boot_image(self):
        packed = lzma.compress(b"the kernel", format=lzma.FORMAT_XZ)
        image = bytearray(0x1000)
        image[0x1f1] = 3
        image[0x202:0x206] = b"HdrS"
        struct.pack_into("<II", image, 0x248, 16, len(packed))
        start = 4 * 512 + 16
        image[start:start + len(packed)] = packed
        self.assertEqual(kernel.payload(bytes(image)), b"the kernel")
        image[start] = 0
        with self.assertRaisesRegex(LabError, "not packed with xz"):
            kernel.payload(bytes(image))
        with self.assertRaisesRegex(LabError, "no bzImage"):
            kernel.payload(bytes(0x1000))

    def test_only_hvm_guests_boot_the_packed_one(self):
        self.assertTrue(guests.boot_file("hvm").endswith("/vmlinuz"))
        for kind in ("pv", "pvh"):
            self.assertEqual(guests.boot_file(kind), f"{kernel.DIRECTORY}/vmlinux")


class Archives(unittest.TestCase):
    def test_initramfs_is_a_cpio_archive(self):
        archive = initramfs.Archive()
        archive.directory("dev")
        archive.file("init", b"hello", 0o755)
        data, names = io.BytesIO(archive.bytes()), []
        while not names or names[-1] != "TRAILER!!!":
            header = data.read(110).decode()
            self.assertEqual(header[:6], "070701")
            fields = [int(header[6 + 8 * i:14 + 8 * i], 16) for i in range(13)]
            names.append(data.read(fields[11])[:-1].decode())
            data.seek(-data.tell() % 4, io.SEEK_CUR)
            content = data.read(fields[6])
            data.seek(-data.tell() % 4, io.SEEK_CUR)
            if names[-1] == "init":
                self.assertEqual((content, fields[1]), (b"hello", 0o100755))
        self.assertEqual(names, ["dev", "init", "TRAILER!!!"])

    def test_tar_leaves_the_root_directory_alone(self):
        """Its mode would become that of / on a node, where daemons are not root."""
        with tempfile.TemporaryDirectory() as directory:
            os.makedirs(os.path.join(directory, "tree", "usr"))
            archive = seed.Tar(os.path.join(directory, "x.tar"))
            archive.add_tree(os.path.join(directory, "tree"))
            archive.add("etc/name", "n1\n", 0o600)
            size = archive.done(1 << 20)
            self.assertEqual(os.path.getsize(archive.path), 1 << 20)
            said = subprocess.run(["tar", "-tvf", archive.path], capture_output=True, text=True,
                                  check=True, timeout=30).stdout
            self.assertEqual(size % 512, 0)
            with open(archive.path, "rb") as file:
                self.assertTrue(file.read(size).strip(b"\0"))
                self.assertFalse(file.read().strip(b"\0"))
        self.assertEqual([line.split()[-1] for line in said.splitlines()], ["usr/", "etc/name"])
        self.assertIn("-rw------- root/root", said.replace("0/0", "root/root"))


    def test_what_does_not_fit_on_its_disk_is_refused(self):
        with tempfile.TemporaryDirectory() as directory:
            archive = seed.Tar(os.path.join(directory, "x.tar"))
            archive.add("big", bytes(1 << 20))
            with self.assertRaisesRegex(LabError, "its disk no more than 1"):
                archive.done(1 << 20)


class Snapshot(unittest.TestCase):
    """The kept memory of a booted machine: when it is made anew, and how a node is woken from it."""

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.place = Place(directory.name, "lab")
        os.makedirs(self.place.of_image("modules-dom0"))
        os.makedirs(os.path.join(directory.name, "labs", "old"))
        for name in ("root.img", "xen-stock", "xen-shadow", "vmlinuz", "vmlinux", "kernels.img",
                     "busybox", "modules-dom0/order"):
            self.put(name)

    def put(self, name, text="x"):
        with open(self.place.of_image(name), "w", encoding="ascii") as file:
            file.write(text)

    def key(self, hypervisor="stock", version="QEMU 7.2"):
        with mock.patch.object(snapshot, "run", lambda *_: version):
            return snapshot.key(self.place, hypervisor)

    def test_is_of_what_it_was_made_with(self):
        keys = [self.key(), self.key("shadow"), self.key(version="QEMU 7.3")]
        for patched in (mock.patch.object(snapshot, "lab_init", lambda: "another"),
                        mock.patch("xenlab.machine.MEMORY_MIB", 1024),
                        mock.patch.object(snapshot, "processor", lambda: "another")):
            with patched:
                keys.append(self.key())
        for name in ("busybox", "xen-stock", "root.img"):
            self.put(name, "another")
            keys.append(self.key())
        self.assertEqual(len(set(keys)), len(keys))
        self.assertEqual(keys[-1], self.key())
        self.place.name = "other"  # one for all labs
        self.assertEqual(keys[-1], self.key())

    def test_old_ones_go_unless_a_lab_lies_on_them(self):
        paths = [self.place.of_image(f"snapshot-{name}")
                 for name in ("stock-new", "stock-used", "stock-old", "shadow-other")]
        for path in paths:
            os.makedirs(path)
        with open(os.path.join(self.place.directory, "labs", "old", "lab.json"), "w",
                  encoding="ascii") as file:
            file.write(f'{{"snapshot": "{paths[1]}"}}')
        snapshot.forget_old(self.place, "snapshot-stock-", paths[0])
        self.assertEqual([os.path.exists(path) for path in paths], [True, True, False, True])

    def test_a_node_knows_how_long_it_slept_before_it_goes_on(self):
        events = []

        class Node:
            name, qmp_socket, own_disk = "n1", "socket", self.place.of_image("own")

            pid_file = self.place.of_image("pid")

            def power_on(self, incoming):
                events.append(incoming)
                process.remember(self.pid_file, os.getpid())

        states = iter(["inmigrate", None, "paused"])

        def ask(path, command):
            self.assertEqual(path, "socket")
            if command == "query-status":
                state = next(states)
                if state is None:
                    raise LabError("busy")
                return {"status": state}
            with open(Node.own_disk, "rb") as file:
                events.append((command, file.read()))
            return {}
        self.put("own", "\0" * 4096)
        kept = snapshot.Snapshot(self.place.of_image("kept"))
        os.makedirs(kept.directory)
        self.assertFalse(kept.exists())
        self.put("kept/stopped", str(time.time_ns() - 5_000_000_000))
        self.assertTrue(kept.exists())
        with mock.patch.object(snapshot.qmp, "ask", ask):
            kept.wake(Node())
        self.assertIn(f"cat '{kept.directory}/state'", events[0])
        command, disk = events[1]
        self.assertEqual((command, len(disk), disk[:-512].strip(b"\0")), ("cont", 4096, b""))
        word, slept_ns = disk[-512:].rstrip(b"\0").split()
        self.assertEqual(word, b"wake")
        self.assertGreaterEqual(int(slept_ns), 5_000_000_000)
        self.assertEqual(len(events), 2)
        os.unlink(Node.pid_file)
        Node.power_on = lambda *_: None  # QEMU refused and is gone
        with self.assertRaisesRegex(LabError, "--cold.*made anew"):
            kept.wake(Node())

    def test_a_taken_name_is_refused(self):
        if os.getuid() == 0:
            done = lab("--dir", self.place.directory, "--name", "snapshot", "up", "--driver", "none")
            self.assertEqual(done.returncode, 2)
            self.assertIn("use another", done.stderr)

    def test_who_is_late_waits_for_a_lock_or_is_told(self):
        with self.place.lock("x"):
            with self.assertRaisesRegex(LabError, "another deploy/lab works on this"):
                with self.place.lock("x"):
                    pass
            releaser = Place(self.place.directory, "lab")
            entered = []

            def enter():
                with releaser.lock("x", 60):
                    entered.append(True)
            waiter = threading.Thread(target=enter)
            waiter.start()
        waiter.join(60)
        self.assertEqual(entered, [True])


class Services(unittest.TestCase):
    """What a node starts."""

    @staticmethod
    def line_of_hv(driver, *helper):
        return next((line for line in seed.services(driver, *helper).splitlines()
                     if line.startswith("hamgr-hv ")), None)

    def test_who_moves_memory_is_said_to_the_xen_driver_only(self):
        self.assertTrue(self.line_of_hv("xen").endswith("--xen-helper stock"))
        self.assertTrue(self.line_of_hv("xen", "auto").endswith("--xen-helper auto"))
        self.assertNotIn("--xen-helper", self.line_of_hv("embedded", "auto"))
        self.assertIsNone(self.line_of_hv("none"))
        self.assertIn("sshd ", seed.services("none"))


class Processes(unittest.TestCase):
    def test_found_and_ended(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "pid")
            child = process.spawn(path, ["sleep", "60"], os.path.join(directory, "log"))
            self.assertEqual(process.find(path), child.pid)
            self.assertTrue(process.end(path))
            self.assertEqual(child.wait(30), -signal.SIGKILL)
            self.assertFalse(process.end(path))

    def test_another_process_with_that_pid_is_left_alone(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "pid")
            with open(path, "w", encoding="ascii") as file:
                file.write(f"{os.getpid()} 1\n")
            self.assertFalse(process.end(path))

    def test_waiting_is_bounded(self):
        with self.assertRaisesRegex(LabError, "in vain: rain"):
            wait_until(lambda: False, "rain", 0, 0)


class LeftBehind(unittest.TestCase):
    """A lab of which nothing lives, as after a reboot, is in nobody's way; one of which anything does is."""

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.place = Place(directory.name, "test")
        self.own_image = self.place.image
        self.others_image = os.path.join(directory.name, "image-of-another-tree")
        os.makedirs(self.place.of_lab("n2", "bmc"))
        os.makedirs(self.place.of_lab("storage"))
        write(self.place.of_lab("lab.json"), json.dumps(
            {"nodes": 2, "hypervisor": "shadow", "image": self.others_image}))
        write(self.place.of_lab("n2", "pid"), f"{os.getpid()} 1\n")  # of another boot

    def up(self, bring_up=lambda *_: None):
        """(the lab, what it said) of an up that gets as far as starting things."""
        options = argparse.Namespace(nodes=3, hypervisor="stock", driver="none", xen_helper="stock",
                                     build="/nowhere", disks=0, cold=True)
        said = []
        found = Lab(self.place)
        with mock.patch.object(Place, "need_image"), mock.patch.object(Lab, "bring_up", bring_up):
            found.up(options, said.append)
        return found, said

    def test_nothing_of_it_lives(self):
        self.assertIsNone(Lab(self.place).alive())
        self.assertEqual(self.place.image, self.own_image)
        found, said = self.up()
        self.assertEqual(said, ["lab test was left behind, nothing of it lives: it is removed"])
        self.assertFalse(os.path.exists(self.place.of_lab("n2")))
        self.assertEqual((found.settings["nodes"], found.settings["image"]), (3, self.own_image))

    def test_each_part_of_it_counts(self):
        for path in (("n2", "pid"), ("n2", "bmc", "pid"), ("storage", "pid"), ("maker",)):
            with self.subTest(path):
                child = process.spawn(self.place.of_lab(*path), ["sleep", "60"], "/dev/null")
                try:
                    self.assertEqual(Lab(self.place).alive()["nodes"], 2)
                    self.assertEqual(self.place.image, self.others_image)
                    with self.assertRaisesRegex(LabError, "lab test is up already"):
                        self.up()
                    self.assertTrue(os.path.exists(self.place.of_lab("n2")))
                finally:
                    process.end(self.place.of_lab(*path))
                    child.wait(30)

    def test_who_brings_it_up_is_of_it_until_it_is_up(self):
        seen = []
        self.up(lambda lab, *_: seen.append(Lab(lab.place).alive()["nodes"]))
        self.assertEqual(seen, [3])
        self.assertIsNone(Lab(self.place).alive())

    def test_status_says_so(self):
        if os.getuid() == 0:
            done = lab("--dir", self.place.directory, "--name", "test", "status")
            self.assertIn("nothing of it lives; deploy/lab down", done.stdout, done.stderr)


class Chassis(unittest.TestCase):
    class Node:
        def __init__(self):
            self.done = []

        def state(self):
            return "hung"

        def power_on(self):
            self.done.append("on")

        def power_off(self):
            self.done.append("off")

    def test_words_of_a_bmc(self):
        node = self.Node()
        self.assertEqual(bmc.chassis(node, ["get", "power"]), "power:1")  # hung is not off
        self.assertEqual(bmc.chassis(node, ["set", "power", "0"]), "")
        self.assertEqual(bmc.chassis(node, ["set", "power", "1"]), "")
        self.assertEqual(bmc.chassis(node, ["set", "reset", "1"]), "")
        self.assertIsNone(bmc.chassis(node, ["set", "boot", "1"]))
        self.assertEqual(node.done, ["off", "on", "off", "on"])


class GuestConfig(unittest.TestCase):
    def test_disk_is_the_guests_own(self):
        class Options:
            type, memory, working_set, steps, disk, write_ms = "pv", 128, 32, 4, True, 100
        text = guests.config(Place("/nowhere", "lab"), "g3", 2, Options)
        self.assertIn("target=/dev/nbd2\"]", text)
        self.assertIn("lab.ip=10.77.0.152 lab.disk=/dev/xvda lab.write_ms=100", text)
        self.assertEqual(text, guests.config(Place("/nowhere", "lab"), "g3", 2, Options))


def block(sequence, previous=(0, 0), guest=1, incarnation=7, digest=None):
    """A block as the guest writes it, but for filler and digest."""
    data = bytearray(nbd.BLOCK)
    for index in range(8):
        struct.pack_into("<8Q", data, index * nbd.SECTOR, nbd.CHAIN_MAGIC, guest, incarnation, sequence,
                         *previous, 99, index)
    struct.pack_into("<2Q", data, nbd.BLOCK - 16, *(digest or (sequence, sequence)))
    return bytes(data)


class Witness(unittest.TestCase):
    def setUp(self):
        self.found = []
        self.chain = nbd.Chain(self.found.append)

    def write(self, node, first, last, **more):
        for sequence in range(first, last + 1):
            before = (0, 0) if sequence == 1 else (sequence - 1, sequence - 1)
            self.chain.write(node, block(sequence, before, **more))

    def test_a_guest_that_moves_back_and_forth_is_fine(self):
        self.write("a", 1, 10)
        self.write("b", 11, 20)
        self.write("a", 21, 30)
        self.write("b", 31, 33, incarnation=8)  # after a failover: it has booted
        self.assertEqual(self.found, [])

    def finds(self, words):
        self.assertEqual(len(self.found), 1, self.found)
        self.assertIn(words, self.found[0])

    def test_a_repeated_block(self):
        self.write("a", 1, 3)
        self.chain.write("a", block(3, (2, 2)))
        self.finds("sequence 3 again")

    def test_a_block_left_out(self):
        self.write("a", 1, 3)
        self.chain.write("a", block(5, (4, 4)))
        self.finds("sequence 5 too early")

    def test_a_torn_block(self):
        self.write("a", 1, 3)
        data = bytearray(block(4, (3, 3)))
        data[nbd.SECTOR:2 * nbd.SECTOR] = block(3, (2, 2))[nbd.SECTOR:2 * nbd.SECTOR]
        self.chain.write("a", bytes(data))
        self.finds("torn")

    def test_a_block_that_follows_another(self):
        self.write("a", 1, 3)
        self.chain.write("a", block(4, (9, 9)))
        self.finds("does not follow")

    def test_an_old_incarnation(self):
        self.write("a", 1, 3)
        self.write("b", 4, 8, incarnation=8)
        self.write("c", 9, 9)
        self.finds("writes again")

    def test_two_nodes_by_turns(self):
        self.write("a", 1, 3)
        self.write("b", 4, 4)
        self.write("a", 5, 5)
        self.finds("by turns")

    def test_another_guest(self):
        self.write("a", 1, 3)
        self.write("a", 4, 4, guest=2)
        self.finds("another guest")

    def test_other_writes_are_none_of_its_business(self):
        self.chain.write("a", bytes(nbd.BLOCK))
        self.assertEqual(self.found, [])


class Storage(unittest.TestCase):
    """The server, as Linux' nbd-client speaks to it."""

    async def talk(self, directory):
        server = nbd.Server(directory)
        listening = await asyncio.start_server(
            lambda r, w: nbd.Client(server, r, w).serve(), "127.0.0.1", 0)
        async with listening:
            port = listening.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            self.assertEqual((await reader.readexactly(18))[:16], nbd.NBDMAGIC + nbd.IHAVEOPT)
            writer.write(struct.pack(">I", 3))
            self.ask_export(writer, b"../etc")
            self.assertEqual((await self.answer(reader))[0], nbd.REP_ERR_UNKNOWN)
            self.ask_export(writer, b"disk0")
            kind, data = await self.answer(reader)
            self.assertEqual((kind, struct.unpack(">HQH", data)[1]), (nbd.REP_INFO, 65536))
            self.assertEqual((await self.answer(reader))[0], nbd.REP_ACK)
            self.assertEqual(await self.request(reader, writer, nbd.WRITE | nbd.FUA, 4096, block(1)), 0)
            self.assertEqual(await self.request(reader, writer, nbd.READ, 4096, b"", 4096), block(1))
            self.assertEqual(await self.request(reader, writer, nbd.WRITE, 65536, bytes(512)),
                             nbd.EINVAL)
            self.assertEqual(await self.request(reader, writer, nbd.FLUSH, 0, b""), 0)
            writer.close()

    @staticmethod
    def ask_export(writer, name):
        data = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
        writer.write(nbd.IHAVEOPT + struct.pack(">II", nbd.OPT_GO, len(data)) + data)

    @staticmethod
    async def answer(reader):
        _, _, kind, length = struct.unpack(">QIII", await reader.readexactly(20))
        return kind, await reader.readexactly(length)

    @staticmethod
    async def request(reader, writer, kind, offset, data, length=None):
        size = len(data) if length is None else length
        writer.write(struct.pack(">II8sQI", nbd.REQUEST_MAGIC, kind, b"handle78", offset, size) + data)
        _, error, handle = struct.unpack(">II8s", await reader.readexactly(16))
        assert handle == b"handle78"
        return await reader.readexactly(length) if length and not error else error

    def test_server(self):
        with tempfile.TemporaryDirectory() as directory:
            with open(os.path.join(directory, "disk0.raw"), "wb") as file:
                file.truncate(65536)
            asyncio.run(asyncio.wait_for(self.talk(directory), 60))
            with open(os.path.join(directory, "writes.log"), encoding="ascii") as file:
                self.assertEqual([line.split()[1:] for line in file],
                                 [["127.0.0.1", "disk0", "4096", "4096"]])


if __name__ == "__main__":
    unittest.main()
