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

sys.path.insert(0, os.path.join(streamrig.ROOT, "tests", "lib"))
import stream_verify  # noqa: E402

RECORDER = ""
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
        """In this process: a start of Python costs more than most streams here."""
        return stream_verify.judge(arguments)

    def verify_as_people_do(self, *arguments):
        done = subprocess.run([sys.executable, stream_verify.__file__, *arguments], capture_output=True,
                              text=True, check=False)
        report = json.loads(done.stdout)
        self.assertEqual(done.returncode == 0, "error" not in report)
        return report

    def record(self, data, *options, is_fine=True):
        self.put("native", data)
        done = subprocess.run([RECORDER, *(self.path(n) for n in ("native", "rebuilt", "sent", "answers")),
                               *options], capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 0 if is_fine else 1, done.stdout + done.stderr)
        return done.stdout


    def recordings(self):
        """Arguments for all connections that were recorded."""
        names = sorted(os.listdir(self.dir), key=lambda name: [int(part) for part in name.split(".")[1:]])
        return ([self.path("sent")]
                + [word for name in names if name.startswith("sent.") for word in ("--lane", self.path(name))]
                + [word for name in names if name.startswith("answers") for word in ("--answers", self.path(name))])

    def check(self, data, *options):
        self.record(data, *options)
        is_identical = "--identical" in options
        if is_identical:
            self.assertEqual(self.get("rebuilt"), data)
        wire = self.verify("wire", *self.recordings(), "--rebuilt", self.path("decoded"), "--secret", SECRET)
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

class Recorded(Case):
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

    def test_new_batches_go_at_once(self):
        """Never sent before: nothing is left out, not even what comes twice in the record itself. As
        soon as one page was, the record is looked at as a whole."""
        pages = [b"page" * 1024, b"next" * 1024]
        new = ([5, 5, 0xF << 60 | 7, 6], [pages[0], pages[0], pages[1]])
        report = self.check(streamrig.hvm_stream([new]))
        self.assertEqual((report["pages"], report["holes"]), (3, 0))
        report = self.check(streamrig.hvm_stream([new, ([6, 8, 8], [pages[1], pages[0], pages[0]])]))
        self.assertEqual(report["pages"], 4)

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
        self.assertNotIn("error", self.verify_as_people_do("wire", self.path("sent"), "--secret", SECRET))
        report = self.verify_as_people_do("wire", self.path("sent"), "--secret", "11" * 32)
        self.assertIn("proof", report["error"])


def header(kind, sequence, payload):
    return b"HMS1" + struct.pack("<HHIIQ", kind, 0, len(payload), 0, sequence) + payload


def frames_of(data):
    """[(type, payload)] of whole frames."""
    found, at = [], 0
    while at < len(data):
        kind, _, size = struct.unpack_from("<HHI", data, at + 4)
        found.append((kind, data[at + 24:at + 24 + size]))
        at += 24 + size
    return found


class Lanes(Case):
    """Several connections, each recorded by itself, judged together."""

    def test_counts(self):
        rng = random.Random(20)
        for lanes, options in ((1, ()), (3, ("--ring", "2")), (8, ("--level", "0", "--identical", "1"))):
            data = streamrig.hvm_stream([(list(range(1000)), streamrig.some_pages(rng, 1000))] * 2)
            report = self.check(data, "--lanes", str(lanes), *options)
            self.assertEqual((report["lost_lanes"], report["repeated_parcels"]), (0, 0))
            self.assertEqual(len(os.listdir(self.dir)), 5 + lanes)
            for name in os.listdir(self.dir):
                os.unlink(self.path(name))

    def test_cuts(self):
        """Data connections, and the control connection, break and come back."""
        rng = random.Random(21)
        data = streamrig.hvm_stream([(list(range(at, at + 1000)), [rng.randbytes(4096) for _ in range(1000)])
                                     for at in range(0, 5000, 1000)])
        report = self.check(data, "--lanes", "2", "--level", "0", "--cut", "700", "--cut-answers", "300")
        self.assertEqual(report["lost_lanes"], 2)
        self.assertIn("sent.0.1", os.listdir(self.dir))

    PLAN = (1, 2, 2, 1)  # the lanes of parcels

    def repacked(self):
        """A recorded stream in other parcels, with barriers: [(lane, [frame])], as the rules allow."""
        rng = random.Random(22)
        self.record(streamrig.hvm_stream([([1, 2], streamrig.some_pages(rng, 2, zero=0.0))]), "--lanes", "2")
        found = []
        for name in ("sent.1.1", "sent.2.1"):
            found += [payload for kind, payload in frames_of(self.get(name)) if kind == 35]
        found = [frame for payload in sorted(found, key=lambda p: struct.unpack_from("<Q", p, 16))
                 for frame in frames_of(payload)]
        middle = [(33, struct.pack("<Q", 0)), (33, struct.pack("<Q", 1))]
        found = [*found[:2], middle[0], *found[2:-1], middle[1], found[-1]]
        frames = [header(kind, number, payload) for number, (kind, payload) in enumerate(found)]
        step = -(-len(frames) // len(self.PLAN))
        return [(lane, frames[i * step:(i + 1) * step]) for i, lane in enumerate(self.PLAN)]

    def judge(self, parcels, more=(), joins=((77, 1, 1), (77, 2, 1)), tail=b""):
        """parcels: [(lane, [frame])], numbered as they come; more: [(lane, number, payload)]."""
        lanes = {join[1]: header(32, 0, struct.pack("<QHHI", join[0], join[1], 0, join[2])) for join in joins}
        numbered = [(lane, number, b"".join(frames)) for number, (lane, frames) in enumerate(parcels)]
        for lane, number, payload in [*numbered, *more]:
            lanes[lane] += header(35, number, payload)
        lanes[1] += tail
        words = []
        for lane, data in lanes.items():
            words += ["--lane", self.put(f"lane{lane}", data)]
        return self.verify("wire", self.path("sent"), *words, "--secret", SECRET)

    def test_rules(self):
        good = self.repacked()
        report = self.judge(good)
        self.assertEqual((report.get("error"), report.get("barriers"), report.get("parcels")), (None, 2, 4))
        payload = b"".join(good[0][1])
        barrier = header(33, 2, struct.pack("<Q", 1))
        cases = {
            "parcels are missing": dict(parcels=good, more=[(1, 5, payload)]),
            "no END": dict(parcels=good[:-1]),
            "repeated though no": dict(parcels=good, more=[(2, 0, payload)]),
            "again with other content": dict(parcels=good, more=[(2, 0, payload[:-1] + b"x")]),
            "twice on a connection": dict(parcels=good, more=[(1, 0, payload)]),
            "outside of the window": dict(parcels=good, more=[(1, 60, payload), (1, 1, payload)]),
            "where 0 is due": dict(parcels=[*good[1:], good[0]]),
            "BARRIER out of order": dict(parcels=[(lane, [barrier if frame[4] == 33 and frame[16] == 2 else frame
                                                          for frame in frames]) for lane, frames in good]),
            "HELLO in a parcel": dict(parcels=[(1, [header(1, 0, bytes(96))]), *good]),
            "payload cut": dict(parcels=[(1, [payload[:-1]]), *good[1:]]),
            "PING on a data connection": dict(parcels=good, tail=header(4, 0, b"")),
            "header cut": dict(parcels=good, tail=header(35, 9, payload)[:20]),
            "JOIN: ticket": dict(parcels=good, joins=((77, 1, 1), (78, 2, 1))),
            "JOIN: attempt": dict(parcels=good, joins=((77, 1, 1), (77, 2, 0))),
            "lane 3 of 2": dict(parcels=good, joins=((77, 1, 1), (77, 2, 1), (77, 3, 1))),
        }
        for words, case in cases.items():
            with self.subTest(words=words):
                self.assertIn(words, self.judge(**case).get("error", "nothing"))

    def test_answers(self):
        self.repacked()
        arguments = self.recordings()
        answers = frames_of(self.get("answers"))
        self.assertEqual((answers[0][0], answers[-1][0]), (2, 12))
        ack = [(34, struct.pack("<Q", number)) for number in (1, 0, 99)]
        for words, more in (("ACK 0 after 1", ack[:2]), ("ACK 99 after", ack[2:]), ("second WELCOME", [answers[0]]),
                            ("RAW from", [(8, bytes(9))])):
            with self.subTest(words=words):
                told = answers[:-1] + more + answers[-1:]
                self.put("answers", b"".join(header(*(kind, i, p)) for i, (kind, p) in enumerate(told)))
                self.assertIn(words, self.verify("wire", *arguments).get("error", "nothing"))


class Kept(Case):
    def test_streams_of_the_tree(self):
        """tests/fuzz/corpus/streams, made by make_streams.py: test_recv judges the same files."""
        directory = os.path.join(streamrig.ROOT, "tests", "fuzz", "corpus", "streams")
        names = os.listdir(directory)
        self.assertGreater(len(names), 27)
        for name in names:
            with self.subTest(name=name):
                report = self.verify("wire", os.path.join(directory, name), "--secret", SECRET)
                self.assertEqual("error" in report, name.startswith("bad-"), report)
        report = self.verify("wire", os.path.join(directory, "good-keep-delta.wire"))
        self.assertEqual((report["kept_pages"], report["delta_pages"]), (6, 12))


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
