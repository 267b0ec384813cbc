#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes tests/fuzz/corpus/streams, fuzz_recv and fuzz_lanes: small recorded streams, good and bad.

  make_streams.py RECORDER [DIR]        RECORDER: BUILD/migrate/stream_record

streams/good-*.wire and bad-*.wire are a sender's frames from HELLO on, as stream_record writes them
and as tests/lib/stream_verify.py and the receiver (test_recv) judge them; bad ones break one rule of
migrate/STREAM.md each, which their names say. The fuzz targets get the same frames as scripts. To be
run when the format changes; the secrets inside are new each time, so files differ between runs.
"""
import os
import random
import struct
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "unit", "migrate"))
import streamrig  # noqa: E402

SETUP, RAW, BATCH, PAGES, END = 7, 8, 9, 10, 11


def frame(kind, sequence, payload, size=None):
    return b"HMS1" + struct.pack("<HHIIQ", kind, 0, len(payload) if size is None else size, 0, sequence) + payload


def frames_of(data):
    found, at = [], 0
    while at < len(data):
        kind, _, size = struct.unpack_from("<HHI", data, at + 4)
        found.append((kind, data[at + 24:at + 24 + size]))
        at += 24 + size
    return found


def wire(frames):
    return b"".join(frame(kind, number, payload) for number, (kind, payload) in enumerate(frames))


def record(recorder, native, *options):
    with tempfile.TemporaryDirectory() as work:
        names = [os.path.join(work, name) for name in ("native", "rebuilt", "sent", "answers")]
        with open(names[0], "wb") as file:
            file.write(native)
        subprocess.run([recorder, *names, "--cache", "1", *options], check=True, stdout=subprocess.DEVNULL)
        with open(names[2], "rb") as file:
            return frames_of(file.read())


def text_page(rng):
    return (rng.randbytes(8).hex().encode() * 256)[:4096]


def rounds(rng, count, times):
    """count pages, sent `times` times with a word changed in between."""
    pages = [text_page(rng) for _ in range(count)]
    batches = []
    for _ in range(times):
        batches.append((list(range(count)), pages))
        pages = [page[:128] + rng.randbytes(8) + page[136:] for page in pages]
    return batches


def pv_stream(rng):
    page = text_page(rng)
    batch = streamrig.page_data([1 << 60 | 3, 0xF << 60 | 4], [page])
    return b"".join([streamrig.libxl_header(), streamrig.record(1), streamrig.image_header(1, 2),
                     streamrig.record(2, bytes(8)), streamrig.record(3, bytes(24)), batch,
                     streamrig.record(13), batch, streamrig.record(4, bytes(20)),
                     streamrig.record(0x80000077, b"opt"), streamrig.record(0), streamrig.record(0)])


def good(recorder):
    """Name -> frames."""
    rng = random.Random(1)

    def hvm(batches):
        return streamrig.hvm_stream(batches, context=b"state")
    holes = [([1, 0xF << 60 | 2, 3], [text_page(rng), bytes(4096)]), ([0xE << 60 | 5], []), ([1], [bytes(4096)])]
    return {"keep-delta": record(recorder, hvm(rounds(rng, 6, 3))),
            "stored-keep-delta": record(recorder, hvm(rounds(rng, 1, 3)), "--level", "0"),
            "holes": record(recorder, hvm(holes)),
            "identical": record(recorder, hvm(holes + holes), "--identical", "1"),
            "no-cache": record(recorder, hvm(rounds(rng, 2, 2)), "--cache", "0"),
            "verify-pv": record(recorder, pv_stream(rng)),
            "no-pages": record(recorder, hvm([]))}


def changed(payload, at, layout, value):
    out = bytearray(payload)
    struct.pack_into(layout, out, at, value)
    return bytes(out)


def old_zstd(frames):
    """The first RAW, stored, in the format of zstd 0.7 instead: well-formed, and libzstd takes it."""
    index = next(i for i, (kind, _) in enumerate(frames) if kind == RAW)
    raw = frames[index][1][8:]
    size = struct.pack("<BB", 0x20, len(raw)) if len(raw) < 256 else struct.pack("<BH", 0x60, len(raw) - 256)
    packed = (b"\x27\xb5\x2f\xfd" + size + (0x40 << 16 | len(raw)).to_bytes(3, "big") + raw + b"\xc0\0\0")
    return wire([*frames[:index], (RAW, struct.pack("<II", 1, len(raw)) + packed), *frames[index + 1:]])


def bad(made):
    """Name -> bytes; each from a good one."""
    packed, stored = made["keep-delta"], made["stored-keep-delta"]
    place = {kind: next(i for i, (k, _) in enumerate(packed) if k == kind) for kind in (SETUP, RAW, BATCH, PAGES, END)}
    deltas = [i for i, (kind, _) in enumerate(packed) if kind == PAGES][1]
    last = [i for i, (kind, _) in enumerate(stored) if kind == PAGES][2]

    def edit(frames, index, at, layout, value):
        kind, payload = frames[index]
        return wire([*frames[:index], (kind, changed(payload, at, layout, value)), *frames[index + 1:]])
    order = list(packed)
    order[place[BATCH]], order[place[PAGES]] = order[place[PAGES]], order[place[BATCH]]
    whole = wire(packed)
    numbered = [frame(kind, number, payload) for number, (kind, payload) in enumerate(packed)]
    gap = [frame(kind, number + (number > 3), payload) for number, (kind, payload) in enumerate(packed)]
    slots = 24 + 8  # where a frame of up to 8 pages names its slots
    return {"delta-empty-slot": edit(packed, deltas, slots, "<I", 99),
            "delta-no-words": edit(stored, last, slots + 8 + 8, "<B", 0),
            "delta-other-lines": edit(stored, last, slots + 8, "<B", 0xFF),
            "delta-too-large": edit(stored, last, 20, "<I", 2049),
            "slot-beyond": edit(packed, place[PAGES], slots, "<I", 1 << 18),
            "slot-twice": edit(packed, place[PAGES], slots + 4, "<I", 0),
            "kind-unknown": edit(packed, place[PAGES], 24, "<B", 4),
            "pages-count": edit(packed, place[PAGES], 12, "<H", 7),
            "pages-first": edit(packed, place[PAGES], 8, "<I", 1),
            "pages-of-other-batch": edit(packed, place[PAGES], 0, "<Q", 1),
            "bomb": edit(packed, place[RAW], 4, "<I", 262144),
            "old-zstd": old_zstd(stored),
            "codec-unknown": edit(packed, place[RAW], 0, "<B", 3),
            "batch-reserved-bits": edit(packed, place[BATCH], 24 + 7, "<B", 0x0F),
            "batch-order": edit(packed, place[BATCH], 0, "<Q", 1),
            "setup-too-large": edit(packed, place[SETUP], 0, "<I", 262145),
            "setup-other-secret": edit(packed, place[SETUP], 8, "<Q", 0),
            "setup-twice": wire([*packed[:place[SETUP] + 1], *packed[place[SETUP]:]]),
            "pages-before-batch": wire(order),
            "end-digest": edit(packed, place[END], 32, "<Q", 0),
            "end-counts": edit(packed, place[END], 0, "<Q", 1),
            "end-missing": wire(packed[:-1]),
            "sequence-gap": b"".join(gap),
            "frame-repeated": b"".join([*numbered[:4], numbered[3], *numbered[4:]]),
            "unknown-type": b"".join([*numbered[:2], frame(77, 2, b"")]),
            "oversized": b"".join([*numbered[:3], frame(RAW, 3, b"", size=1 << 31)]),
            "cut": whole[:len(whole) // 2],
            "magic": whole[:len(whole) - 72] + b"X" + whole[len(whole) - 71:]}


def recv_script(frames):
    """As fuzz_recv.c takes it: without HELLO."""
    return b"".join(struct.pack("<B", kind) + len(payload).to_bytes(3, "little") + payload
                    for kind, payload in frames if kind != 1)


def lanes_script(frames, each=2):
    """As fuzz_lanes.c takes it: `each` frames a parcel, lanes in turn, the second parcel twice."""
    out = [b"\0"]
    for number, (kind, payload) in enumerate(frames[1:]):
        out.append(struct.pack("<BBH", 0, kind, len(payload)) + payload)
        if number % each == each - 1:
            turn = number // each
            out.append(bytes([4 | (turn % 2) << 7 | (8 if turn == 1 else 0)]))
    return b"".join(out)


def put(directory, name, data):
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, name), "wb") as file:
        file.write(data)


def main():
    recorder = os.path.abspath(sys.argv[1])
    corpus = sys.argv[2] if len(sys.argv) > 2 else os.path.join(HERE, "corpus")
    made = good(recorder)
    for name, frames in made.items():
        put(os.path.join(corpus, "streams"), f"good-{name}.wire", wire(frames))
        put(os.path.join(corpus, "fuzz_recv"), name, recv_script(frames))
        put(os.path.join(corpus, "fuzz_lanes"), name, lanes_script(frames))
    for name, data in bad(made).items():
        put(os.path.join(corpus, "streams"), f"bad-{name}.wire", data)
    # What a receiver may say to a sender with three parcels out, and what it may not.
    number = [struct.pack("<BBQ", 34, 8, value) for value in (0, 1, 4)]
    put(os.path.join(corpus, "fuzz_lanes"), "acks", b"\1\3" + number[0] + b"\4\0" + number[1] + number[2])
    put(os.path.join(corpus, "fuzz_lanes"), "end-ack", b"\3\3" + struct.pack("<BB24x", 12, 24))
    names = ("", "hamgr-stream 1 0123456789abcdef 1", "hamgr-stream 1 0123456789abcdef 10",
             "hamgr-stream 1 0123456789abcdee 1", "hamgr-stream 1 ")
    for index, name in enumerate(names):
        put(os.path.join(corpus, "fuzz_psk"), f"name-{index}", b"\2\1" + name.encode())
    put(os.path.join(corpus, "fuzz_psk"), "good", b"\1\2\0\0\0")
    put(os.path.join(corpus, "fuzz_psk"), "binder", b"\1\2" + struct.pack("<HB", 65535, 1))
    put(os.path.join(corpus, "fuzz_psk"), "record", b"\0\x16\3\1\0\4\1\0\0\0")


if __name__ == "__main__":
    main()
