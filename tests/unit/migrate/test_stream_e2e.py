#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""hamgr-stream as processes: two ends over loopback, strangers at the door, cuts, hangs, cancels.

  test_stream_e2e.py BINARY [unittest options]
"""
import os
import random
import select
import socket
import ssl
import subprocess
import sys
import threading
import time
import unittest

import streamrig
from streamrig import Ticket

BINARY = ""
RIG = None
OUTSIDE = None  # certificates of another CA


def setUpModule():
    global RIG, OUTSIDE
    RIG = streamrig.Rig(BINARY)
    OUTSIDE = streamrig.Rig(BINARY)
    streamrig.pki("node", RIG.dir, "old", "--not-before", "2020-01-01", "--not-after", "2021-01-01")
    # Right name, wrong time: signed by the right CA for n1.
    for name, begin, end in (("expired", "2020-01-01", "2021-01-01"), ("future", "2090-01-01", "2091-01-01")):
        place = os.path.join(RIG.work, name)
        os.mkdir(place)
        for file in ("ca.pem", "ca.key"):
            os.link(os.path.join(RIG.dir, file), os.path.join(place, file))
        streamrig.pki("node", place, "n1", "--not-before", begin, "--not-after", end)


def tearDownModule():
    RIG.close()
    OUTSIDE.close()


def odd(name):
    """The directory of n1's certificate with a wrong date."""
    return os.path.join(RIG.work, name, "n1")


class Relay(threading.Thread):
    """Forwards one connection until so many bytes went from the sender, then misbehaves."""

    def __init__(self, target, limit, how):
        super().__init__(daemon=True)
        self.target, self.limit, self.how = target, limit, how
        self.listener = streamrig.listener()
        self.address = self.listener.getsockname()
        self.stop = threading.Event()
        self.start()

    def run(self):
        client, _ = self.listener.accept()
        server = socket.create_connection(self.target)
        moved = 0
        while not self.stop.is_set():
            for sock in select.select([client, server], [], [], 0.1)[0]:
                data = sock.recv(65536)
                if not data:
                    client.close()
                    server.close()
                    return
                if sock is client:
                    data = data[:self.limit - moved]
                    moved += len(data)
                try:
                    (server if sock is client else client).sendall(data)
                except OSError:
                    pass
                if moved >= self.limit:
                    self.cut(client, server)
                    return

    def cut(self, client, server):
        if self.how == "reset":
            for sock in (client, server):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        if self.how == "silence":
            self.stop.wait(60)
        client.close()
        server.close()

    def close(self):
        self.stop.set()
        self.listener.close()
        self.join(5)


class Identical(unittest.TestCase):
    def check(self, data, **changes):
        ticket = Ticket(**changes)
        receiver, address, drain = RIG.receiver(ticket)
        sender = RIG.sender(address, data, ticket)
        self.assertEqual(sender.finish(), (True, ""))
        self.assertEqual(receiver.finish(), (True, ""))
        self.assertEqual(drain.data(), data)
        return sender, receiver

    def test_levels_and_sizes(self):
        for seed, level in ((1, 0), (2, 1), (3, 3), (4, 19)):
            with self.subTest(seed=seed, level=level):
                self.check(streamrig.some_stream(seed, batches=2 + seed), level=level)

    def test_figures(self):
        data = streamrig.some_stream(9)
        sender, receiver = self.check(data)
        for end in (sender, receiver):
            raw, wire, pages, zero = end.end[1][:4]
            self.assertEqual(raw, len(data))
            self.assertLess(wire, len(data) * 0.6)
            self.assertTrue(0 < zero < pages)
        self.assertEqual(sender.end[1][:4], receiver.end[1][:4])

    def test_smallest(self):
        self.check(streamrig.hvm_stream([]))
        self.check(streamrig.hvm_stream([([0], [bytes(4096)])]))
        self.check(streamrig.hvm_stream([([0xF << 60 | 5], [])]))

    def test_large_batch(self):
        rng = random.Random(5)
        entries = list(range(20000))
        pages = streamrig.some_pages(rng, 20000, zero=0.97)
        self.check(streamrig.hvm_stream([(entries, pages)]))

    def test_odd_pieces(self):
        rng = random.Random(6)
        data = streamrig.some_stream(6, batches=2, most=60)
        ticket = Ticket()
        receiver, address, drain = RIG.receiver(ticket)
        pieces = [rng.choice((1, 3, 7, 100, 4095, 5000)) for _ in range(300)]
        sender = RIG.sender(address, data, ticket, pieces=pieces)
        self.assertEqual(sender.finish(), (True, ""))
        self.assertEqual(receiver.finish(), (True, ""))
        self.assertEqual(drain.data(), data)


class Door(unittest.TestCase):
    """Strangers at the listener; the right one still gets in."""

    def client(self, pem=None, alpn=True, version=None):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if version:
            context.maximum_version = version
        if alpn:
            context.set_alpn_protocols(["hamgr-stream"])
        if pem:
            context.load_cert_chain(os.path.join(pem, "node.pem"), os.path.join(pem, "node.key"))
        return context

    def knock(self, address, context):
        """A TLS client that says nothing after the handshake, until the server ends it."""
        try:
            with socket.create_connection(address, timeout=10) as raw:
                with context.wrap_socket(raw) as sock:
                    return sock.recv(100)
        except OSError as error:  # ssl.SSLError is one
            return error

    def test_strangers(self):
        receiver, address, drain = RIG.receiver(Ticket(idle_ms=20000))
        data = streamrig.some_stream(11, batches=2)
        cases = [
            (self.client(OUTSIDE.path("n1")), "certificate"),
            (self.client(RIG.path("n3")), 'is for "n3", not "n1"'),
            (self.client(odd("expired")), "certificate has expired"),
            (self.client(odd("future")), "certificate is not yet valid"),
            (self.client(), "showed no certificate"),
            (self.client(RIG.path("n1"), version=ssl.TLSVersion.TLSv1_2), "TLS 1.3"),
        ]
        for context, words in cases:
            with self.subTest(words=words):
                before = len(receiver.notes)
                self.knock(address, context)
                self.assertTrue(receiver.wait_note(words), receiver.notes[before:])
        sender = RIG.sender(address, data)
        self.assertEqual(sender.finish(), (True, ""))
        self.assertEqual(receiver.finish(), (True, ""))
        self.assertEqual(drain.data(), data)

    def test_noise(self):
        receiver, address, drain = RIG.receiver(Ticket(idle_ms=20000))
        for noise, words in ((b"GET / HTTP/1.0\r\n\r\n", "TLS"), (os.urandom(3000), "TLS"), (b"", "")):
            with socket.create_connection(address) as sock:
                sock.sendall(noise)
            if words:
                self.assertTrue(receiver.wait_note(words))
        subprocess.run(["openssl", "s_client", "-connect", "%s:%d" % address, "-tls1_2"],
                       stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False)
        self.assertTrue(receiver.wait_note("does not speak TLS 1.3"), receiver.notes)
        # No ALPN: whoever it is, it is not hamgr-stream.
        self.knock(address, self.client(RIG.path("n1"), alpn=False))
        self.assertTrue(receiver.wait_note("ALPN"), receiver.notes)
        data = streamrig.some_stream(12, batches=1)
        sender = RIG.sender(address, data)
        self.assertEqual(sender.finish(), (True, ""))
        self.assertEqual(receiver.finish(), (True, ""))
        self.assertEqual(drain.data(), data)

    def test_silent_ones_do_not_block(self):
        """10 connections that say nothing, 3 that stop after TLS: the right one is served at once,
        and they are thrown out after 5 s where nobody else comes."""
        receiver, address, drain = RIG.receiver(Ticket(idle_ms=20000))
        silent = [socket.create_connection(address) for _ in range(10)]
        context = self.client(RIG.path("n1"))
        quiet = [context.wrap_socket(socket.create_connection(address)) for _ in range(3)]
        data = streamrig.some_stream(13, batches=1)
        begin = time.monotonic()
        sender = RIG.sender(address, data)
        self.assertEqual(sender.finish(), (True, ""))
        self.assertLess(time.monotonic() - begin, streamrig.BOUND_S)
        self.assertEqual(receiver.finish(), (True, ""))
        self.assertEqual(drain.data(), data)
        for sock in silent + quiet:
            sock.close()
        receiver, address, _ = RIG.receiver(Ticket(idle_ms=20000))
        silent = socket.create_connection(address)
        self.assertTrue(receiver.wait_note("no TLS handshake within 10000 ms", 16), receiver.notes)
        silent.settimeout(2)
        self.assertEqual(silent.recv(10), b"")
        silent.close()
        receiver.cancel()
        self.assertEqual(receiver.finish(), (False, "cancelled"))

    def test_garbage_after_tls(self):
        receiver, address, _ = RIG.receiver(Ticket(idle_ms=20000))
        context = self.client(RIG.path("n1"))
        for payload in (os.urandom(500), b"\0" * 24, b"HMS1" + b"\xff" * 20):
            with context.wrap_socket(socket.create_connection(address, timeout=5)) as sock:
                sock.sendall(payload)
                answer = sock.recv(1000)
            self.assertEqual(answer[:4], b"HMS1")
            self.assertEqual(answer[4:6], b"\x03\0")  # ABORT
        self.assertTrue(receiver.wait_note("no frame where one should start"))
        receiver.cancel()
        receiver.finish()

    def test_nobody_comes(self):
        receiver, address, _ = RIG.receiver(Ticket(idle_ms=1500))
        self.knock(address, self.client(RIG.path("n3")))
        begin = time.monotonic()
        is_ok, text = receiver.finish()
        self.assertFalse(is_ok)
        self.assertIn("no valid connection; 1 refused", text)
        self.assertIn('is for "n3"', text)
        self.assertLess(time.monotonic() - begin, streamrig.BOUND_S)


class Binding(unittest.TestCase):
    """The certificate is right, the ticket is not."""

    def test_wrong_tickets(self):
        receiver, address, drain = RIG.receiver(Ticket(idle_ms=20000))
        cases = [({"ticket": 78}, "another ticket"), ({"generation": 2}, "another generation"),
                 ({"cluster": bytes(16)}, "another cluster"), ({"guest": bytes(16)}, "another guest"),
                 ({"epoch": 10}, "another epoch"), ({"secret": bytes(32)}, "ticket's secret")]
        for changes, words in cases:
            with self.subTest(**changes):
                sender = RIG.sender(address, b"", Ticket(**changes))
                is_ok, text = sender.finish()
                self.assertFalse(is_ok)
                self.assertFalse(sender.is_connected)
                self.assertIn(words, text)
                self.assertTrue(receiver.wait_note(words), receiver.notes)
        data = streamrig.some_stream(14, batches=1)
        sender = RIG.sender(address, data)
        self.assertEqual(sender.finish(), (True, ""))
        self.assertEqual(receiver.finish(), (True, ""))
        self.assertEqual(drain.data(), data)

    def test_wrong_receivers(self):
        """The sender refuses a receiver that is not the one it was told."""
        cases = [(RIG.path("n3"), 'is for "n3", not "n2"'), (OUTSIDE.path("n2"), "certificate")]
        for pem, words in cases:
            with self.subTest(words=words):
                receiver, address, drain = RIG.receiver(pem=pem)
                sender = RIG.sender(address, streamrig.some_stream(15, batches=1))
                is_ok, text = sender.finish()
                self.assertFalse(is_ok)
                self.assertIn(words, text)
                receiver.cancel()
                self.assertFalse(receiver.finish()[0])
                self.assertEqual(drain.data(), b"")

    def test_refused_certificate_is_explained(self):
        receiver, address, _ = RIG.receiver(Ticket(idle_ms=20000))
        sender = RIG.sender(address, b"", pem=odd("expired"))
        is_ok, text = sender.finish()
        self.assertFalse(is_ok)
        self.assertIn("expired", text)
        receiver.cancel()
        receiver.finish()

    def test_nobody_listens(self):
        closed = streamrig.listener()
        address = closed.getsockname()
        closed.close()
        net = socket.socket()
        net.setblocking(False)
        net.connect_ex(address)
        native, other = socket.socketpair()
        pem = streamrig.pem_memfd(RIG.path("n1"))
        sender = streamrig.End(BINARY, Ticket().start(True, "n2", False), net, native, pem)
        net.close()
        native.close()
        is_ok, text = sender.finish()
        self.assertFalse(is_ok)
        self.assertIn("connect", text)
        other.settimeout(5)
        self.assertEqual(other.recv(1), b"")  # the hypervisor's end learns of it
        other.close()
        os.close(pem)

    def test_one_accepted_socket(self):
        """Not a listener: a refused peer is the end."""
        for secret, is_fine in ((bytes(range(32)), True), (bytes(32), False)):
            door = streamrig.listener()
            address = door.getsockname()
            data = streamrig.some_stream(16, batches=1)
            sender = RIG.sender(address, data, Ticket(secret=secret))
            accepted, _ = door.accept()
            receiver, _, drain = RIG.receiver(net=accepted, is_listener=False)
            self.assertEqual(sender.finish()[0], is_fine)
            is_ok, text = receiver.finish()
            self.assertEqual(is_ok, is_fine, text)
            self.assertEqual(drain.data() == data, is_fine)
            door.close()


class Faults(unittest.TestCase):
    def check_failed(self, end, words="", seconds=15):
        is_ok, text = end.finish(seconds)
        self.assertFalse(is_ok, text)
        self.assertTrue(text)
        self.assertIn(words, text)
        return text

    def test_cuts(self):
        """Cut after any byte: never a false success, never a hang."""
        data = streamrig.some_stream(21, batches=3, most=200)
        ticket = Ticket()
        whole = Relay(RIG.receiver(ticket)[1], 1 << 60, "end")
        sender = RIG.sender(whole.address, data, ticket)
        self.assertEqual(sender.finish(), (True, ""))
        whole.close()
        wire = sender.end[1][1]
        rng = random.Random(22)
        limits = [0, 1, 5, 100, 600, 1500] + [rng.randrange(wire) for _ in range(14)] + [wire - 1]
        for number, limit in enumerate(limits):
            how = ("end", "reset")[number % 2]
            with self.subTest(limit=limit, how=how):
                receiver, address, drain = RIG.receiver(Ticket(idle_ms=2000))
                relay = Relay(address, limit, how)
                sender = RIG.sender(relay.address, data, Ticket(idle_ms=2000))
                self.check_failed(sender)
                is_ok, text = receiver.finish()
                self.assertFalse(is_ok, text)
                got = drain.data()
                self.assertLess(len(got), len(data))
                self.assertEqual(got, data[:len(got)])
                relay.close()

    def test_silence(self):
        """A network that swallows everything: both ends notice within their 8 s, side by side."""
        data = streamrig.some_stream(23, batches=3, most=200)
        receiver, address, _ = RIG.receiver(Ticket(idle_ms=30000))
        relay = Relay(address, 100000, "silence")
        sender = RIG.sender(relay.address, data, Ticket(idle_ms=30000))
        begin = time.monotonic()
        self.check_failed(sender, "silent", 12)
        self.check_failed(receiver, "silent", 12)
        self.assertLess(time.monotonic() - begin, streamrig.BOUND_S)
        relay.close()

    def test_stopped_peer(self):
        data = streamrig.some_stream(24, batches=3, most=200)
        receiver, address, _ = RIG.receiver(Ticket(idle_ms=30000))
        sender = RIG.sender(address, data[:200000], Ticket(idle_ms=30000))
        self.assertEqual(sender.wait(30, streamrig.CONNECTED), streamrig.CONNECTED)
        begin = time.monotonic()
        streamrig.stop(receiver.process)
        self.check_failed(sender, "silent", 14)
        self.assertLess(time.monotonic() - begin, streamrig.BOUND_S)
        streamrig.go_on(receiver.process)
        self.check_failed(receiver, "silent")  # told by the sender

    def test_killed_peer(self):
        for victim in ("sender", "receiver"):
            data = streamrig.some_stream(25, batches=3, most=200)
            receiver, address, _ = RIG.receiver()
            sender = RIG.sender(address, data, pieces=[100000], pause=2)
            self.assertEqual(sender.wait(30, streamrig.CONNECTED), streamrig.CONNECTED)
            begin = time.monotonic()
            (sender if victim == "sender" else receiver).process.kill()
            self.check_failed(receiver if victim == "sender" else sender)
            self.assertLess(time.monotonic() - begin, streamrig.BOUND_S)

    def test_cancel(self):
        data = streamrig.some_stream(26, batches=3, most=200)
        for who in ("sender", "receiver"):
            for moment in ("waiting", "connected"):
                with self.subTest(who=who, moment=moment):
                    receiver, address, _ = RIG.receiver()
                    if moment == "waiting" and who == "sender":
                        # Connected to a listener that never answers.
                        door = streamrig.listener()
                        address = door.getsockname()
                    sender = None
                    if moment == "connected" or who == "sender":
                        sender = RIG.sender(address, data, pieces=[100000], pause=3)
                    end = sender if who == "sender" else receiver
                    other = receiver if who == "sender" else sender
                    if moment == "connected":
                        end.wait(5, streamrig.CONNECTED)
                    begin = time.monotonic()
                    end.cancel()
                    self.check_failed(end, "cancelled")
                    self.assertLess(time.monotonic() - begin, streamrig.BOUND_S)
                    self.assertLess(end.ended_at - begin, streamrig.BOUND_S)
                    if moment == "connected":
                        self.check_failed(other, "cancelled")
                    elif end is not receiver:
                        receiver.cancel()
                        door.close()

    def test_terminated(self):
        """hamgrd cancels, closes and terminates in one breath: the peer still learns why."""
        receiver, address, _ = RIG.receiver()
        sender = RIG.sender(address, streamrig.some_stream(27)[:100000])
        sender.wait(30, streamrig.CONNECTED)
        sender.cancel()
        sender.control.close()
        sender.process.terminate()
        sender.process.wait(30)
        self.check_failed(receiver, "cancelled")

    def test_hamgrd_gone(self):
        receiver, address, drain = RIG.receiver()
        sender = RIG.sender(address, streamrig.some_stream(27), pieces=[100000], pause=3)
        sender.wait(30, streamrig.CONNECTED)
        begin = time.monotonic()
        sender.control.close()
        sender.process.wait(30)
        self.check_failed(receiver, "hamgrd is gone")
        self.assertLess(time.monotonic() - begin, streamrig.BOUND_S)
        drain.join(3)

    def test_source_ends_early(self):
        data = streamrig.some_stream(28, batches=2)
        for length in (0, 3, 40, 2000, len(data) - 8):
            with self.subTest(length=length):
                receiver, address, drain = RIG.receiver()
                sender = RIG.sender(address, data[:length])
                sender.feeder.join()
                sender.feeder.native.close()
                self.check_failed(sender, "ended before its end record")
                self.check_failed(receiver, "ended before its end record")
                self.assertTrue(data.startswith(drain.data()))

    def test_source_is_broken(self):
        data = bytearray(streamrig.some_stream(29, batches=2))
        data[20] = 9  # LIBXC_CONTEXT's length
        receiver, address, drain = RIG.receiver()
        sender = RIG.sender(address, bytes(data))
        self.check_failed(sender, "LIBXC_CONTEXT")
        self.check_failed(receiver, "LIBXC_CONTEXT")
        self.assertLessEqual(len(drain.data()), 16)

    def test_checkpointed_stream_is_refused(self):
        """EOF behind a checkpoint means "activate" to Xen: such a stream must not even begin."""
        data = (streamrig.libxl_header() + streamrig.record(1) + streamrig.image_header()
                + streamrig.record(16) + streamrig.record(14))
        receiver, address, drain = RIG.receiver()
        sender = RIG.sender(address, data)
        self.check_failed(sender, "checkpointed")
        self.check_failed(receiver)
        self.assertNotIn(streamrig.record(14), drain.data())

    def test_sink_closes(self):
        receiver, address, ours = self.stuck_receiver(8000)
        sender = RIG.sender(address, streamrig.some_stream(30))
        ours.recv(1000)
        ours.close()
        self.check_failed(receiver, "hypervisor's end was closed")
        self.check_failed(sender, "hypervisor's end was closed")

    def stuck_receiver(self, idle_ms):
        """A receiver whose hypervisor takes nothing."""
        net = streamrig.listener()
        address = net.getsockname()
        ours, theirs = socket.socketpair()
        pem = streamrig.pem_memfd(RIG.path("n2"))
        ticket = Ticket(idle_ms=idle_ms)
        receiver = streamrig.End(BINARY, ticket.start(False, "n1", True), net, theirs, pem)
        RIG.ends.append(receiver)
        for thing in (net, theirs):
            thing.close()
        os.close(pem)
        return receiver, address, ours

    def test_back_pressure(self):
        """A slow hypervisor slows the sender and fills no memory; PINGs keep both ends content for
        longer than the 8 s after which a silent peer is given up."""
        receiver, address, ours = self.stuck_receiver(60000)
        rng = random.Random(31)
        batches = [(list(range(i * 1024, i * 1024 + 1024)), [rng.randbytes(4096)] * 1024)
                   for i in range(16)]
        data = streamrig.hvm_stream(batches)
        sender = RIG.sender(address, data, Ticket(idle_ms=60000, level=0))
        self.assertEqual(sender.wait(30, streamrig.CONNECTED), streamrig.CONNECTED)
        self.assertEqual(sender.wait(9.5), None, (sender.end, receiver.end))
        with open(f"/proc/{receiver.process.pid}/status", encoding="ascii") as file:
            resident = int(next(line for line in file if line.startswith("VmRSS")).split()[1])
        if not streamrig.is_sanitized(BINARY):
            self.assertLess(resident, 24 * 1024)
        drain = streamrig.Drain(ours)
        self.assertEqual(sender.finish(), (True, ""))
        self.assertEqual(receiver.finish(), (True, ""))
        self.assertEqual(drain.data(), data)

    def test_idle(self):
        """Nothing moves although both ends live: that is hamgrd's limit."""
        receiver, address, _ = RIG.receiver(Ticket(idle_ms=1500))
        sender = RIG.sender(address, streamrig.some_stream(32), Ticket(idle_ms=1500), pieces=[50000],
                            pause=20)
        begin = time.monotonic()
        text = self.check_failed(sender)
        self.assertIn("nothing moved", text)
        self.assertIn("nothing moved", self.check_failed(receiver))
        self.assertLess(time.monotonic() - begin, streamrig.BOUND_S)


class Probe(unittest.TestCase):
    """No guest, no hypervisor: random pages that the receiver throws away."""
    MIB = 8

    def ends(self, sent=MIB, **changes):
        ticket = Ticket(**{"level": 0, "cache_mib": 0, "probe_mib": self.MIB, **changes})
        receiver, address, drain = RIG.receiver(ticket)
        sender = RIG.sender(address, b"", Ticket(**{**ticket.__dict__, "probe_mib": sent}))
        return sender, receiver, drain

    def test_moves_what_it_may_and_ends(self):
        for connections in (0, 4):
            with self.subTest(connections=connections):
                sender, receiver, drain = self.ends(connections=connections)
                self.assertEqual(sender.finish(), (True, ""))
                self.assertEqual(receiver.finish(), (True, ""))
                self.assertEqual(drain.data(), b"", "what a hypervisor would have got")
                for end in (sender, receiver):
                    raw, wire, pages = end.end[1][:3]
                    self.assertEqual(pages, self.MIB * 256)
                    self.assertGreater(wire, self.MIB << 20, "it must not compress")
                    self.assertLess(raw, (self.MIB << 20) * 1.01)

    def test_more_than_agreed_on_is_refused(self):
        sender, receiver, _ = self.ends(sent=64, connections=2)
        self.assertFalse(sender.finish()[0])
        is_ok, words = receiver.finish()
        self.assertFalse(is_ok)
        self.assertIn("more than was agreed on", words)
        self.assertLess(receiver.end[1][0], (self.MIB << 20) * 1.01)

    def test_no_guest_gets_in(self):
        """A probe's receiver takes its pages from a migration's sender, but nobody gets them."""
        data = streamrig.some_stream(3)
        ticket = Ticket(level=0)
        receiver, address, drain = RIG.receiver(Ticket(level=0, probe_mib=self.MIB))
        sender = RIG.sender(address, data, ticket)
        self.assertEqual(sender.finish(), (True, ""))
        self.assertEqual(receiver.finish(), (True, ""))
        self.assertEqual(drain.data(), b"")

    def test_cancelled_in_the_middle(self):
        sender, receiver, _ = self.ends(sent=1024, connections=4, rate_mbit=50)
        self.assertEqual(sender.wait(until=streamrig.PROGRESS), streamrig.PROGRESS)
        sender.cancel()
        self.assertFalse(sender.finish(streamrig.BOUND_S)[0])
        self.assertFalse(receiver.finish(streamrig.BOUND_S)[0])


class Manners(unittest.TestCase):
    def test_flushes_at_once(self):
        """What the hypervisor wrote is on the other side without waiting for more."""
        data = streamrig.hvm_stream([(list(range(100)), [b"x" * 4096] * 100), ([7], [bytes(4096)])])
        receiver, address, drain = RIG.receiver()
        sender = RIG.sender(address, b"")
        self.assertEqual(sender.wait(30, streamrig.CONNECTED), streamrig.CONNECTED)
        first_record = data.index(b"x" * 4096)
        records = first_record + 100 * 4096
        at = 0
        # Ends: inside a header, inside pages (a record is sorted as a whole), at a page record's end,
        # at the next one's end.
        for end, due in ((20, 16), (first_record + 5 * 4096 + 100, first_record),
                         (records, records), (records + 8 + 8 + 8 + 4096,) * 2):
            begin = time.monotonic()
            sender.feeder.native.sendall(data[at:end])
            self.assertTrue(drain.wait_for(due, 2), (end, due, drain.count()))
            self.assertLess(time.monotonic() - begin, streamrig.BOUND_S)
            at = end
        sender.feeder.native.sendall(data[at:])
        self.assertEqual(sender.finish(), (True, ""))
        self.assertEqual(receiver.finish(), (True, ""))
        self.assertEqual(drain.data(), data)

    def test_progress(self):
        data = streamrig.some_stream(41, batches=3)
        receiver, address, _ = RIG.receiver()
        sender = RIG.sender(address, data, pieces=[100000] * 8, pause=0.15)
        sender.finish()
        receiver.finish()
        for end in (sender, receiver):
            self.assertGreater(len(end.progress), 5)
            self.assertLess(len(end.progress), 20)
            for earlier, later in zip(end.progress, end.progress[1:]):
                self.assertTrue(all(a <= b for a, b in zip(earlier, later)))

    def test_rate_cap(self):
        rng = random.Random(42)
        data = streamrig.hvm_stream([(list(range(1024)), [rng.randbytes(4096) for _ in range(1024)])])
        receiver, address, drain = RIG.receiver()
        begin = time.monotonic()
        sender = RIG.sender(address, data, Ticket(rate_mbit=50, level=0))
        self.assertEqual(sender.finish(), (True, ""))
        seconds = time.monotonic() - begin
        self.assertEqual(receiver.finish(), (True, ""))
        self.assertEqual(drain.data(), data)
        want = len(data) * 8 / 50e6
        self.assertGreater(seconds, want * 0.85)
        self.assertLess(seconds, streamrig.BOUND_S)

    def test_nothing_left_over(self):
        """What the process is allowed, while it streams."""
        receiver, address, _ = RIG.receiver()
        sender = RIG.sender(address, streamrig.some_stream(43), pieces=[100000], pause=5)
        for end in (sender, receiver):
            self.assertEqual(end.wait(5, streamrig.CONNECTED), streamrig.CONNECTED)
            pid = end.process.pid
            threads = os.listdir(f"/proc/{pid}/task")
            self.assertEqual(len(threads), 1 + Ticket().workers)
            for thread in threads:
                with open(f"/proc/{pid}/task/{thread}/status", encoding="ascii") as file:
                    status = dict(line.split(":", 1) for line in file if ":" in line)
                self.assertEqual(status["NoNewPrivs"].strip(), "1")
                self.assertEqual(status["Seccomp"].strip(), "2")
                self.assertEqual(int(status["CapEff"], 16) | int(status["CapPrm"], 16), 0)
                self.assertNotIn("0", status["Uid"].split())
            if os.geteuid() == 0:
                self.assertEqual(os.listdir(f"/proc/{pid}/root"), [])
                self.assertNotEqual(os.readlink(f"/proc/{pid}/ns/net"), os.readlink("/proc/self/ns/net"))
                # stdio, control, the connection, the native stream: nothing else is open.
                links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
                sockets = [link for link in links if link.startswith("socket:")]
                self.assertEqual(len(sockets), 3, links)
                self.assertFalse([link for link in links if "pem" in link], links)
                with open(f"/proc/{pid}/environ", "rb") as file:
                    self.assertNotIn(b"PATH", file.read())
        sender.cancel()
        self.assertFalse(sender.finish()[0])
        self.assertFalse(receiver.finish()[0])

    def test_malformed_start(self):
        inner, outer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        inner.close()
        outer.close()
        for body in (b"", b"\xff" * 120, Ticket().start(True, "../n2", False)):
            native, other = socket.socketpair()
            pem = streamrig.pem_memfd(RIG.path("n1"))
            end = streamrig.End(BINARY, body, native, other, pem)
            is_ok, text = end.finish()
            self.assertFalse(is_ok)
            self.assertIn("START", text)
            for thing in (native, other):
                thing.close()
            os.close(pem)

    def test_arguments(self):
        done = subprocess.run([BINARY, "--version"], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0)
        self.assertIn("hamgr-stream", done.stdout)
        self.assertEqual(subprocess.run([BINARY, "x"], capture_output=True, check=False).returncode, 2)


if __name__ == "__main__":
    BINARY = os.path.abspath(sys.argv.pop(1))
    unittest.main()
