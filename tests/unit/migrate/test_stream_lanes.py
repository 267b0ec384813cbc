#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""hamgr-stream over several connections: the same bytes, whatever is cut, and no way in for others.

  test_stream_lanes.py BINARY [unittest options]
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


def setUpModule():
    global RIG
    RIG = streamrig.Rig(BINARY)


def tearDownModule():
    RIG.close()


class Net(threading.Thread):
    """The network between sender and receiver: forwards connections, and cuts them when told to."""

    def __init__(self, target):
        super().__init__(daemon=True)
        self.target = target
        self.listener = streamrig.listener()
        self.address = self.listener.getsockname()
        self.lock = threading.Lock()
        self.pairs = []  # (client, server), oldest first: the first one is control, at the start
        self.moved = 0  # bytes from sender to receiver
        self.accepted = 0
        self.is_open = True  # new connections get through
        self.is_frozen = False  # nothing moves, nothing is closed
        self.on_moved = None  # called with the count, may cut
        self.stopped = False
        self.start()

    def close(self):
        self.stopped = True
        self.join(5)
        self.cut()
        self.listener.close()

    def cut(self, which=None, how="reset"):
        """Ends some connections: all, or those whose indices are given."""
        with self.lock:
            chosen = [pair for i, pair in enumerate(self.pairs) if which is None or i in which]
            self.pairs = [pair for pair in self.pairs if pair not in chosen]
            for pair in chosen:
                for sock in pair:
                    if how == "reset":
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    sock.close()
        return len(chosen)

    def forward(self, source):
        with self.lock:
            pair = next((pair for pair in self.pairs if source in pair), None)
            if not pair:
                return
            try:
                data = source.recv(65536)
                if data:
                    pair[1 if source is pair[0] else 0].sendall(data)
            except OSError:
                data = b""
            if not data:
                self.pairs.remove(pair)
                for sock in pair:
                    sock.close()
        if data and source is pair[0]:
            self.moved += len(data)
            if self.on_moved:
                self.on_moved(self)

    def take(self):
        client, _ = self.listener.accept()
        self.accepted += 1
        if not self.is_open:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
            return
        try:
            server = socket.create_connection(self.target)
        except OSError:
            client.close()  # the receiver has gone
            return
        with self.lock:
            self.pairs.append((client, server))

    def run(self):
        while not self.stopped:
            with self.lock:
                socks = [] if self.is_frozen else [s for pair in self.pairs for s in pair]
                socks = [s for s in socks if s.fileno() >= 0] + [self.listener]
            try:
                ready = select.select(socks, [], [], 0.02)[0]
            except (OSError, ValueError):
                continue
            for sock in ready:
                if sock is self.listener:
                    self.take()
                else:
                    self.forward(sock)


def big_stream(seed, mib=24):
    """Stored pages, so that what the native stream holds also travels."""
    rng = random.Random(seed)
    block = [rng.randbytes(4096) for _ in range(1024)]
    batches = []
    for i in range(mib // 4):
        rng.shuffle(block)
        batches.append((list(range(i * 1024, i * 1024 + 1024)), list(block)))
    return streamrig.hvm_stream(batches)


class Case(unittest.TestCase):
    def pair(self, data, through=True, **changes):
        """Returns (sender, receiver, drain, net)."""
        ticket = Ticket(**{"connections": 2, "level": 0, "idle_ms": 20000, **changes})
        receiver, address, drain = RIG.receiver(ticket)
        net = Net(address) if through else None
        if net:
            self.addCleanup(net.close)
        sender = RIG.sender(net.address if net else address, data, ticket)
        return sender, receiver, drain, net

    def pump(self, sender, condition, seconds=60):
        """Plays hamgrd for the sender until something has happened."""
        deadline = time.monotonic() + seconds
        while not condition():
            self.assertLess(time.monotonic(), deadline)
            sender.take(0.02)

    def feed(self, sender, data):
        """Feeds the rest while hamgrd is played: a lane that comes back needs its socket."""
        thread = threading.Thread(target=sender.feeder.native.sendall, args=(data,), daemon=True)
        thread.start()
        self.pump(sender, lambda: not thread.is_alive(), 60)

    def check_good(self, sender, receiver, drain, data, seconds=60):
        self.assertEqual(sender.finish(seconds), (True, ""))
        self.assertEqual(receiver.finish(seconds), (True, ""))
        self.assertTrue(drain.data(seconds) == data)


class Identical(Case):
    def test_counts_and_levels(self):
        for seed, connections in enumerate((1, 2, 3, 8)):
            for level in (0, 1):
                with self.subTest(connections=connections, level=level):
                    data = streamrig.some_stream(50 + seed, batches=5)
                    sender, receiver, drain, _ = self.pair(data, False, connections=connections,
                                                           level=level)
                    self.check_good(sender, receiver, drain, data)
                    self.assertEqual(sorted(sender.lanes), list(range(1, connections + 1)))
                    self.assertEqual(sender.end[1][0], len(data))

    def test_the_smaller_wish_counts(self):
        data = streamrig.some_stream(61, batches=2)
        for ours, theirs, want in ((8, 2, 2), (2, 8, 2), (3, 0, 0), (0, 3, 0)):
            with self.subTest(ours=ours, theirs=theirs):
                receiver, address, drain = RIG.receiver(Ticket(connections=theirs))
                sender = RIG.sender(address, data, Ticket(connections=ours))
                self.check_good(sender, receiver, drain, data)
                self.assertEqual(len(sender.lanes), want)

    def test_flushes_at_once(self):
        data = streamrig.hvm_stream([(list(range(100)), [b"x" * 4096] * 100), ([7], [bytes(4096)])])
        sender, receiver, drain, _ = self.pair(b"", False)
        self.assertEqual(sender.wait(30, streamrig.CONNECTED), streamrig.CONNECTED)
        records = data.index(b"x" * 4096) + 100 * 4096
        self.feed(sender, data[:records])
        while len(sender.lanes) < 2:
            self.assertIsNotNone(sender.take(5))
        self.assertTrue(drain.wait_for(records, 3), drain.count())
        begin = time.monotonic()
        self.feed(sender, data[records:])
        self.assertTrue(drain.wait_for(len(data), 2), drain.count())
        self.assertLess(time.monotonic() - begin, streamrig.BOUND_S)
        self.check_good(sender, receiver, drain, data)

    def test_rate_cap_holds_over_all(self):
        data = big_stream(62, mib=8)
        begin = time.monotonic()
        sender, receiver, drain, _ = self.pair(data, False, connections=4, rate_mbit=50)
        self.check_good(sender, receiver, drain, data)
        want = len(data) * 8 / 50e6
        self.assertGreater(time.monotonic() - begin, want * 0.85)

    def test_memory_and_rights(self):
        data = big_stream(63, mib=32)
        receiver, address, _ = RIG.receiver(Ticket(connections=8))
        sender = RIG.sender(address, data[:-1000], Ticket(connections=8, level=0))
        deadline = time.monotonic() + 60
        while len(sender.lanes) < 8 or not sender.progress or sender.progress[-1][0] < len(data) // 2:
            self.assertLess(time.monotonic(), deadline)
            sender.take(1)
        for end in (sender, receiver):
            pid = end.process.pid
            with open(f"/proc/{pid}/status", encoding="ascii") as file:
                status = dict(line.split(":", 1) for line in file if ":" in line)
            workers = 0 if end is sender else Ticket().workers  # level 0 needs none
            self.assertEqual(int(status["Threads"]), 1 + 8 + workers)
            self.assertEqual(status["Seccomp"].strip(), "2")
            if not streamrig.is_sanitized(BINARY):  # its shadow and quarantine are no memory of ours
                self.assertLess(int(status["VmHWM"].split()[0]), 44 * 1024)
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/status", encoding="ascii") as file:
                    of_task = dict(line.split(":", 1) for line in file if ":" in line)
                self.assertEqual(of_task["Seccomp"].strip(), "2")
                self.assertEqual(int(of_task["CapEff"], 16), 0)
                self.assertEqual(of_task["NoNewPrivs"].strip(), "1")
                self.assertNotIn("0", of_task["Uid"].split())
        sender.cancel()
        self.assertFalse(sender.finish()[0])
        self.assertFalse(receiver.finish()[0])


class Cuts(Case):
    def test_each_kind(self):
        """Control alone, one data connection, all data connections, everything."""
        data = big_stream(70)
        for which, how in (({0}, "reset"), ({1}, "reset"), ({1, 2}, "end"), (None, "reset"), (None, "end")):
            with self.subTest(which=which, how=how):
                sender, receiver, drain, net = self.pair(data)
                done = []

                def on_moved(net, which=which, how=how, done=done):
                    if net.moved > len(data) // 3 and not done:
                        done.append(net.cut(which, how))

                net.on_moved = on_moved
                self.check_good(sender, receiver, drain, data)
                self.assertEqual(done[0], 3 if which is None else len(which))
                self.assertGreater(len(sender.lanes), 2)  # asked again

    def test_again_and_again(self):
        data = big_stream(71, mib=48)
        rng = random.Random(72)
        cuts = 0
        for connections in (1, 3):
            sender, receiver, drain, net = self.pair(data, connections=connections)
            due = [rng.randrange(1 << 20, 6 << 20)]

            def on_moved(net, due=due):
                nonlocal cuts
                if net.moved > due[0]:
                    due[0] = net.moved + rng.randrange(1 << 20, 10 << 20)
                    cuts += net.cut({rng.randrange(max(len(net.pairs), 1))}, rng.choice(("reset", "end")))

            net.on_moved = on_moved
            self.check_good(sender, receiver, drain, data)
        self.assertGreater(cuts, 8)

    def test_near_the_end(self):
        """Around END and END_ACK: a receiver that is good must not leave a sender in doubt that came
        back in time."""
        data = streamrig.some_stream(73, batches=3)
        sender, receiver, drain, net = self.pair(data)
        self.check_good(sender, receiver, drain, data)
        whole = net.moved
        rng = random.Random(74)
        for limit in [whole - rng.randrange(3000) for _ in range(8)]:
            with self.subTest(limit=limit):
                sender, receiver, drain, net = self.pair(data)
                done = []

                def on_moved(net, limit=limit, done=done):
                    if net.moved >= limit and not done:
                        done.append(net.cut())

                net.on_moved = on_moved
                self.check_good(sender, receiver, drain, data)

    def test_an_outage(self):
        """Nothing gets through for 2 s, connections are refused meanwhile."""
        data = big_stream(75)
        sender, receiver, drain, net = self.pair(data)
        back = []

        def on_moved(net):
            if net.moved > len(data) // 3 and not back:
                net.is_open = False
                net.cut()
                back.append(threading.Timer(2, lambda: setattr(net, "is_open", True)))
                back[0].start()

        net.on_moved = on_moved
        self.check_good(sender, receiver, drain, data)
        self.assertTrue(any("is back" in note for note in receiver.notes), receiver.notes)

    def test_silence_then_back(self):
        """The network swallows everything for 4 s: connections are replaced, nothing is lost."""
        data = big_stream(76)
        sender, receiver, drain, net = self.pair(data)
        back = []

        def on_moved(net):
            if net.moved > len(data) // 3 and not back:
                net.is_frozen = True
                back.append(threading.Timer(4, lambda: setattr(net, "is_frozen", False)))
                back[0].start()

        net.on_moved = on_moved
        self.check_good(sender, receiver, drain, data)

    def test_grace_is_over(self):
        data = big_stream(77)
        sender, receiver, drain, net = self.pair(data, grace_ms=2000)

        def on_moved(net):
            if net.moved > len(data) // 3:
                net.is_open = False
                net.cut()

        net.on_moved = on_moved
        begin = time.monotonic()
        for end in (sender, receiver):
            is_ok, text = end.finish()
            self.assertFalse(is_ok)
            self.assertTrue("silent" in text or "no data connection" in text, text)
        self.assertLess(time.monotonic() - begin, streamrig.BOUND_S)
        got = drain.data()
        self.assertLess(len(got), len(data))
        self.assertTrue(data.startswith(got))

    def test_cancel_while_cut(self):
        data = big_stream(78)
        for who in ("sender", "receiver"):
            sender, receiver, _, net = self.pair(data)
            cut = threading.Event()

            def on_moved(net, cut=cut):
                if net.moved > len(data) // 3:
                    net.is_open = False
                    net.cut()
                    cut.set()

            net.on_moved = on_moved
            self.pump(sender, cut.is_set)
            end, other = (sender, receiver) if who == "sender" else (receiver, sender)
            begin = time.monotonic()
            end.cancel()
            self.assertEqual(end.finish(), (False, "cancelled"))
            self.assertLess(end.ended_at - begin, streamrig.BOUND_S)
            other.cancel()
            self.assertFalse(other.finish()[0])

    def test_cancel_while_moving(self):
        data = big_stream(79)
        for who in ("sender", "receiver"):
            sender, receiver, drain, net = self.pair(data, through=True)
            moving = threading.Event()
            net.on_moved = lambda net, moving=moving: moving.set() if net.moved > 2 << 20 else None
            self.pump(sender, moving.is_set)
            end, other = (sender, receiver) if who == "sender" else (receiver, sender)
            begin = time.monotonic()
            end.cancel()
            self.assertEqual(end.finish(), (False, "cancelled"))
            self.assertLess(end.ended_at - begin, streamrig.BOUND_S)
            is_ok, text = other.finish()
            self.assertFalse(is_ok)
            self.assertIn("cancelled", text)
            self.assertLess(len(drain.data()), len(data))

    def stuck_receiver(self, ticket):
        """A receiver whose hypervisor takes nothing until somebody reads what is returned."""
        net = streamrig.listener()
        address = net.getsockname()
        ours, theirs = socket.socketpair()
        pem = streamrig.pem_memfd(RIG.path("n2"))
        receiver = streamrig.End(BINARY, ticket.start(False, "n1", True), net, theirs, pem)
        RIG.ends.append(receiver)
        for thing in (net, theirs):
            thing.close()
        os.close(pem)
        return receiver, address, ours

    def test_a_hypervisor_that_begins_late(self):
        """It makes a large guest's memory first, for four times as long as anything may stand still: its
        hamgr-stream says so, to the sender and to both hamgrds."""
        data = big_stream(81, mib=40)  # before the receiver begins to wait for somebody
        ticket = Ticket(connections=2, level=0, idle_ms=1500)
        receiver, address, ours = self.stuck_receiver(ticket)
        sender = RIG.sender(address, data, ticket)
        self.assertEqual(sender.wait(30, streamrig.CONNECTED), streamrig.CONNECTED)
        sender.wait(6)
        self.assertIsNone(sender.end)
        self.assertTrue(sender.progress[-1][-1], "the sender does not know why")
        receiver.wait(0.5)
        self.assertIsNone(receiver.end)
        self.assertTrue(receiver.progress[-1][-1], "the receiver does not say why")
        drain = streamrig.Drain(ours)
        self.check_good(sender, receiver, drain, data)
        self.assertFalse(sender.end[1][-1])

    def test_a_hypervisor_that_never_begins(self):
        """Nobody waits for ever: both ends give up, and neither before the time."""
        data = big_stream(82, mib=40)
        ticket = Ticket(connections=1, level=0, idle_ms=1500)
        receiver, address, _ = self.stuck_receiver(ticket)
        sender = RIG.sender(address, data, ticket)
        begin = time.monotonic()
        self.assertEqual(sender.finish(60)[0], False)
        self.assertGreater(time.monotonic() - begin, 15)
        self.assertEqual(receiver.finish(60)[0], False)
        self.assertIn("nothing moved for 18000 ms", sender.end[2] + receiver.end[2])

    def test_back_pressure(self):
        """A hypervisor that takes nothing for longer than every limit on silence breaks nothing: all
        connections stay, and memory is bounded."""
        ticket = Ticket(connections=2, level=0, idle_ms=60000)
        receiver, address, ours = self.stuck_receiver(ticket)
        data = big_stream(80, mib=40)
        sender = RIG.sender(address, data, ticket)
        self.assertEqual(sender.wait(30, streamrig.CONNECTED), streamrig.CONNECTED)
        sender.wait(11)
        self.assertIsNone(sender.end)
        self.assertEqual(len(sender.lanes), 2, sender.notes)
        drain = streamrig.Drain(ours)
        self.check_good(sender, receiver, drain, data)


class Strangers(Case):
    def client(self, pem=None, version=None):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["hamgr-stream"])
        if version:
            context.maximum_version = version
        if pem:
            context.load_cert_chain(os.path.join(pem, "node.pem"), os.path.join(pem, "node.key"))
        return context

    def knock(self, address, context):
        try:
            with socket.create_connection(address, timeout=10) as raw:
                with context.wrap_socket(raw) as sock:
                    return sock.recv(100)
        except OSError as error:
            return error

    def psk(self, address, name, key, *more):
        subprocess.run(["openssl", "s_client", "-connect", "%s:%d" % address, "-psk", key,
                        "-psk_identity", name, "-alpn", "hamgr-stream", *more],
                       stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False)

    def test_while_it_runs(self):
        """The right certificate, TLS 1.2, noise, silence, wrong keys, another migration: refused and
        noted, and the migration goes on unharmed."""
        data = big_stream(90, mib=8)
        ticket = Ticket(connections=2, level=0, idle_ms=30000)
        receiver, address, drain = RIG.receiver(ticket)
        sender = RIG.sender(address, data[:3 << 20], ticket)
        self.pump(sender, lambda: drain.count() >= 2 << 20)
        name = "hamgr-stream 1 %016x %d"
        silent = [socket.create_connection(address) for _ in range(3)]
        self.knock(address, self.client(RIG.path("n1")))
        self.assertTrue(receiver.wait_note("no key of this migration"), receiver.notes)
        self.knock(address, self.client(RIG.path("n1"), ssl.TLSVersion.TLSv1_2))
        self.assertTrue(receiver.wait_note("does not speak TLS 1.3"), receiver.notes)
        with socket.create_connection(address) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        del receiver.notes[:]
        for identity in (name % (77, 1), name % (77, 0), name % (78, 1), name % (77, 3), "x", name % (77, 11)):
            self.psk(address, identity, "00" * 32, "-tls1_3")
            self.assertTrue(receiver.wait_note("no key of this migration"), (identity, receiver.notes))
            del receiver.notes[:]
        self.psk(address, name % (77, 1), "00" * 32, "-tls1_2")
        # A connection of another migration, from the same node, led to this door.
        other_receiver, other_address, _ = RIG.receiver(Ticket(ticket=78, connections=1))
        other = RIG.sender(other_address, data[:1000], Ticket(ticket=78, connections=1))
        other.address = address
        other.wait(1.5)
        self.assertTrue(receiver.wait_note("no key of this migration"), receiver.notes)
        other.cancel()
        other.finish()
        other_receiver.finish()
        self.feed(sender, data[3 << 20:])
        self.check_good(sender, receiver, drain, data)
        self.assertEqual(sorted(sender.lanes), [1, 2])  # none of ours was disturbed
        for sock in silent:
            sock.close()

    def test_slow_ones_do_not_keep_a_lane_out(self):
        """15 connections that say nothing, while a lane has to come back."""
        data = big_stream(91, mib=16)
        ticket = Ticket(connections=1, level=0, idle_ms=30000)
        receiver, address, drain = RIG.receiver(ticket)
        net = Net(address)
        self.addCleanup(net.close)
        sender = RIG.sender(net.address, data[:8 << 20], ticket)
        self.pump(sender, lambda: drain.count() >= 4 << 20)
        silent = [socket.create_connection(address) for _ in range(14)]
        net.cut()
        self.pump(sender, lambda: not sender.feeder.is_alive())
        self.feed(sender, data[8 << 20:])
        self.check_good(sender, receiver, drain, data)
        for sock in silent:
            sock.close()

    def test_hamgrd_without_sockets(self):
        """No socket to be had: an end within the grace time, and a reason."""
        ticket = Ticket(connections=2, grace_ms=1500)
        receiver, address, _ = RIG.receiver(ticket)
        sender = RIG.sender(address, streamrig.some_stream(92), ticket)
        sender.may_connect = False
        is_ok, text = sender.finish()
        self.assertFalse(is_ok)
        self.assertIn("no data connection for 1500 ms", text)
        self.assertFalse(receiver.finish()[0])


if __name__ == "__main__":
    BINARY = os.path.abspath(sys.argv.pop(1))
    unittest.main()
