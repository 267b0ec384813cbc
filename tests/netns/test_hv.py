#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""hamgr-hv with embedded guests and their disks, without a cluster: this test is hamgrd and keeper.

    tests/netns/test_hv.py [--build DIR] [TEST...]

Needs root. Runs in a PID namespace of its own, so that whatever it starts ends with it. The
protocol is written down here once more, independently of the C code. Exit 77: can't run here.
"""

import argparse
import array
import json
import mmap
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
P_S = 0.25
WAIT_S = 10
MAGIC, VERSION = 0x31524D48, 1
HVP_VERSION = 4
OK, FAILED, UNKNOWN = 0, 1, 2
PAUSED, RUNNING, SUSPENDED = 2, 3, 4
(HELLO, LIST, CREATE, RUN, PAUSE, SHUTDOWN, DESTROY, SAVE, RESTORE, ABORT, RESUME_PREPARE,
 DIRTY_SAMPLE) = range(1, 13)
WELCOME, DOMAINS, DONE, PROGRESS, CHANGED, GATE = range(64, 70)
KEEPER_PROOF = 4
CLUSTER = uuid.UUID("00000000-0000-4000-8000-00000000000c")


def raw_ns():
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)


def text(value):
    data = value.encode()
    return struct.pack("<H", len(data)) + data


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, layout):
        values = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += struct.calcsize("<" + layout)
        return values[0] if len(values) == 1 else values

    def text(self):
        size = self.take("H")
        self.at += size
        return self.data[self.at - size:self.at].decode()


def wait_until(condition, what, timeout_s=WAIT_S):
    """For what gives no event; bounded."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s} s: {what}"
        time.sleep(0.001)


class Keeper:
    """The keeper's page and socket, and nothing of its rules."""

    def __init__(self, directory):
        self.path = os.path.join(directory, "lease")
        with open(self.path, "wb") as file:
            file.write(struct.pack("<II", 0, 1) + bytes(4088))
        self.file = open(self.path, "r+b")
        self.page = mmap.mmap(self.file.fileno(), 4096)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(os.path.join(directory, "keeper.sock"))
        self.listener.listen(4)
        self.peer = None
        self.sequence = 0

    def publish(self, end_ns, is_quarantined=False, is_armed=True):
        self.page[0:4] = struct.pack("<I", self.sequence + 1)
        self.page[8:24] = struct.pack("<QII", end_ns, is_quarantined, is_armed)
        self.sequence += 2
        self.page[0:4] = struct.pack("<I", self.sequence)
        return end_ns

    def lease(self, seconds):
        return self.publish(raw_ns() + int(seconds * 1e9))

    def proof(self, timeout_s):
        """The time of the next proof, or None."""
        end = time.monotonic() + timeout_s
        while True:
            wanted = self.peer or self.listener
            ready = select.select([wanted], [], [], max(0, end - time.monotonic()))[0]
            if not ready:
                return None
            if self.peer is None:
                self.peer = self.listener.accept()[0]
                continue
            packet = self.peer.recv(4096)
            if not packet:
                self.peer.close()
                self.peer = None
                continue
            assert struct.unpack_from("<IHH", packet) == (MAGIC, VERSION, KEEPER_PROOF)
            return struct.unpack_from("<Q", packet, 20)[0]

    def forget_proofs(self):
        while self.proof(0) is not None:
            pass


class Hv:
    """A connection to hamgr-hv."""

    def __init__(self, path):
        self.path = path
        self.last_id = 0
        self.replies = {}
        self.gate = None
        self.progress = 0
        self.sock = None
        wait_until(self.try_connect, "hamgr-hv listens")
        self.hello()

    def try_connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.sock.connect(self.path)
            return True
        except OSError:
            self.sock.close()
            return False

    def send(self, kind, body=b"", fd=None):
        self.last_id += 1
        packet = struct.pack("<IHHQI", MAGIC, VERSION, kind, self.last_id, len(body)) + body
        fds = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS,
                                      array.array("i", [fd]))]
        self.sock.sendmsg([packet], fds)
        return self.last_id

    def pump(self, timeout_s):
        if not select.select([self.sock], [], [], timeout_s)[0]:
            return False
        packet = self.sock.recv(131072)
        assert packet, "hamgr-hv ended the connection"
        magic, version, kind, request, size = struct.unpack_from("<IHHQI", packet)
        assert (magic, version, size) == (MAGIC, VERSION, len(packet) - 20)
        reader = Reader(packet[20:])
        if kind == DONE:
            outcome, value = reader.take("BQ")
            assert request not in self.replies, "two replies"
            self.replies[request] = (outcome, value, reader.text())
        elif kind == GATE:
            is_open, is_quarantined, count = reader.take("BBI")
            self.gate = {"open": is_open, "quarantined": is_quarantined, "paused": count,
                         "text": reader.text()}
        elif kind == DOMAINS:
            self.replies[request] = self.take_domains(reader)
        elif kind == WELCOME:
            self.replies[request] = reader.text()
        elif kind == PROGRESS:
            self.progress += 1
        else:
            assert kind == CHANGED
        return True

    @staticmethod
    def take_domains(reader):
        is_last, count = reader.take("BI")
        assert is_last
        domains = {}
        for _ in range(count):
            _, is_labelled = reader.take("IB")
            reader.at += 24
            guest = uuid.UUID(bytes=reader.data[reader.at:reader.at + 16])
            reader.at += 16
            epoch, state, _, _ = reader.take("QBQI")
            reader.text()
            if is_labelled:
                domains[(guest, epoch)] = state
        return domains

    def until(self, condition, what, timeout_s=WAIT_S):
        end = time.monotonic() + timeout_s
        while not condition():
            assert self.pump(max(0, end - time.monotonic())), f"not within {timeout_s} s: {what}"

    def wait(self, request):
        self.until(lambda: request in self.replies, f"reply to request {request}")
        return self.replies.pop(request)

    def hello(self, is_disarmed=False, is_frozen=False):
        flags = struct.pack("<QBBBH", 1, is_disarmed, is_frozen, 0, HVP_VERSION)
        request = self.send(HELLO, CLUSTER.bytes + flags)
        self.gate = None
        driver = self.wait(request)
        self.until(lambda: self.gate is not None, "gate after welcome")
        return driver

    def domain(self, kind, guest, epoch=1, number=0):
        return self.send(kind, guest.bytes + struct.pack("<QI", epoch, number))

    def do(self, kind, guest, epoch=1, number=0):
        return self.wait(self.domain(kind, guest, epoch, number))

    def build(self, kind, guest, definition, epoch=1, mib=8, fd=None):
        data = definition.encode()
        body = guest.bytes + struct.pack("<QQ", epoch, mib * 1024) + text(f"g{guest.hex[-4:]}")
        return self.send(kind, body + struct.pack("<I", len(data)) + data, fd)

    def save(self, guest, fd, epoch=1, is_live=True):
        body = guest.bytes + struct.pack("<QBIIBI", epoch, is_live, 300, 0, 2, 0)
        return self.send(SAVE, body, fd)

    def abort(self, request):
        return self.wait(self.send(ABORT, struct.pack("<Q", request)))

    def list(self):
        return self.wait(self.send(LIST))


class World:
    """A node: storage outside, disk backend, hamgr-hv; guests by number."""

    def __init__(self, programs):
        self.hv_path, self.guest_path, self.disk_path, self.storage_path = programs
        self.dir = tempfile.mkdtemp(prefix="test-hv-")
        self.log = open(os.path.join(self.dir, "log"), "wb")
        self.storage_dir = os.path.join(self.dir, "storage")
        self.run_dir = os.path.join(self.dir, "embedded")
        os.mkdir(self.run_dir)
        self.processes = []
        self.keeper = Keeper(self.dir)
        self.keeper.lease(600)
        self.start([self.storage_path, "--dir", self.storage_dir])
        self.start([self.disk_path, "--node", "1", "--dir", os.path.join(self.run_dir, "disks"),
                    "--storage", os.path.join(self.storage_dir, "storage.sock")])
        self.daemon = self.start_hv()
        self.hv = Hv(os.path.join(self.dir, "hv.sock"))
        self.control = socket.socket(socket.AF_UNIX)
        wait_until(self.try_control, "hamgr-storage listens")

    def try_control(self):
        try:
            self.control.connect(os.path.join(self.storage_dir, "control.sock"))
            return True
        except OSError:
            return False

    def start(self, argv):
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self.log,
                                   stderr=self.log)
        self.processes.append(process)
        return process

    def start_hv(self):
        return self.start([self.hv_path, "--driver", "embedded", "--dir", self.dir, "--run-dir",
                           self.run_dir, "--guest-binary", self.guest_path, "--ident-dir",
                           self.dir])

    def storage(self, **command):
        self.control.sendall(json.dumps(command).encode() + b"\n")
        reply = b""
        while not reply.endswith(b"\n"):
            part = self.control.recv(1 << 20)
            assert part, "hamgr-storage is gone"
            reply += part
        answer = json.loads(reply)
        assert answer["ok"], answer
        return answer

    def report(self):
        return self.storage(cmd="report")

    def writes_of(self, guest):
        for entry in self.report()["guests"]:
            if entry["guest"] == str(guest):
                return entry["writes"]
        return 0

    def start_guests(self, count, definition):
        guests = [uuid.UUID(int=0x1000 + i) for i in range(count)]
        requests = [self.hv.build(CREATE, guest, definition) for guest in guests]
        for request in requests:
            reply = self.hv.wait(request)
            assert reply[0] == OK, reply
        for guest in guests:
            reply = self.hv.do(RUN, guest)
            assert reply[0] == OK, reply
        return guests

    def wait_writes(self, guests, more=1):
        before = {guest: self.writes_of(guest) for guest in guests}
        wait_until(lambda: all(self.writes_of(g) >= before[g] + more for g in guests),
                   "every guest writes")

    def close(self, is_failed):
        for process in self.processes:
            process.kill()
            process.wait()
        for pid in pids_of("hamgr-guest"):
            os.kill(pid, signal.SIGKILL)
        self.log.close()
        if is_failed:
            with open(os.path.join(self.dir, "log"), "rb") as file:
                sys.stderr.write(file.read()[-8000:].decode(errors="replace"))
        shutil.rmtree(self.dir)


def comm_and_state(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            line = file.read()
    except OSError:
        return "", "X"
    name, rest = line[line.index("(") + 1:].rsplit(")", 1)
    return name, rest.split()[0]


def pids_of(name, without="ZX"):
    """In this PID namespace, which is this test's own. Ended guests are its zombies."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        comm, state = comm_and_state(entry)
        if comm == name[:15] and state not in without:
            found.append(int(entry))
    return found


def running_guests():
    return pids_of("hamgr-guest", "tTZX")


GUEST = "memory_mib = 8\ndisk = direct\nwrites_per_s = 50\nstep_ms = 20\n"


def test_lease_end(world):
    guests = world.start_guests(12, GUEST)
    world.wait_writes(guests)
    end_ns = world.keeper.lease(1)
    time.sleep(0.2)
    count = len(running_guests())
    if raw_ns() < end_ns:
        assert count == 12, "paused before lease end"
    time.sleep(max(0, (end_ns - raw_ns()) / 1e9))
    wait_until(lambda: not running_guests(), "all stopped")
    stopped_ns = raw_ns()
    taken_ns = world.keeper.proof(WAIT_S)
    proven_ns = raw_ns()
    assert taken_ns is not None and taken_ns >= end_ns
    assert stopped_ns - end_ns < P_S * 1e9, f"stopped {(stopped_ns - end_ns) / 1e6} ms late"
    writes = world.report()["writes"]
    proofs = [taken_ns] + [world.keeper.proof(1) for _ in range(4)]
    assert None not in proofs
    gaps = [b - a for a, b in zip(proofs, proofs[1:])]
    assert max(gaps) < 2 * P_S * 1e9, gaps
    assert world.report()["writes"] == writes, "written after the proof"
    outcome, _, why = world.hv.do(RUN, guests[0])
    assert outcome == FAILED and "gate closed" in why
    assert not running_guests()
    world.keeper.publish(end_ns, is_quarantined=True)
    world.keeper.lease(600)
    world.hv.until(lambda: world.hv.gate["open"], "the gate opens")
    assert not running_guests(), "opening unpauses nothing"
    for guest in guests:
        assert world.hv.do(RUN, guest)[0] == OK
    world.wait_writes(guests, 5)
    assert world.report()["violation_count"] == 0
    return {"stopped_ms": (stopped_ns - end_ns) / 1e6, "proven_ms": (proven_ns - end_ns) / 1e6}


def test_held_write(world):
    guests = world.start_guests(3, GUEST)
    world.wait_writes(guests)
    world.storage(cmd="hold", guest=str(guests[1]))
    wait_until(lambda: world.report()["waiting"] > 0, "a write is held")
    world.keeper.lease(0)
    wait_until(lambda: not running_guests(), "all stopped")
    assert world.keeper.proof(4 * P_S) is None, "proof with a write outstanding"
    world.hv.until(lambda: "in flight" in world.hv.gate["text"], "the reason is told")
    assert not world.hv.gate["quarantined"]
    world.storage(cmd="release", guest=str(guests[1]))
    assert world.keeper.proof(1) is not None
    assert world.report()["violation_count"] == 0


def test_lost_path(world):
    guests = world.start_guests(2, GUEST)
    world.wait_writes(guests)
    world.storage(cmd="disconnect", node=1)
    time.sleep(0.1)  # some writes: nothing tells, the path is gone
    world.keeper.lease(0)
    wait_until(lambda: not running_guests(), "all stopped")
    assert world.keeper.proof(4 * P_S) is None, "proof without a path to the storage"
    world.storage(cmd="connect", node=1)
    assert world.keeper.proof(2) is not None
    assert world.report()["violation_count"] == 0


def test_write_back(world):
    world.start_guests(1, GUEST.replace("direct", "writeback"))
    world.keeper.lease(0)
    wait_until(lambda: not running_guests(), "stopped")
    assert world.keeper.proof(4 * P_S) is None
    world.hv.until(lambda: "write-back" in world.hv.gate["text"], "the reason is told")


def test_killed_daemon(world):
    guests = world.start_guests(4, GUEST)
    pids = sorted(pids_of("hamgr-guest"))
    world.daemon.kill()
    world.daemon.wait()
    world.wait_writes(guests, 5)
    world.daemon = world.start_hv()
    world.hv = Hv(os.path.join(world.dir, "hv.sock"))
    assert world.hv.list() == {(guest, 1): RUNNING for guest in guests}
    assert sorted(pids_of("hamgr-guest")) == pids
    world.daemon.terminate()
    assert world.daemon.wait(WAIT_S) == 0
    world.wait_writes(guests, 5)
    world.keeper.lease(0)  # ends while no hamgr-hv is there
    world.daemon = world.start_hv()
    assert world.keeper.proof(WAIT_S) is not None
    assert not running_guests()
    assert world.report()["violation_count"] == 0


def begin_save(world, guest):
    """A live save whose reader reads a little and then stops."""
    ours, theirs = socket.socketpair()
    request = world.hv.save(guest, theirs.fileno())
    theirs.close()
    assert ours.recv(4096)
    wait_until(lambda: pids_of("hamgr-hv-worker"), "a worker")
    return ours, request


def test_killed_worker(world):
    guests = world.start_guests(2, GUEST)
    ours, request = begin_save(world, guests[0])
    for pid in pids_of("hamgr-hv-worker"):
        os.kill(pid, signal.SIGKILL)
    outcome, _, why = world.hv.wait(request)
    assert outcome == UNKNOWN and "signal 9" in why
    assert world.hv.list()[(guests[0], 1)] == RUNNING
    outcome, value, why = world.hv.do(DIRTY_SAMPLE, guests[0], 1, 300)
    assert outcome == OK and value > 0, why
    world.wait_writes(guests, 5)
    ours.close()


def test_aborted_save(world):
    guests = world.start_guests(1, GUEST)
    ours, request = begin_save(world, guests[0])
    assert world.hv.abort(request)[0] == OK
    assert world.hv.wait(request)[0] == FAILED
    assert world.hv.list()[(guests[0], 1)] == RUNNING
    world.wait_writes(guests, 5)
    ours.close()
    ours, request = begin_save(world, guests[0])
    world.hv.sock.close()  # hamgrd dies
    wait_until(lambda: not pids_of("hamgr-hv-worker"), "the save ends")
    world.hv = Hv(os.path.join(world.dir, "hv.sock"))
    assert world.hv.list()[(guests[0], 1)] == RUNNING
    world.wait_writes(guests, 5)
    ours.close()


def test_aborted_restore(world):
    ours, theirs = socket.socketpair()
    guest = uuid.UUID(int=0x77)
    request = world.hv.build(RESTORE, guest, GUEST, 1, 8, theirs.fileno())
    theirs.close()
    wait_until(lambda: pids_of("hamgr-hv-worker"), "a worker")
    assert world.hv.abort(request)[0] == OK
    assert world.hv.wait(request)[0] == FAILED
    assert world.hv.list() == {}
    ours.close()


def read_all(source):
    """A stream to its end, in a thread; the list of its parts is complete after join()."""
    parts = []

    def read():
        while part := source.recv(1 << 16):
            parts.append(part)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return parts, thread


def send_all(target, parts):
    thread = threading.Thread(target=lambda: target.sendall(b"".join(parts)), daemon=True)
    thread.start()
    return thread


def test_move(world):
    """Save, then restore under the next epoch, on one node: the disk's chain goes on."""
    guests = world.start_guests(1, GUEST)
    world.wait_writes(guests, 20)
    source, source_end = socket.socketpair()
    target, target_end = socket.socketpair()
    save = world.hv.save(guests[0], source_end.fileno())
    source_end.close()
    parts, reader = read_all(source)
    outcome, _, why = world.hv.wait(save)
    assert outcome == OK, why
    reader.join(WAIT_S)  # the worker's end was the last one
    assert world.hv.progress > 0
    assert world.hv.list()[(guests[0], 1)] == SUSPENDED
    outcome, _, why = world.hv.do(RUN, guests[0], 1)
    assert outcome == FAILED and "suspended" in why
    writes = world.writes_of(guests[0])
    restore = world.hv.build(RESTORE, guests[0], GUEST, 2, 8, target_end.fileno())
    target_end.close()
    writer = send_all(target, parts)
    outcome, _, why = world.hv.wait(restore)
    assert outcome == OK, why
    writer.join(WAIT_S)
    assert world.hv.list() == {(guests[0], 1): SUSPENDED, (guests[0], 2): PAUSED}
    assert world.writes_of(guests[0]) == writes
    assert world.hv.do(DESTROY, guests[0], 1)[0] == OK
    assert world.hv.do(RUN, guests[0], 2)[0] == OK
    world.wait_writes(guests, 20)
    assert world.report()["violation_count"] == 0


def test_resume_after_save(world):
    guests = world.start_guests(1, GUEST)
    source, source_end = socket.socketpair()
    save = world.hv.save(guests[0], source_end.fileno())
    source_end.close()
    _, reader = read_all(source)
    assert world.hv.wait(save)[0] == OK
    reader.join(WAIT_S)
    assert world.hv.do(RESUME_PREPARE, guests[0])[0] == OK
    assert world.hv.do(RUN, guests[0])[0] == OK
    world.wait_writes(guests, 10)
    assert world.report()["violation_count"] == 0


def test_start_33(world):
    begin = time.monotonic()
    guests = world.start_guests(33, "memory_mib = 8\n")
    elapsed_ms = (time.monotonic() - begin) * 1000
    assert len(world.hv.list()) == 33
    begin = time.monotonic()
    requests = [world.hv.domain(SHUTDOWN, guest, 1, 5000) for guest in guests]
    for request in requests:
        outcome, _, why = world.hv.wait(request)
        assert outcome == OK, why
    down_ms = (time.monotonic() - begin) * 1000
    assert world.hv.list() == {} and not pids_of("hamgr-guest")
    return {"create_and_run_33_ms": elapsed_ms, "shutdown_33_ms": down_ms}


TESTS = [test_lease_end, test_held_write, test_lost_path, test_write_back, test_killed_daemon,
         test_killed_worker, test_aborted_save, test_aborted_restore, test_move,
         test_resume_after_save, test_start_33]


PROGRAMS = ["hamgr-hv", "embedded/hamgr-guest", "embedded/hamgr-disk", "embedded/hamgr-storage"]


def run(test, programs):
    """True if it passed."""
    world = World(programs)
    is_failed = True
    try:
        numbers = test(world)
        is_failed = False
        words = ", ".join(f"{key} {value:.1f}" for key, value in (numbers or {}).items())
        print(f"ok {test.__name__} {words}".rstrip(), flush=True)
    except Exception:  # the next test has a world of its own
        traceback.print_exc()
        print(f"FAILED {test.__name__}", flush=True)
    finally:
        world.close(is_failed)
    return not is_failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default=os.path.join(ROOT, "build"))
    parser.add_argument("tests", nargs="*")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("needs root")
        return 77
    if "TEST_HV_INSIDE" not in os.environ:
        environment = dict(os.environ, TEST_HV_INSIDE="1")
        return subprocess.call(["unshare", "--pid", "--fork", "--mount", "--mount-proc",
                                "--kill-child", sys.executable] + sys.argv, env=environment)
    # libqb's files are named by pid, which repeats in every namespace.
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], check=True)
    programs = [os.path.join(os.path.abspath(options.build), "hamgr/hv", name)
                for name in PROGRAMS]
    wanted = [test for test in TESTS if not options.tests or test.__name__ in options.tests]
    passed = sum(run(test, programs) for test in wanted)
    print(f"{passed} passed, {len(wanted) - passed} failed")
    return 0 if passed == len(wanted) and wanted else 1


if __name__ == "__main__":
    sys.exit(main())
