# SPDX-License-Identifier: Apache-2.0
"""The lab's shared storage: an NBD server outside all nodes, and the witness of who writes what.

  nbd.py --dir DIR --listen ADDRESS      serves every file DIR/NAME.raw as export NAME

Each write is put down in DIR/writes.log before it is done: time, node (by its address), export,
offset, length. Blocks of the lab's guest (guest/chain.h) are read on the way, and DIR/findings.log
tells of what must not be: a torn block, a sequence number left out or written twice, a block of
another guest, two incarnations that write by turns, a node that writes after another one took over.
Writes are flushed to the file before they are answered only when the client asks (FUA, FLUSH).
"""

import argparse
import asyncio
import os
import re
import struct
import sys
import time

PORT = 10809
NBDMAGIC, IHAVEOPT, REPLY_MAGIC = b"NBDMAGIC", b"IHAVEOPT", 0x3E889045565A9
OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_INFO, OPT_GO = 1, 2, 3, 6, 7
REP_ACK, REP_INFO, REP_ERR_UNSUP, REP_ERR_UNKNOWN = 1, 3, 0x80000001, 0x80000006
FLAGS = 1 | 4 | 8  # has flags, flush, FUA
REQUEST_MAGIC, ANSWER_MAGIC = 0x25609513, 0x67446698
READ, WRITE, DISCONNECT, FLUSH = 0, 1, 2, 3
FUA = 1 << 16
EIO, EINVAL = 5, 22
REQUEST_MAX = 32 << 20
NAME = re.compile(r"[a-z0-9-]{1,32}\Z")

CHAIN_MAGIC = 0x314B4C42424C4748
BLOCK, SECTOR = 4096, 512


class Chain:
    """What a disk's guest has written so far, block by block (see guest/chain.h). `tell(words)` is
    called for each thing that must not be."""

    def __init__(self, tell):
        self.tell = tell
        self.guest = self.incarnation = self.digest = None
        self.sequence = 0
        self.past = set()  # incarnations that ended
        self.writer = None
        self.writers_past = {}  # node -> the sequence at which another took over

    def write(self, node, data):
        """One write of whole blocks; other writes are none of ours."""
        for at in range(0, len(data) - BLOCK + 1, BLOCK):
            self.block(node, data[at:at + BLOCK])

    def block(self, node, data):
        headers = [struct.unpack_from("<8Q", data, at) for at in range(0, BLOCK, SECTOR)]
        magic, guest, incarnation, sequence, low, high = headers[0][:6]
        if magic != CHAIN_MAGIC:
            if any(header[0] == CHAIN_MAGIC for header in headers):
                self.tell(f"{node}: a torn block: its first sector is foreign")
            return
        if any(h[:7] != headers[0][:7] or h[7] != i for i, h in enumerate(headers)):
            self.tell(f"{node}: a torn block, sequence {sequence}")
            return
        self.check_guest(node, guest)
        self.check_order(node, incarnation, sequence, (low, high))
        self.check_writer(node, sequence)
        self.sequence = sequence
        self.digest = struct.unpack_from("<2Q", data, BLOCK - 16)

    def check_guest(self, node, guest):
        if self.guest is not None and guest != self.guest:
            self.tell(f"{node}: a block of another guest, {guest:016x} not {self.guest:016x}")
        self.guest = guest

    def check_order(self, node, incarnation, sequence, previous):
        if incarnation in self.past:
            self.tell(f"{node}: incarnation {incarnation:016x} writes again, sequence {sequence}")
        if self.incarnation not in (None, incarnation):
            self.past.add(self.incarnation)
        self.incarnation = incarnation
        if self.digest is None:
            return  # we came later than it, or it is the first
        if sequence != self.sequence + 1:
            # A guest that lost power in mid-write may not have been told of its last block, but
            # it reads its disk when it boots: even then the next number follows.
            word = "again" if sequence <= self.sequence else "too early"
            self.tell(f"{node}: sequence {sequence} {word}, after {self.sequence}")
        elif previous != self.digest:
            self.tell(f"{node}: sequence {sequence} does not follow what was written before it")

    def check_writer(self, node, sequence):
        """Guests move back and forth, so a node may write again; but not by turns with another."""
        if self.writer == node:
            return
        left_at = self.writers_past.get(node)
        if left_at is not None and sequence - left_at < 3:
            self.tell(f"{node}: writes by turns with {self.writer}, sequence {sequence}")
        if self.writer is not None:
            self.writers_past[self.writer] = sequence
        self.writer = node


class Witness:
    """The logs, and one Chain an export."""

    def __init__(self, directory):
        self.writes = open(os.path.join(directory, "writes.log"), "a", encoding="ascii", buffering=1)
        self.findings = open(os.path.join(directory, "findings.log"), "a", encoding="ascii",
                             buffering=1)
        self.chains = {}

    def write(self, node, name, offset, data):
        self.writes.write(f"{time.time_ns()} {node} {name} {offset} {len(data)}\n")
        chain = self.chains.setdefault(name, Chain(lambda words: self.find(f"{name}: {words}")))
        if offset % BLOCK == 0:
            chain.write(node, data)

    def find(self, words):
        self.findings.write(f"{time.time_ns()} {words}\n")


class Export:
    """A file served under a name."""

    def __init__(self, directory, name):
        self.fd = -1
        if not NAME.match(name):
            raise FileNotFoundError(name)
        self.name = name
        self.fd = os.open(os.path.join(directory, f"{name}.raw"), os.O_RDWR)
        self.size = os.fstat(self.fd).st_size

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)


class Client:
    """One connection of a node."""

    def __init__(self, server, reader, writer):
        self.server, self.reader, self.writer = server, reader, writer
        self.node = writer.get_extra_info("peername")[0]
        self.export = None

    async def serve(self):
        try:
            if await self.negotiate():
                await self.transmit()
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            pass  # the node lost power, or is none of ours: storage does not mind
        finally:
            if self.export:
                self.export.close()
            self.writer.close()

    # --- negotiation: fixed newstyle ---

    async def negotiate(self):
        self.writer.write(NBDMAGIC + IHAVEOPT + struct.pack(">H", 1 | 2))
        flags, = struct.unpack(">I", await self.reader.readexactly(4))
        for _ in range(64):
            magic, option, length = struct.unpack(">8sII", await self.reader.readexactly(16))
            if magic != IHAVEOPT or length > 4096:
                raise ValueError("not NBD")
            data = await self.reader.readexactly(length)
            if option == OPT_EXPORT_NAME:
                self.export = Export(self.server.directory, data.decode("ascii"))
                self.writer.write(struct.pack(">QH", self.export.size, FLAGS)
                                  + (b"" if flags & 2 else b"\0" * 124))
                return True
            if option in (OPT_GO, OPT_INFO):
                if self.inform(option, data):
                    return True
            else:
                self.answer(option, REP_ACK if option == OPT_ABORT else REP_ERR_UNSUP)
                if option == OPT_ABORT:
                    return False
            await self.writer.drain()
        return False

    def answer(self, option, kind, data=b""):
        self.writer.write(struct.pack(">QIII", REPLY_MAGIC, option, kind, len(data)) + data)

    def inform(self, option, data):
        length, = struct.unpack_from(">I", data)
        try:
            export = Export(self.server.directory, data[4:4 + length].decode("ascii"))
        except (OSError, UnicodeDecodeError):
            self.answer(option, REP_ERR_UNKNOWN)
            return False
        self.answer(option, REP_INFO, struct.pack(">HQH", 0, export.size, FLAGS))
        self.answer(option, REP_ACK)
        if option == OPT_INFO:
            export.close()
            return False
        self.export = export
        return True

    # --- transmission ---

    async def transmit(self):
        while True:
            magic, kind, handle, offset, length = struct.unpack(
                ">II8sQI", await self.reader.readexactly(28))
            if magic != REQUEST_MAGIC or length > REQUEST_MAX:
                raise ValueError("not NBD")
            data = b""
            if kind & 0xFFFF == WRITE:
                data = await self.reader.readexactly(length)
            if kind & 0xFFFF == DISCONNECT:
                return
            error, answer = self.do(kind, offset, length, data)
            self.writer.write(struct.pack(">II8s", ANSWER_MAGIC, error, handle) + answer)
            await self.writer.drain()

    def do(self, kind, offset, length, data):
        """(error, data) of a request."""
        command = kind & 0xFFFF
        if offset + length > self.export.size:
            return EINVAL, b""
        try:
            if command == READ:
                return 0, os.pread(self.export.fd, length, offset)
            if command == WRITE:
                self.server.witness.write(self.node, self.export.name, offset, data)
                if os.pwrite(self.export.fd, data, offset) != length:
                    return EIO, b""
            elif command != FLUSH:
                return EINVAL, b""
            if command == FLUSH or kind & FUA:
                os.fdatasync(self.export.fd)
        except OSError:
            return EIO, b""
        return 0, b""


class Server:
    def __init__(self, directory):
        self.directory = directory
        self.witness = Witness(directory)

    async def run(self, address):
        server = await asyncio.start_server(
            lambda reader, writer: Client(self, reader, writer).serve(), address, PORT)
        async with server:
            await server.serve_forever()


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", required=True)
    parser.add_argument("--listen", required=True)
    options = parser.parse_args()
    asyncio.run(Server(options.dir).run(options.listen))


if __name__ == "__main__":
    sys.exit(main())
