#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Independent decoder of hamgr's page stream and of the native streams it carries.

Written from migrate/STREAM.md alone, in another language and by other means than migrate/*.c, so
that a mistake has to be made twice to pass.

  stream_verify.py native FILE                  a hypervisor's native stream (libxl v2, libxc v2/v3)
  stream_verify.py wire SENT [--answers FILE]   frames recorded from one end, decrypted: what the
                                                sender sent, and what the receiver answered
        [--lane FILE]...                        what went over each further connection, JOIN first;
                                                --answers once for each control connection, in order
        [--rebuilt FILE]                        write the native stream the frames stand for
        [--secret HEX [--binding HEX]]          check the proofs of HELLO and WELCOME too
  stream_verify.py same FILE FILE               do two native streams leave the same memory?

Prints one JSON object: counts, sha256 of the native stream, of its canonical form (pages equal to
the last version sent left out) and of the final memory image (sha256 over pfn and sha256 of the
page, in order of pfn). Exit 1 and {"error": ...} for anything the format does not allow.
"""
import argparse
import ctypes
import ctypes.util
import hashlib
import hmac
import json
import mmap
import os
import struct
import sys

PAGE = 4096
ZERO = hashlib.sha256(bytes(PAGE)).digest()
OPTIONAL = 1 << 31
MARKER = 0x80486D67


class Bad(Exception):
    """A rule of the format is broken."""


def want(condition, words):
    if not condition:
        raise Bad(words)


# ---- native streams ----

# type -> (name, guest types, smallest length, step beyond it; None = exactly that length)
XC_RECORDS = {
    0x00: ("END", (1, 2), 0, None), 0x01: ("PAGE_DATA", (1, 2), 16, 8),
    0x02: ("X86_PV_INFO", (1,), 8, None), 0x03: ("X86_PV_P2M_FRAMES", (1,), 8, 8),
    0x04: ("X86_PV_VCPU_BASIC", (1,), 8, 1), 0x05: ("X86_PV_VCPU_EXTENDED", (1,), 8, 1),
    0x06: ("X86_PV_VCPU_XSAVE", (1,), 8, 1), 0x07: ("SHARED_INFO", (1,), PAGE, None),
    0x08: ("X86_TSC_INFO", (1, 2), 24, None), 0x09: ("HVM_CONTEXT", (2,), 1, 1),
    0x0A: ("HVM_PARAMS", (2,), 8, 16), 0x0C: ("X86_PV_VCPU_MSRS", (1,), 8, 1),
    0x0D: ("VERIFY", (1, 2), 0, None), 0x10: ("STATIC_DATA_END", (1, 2), 0, None),
    0x11: ("X86_CPUID_POLICY", (1, 2), 0, 24), 0x12: ("X86_MSR_POLICY", (1, 2), 0, 16),
}


class Image:
    """The guest's memory as the pages came, and the canonical stream's hash."""

    def __init__(self):
        self.pages = {}
        self.canonical = hashlib.sha256()
        self.is_hvm = self.is_verifying = False

    def batch(self, entries, digests, contents):
        kept = []
        data = iter(zip(digests, contents))
        for entry in entries:
            kind, pfn = entry >> 60, entry & ((1 << 52) - 1)
            if kind < 13:
                digest, content = next(data)
                if self.is_verifying or self.pages.get(pfn) != (kind, digest):
                    kept.append((entry, content))
                self.pages[pfn] = (kind, digest)
            else:
                if kind == 14:  # populated, never written
                    self.pages.setdefault(pfn, (0, ZERO))
                if kind == 14 or not self.is_hvm:
                    kept.append((entry, None))
        if kept:
            self.canonical.update(struct.pack("<II", len(kept), sum(c is not None for _, c in kept)))
            for entry, content in kept:
                self.canonical.update(struct.pack("<Q", entry))
                if content is not None:
                    self.canonical.update(content)

    def digest(self):
        total = hashlib.sha256()
        for pfn in sorted(self.pages):
            total.update(struct.pack("<Q", pfn) + self.pages[pfn][1])
        return total.hexdigest()


class Native:
    """Checks a whole native stream in a buffer."""

    def __init__(self, data):
        self.data = memoryview(data)
        self.at = 0
        self.counts = {}
        self.image = Image()
        self.zero_pages = self.data_pages = self.holes = 0
        self.guest = self.version = None

    def take(self, size, what):
        want(self.at + size <= len(self.data), f"{what}: stream ends at {len(self.data)}")
        self.at += size
        return self.data[self.at - size:self.at]

    def header(self, layer):
        kind, length = struct.unpack("<II", self.take(8, f"{layer} record header"))
        want(length <= 128 << 20, f"{layer} record {kind:#x}: {length} bytes")
        want(kind != MARKER, "a page marker in a native stream")
        return kind, length

    def body(self, length, what):
        body = self.take(length, what)
        padding = self.take(-length % 8, f"padding of {what}")
        want(not any(padding), f"padding of {what} is not zero")
        return body

    def note(self, name):
        self.counts[name] = self.counts.get(name, 0) + 1

    def page_data(self, body):
        want(len(body) >= 16, "PAGE_DATA too short")
        count, reserved = struct.unpack_from("<II", body)
        want(reserved == 0, "PAGE_DATA: reserved bytes")
        want(1 <= count <= 32768, f"PAGE_DATA of {count} entries")
        want(len(body) >= 8 + 8 * count, "PAGE_DATA shorter than its entries")
        entries = struct.unpack_from(f"<{count}Q", body, 8)
        at = 8 + 8 * count
        digests, contents = [], []
        for entry in entries:
            kind = entry >> 60
            want(not entry & 0x0FF0 << 48, f"entry {entry:#x}: reserved bits")
            want(entry & (1 << 52) - 1 < 1 << 32, f"entry {entry:#x}: page number")
            want(kind not in (5, 6, 7, 8), f"entry {entry:#x}: type")
            want(kind in (0, 13, 14, 15) or self.guest == 1, f"entry {entry:#x}: page table in HVM")
            if kind >= 13:
                self.holes += 1
                continue
            want(at + PAGE <= len(body), "PAGE_DATA shorter than its pages")
            content = body[at:at + PAGE]
            at += PAGE
            digests.append(hashlib.sha256(content).digest())
            contents.append(content)
            self.zero_pages += digests[-1] == ZERO
        want(at == len(body), "PAGE_DATA longer than its pages")
        self.data_pages += len(digests)
        self.image.batch(entries, digests, contents)

    def libxc(self):
        marker, name, version, options, low, high = struct.unpack(">QIIHHI", self.take(24, "image header"))
        want(marker == 2**64 - 1 and name == 0x58454E46, "no libxc image")
        want(version in (2, 3), f"libxc version {version}")
        want(options == low == high == 0, "libxc options")
        guest, shift, reserved, _, _ = struct.unpack("<IHHII", self.take(16, "domain header"))
        want(guest in (1, 2) and shift == 12 and reserved == 0, "domain header")
        self.guest, self.version = guest, version
        self.image.is_hvm = guest == 2
        is_static = False
        while True:
            kind, length = self.header("libxc")
            want(kind not in (0x0E, 0x0F), "a checkpointed stream")
            if kind & OPTIONAL:
                self.body(length, f"optional record {kind:#x}")
                self.note("optional")
                continue
            want(kind in XC_RECORDS, f"unknown mandatory libxc record {kind:#x}")
            name, guests, least, step = XC_RECORDS[kind]
            want(guest in guests, f"{name} in a guest of type {guest}")
            fits = length == least if step is None else length >= least and (length - least) % step == 0
            want(fits, f"{name} of {length} bytes")
            body = self.body(length, name)
            self.note(name)
            if name == "STATIC_DATA_END":
                want(not is_static, "second STATIC_DATA_END")
                is_static = True
            self.image.is_verifying |= name == "VERIFY"
            if name == "PAGE_DATA":
                want(is_static or version < 3, "PAGE_DATA before STATIC_DATA_END")
                self.page_data(body)
            else:
                self.image.canonical.update(struct.pack("<II", kind, length) + bytes(body))
            if name == "END":
                want(is_static or version < 3, "no STATIC_DATA_END")
                return

    def check(self):
        ident, version, options = struct.unpack(">QII", self.take(16, "libxl header"))
        want(ident == 0x4C6962786C466D74, "not a libxl stream")
        want(version == 2 and options == 0, "libxl version or options")
        has_image = False
        while True:
            kind, length = self.header("libxl")
            want(kind not in (4, 5), "a checkpointed stream")
            if kind & OPTIONAL:
                self.body(length, f"optional record {kind:#x}")
                continue
            want(kind in (0, 1, 2, 3), f"unknown mandatory libxl record {kind:#x}")
            want(length == 0 if kind < 2 else length >= 8, f"libxl record {kind:#x} of {length} bytes")
            body = self.body(length, f"libxl record {kind:#x}")
            self.image.canonical.update(struct.pack("<II", kind, length) + bytes(body))
            if kind == 1:
                want(not has_image, "second LIBXC_CONTEXT")
                has_image = True
                self.libxc()
            if kind == 0:
                break
        want(has_image, "no guest image")
        want(self.at == len(self.data), f"{len(self.data) - self.at} bytes behind the end")
        return self

    def report(self):
        return {"bytes": len(self.data), "guest_type": {1: "pv", 2: "hvm"}[self.guest],
                "libxc_version": self.version, "records": self.counts, "pages": self.data_pages,
                "zero_pages": self.zero_pages, "holes": self.holes, "pfns": len(self.image.pages),
                "native_sha256": hashlib.sha256(self.data).hexdigest(),
                "canonical_sha256": self.image.canonical.hexdigest(),
                "image_sha256": self.image.digest()}


# ---- frames ----

FRAMES = {1: ("HELLO", 96, 1024), 2: ("WELCOME", 40, 1024), 3: ("ABORT", 4, 204), 4: ("PING", 0, 0),
          7: ("SETUP", 200, 200), 8: ("RAW", 9, 262152), 9: ("BATCH", 25, 262168),
          10: ("PAGES", 32, 263448),
          11: ("END", 48, 48), 12: ("END_ACK", 24, 24),
          32: ("JOIN", 16, 16), 33: ("BARRIER", 8, 8), 34: ("ACK", 8, 8), 35: ("PARCEL", 24, 270336)}
STREAM = ("SETUP", "RAW", "BATCH", "PAGES", "BARRIER", "END", "optional")  # may be in a parcel
LANES = 1


def library(name):
    path = ctypes.util.find_library(name)
    want(path, f"lib{name} is not installed")
    return ctypes.CDLL(path)


class Zstd:
    """Decompression through the system's library."""

    def __init__(self):
        self.lib = library("zstd")
        for name in ("ZSTD_decompress", "ZSTD_findFrameCompressedSize"):
            getattr(self.lib, name).restype = ctypes.c_size_t
        self.lib.ZSTD_getFrameContentSize.restype = ctypes.c_ulonglong

    def decode(self, data, size):
        data = bytes(data)
        length = ctypes.c_size_t(len(data))
        want(data[:4] == b"\x28\xb5\x2f\xfd", "zstd: another format")
        want(self.lib.ZSTD_getFrameContentSize(data, length) == size, "zstd: stated size")
        want(self.lib.ZSTD_findFrameCompressedSize(data, length) == len(data), "zstd: not one frame")
        out = ctypes.create_string_buffer(size)
        got = self.lib.ZSTD_decompress(out, ctypes.c_size_t(size), data, length)
        want(got == size, "zstd: damaged, or another size")
        return out.raw


class Xxh3:
    """XXH3-128 through the system's library."""

    class Hash(ctypes.Structure):
        _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]

    def __init__(self):
        self.lib = library("xxhash")
        self.lib.XXH3_128bits.restype = self.lib.XXH3_128bits_withSecret.restype = self.Hash

    def plain(self, data):
        got = self.lib.XXH3_128bits(bytes(data), ctypes.c_size_t(len(data)))
        return got.low, got.high

    def page(self, page, secret):
        if not any(page):
            return bytes(16)
        got = self.lib.XXH3_128bits_withSecret(bytes(page), ctypes.c_size_t(PAGE), secret,
                                               ctypes.c_size_t(len(secret)))
        return struct.pack("<QQ", got.low, got.high)


def headers(data, may_be_cut=False):
    """Yields (type, sequence, payload) of one connection's direction, or of a parcel."""
    data = memoryview(data)
    at = number = 0
    while at < len(data):
        if may_be_cut and len(data) - at < 24:
            return
        want(len(data) - at >= 24, f"frame {number}: header cut")
        magic, kind, flags, size, epoch, sequence = struct.unpack_from("<4sHHIIQ", data, at)
        want(magic == b"HMS1", f"frame {number}: magic")
        want(flags in (0, 1), f"frame {number}: flags {flags:#x}")
        want(epoch == 0, f"frame {number}: epoch {epoch}")
        want(kind in FRAMES or flags == 1, f"frame {number}: unknown type {kind}")
        name, least, most = FRAMES.get(kind, ("optional", 0, 266240))
        want(least <= size <= most, f"frame {number}: {name} of {size} bytes")
        if may_be_cut and len(data) - at - 24 < size:
            return
        want(len(data) - at - 24 >= size, f"frame {number}: payload cut")
        yield name, sequence, data[at + 24:at + 24 + size]
        at += 24 + size
        number += 1


def frames(data, may_be_cut=False):
    """Yields (type, payload) of one direction that counts its frames."""
    for number, (name, sequence, payload) in enumerate(headers(data, may_be_cut)):
        want(sequence == number, f"frame {number}: sequence {sequence}")
        yield name, payload


class Lanes:
    """The further connections of a migration: section 8, put together from what each one carried."""

    def __init__(self, recordings):
        self.tickets = set()
        self.by_lane = {}  # lane -> {attempt: recording}
        self.parcels = {}  # number -> payload
        self.repeated = self.barriers = 0
        for data in recordings:
            self.join(data)

    def join(self, data):
        name, sequence, payload = next(headers(data, True), ("nothing", 0, b""))
        want(name == "JOIN" and sequence == 0, f"{name} where JOIN is due")
        ticket, lane, zero, attempt = struct.unpack("<QHHI", payload)
        want(zero == 0 and attempt > 0, "JOIN: attempt or reserved bytes")
        attempts = self.by_lane.setdefault(lane, {})
        want(attempt not in attempts, f"JOIN: attempt {attempt} of lane {lane} twice")
        attempts[attempt] = data
        self.tickets.add(ticket)

    def highest(self):
        return max(self.by_lane, default=0)

    def lost(self):
        """Data connections that were replaced by a later one."""
        return sum(len(attempts) - 1 for lane, attempts in self.by_lane.items() if lane > 0)

    def gather(self, ticket, connections, window):
        """Takes all parcels: each connection by itself, then all together."""
        want(self.tickets == {ticket}, "JOIN: ticket")
        want(self.highest() <= connections, f"lane {self.highest()} of {connections}")
        for lane in sorted(self.by_lane):
            for attempt, data in sorted(self.by_lane[lane].items()):
                is_last = attempt == max(self.by_lane[lane])
                if lane == 0:
                    self.control(data, not is_last)
                else:
                    self.connection(data, not is_last, window)
        want(set(self.parcels) == set(range(len(self.parcels))), "parcels are missing")
        want(self.repeated == 0 or self.lost() > 0, "parcels repeated though no connection was lost")

    def control(self, data, may_be_cut):
        for number, (name, _) in enumerate(frames(data, may_be_cut)):
            want(number == 0 or name in ("PING", "optional"), f"{name} on a later control connection")

    def connection(self, data, may_be_cut, window):
        seen, highest = set(), -1
        for name, number, payload in list(headers(data, may_be_cut))[1:]:
            want(name == "PARCEL", f"{name} on a data connection")
            want(number not in seen, f"parcel {number} twice on a connection")
            want(number > highest - window, f"parcel {number} behind {highest}: outside of the window")
            seen.add(number)
            highest = max(highest, number)
            if number in self.parcels:
                self.repeated += 1
                want(self.parcels[number] == payload, f"parcel {number} again with other content")
            self.parcels[number] = payload

    def frames(self):
        """The frames of the stream, in order; barriers are taken here."""
        due = 0
        for parcel in range(len(self.parcels)):
            for name, sequence, payload in headers(self.parcels[parcel]):
                want(sequence == due, f"parcel {parcel}: frame {sequence} where {due} is due")
                want(name in STREAM, f"{name} in a parcel")
                due += 1
                if name == "BARRIER":
                    want(struct.unpack("<Q", payload)[0] == self.barriers, "BARRIER out of order")
                    self.barriers += 1
                yield name, payload


class Wire:
    """Rebuilds the native stream from the sender's frames."""

    def __init__(self, options):
        self.options = options
        self.zstd = Zstd()
        self.native = bytearray()
        self.counts = {}
        self.batches = self.pages = self.zero = 0
        self.due = self.first = 0  # pages of the open batch still to come, and already there
        self.hello = self.offer = self.granted = None  # the latter two: (connections, window)
        self.end = None
        self.lanes = None
        self.stored = self.packed = self.runs = 0
        self.xxh3 = Xxh3()
        self.secret = None     # of SETUP: what END's digest is over is gathered in hashed
        self.hashed = bytearray()
        self.slots = {}        # the mirrored cache
        self.slot_count = self.kept = self.deltas = 0

    def setup(self, payload):
        want(self.secret is None and not self.native, "SETUP is not the first")
        self.slot_count, zero = struct.unpack_from("<II", payload)
        want(zero == 0 and self.slot_count <= 262144, "SETUP: cache or reserved bytes")
        self.secret = bytes(payload[8:])

    def decode(self, codec, data, size):
        want(codec in (0, 1), f"codec {codec}")
        if codec == 1:
            want(size > 0 and len(data) > 0, "nothing to decode is stored")
            self.packed += 1
            return self.zstd.decode(data, size)
        want(len(data) == size, f"stored block of {len(data)} bytes, stated {size}")
        self.stored += size > 0
        return bytes(data)

    def raw(self, payload):
        codec, zeros, size = struct.unpack_from("<B3sI", payload)
        want(not any(zeros) and 1 <= size <= 262144, "RAW: size or reserved bytes")
        want(self.due == 0, "RAW inside a batch")
        data = self.decode(codec, payload[8:], size)
        self.native += data
        self.hashed += data

    def entries(self, codec, data, count):
        if codec != 2:
            return self.decode(codec, data, 8 * count)
        want(len(data) % 12 == 0, "BATCH: runs cut")
        out = []
        for first, length in struct.iter_unpack("<QI", data):
            want(0 < length <= count - len(out), "BATCH: runs")
            out += range(first, first + length)
        want(len(out) == count and all(entry < 1 << 64 for entry in out), "BATCH: runs")
        self.runs += 1
        return struct.pack(f"<{count}Q", *out)

    def batch(self, payload):
        number, count, with_data, codec, zeros, size = struct.unpack_from("<QIIB3sI", payload)
        want(not any(zeros) and 1 <= count <= 32768 and with_data <= count, "BATCH: counts")
        want(size == 8 * count, "BATCH: raw size")
        want(number == self.batches and self.due == 0, f"BATCH {number} out of order")
        entries = self.entries(codec, payload[24:], count)
        self.hashed += entries
        carrying = sum(entry >> 60 < 13 for (entry,) in struct.iter_unpack("<Q", entries))
        want(carrying == with_data, f"BATCH {number}: {carrying} entries carry data, stated {with_data}")
        self.native += struct.pack("<IIII", 1, 8 + size + PAGE * with_data, count, 0) + entries
        self.batches, self.due, self.first = number + 1, with_data, 0

    def delta(self, slot, data, at):
        """Changes the slot's page by the delta at data[at:]; where it ends."""
        want(slot in self.slots, f"a delta against slot {slot}, which is empty")
        page = bytearray(self.slots[slot])
        want(len(data) - at >= 8, "a delta is cut")
        lines, = struct.unpack_from("<Q", data, at)
        start, at = at, at + 8
        for line in (i for i in range(64) if lines >> i & 1):
            want(at < len(data) and data[at] != 0, "a delta's words")
            words = [i for i in range(8) if data[at] >> i & 1]
            at += 1
            want(at + 8 * len(words) <= len(data), "a delta is cut")
            for word in words:
                place = 64 * line + 8 * word
                page[place:place + 8] = data[at:at + 8]
                at += 8
        want(at - start <= 2048, "a delta is too long")
        self.slots[slot] = bytes(page)
        return at

    def pages_of(self, kinds, slots, data, full):
        """The group's pages, in order; the cache follows."""
        at, delta = 0, PAGE * full
        for kind in kinds:
            if kind == 0:
                yield bytes(PAGE)
            elif kind == 3:
                slot = slots.pop(0)
                delta = self.delta(slot, data, delta)
                self.deltas += 1
                yield self.slots[slot]
            else:
                page = data[at:at + PAGE]
                at += PAGE
                if kind == 2:
                    self.slots[slots.pop(0)] = page
                    self.kept += 1
                yield page
        want(delta == len(data), "bytes behind the last delta")

    def group(self, payload):
        number, first, count, codec, zero, size, delta_size = struct.unpack_from("<QIHBBII", payload)
        want(zero == 0 and 1 <= count <= 1024, "PAGES: count or reserved bytes")
        head = 24 + (count + 7) // 8 * 8
        want(len(payload) >= head, "PAGES: kinds cut")
        kinds, padding = bytes(payload[24:24 + count]), payload[24 + count:head]
        want(not any(padding) and not set(kinds) - {0, 1, 2, 3}, "PAGES: kinds")
        full, deltas = kinds.count(1) + kinds.count(2), kinds.count(3)
        named = kinds.count(2) + deltas
        want(full + deltas <= 64, "PAGES: too many with content")
        after = head + (4 * named + 7) // 8 * 8
        want(len(payload) >= after and not any(payload[head + 4 * named:after]), "PAGES: slots")
        slots = list(struct.unpack_from(f"<{named}I", payload, head))
        want(len(set(slots)) == named and all(slot < self.slot_count for slot in slots), "PAGES: slots")
        want(delta_size <= 2048 * deltas and size == PAGE * full + delta_size, "PAGES: raw size")
        want(number + 1 == self.batches and first == self.first and count <= self.due,
             f"PAGES of batch {number} out of order")
        data = self.decode(codec, payload[after:], size)
        for page in self.pages_of(kinds, slots, data, full):
            self.native += page
            if self.secret:
                self.hashed += self.xxh3.page(page, self.secret)
        self.first += count
        self.due -= count
        self.pages += count
        self.zero += kinds.count(0)

    def finish(self, payload):
        raw, batches, pages, kind, zeros, low, high = struct.unpack("<QQQB7sQQ", payload)
        own = 2 if self.secret else 1
        want(not any(zeros) and kind in (0, own), "END: digest kind or reserved bytes")
        want((raw, batches, pages) == (len(self.native), self.batches, self.pages), "END: counts")
        digest = self.xxh3.plain(self.hashed if self.secret else self.native)
        want(kind == 0 or (low, high) == digest, "END: digest")
        self.end = (raw, low, high)

    def proof(self, role, payload, at):
        if not self.options.secret:
            return
        text = role + bytes.fromhex(self.options.binding) + bytes(payload[:at]) + bytes(payload[at + 32:])
        good = hmac.new(bytes.fromhex(self.options.secret), text, hashlib.sha256).digest()
        want(good == bytes(payload[at:at + 32]), f"proof of {role.decode()}")

    def greet(self, payload):
        least, most, features, cluster, generation, ticket, guest, epoch = struct.unpack_from(
            "<HHI16sQQ16sQ", payload)
        want(1 <= least <= 1 <= most and features in (0, LANES), "HELLO: version range or features")
        self.proof(b"hamgr-stream sender 1", payload, 64)
        self.hello = {"cluster": cluster.hex(), "generation": generation, "ticket": ticket,
                      "guest": guest.hex(), "epoch": epoch}
        if features:
            want(len(payload) >= 104, "HELLO offers lanes and says nothing of them")
            connections, window, zero = struct.unpack_from("<HHI", payload, 96)
            want(connections > 0 and window > 0 and zero == 0, "HELLO: connections, window or reserved bytes")
            self.offer = (connections, window)

    def take(self, name, payload):
        takers = {"SETUP": self.setup, "RAW": self.raw, "BATCH": self.batch, "PAGES": self.group, "END": self.finish}
        want(self.end is None, f"{name} behind END")
        if name in takers:
            takers[name](payload)
        else:
            want(name in ("PING", "BARRIER", "optional"), f"{name} from a sender")

    def seen(self, name, payload):
        self.counts[name] = self.counts.get(name, 0) + 1
        want(name != "ABORT", "an end aborted: " + bytes(payload[4:]).decode("ascii", "replace"))

    def sent(self, data, recordings=()):
        """The first connection, then what went over the others."""
        self.lanes = Lanes(recordings)
        for name, payload in frames(data, 0 in self.lanes.by_lane):
            self.seen(name, payload)
            want((name == "HELLO") == (self.hello is None) or name in ("PING", "optional"),
                 f"{name} where HELLO is due, or a second HELLO")
            if name == "HELLO":
                self.greet(payload)
            else:
                want(name != "BARRIER" and not recordings or name in ("PING", "optional"),
                     f"{name} on the control connection")
                self.take(name, payload)
        if recordings:
            want(self.offer, "lanes that HELLO does not offer")
            self.lanes.gather(self.hello["ticket"], *self.offer)
        for name, payload in self.lanes.frames():
            self.seen(name, payload)
            self.take(name, payload)
        want(self.end is not None, "no END")
        return self

    def welcome(self, payload):
        version, zero, features = struct.unpack_from("<HHI", payload)
        want((version, zero) == (1, 0) and features in (0, LANES), "WELCOME")
        want((features == LANES) == bool(self.lanes.by_lane), "WELCOME and the connections differ on lanes")
        self.proof(b"hamgr-stream receiver 1", payload, 8)
        if features:
            want(self.offer and len(payload) >= 80, "WELCOME grants what was not offered")
            connections, window = struct.unpack_from("<HH", payload, 40)
            want(1 <= connections <= min(8, self.offer[0]) and 4 <= window <= min(64, self.offer[1]),
                 "WELCOME: connections or window")
            want(self.lanes.highest() <= connections, "more lanes than WELCOME grants")

    def answers(self, recordings):
        """What the receiver said: one recording for each control connection, in their order."""
        want(len(recordings) == 1 + len(self.lanes.by_lane.get(0, ())), "control connections of the two ends")
        greeted = acked = False
        taken = 0
        for number, data in enumerate(recordings):
            ended = False
            for name, payload in frames(data, number + 1 < len(recordings)):
                self.seen(name, payload)
                want(not ended, f"{name} behind END_ACK")
                if name == "WELCOME":
                    want(number == 0 and not greeted, "a second WELCOME")
                    self.welcome(payload)
                    greeted = True
                elif name == "ACK":
                    next_parcel, = struct.unpack("<Q", payload)
                    want(taken <= next_parcel <= len(self.lanes.parcels), f"ACK {next_parcel} after {taken}")
                    taken = next_parcel
                elif name == "END_ACK":
                    want(struct.unpack("<QQQ", payload) == self.end, "END_ACK differs from END")
                    acked = ended = True
                else:
                    want(name in ("PING", "optional"), f"{name} from a receiver")
                want(greeted, f"{name} before WELCOME")
        want(greeted and acked, "no WELCOME or no END_ACK")


def load(path):
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return b""
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def check_native(options):
    return Native(load(options.file)).check().report()


def check_wire(options):
    recorded = [load(path) for path in (options.sent, *options.lane)]
    wire = Wire(options).sent(recorded[0], recorded[1:])
    if options.answers:
        wire.answers([load(path) for path in options.answers])
    if options.rebuilt:
        with open(options.rebuilt, "wb") as file:
            file.write(wire.native)
    report = Native(wire.native).check().report()
    want(report["pages"] == wire.pages, "pages of frames and of the native stream differ")
    report.update({"wire_bytes": sum(map(len, recorded)), "frames": wire.counts, "hello": wire.hello,
                   "zero_on_wire": wire.zero, "stored_blocks": wire.stored, "packed_blocks": wire.packed,
                   "run_blocks": wire.runs, "kept_pages": wire.kept, "delta_pages": wire.deltas,
                   "cache_pages": wire.slot_count, "parcels": len(wire.lanes.parcels),
                   "repeated_parcels": wire.lanes.repeated, "lost_lanes": wire.lanes.lost(),
                   "barriers": wire.lanes.barriers})
    return report


def check_same(options):
    reports = [Native(load(path)).check().report() for path in options.files]
    want(reports[0]["image_sha256"] == reports[1]["image_sha256"], "the memory images differ")
    return {"image_sha256": reports[0]["image_sha256"],
            "is_identical": reports[0]["native_sha256"] == reports[1]["native_sha256"],
            "is_canonical": reports[0]["canonical_sha256"] == reports[1]["canonical_sha256"]}


def judge(arguments):
    """The report of a command line, or {"error": what is wrong}."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    native = commands.add_parser("native")
    native.add_argument("file")
    native.set_defaults(function=check_native)
    wire = commands.add_parser("wire")
    wire.add_argument("sent")
    wire.add_argument("--lane", action="append", default=[])
    wire.add_argument("--answers", action="append", default=[])
    wire.add_argument("--rebuilt")
    wire.add_argument("--secret")
    wire.add_argument("--binding", default="00" * 32)
    wire.set_defaults(function=check_wire)
    same = commands.add_parser("same")
    same.add_argument("files", nargs=2)
    same.set_defaults(function=check_same)
    options = parser.parse_args(arguments)
    try:
        return options.function(options)
    except (Bad, OSError, struct.error) as error:
        return {"error": str(error)}


def main():
    report = judge(sys.argv[1:])
    print(json.dumps(report))
    return 1 if "error" in report else 0


if __name__ == "__main__":
    sys.exit(main())
