# SPDX-License-Identifier: Apache-2.0
"""What the tests and measurements of hamgr-stream share: making native streams and certificates,
starting processes the way hamgrd does, speaking their control protocol. Not a test itself."""
import array
import os
import random
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import uuid

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))
PKI = os.path.join(ROOT, "deploy", "pki")
PAGE = 4096
BOUND_S = 30  # what ends at once ends within this on any machine; what hangs does not
TOTALS = "<QQQQQQQIIb?"  # streamp_progress
START, CANCEL, SOCKET, CONNECTED, PROGRESS, END, NOTE, CONNECT = 1, 2, 3, 64, 65, 66, 67, 68
SEALS = 0x0001 | 0x0002 | 0x0004 | 0x0008
F_ADD_SEALS = 1033


# ---- native streams ----

def record(kind, body=b""):
    return struct.pack("<II", kind, len(body)) + body + bytes(-len(body) % 8)


def page_data(entries, pages):
    body = struct.pack("<II", len(entries), 0) + struct.pack(f"<{len(entries)}Q", *entries)
    return record(1, body + b"".join(pages))


def libxl_header():
    return struct.pack(">QII", 0x4C6962786C466D74, 2, 0)


def image_header(guest_type=2, version=3):
    return (struct.pack(">QIIHHI", 2**64 - 1, 0x58454E46, version, 0, 0, 0)
            + struct.pack("<IHHII", guest_type, 12, 0, 4, 17))


def hvm_stream(batches, context=b"opaque state " * 400):
    """A complete stream around PAGE_DATA records, given as (entries, pages)."""
    out = [libxl_header(), record(1), image_header(), record(17, bytes(24)), record(18, bytes(16)),
           record(16)]
    out += [page_data(entries, pages) for entries, pages in batches]
    out += [record(8, bytes(24)), record(9, context), record(10, struct.pack("<IIQQ", 1, 0, 1, 2)),
            record(0), record(3, struct.pack("<II", 2, 0) + b"device state"), record(0)]
    return b"".join(out)


def some_pages(rng, count, zero=0.4, noise=0.1):
    """Pages like a guest's: zero, noise, and text that compresses."""
    pages = []
    for _ in range(count):
        pick = rng.random()
        if pick < zero:
            pages.append(bytes(PAGE))
        elif pick < zero + noise:
            pages.append(rng.randbytes(PAGE))
        else:
            word = rng.randbytes(24).hex().encode()
            pages.append((word * (PAGE // len(word) + 1))[:PAGE - 64] + rng.randbytes(64))
    return pages


def some_stream(seed, batches=6, most=300):
    rng = random.Random(seed)
    made = []
    pfn = 0
    for _ in range(batches):
        count = rng.randrange(1, most)
        entries = []
        with_data = 0
        for _ in range(count):
            hole = rng.random() < 0.03
            entries.append((0xF << 60 if hole else 0) | pfn)
            with_data += 0 if hole else 1
            pfn += rng.randrange(1, 3)
        made.append((entries, some_pages(rng, with_data)))
    return hvm_stream(made, context=rng.randbytes(rng.randrange(1, 300000)))


# ---- certificates ----

def pki(*arguments):
    subprocess.run([PKI, *arguments], check=True, stdout=subprocess.DEVNULL)


def pem_memfd(directory, name="node"):
    """The sealed memfd hamgrd would hand over, without its checks."""
    parts = []
    for part in ("ca.pem", f"{name}.pem", f"{name}.key"):
        with open(os.path.join(directory, part), "rb") as file:
            parts.append(file.read())
    fd = os.memfd_create("pem", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    head = "hamgr-pem 1 %d %d %d\n" % tuple(len(part) for part in parts)
    os.write(fd, head.encode() + b"".join(parts))
    import fcntl
    fcntl.fcntl(fd, F_ADD_SEALS, SEALS)
    return fd


# ---- processes ----

def text(value):
    raw = value.encode()
    return struct.pack("<H", len(raw)) + raw


class Ticket:
    """What hamgrd knows of one migration."""

    def __init__(self, **changes):
        self.cluster = uuid.UUID(int=0x1234).bytes
        self.generation = 1
        self.ticket = 77
        self.guest = uuid.UUID(int=0x5678).bytes
        self.epoch = 9
        self.secret = bytes(range(32))
        self.level = 1
        self.rate_mbit = 0
        self.idle_ms = 8000
        self.connections = 0  # 0: all over one, without resuming
        self.grace_ms = 10000
        self.cache_mib = 16
        self.workers = 2
        self.is_identical = True  # so that a test may compare bytes
        self.probe_mib = 0  # not 0: nothing is fed, nothing comes out
        self.__dict__.update(changes)

    def start(self, is_sender, peer, is_listener):
        return (struct.pack("<BB", is_sender, is_listener) + self.cluster
                + struct.pack("<QQ", self.generation, self.ticket) + self.guest
                + struct.pack("<Q", self.epoch) + self.secret + text(peer)
                + struct.pack("<BIIBIIBBI", self.level, self.rate_mbit, self.idle_ms, self.connections,
                              self.grace_ms, self.cache_mib, self.workers, self.is_identical,
                              self.probe_mib))


def packet(kind, body=b"", number=0):
    return struct.pack("<IHHQI", 0x31524D48, 1, kind, number, len(body)) + body


class End:
    """One hamgr-stream process."""

    def __init__(self, binary, start, net, native, pem, ring=None):
        self.control, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fds = [net.fileno(), native.fileno(), pem] + ([ring] if ring is not None else [])
        self.control.sendmsg([packet(START, start)],
                             [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
        number = inner.fileno()
        environment = {key: value for key, value in os.environ.items()
                       if key.startswith(("ASAN_", "UBSAN_", "TSAN_"))}
        self.process = subprocess.Popen([binary], pass_fds=[3], env=environment,
                                        stdin=subprocess.DEVNULL, preexec_fn=lambda: os.dup2(number, 3))
        inner.close()
        self.feeder = None
        self.address = None  # where CONNECT leads to
        self.may_connect = True
        self.lanes = []  # every CONNECT, by lane
        self.notes = []
        self.progress = []
        self.is_connected = False
        self.end = None
        self.connected_at = self.ended_at = None

    def take(self, timeout):
        """One packet; False at the end of the connection, None when none came."""
        if not select.select([self.control], [], [], max(timeout, 0))[0]:
            return None
        try:
            data = self.control.recv(131072)
        except ConnectionResetError:  # it left a CANCEL unread; what it said before is there
            data = self.control.recv(131072)
        if not data:
            return False
        _, _, kind, _, size = struct.unpack_from("<IHHQI", data)
        body = data[20:20 + size]
        if kind == NOTE:
            self.notes.append(body[2:].decode())
        elif kind == CONNECTED:
            self.is_connected = True
            self.connected_at = time.monotonic()
        elif kind == CONNECT:
            self.give_socket(struct.unpack("<H", body)[0])
        elif kind == PROGRESS:
            self.progress.append(struct.unpack(TOTALS, body))
        elif kind == END:
            self.ended_at = time.monotonic()
            self.end = (body[0] == 1, struct.unpack_from(TOTALS, body, 1),
                        body[3 + struct.calcsize(TOTALS):].decode())
        return kind

    def give_socket(self, lane):
        """What hamgrd does when a sender wants one more connection."""
        self.lanes.append(lane)
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.connect_ex(self.address)
        fds = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [sock.fileno()]))]
        try:
            self.control.sendmsg([packet(SOCKET, struct.pack("<H", lane))], fds if self.may_connect else [])
        except OSError:
            pass  # it has ended meanwhile
        sock.close()

    def wait(self, seconds=60, until=END):
        """Takes packets until one of that kind, the end, or the time has come."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            kind = self.take(deadline - time.monotonic())
            if kind is False or kind == until:
                return kind
        return None

    def wait_note(self, words, seconds=60):
        deadline = time.monotonic() + seconds
        while not any(words in note for note in self.notes):
            if time.monotonic() > deadline or self.take(deadline - time.monotonic()) is False:
                return False
        return True

    def cancel(self):
        self.control.send(packet(CANCEL))

    def finish(self, seconds=60):
        """Waits for END and the exit; kills what does not come. Returns (is_ok, text)."""
        if self.end is None:
            self.wait(seconds)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"hamgr-stream hangs; END {self.end}, notes {self.notes}") from None
        # A death by the system call filter, or a sanitizer's report, must not pass unseen.
        if self.process.returncode not in (0, 1):
            raise AssertionError(f"hamgr-stream died: {self.process.returncode}; END {self.end}")
        self.control.close()
        if self.feeder:
            self.feeder.native.close()
        return (self.end[0], self.end[2]) if self.end else (False, f"died {self.process.returncode}")

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.control.close()


class Feeder(threading.Thread):
    """Writes a native stream as a hypervisor would; stops when its reader goes."""

    def __init__(self, sock, data, pieces=None, pause=0.0):
        super().__init__(daemon=True)
        self.native, self.data, self.pieces, self.pause = sock, data, pieces, pause
        self.start()

    def run(self):
        try:
            if self.pieces is None:
                self.native.sendall(self.data)
            else:
                at = 0
                for size in self.pieces:
                    self.native.sendall(self.data[at:at + size])
                    at += size
                    if self.pause:
                        time.sleep(self.pause)  # the feeder plays a slow hypervisor
                self.native.sendall(self.data[at:])
        except OSError:
            pass


class Drain(threading.Thread):
    """Takes a rebuilt native stream until its end."""

    def __init__(self, sock):
        super().__init__(daemon=True)
        self.sock, self.parts, self.changed = sock, [], threading.Condition()
        self.start()

    def count(self):
        return sum(len(part) for part in self.parts)

    def wait_for(self, size, seconds):
        with self.changed:
            return self.changed.wait_for(lambda: self.count() >= size, seconds)

    def run(self):
        try:
            while True:
                data = self.sock.recv(1 << 20)
                if not data:
                    break
                with self.changed:
                    self.parts.append(data)
                    self.changed.notify_all()
        except OSError:
            pass
        self.sock.close()

    def data(self, seconds=60):
        self.join(seconds)
        return b"".join(self.parts)


def listener():
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.bind(("127.0.0.1", 0))
    sock.listen(16)
    return sock


class Rig:
    """Certificates for n1 (sender) and n2 (receiver), and the binary under test."""

    def __init__(self, binary):
        self.binary = binary
        self.work = tempfile.mkdtemp(prefix="hamgr-stream-")
        self.dir = os.path.join(self.work, "pki")
        pki("all", self.dir, "n1", "n2", "n3")
        self.ends = []

    def close(self):
        for end in self.ends:
            end.kill()
        shutil.rmtree(self.work, ignore_errors=True)

    def path(self, node):
        return os.path.join(self.dir, node)

    def receiver(self, ticket=None, pem=None, peer="n1", net=None, is_listener=True):
        """Returns (End, address, Drain)."""
        net = net or listener()
        address = net.getsockname() if is_listener else None
        ours, theirs = socket.socketpair()
        memfd = pem_memfd(pem or self.path("n2"))
        end = End(self.binary, (ticket or Ticket()).start(False, peer, is_listener), net, theirs, memfd)
        for thing in (net, theirs):
            thing.close()
        os.close(memfd)
        self.ends.append(end)
        return end, address, Drain(ours)

    def sender(self, address, data, ticket=None, pem=None, peer="n2", pieces=None, pause=0.0):
        net = socket.create_connection(address)
        ours, theirs = socket.socketpair()
        memfd = pem_memfd(pem or self.path("n1"))
        end = End(self.binary, (ticket or Ticket()).start(True, peer, False), net, theirs, memfd)
        for thing in (net, theirs):
            thing.close()
        os.close(memfd)
        self.ends.append(end)
        end.address = address
        end.feeder = Feeder(ours, data, pieces, pause)
        return end


def is_sanitized(binary):
    """Whether the program carries a sanitizer's run-time, whose memory says nothing of ours."""
    with open(binary, "rb") as file:
        return b"__asan_init" in file.read() or b"__tsan_init" in file.read()


def stop(process):
    os.kill(process.pid, signal.SIGSTOP)


def go_on(process):
    os.kill(process.pid, signal.SIGCONT)
