#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures hamgr-stream over loopback: guest memory of a mixed kind through two real processes.

  measure_stream.py BINARY [--mib 512] [--level 1] [--runs 5] [--connections 2] [--class mix|zero|random|text]

The mix is 40 % zero, 25 % text and libraries, 15 % heap-like, 10 % random, 10 % executables, from
this machine's own files. Image making and comparing are outside the counted time. GB are 1e9 bytes.
"""
import argparse
import hashlib
import glob
import os
import random
import socket
import statistics
import struct
import sys
import time

import streamrig


def file_bytes(patterns, size):
    out = bytearray()
    for pattern in patterns:
        for path in sorted(glob.glob(pattern, recursive=True)):
            if len(out) >= size:
                return bytes(out[:size])
            try:
                with open(path, "rb") as file:
                    out += file.read(4 << 20)
            except OSError:
                continue
    return (bytes(out) * (size // max(len(out), 1) + 1))[:size]


def heap_like(rng, size):
    out = bytearray()
    base = 0x7F0000000000
    while len(out) < size:
        words = [base + rng.randrange(1 << 24) * 16 if rng.random() < 0.4 else rng.randrange(1 << 12)
                 for _ in range(4096)]
        out += struct.pack("<4096Q", *words)
    return bytes(out[:size])


def make_pages(kind, count):
    """count pages as a list of 4096-byte pieces."""
    rng = random.Random(4)
    size = count * streamrig.PAGE
    shares = {"mix": (40, 25, 15, 10, 10), "zero": (100, 0, 0, 0, 0), "random": (0, 0, 0, 100, 0),
              "text": (0, 100, 0, 0, 0)}[kind]
    parts = [bytes(size * shares[0] // 100),
             file_bytes(["/usr/share/doc/**/*", "/usr/lib/x86_64-linux-gnu/*.so*"], size * shares[1] // 100),
             heap_like(rng, size * shares[2] // 100), os.urandom(size * shares[3] // 100),
             file_bytes(["/usr/bin/*"], size * shares[4] // 100)]
    data = b"".join(parts).ljust(size, b"\0")
    # Runs of 16 to 512 pages of a kind, as memory has them.
    runs = []
    at = 0
    while at < count:
        length = min(rng.choice((16, 32, 64, 128, 512)), count - at)
        runs.append(data[at * streamrig.PAGE:(at + length) * streamrig.PAGE])
        at += length
    rng.shuffle(runs)
    return b"".join(runs)


def make_stream(kind, mib):
    count = mib * 256
    data = make_pages(kind, count)
    out = [streamrig.libxl_header(), streamrig.record(1), streamrig.image_header(), streamrig.record(16)]
    for first in range(0, count, 1024):
        last = min(first + 1024, count)
        body = struct.pack("<II", last - first, 0) + struct.pack(f"<{last - first}Q", *range(first, last))
        out += [struct.pack("<II", 1, len(body) + (last - first) * 4096), body, data[first * 4096:last * 4096]]
    out += [streamrig.record(9, b"state" * 1000), streamrig.record(0), streamrig.record(0)]
    return b"".join(out)


def cpu_seconds(process):
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def resident(process):
    with open(f"/proc/{process.pid}/status", encoding="ascii") as file:
        return next((int(line.split()[1]) for line in file if line.startswith("VmHWM")), 0)


class Sink:
    """Takes the rebuilt stream into memory that was touched before."""

    def __init__(self, sock, buffer):
        self.sock, self.buffer = sock, buffer
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self.take()
            finally:
                os._exit(1)

    def take(self):
        view, at = memoryview(self.buffer), 0
        while at < len(view):
            got = self.sock.recv_into(view[at:at + (1 << 20)])
            if got == 0:
                break
            at += got
        os._exit(0 if at == len(view) else 1)


def one_run(rig, data, options, buffer):
    ticket = streamrig.Ticket(level=options.level, idle_ms=60000, cache_mib=256, is_identical=False,
                              connections=options.connections)
    net = streamrig.listener()
    ours, theirs = socket.socketpair()
    pem = streamrig.pem_memfd(rig.path("n2"))
    receiver = streamrig.End(rig.binary, ticket.start(False, "n1", True), net, theirs, pem)
    address = net.getsockname()
    theirs.close()
    sink = Sink(ours, buffer)
    ours.close()
    start = time.monotonic()
    sender = rig.sender(address, data, ticket)
    # Resident memory while it streams: what wait4 reports is our own from before the exec.
    sender.wait(300, streamrig.PROGRESS)
    rss = max(resident(sender.process), resident(receiver.process))
    sender.wait(300)
    receiver.wait(300)
    wall = time.monotonic() - start
    send_cpu = cpu_seconds(sender.process)
    recv_cpu = cpu_seconds(receiver.process)
    os.waitpid(sink.pid, 0)
    assert sender.end[0] and receiver.end[0], (sender.end, receiver.end)
    return wall, send_cpu, recv_cpu, sender.end[1][1], rss


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--level", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--class", dest="kind", default="mix")
    parser.add_argument("--connections", type=int, default=2)
    options = parser.parse_args()
    import mmap
    data = make_stream(options.kind, options.mib)
    buffer = mmap.mmap(-1, len(data))
    for at in range(0, len(data), 4096):
        buffer[at] = 1
    want = hashlib.sha256(data).digest()
    rig = streamrig.Rig(options.binary)
    rows = []
    try:
        for _ in range(options.runs):
            rows.append(one_run(rig, data, options, buffer))
            assert hashlib.sha256(buffer).digest() == want, "the rebuilt stream differs"
    finally:
        rig.close()
    size = len(data) / 1e9
    wall, send, recv = (statistics.median(row[i] for row in rows) for i in range(3))
    print(f"{options.kind} {options.mib} MiB, level {options.level}, "
          f"{options.connections} connections, {options.runs} runs: "
          f"{size / wall:.2f} GB/s wall, {size / send:.2f} GB per sender cpu-s, "
          f"{size / recv:.2f} GB per receiver cpu-s, wire/raw {rows[0][3] / len(data):.3f}, "
          f"peak rss {max(row[4] for row in rows)} KiB, "
          f"wall {min(r[0] for r in rows):.2f} to {max(r[0] for r in rows):.2f} s, identical")
    return 0


if __name__ == "__main__":
    sys.exit(main())
