#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The independent decoder against recorded streams of both feeders, and against broken ones.

  test_stream_verify.py RECORDER [unittest options]
"""
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import unittest

import streamrig

RECORDER = ""
VERIFY = os.path.join(streamrig.ROOT, "tests", "lib", "stream_verify.py")
SECRET = bytes(range(32)).hex()


class Case(unittest.TestCase):
    def setUp(self):
        self.holder = tempfile.TemporaryDirectory(prefix="hamgr-verify-")
        self.dir = self.holder.name

    def tearDown(self):
        self.holder.cleanup()

    def path(self, name):
        return os.path.join(self.dir, name)

    def put(self, name, data):
        with open(self.path(name), "wb") as file:
            file.write(data)
        return self.path(name)

    def get(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()

    def verify(self, *arguments):
        done = subprocess.run([sys.executable, VERIFY, *arguments], capture_output=True, text=True,
                              check=False)
        report = json.loads(done.stdout)
        self.assertEqual(done.returncode == 0, "error" not in report)
        return report

    def record(self, data, *options, is_fine=True):
        self.put("native", data)
        done = subprocess.run([RECORDER, *(self.path(n) for n in ("native", "rebuilt", "sent", "answers")),
                               *options], capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 0 if is_fine else 1, done.stdout + done.stderr)
        return done.stdout


class Recorded(Case):
    def check(self, data, *options):
        self.record(data, *options)
        is_identical = "--identical" in options
        if is_identical:
            self.assertEqual(self.get("rebuilt"), data)
        wire = self.verify("wire", self.path("sent"), "--answers", self.path("answers"), "--rebuilt",
                           self.path("decoded"), "--secret", SECRET)
        self.assertNotIn("error", wire)
        self.assertEqual(self.get("decoded"), self.get("rebuilt"))
        native = self.verify("native", self.path("native"))
        for key in ("image_sha256", "canonical_sha256"):
            self.assertEqual(wire[key], native[key])
        if is_identical:
            self.assertEqual(wire["zero_on_wire"], native["zero_pages"])
        report = self.verify("same", self.path("native"), self.path("rebuilt"))
        self.assertTrue(report["is_canonical"])
        return wire

    def test_proxy(self):
        for seed in range(4):
            report = self.check(streamrig.some_stream(seed), "--level", str(seed))
            self.assertEqual(report["packed_blocks"] > 0, seed > 0)

    def test_ring(self):
        for seed, slots in ((5, 1), (6, 2), (7, 64)):
            self.check(streamrig.some_stream(seed), "--ring", str(slots))

    def test_ring_falls_back_for_large_records(self):
        rng = random.Random(8)
        pages = streamrig.some_pages(rng, 2000, zero=0.9)
        data = streamrig.hvm_stream([(list(range(10)), pages[:10]), (list(range(2000)), pages),
                                     ([3], [b"new!" * 1024])])
        report = self.check(data, "--ring", "4")
        self.assertEqual(report["frames"]["BATCH"], 3)

    def test_groups_are_full(self):
        """64 pages a frame, whatever pieces the kernel hands over."""
        rng = random.Random(9)
        pages = [rng.randbytes(64) * 64 for _ in range(1024)]
        for options in ((), ("--ring", "2")):
            report = self.check(streamrig.hvm_stream([(list(range(1024)), pages)]), *options)
            self.assertLess(report["frames"]["PAGES"], 16 + 8)  # a loaded machine may break up a few

    def test_rounds(self):
        """Pages sent again: the canonical form drops what did not change."""
        rng = random.Random(10)
        pages = streamrig.some_pages(rng, 50)
        changed = list(pages)
        changed[7] = rng.randbytes(4096)
        data = streamrig.hvm_stream([(list(range(50)), pages), (list(range(50)), changed)])
        slim = streamrig.hvm_stream([(list(range(50)), pages), ([7], [changed[7]])])
        self.check(data)
        self.put("slim", slim)
        report = self.verify("same", self.path("native"), self.path("slim"))
        self.assertTrue(report["is_canonical"])
        self.assertFalse(report["is_identical"])

    def rounds(self, rng, pages, count, share=1.0):
        """The same pages count times, with a word of some changed each time."""
        batches = []
        for number in range(count):
            if number > 0:
                pages = [page[:64] + rng.randbytes(8) + page[72:] if rng.random() < share else page
                         for page in pages]
            batches.append((list(range(len(pages))), pages))
        return streamrig.hvm_stream(batches)

    def test_deltas(self):
        """While groups are compressed, pages enter the cache when first sent; else at the second
        time. From then on: what changed."""
        rng = random.Random(11)
        data = self.rounds(rng, [rng.randbytes(4096) for _ in range(200)], 5)
        for options, deltas in ((("--ring", "2"), 800), (("--level", "0"), 600), (("--workers", "3"), 800)):
            report = self.check(data, *options)
            self.assertEqual((report["kept_pages"], report["delta_pages"]), (200, deltas))
            self.assertLess(report["wire_bytes"], (1000 - deltas) * 4096 + deltas * 40 + 20000)
        report = self.check(data, "--level", "255")  # may find that storing is as good
        self.assertEqual(report["kept_pages"], 200)
        self.assertIn(report["delta_pages"], range(600, 801))
        report = self.check(data, "--identical", "1")
        self.assertEqual(report["pages"], 1000)
        self.assertEqual(report["delta_pages"], 800)

    def test_lent_slots(self):
        """Pages sent once give their place in a full cache to those sent again."""
        rng = random.Random(15)
        pages = [rng.randbytes(4096) for _ in range(600)]
        batches = [(list(range(600)), pages)]
        for _ in range(2):
            pages = pages[:500] + [rng.randbytes(8) + page[8:] for page in pages[500:]]
            batches.append((list(range(500, 600)), pages[500:]))
        report = self.check(streamrig.hvm_stream(batches), "--cache", "1")
        self.assertIn(report["cache_pages"], range(110, 200))
        self.assertEqual(report["kept_pages"], report["cache_pages"] + 100)
        self.assertEqual(report["delta_pages"], 100)

    def test_small_cache(self):
        """More than it holds: it costs bytes, nothing else. None at all: the same."""
        rng = random.Random(12)
        data = self.rounds(rng, [rng.randbytes(4096) for _ in range(600)], 4)
        report = self.check(data, "--cache", "1")
        self.assertLess(report["cache_pages"], 200)
        self.assertGreater(report["delta_pages"], 20)
        report = self.check(data, "--cache", "0")
        self.assertEqual(report["cache_pages"] + report["kept_pages"] + report["delta_pages"], 0)

    def test_unchanged_is_left_out(self):
        rng = random.Random(13)
        data = self.rounds(rng, streamrig.some_pages(rng, 300), 3, share=0.0)
        report = self.check(data, "--ring", "1")
        self.assertEqual((report["pages"], report["frames"]["BATCH"]), (300, 1))

    def test_verify_is_complete(self):
        """Behind VERIFY every page goes, changed or not."""
        rng = random.Random(14)
        pages = streamrig.some_pages(rng, 40)
        batch = streamrig.page_data(list(range(40)), pages)
        data = b"".join([streamrig.libxl_header(), streamrig.record(1), streamrig.image_header(),
                         streamrig.record(16), batch, batch, streamrig.record(13), batch,
                         streamrig.record(0), streamrig.record(0)])
        report = self.check(data)
        self.assertEqual(report["pages"], 80)
        self.assertEqual(report["records"]["VERIFY"], 1)

    def test_holes_forget(self):
        """A page that was a hole comes back whole; in HVM the hole itself is left out, in PV not."""
        page = b"page" * 1024
        for guest_type, holes in ((2, 1), (1, 3)):
            batches = [([5], [page]), ([0xF << 60 | 5], []), ([5], [page]), ([0xE << 60 | 6], []),
                       ([0xD << 60 | 7], [])]
            data = b"".join([streamrig.libxl_header(), streamrig.record(1),
                             streamrig.image_header(guest_type), streamrig.record(16)]
                            + [streamrig.page_data(*batch) for batch in batches]
                            + [streamrig.record(0), streamrig.record(0)])
            report = self.check(data)
            self.assertEqual((report["pages"], report["holes"]), (2, holes))

    def test_wrong_secret_is_seen(self):
        self.record(streamrig.some_stream(1, batches=1))
        report = self.verify("wire", self.path("sent"), "--secret", "11" * 32)
        self.assertIn("proof", report["error"])


class Broken(Case):
    def test_native_rules(self):
        base = [streamrig.libxl_header(), streamrig.record(1), streamrig.image_header(), streamrig.record(16)]
        tail = [streamrig.record(0), streamrig.record(0)]
        self.assertNotIn("error", self.verify("native", self.put("n", b"".join(base + tail))))
        bad = [streamrig.record(14), streamrig.record(0x55), streamrig.record(7, bytes(4096)),
               streamrig.page_data([1 << 40], [bytes(4096)]), streamrig.page_data([5 << 60], [bytes(4096)]),
               streamrig.page_data([1 << 60], [bytes(4096)]), streamrig.page_data([1], []),
               streamrig.record(8, bytes(23)), streamrig.record(16), streamrig.record(0x80486D67, bytes(16)),
               struct.pack("<II", 9, 1) + b"x" + b"y" * 7]
        for number, piece in enumerate(bad):
            with self.subTest(number=number):
                path = self.put("n", b"".join(base + [piece] + tail))
                self.assertIn("error", self.verify("native", path))
                # Both decoders, written apart, agree on every case.
                self.record(b"".join(base + [piece] + tail), is_fine=False)
        for data in (b"", b"".join(base), b"".join(base + tail) + b"\0"):
            self.assertIn("error", self.verify("native", self.put("n", data)))

    def test_frames_damaged(self):
        self.record(streamrig.some_stream(2, batches=2, most=20))
        sent = self.get("sent")
        rng = random.Random(3)
        for _ in range(60):
            damaged = bytearray(sent)
            at = rng.randrange(len(sent))
            damaged[at] ^= 1 << rng.randrange(8)
            report = self.verify("wire", self.put("damaged", damaged), "--secret", SECRET)
            # Only the OPTIONAL flag of a known frame changes nothing.
            self.assertTrue("error" in report or damaged[at] in (0, 1), at)
        for length in (0, 10, len(sent) // 2, len(sent) - 1):
            self.assertIn("error", self.verify("wire", self.put("cut", sent[:length])))


if __name__ == "__main__":
    RECORDER = os.path.abspath(sys.argv.pop(1))
    unittest.main()
