# SPDX-License-Identifier: Apache-2.0
"""Running one migration of tests/bench/stream: the programs at both ends, a network of our own,
processor time and bytes on the wire. Wall time is from the feeder's first byte to the sink's last."""
import dataclasses
import os
import shutil
import socket
import subprocess
import tempfile
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))
NATIVE_BUFFER = 512 << 10  # of the socketpair, as hamgrd makes it
RING = "4:1024"  # slots and pages of a slot: libxc's batches, 16 MiB
PATIENCE_S = 120


class Failed(Exception):
    """A sentence on what went wrong in a run."""


@dataclasses.dataclass
class Source:
    """What is sent: arguments of feed and sink. Rounds before `counted` are sent and not counted."""
    name: str
    arguments: list
    counted: int = 0
    image: str = ""  # the raw image of the first round, where there is one


@dataclasses.dataclass
class Setup:
    """How it is sent."""
    level: str = "1"
    feed: str = "fd"
    connections: int = 0  # for data; 0: all over one, which can't be resumed
    workers: int = 0
    cache_mib: int = 0
    plant: str = ""
    name: str = ""  # instead of the source's

    def key(self, source):
        return (self.name or source.name, self.level, self.feed, max(self.connections, 1))


class Tool:
    """One of our C programs, with its line of control."""

    def __init__(self, rig, name, arguments, fds=(), prefix=()):
        self.name, self.errors = name, tempfile.TemporaryFile()
        self.process = None
        if arguments is not None:
            path = [*prefix, rig.tool(name), "--control", rig.control_path, *map(str, arguments)]
            self.process = subprocess.Popen(path, pass_fds=fds, stdin=subprocess.DEVNULL,
                                            stdout=subprocess.DEVNULL, stderr=self.errors)
            rig.processes.append(self.process)
        rig.control.settimeout(PATIENCE_S)
        try:
            self.connection, _ = rig.control.accept()
        except socket.timeout:
            raise Failed(f"{name} did not start: {self.words()}") from None
        rig.connections.append(self.connection)
        self.pending = b""
        self.facts = {}
        self.expect("hello")

    def words(self):
        self.errors.seek(0)
        return self.errors.read().decode("utf-8", "replace").strip()

    def line(self, seconds=PATIENCE_S):
        deadline = time.monotonic() + seconds
        while b"\n" not in self.pending:
            self.connection.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                data = self.connection.recv(4096)
            except socket.timeout:
                raise Failed(f"{self.name}: nothing said for {seconds} s") from None
            except ConnectionError:
                data = b""
            if not data:
                raise Failed(f"{self.name} ended: {self.words() or 'without a word'}; {self.facts}")
            self.pending += data
        line, _, self.pending = self.pending.partition(b"\n")
        return line.decode("utf-8", "replace").split(" ")

    def expect(self, *words, seconds=PATIENCE_S):
        """Takes lines until one starts with one of words; keeps all by their first word."""
        while True:
            line = self.line(seconds)
            self.facts[line[0]] = line[1:]
            if line[0] in words:
                return line

    def say(self, word):
        self.connection.sendall(word.encode() + b"\n")


def cpu_of(pid):
    """Processor seconds of a process so far (its CPU clock: exact, not in ticks)."""
    try:
        return time.clock_gettime_ns((~pid << 3) | 2) / 1e9
    except OSError:
        raise Failed("an end of the migration died") from None


def interface_bytes(name):
    with open("/proc/self/net/dev", encoding="ascii") as file:
        for line in file:
            head, _, rest = line.partition(":")
            if head.strip() == name:
                fields = rest.split()
                # The loopback sees each packet twice, the cable once in each direction.
                return int(fields[8]) + (0 if name == "lo" else int(fields[0]))
    raise Failed(f"no interface {name}")


def run(*words):
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


class Cable:
    """A veth into a second namespace, both directions through tc tbf."""
    NEAR, FAR = "10.77.0.1", "10.77.0.2"

    def __init__(self, rate_mbit):
        self.holder = subprocess.Popen(["unshare", "--net", "--", "sh", "-c", "echo; exec sleep 3600"],
                                       stdout=subprocess.PIPE)
        self.holder.stdout.readline()  # it is in its namespace
        self.prefix = ["nsenter", "-t", str(self.holder.pid), "-n", "--"]
        run("ip", "link", "add", "bench0", "type", "veth", "peer", "name", "bench1", "netns",
            str(self.holder.pid))
        for prefix, name, address in (([], "bench0", self.NEAR), (self.prefix, "bench1", self.FAR)):
            run(*prefix, "ip", "address", "add", address + "/30", "dev", name)
            run(*prefix, "ip", "link", "set", name, "up")
            run(*prefix, "tc", "qdisc", "add", "dev", name, "root", "tbf", "rate", f"{rate_mbit}mbit",
                "burst", "256kb", "latency", "50ms")

    def close(self):
        subprocess.run(["ip", "link", "del", "bench0"], check=False, stderr=subprocess.DEVNULL)
        self.holder.kill()
        self.holder.wait()


class Rig:
    """Scratch directory, certificates, control socket, and everything that must end with us."""

    def __init__(self, build):
        self.build = os.path.abspath(build)
        self.binary = os.path.join(self.build, "migrate", "hamgr-stream")
        self.work = tempfile.mkdtemp(prefix="hamgr-bench-")
        self.processes, self.connections, self.cable = [], [], None
        self.control_path = os.path.join(self.work, "control")
        self.control = socket.socket(socket.AF_UNIX)
        self.control.bind(self.control_path)
        self.control.listen(16)
        self.log = open(os.path.join(self.work, "log"), "w+b")  # what foreign programs complain of
        self.pki = os.path.join(self.work, "pki")
        run(os.path.join(ROOT, "deploy", "pki"), "all", self.pki, "n1", "n2")

    def tool(self, name):
        path = os.path.join(self.build, "tests", "bench", "streambench", "streambench_" + name)
        if not os.path.exists(path):
            raise Failed(f"{path} is missing: build the tree, or say --build DIR")
        return path

    def pem(self, node):
        return os.path.join(self.pki, node)

    def plug(self, rate_mbit):
        """From here on over a cable of that rate; 0: over the loopback."""
        if self.cable:
            self.cable.close()
        self.cable = Cable(rate_mbit) if rate_mbit else None

    def wire(self):
        return interface_bytes("bench0" if self.cable else "lo")

    def tidy(self):
        """Ends what a run left behind."""
        for connection in self.connections:
            connection.close()
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        self.processes, self.connections = [], []

    def close(self):
        self.tidy()
        self.plug(0)
        self.control.close()
        self.log.close()
        shutil.rmtree(self.work, ignore_errors=True)


def native_pair():
    pair = socket.socketpair()
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, NATIVE_BUFFER)
    return pair


def verdict(sink):
    """(identical, words)"""
    sink.say("verify")
    word = sink.expect("identical", "canonical", "differs")
    return word[0] in ("identical", "canonical"), " ".join(word)


class Migration:
    """One run of hamgr-stream at both ends."""

    def __init__(self, rig, source, setup):
        self.rig, self.source, self.setup = rig, source, setup
        self.marks = []

    def start(self):
        rig, setup = self.rig, self.setup
        far, prefix = "127.0.0.1", ()
        if rig.cable:
            far, prefix = Cable.FAR, rig.cable.prefix
        to_sender, sender_fd = native_pair()
        receiver_fd, to_sink = native_pair()
        options = ["--binary", rig.binary, "--level", setup.level]
        if setup.connections:
            options += ["--connections", setup.connections]
        if setup.workers:
            options += ["--workers", setup.workers]
        if setup.cache_mib:
            options += ["--cache-mib", setup.cache_mib]
        plant = ["--plant", setup.plant] if setup.plant else []
        ring = ["--ring", RING] if setup.feed == "mapped" else []
        self.receiver = Tool(rig, "end", [*options, "--listen", far, "--pem", rig.pem("n2"), "--peer", "n1",
                                          "--native", receiver_fd.fileno(), *ring],
                             [receiver_fd.fileno()], prefix)
        port = self.receiver.expect("listening")[1]
        self.sender = Tool(rig, "end", [*options, "--connect", far, "--port", port, "--pem", rig.pem("n1"),
                                        "--peer", "n2", "--native", sender_fd.fileno(), *ring],
                           [sender_fd.fileno()])
        self.pids = [int(end.expect("started")[1]) for end in (self.sender, self.receiver)]
        rings = [["--ring", end.facts["ring"][0]] if ring else [] for end in (self.sender, self.receiver)]
        self.feed = Tool(rig, "feed", ["--fd", to_sender.fileno(), *rings[0], *self.source.arguments],
                         [to_sender.fileno()])
        self.sink = Tool(rig, "sink", ["--fd", to_sink.fileno(), *rings[1], *plant, *self.source.arguments],
                         [to_sink.fileno()])
        for end in (to_sender, sender_fd, receiver_fd, to_sink):
            end.close()
        self.sink.expect("ready")
        self.feed.expect("ready")
        for end in (self.sender, self.receiver):
            if end.expect("connected", "end")[0] == "end":
                raise Failed("no connection: " + " ".join(end.facts["end"][5:]))

    def settle(self):
        """Waits until all is set up, or a round has gone through: nothing moves on the wire or in the ends."""
        quiet, before = 0, None
        for _ in range(int(PATIENCE_S / 0.02)):
            now = (self.rig.wire(), *map(cpu_of, self.pids))
            is_quiet = before and now[0] - before[0] < 4096 and max(
                now[i] - before[i] for i in (1, 2)) < 0.002
            quiet = quiet + 1 if is_quiet else 0
            if quiet == 10:
                return
            before = now
            time.sleep(0.02)  # looked at, not waited for: nobody tells that nothing is under way
        raise Failed("a round does not come to an end")

    def mark(self, fed):
        self.marks.append((fed, self.rig.wire(), *map(cpu_of, self.pids)))

    def go(self):
        self.feed.say("go")
        return int(self.feed.expect("start")[1])

    def move(self):
        """Feeds all rounds; returns when the counted part began."""
        rounds = 0
        if self.source.counted == 0:
            self.settle()
        self.mark(0)
        began = self.go()
        while True:
            word = self.feed.expect("round", "fed")
            if word[0] == "fed":
                return began
            rounds += 1
            if rounds == self.source.counted:
                self.settle()
                self.mark(int(word[1]))
                began = self.go()
            else:
                self.go()

    def result(self):
        self.start()
        began = self.move()
        taken = self.sink.expect("taken")
        cpu, rss, rest = [], [], []
        for end in (self.sender, self.receiver):
            end.expect("exit")
            cpu.append(int(end.facts.get("cpu", end.facts["exit"][1:])[0]) / 1e6)
            rest.append(int(end.facts["exit"][1]) / 1e6 - cpu[-1])
            rss.append(int(end.facts["exit"][2]))
        wire = self.rig.wire()
        is_same, words = verdict(self.sink)
        bad = [" ".join(end.facts.get("end", ["0"] * 6)[5:]) or "died" for end in (self.sender, self.receiver)
               if end.facts.get("end", ["0"])[0] != "1"]
        if bad:
            is_same, words = False, "; ".join(bad)
        fed, wire_before, *cpu_before = self.marks[-1]
        name, level, feed, connections = self.setup.key(self.source)
        # Not in the JSON: the rest of what was seen.
        self.words, self.rss = words, rss
        self.beside = [rest[i] + self.marks[0][2 + i] for i in (0, 1)]
        return {"name": name, "level": level if level == "auto" else int(level), "feed": feed,
                "connections": connections, "raw_bytes": int(self.feed.facts["fed"][0]) - fed,
                "wire_bytes": wire - wire_before, "wall_s": round((int(taken[2]) - began) / 1e9, 4),
                "sender_cpu_s": round(cpu[0] - cpu_before[0], 4),
                "receiver_cpu_s": round(cpu[1] - cpu_before[1], 4), "peak_rss_kib": max(rss),
                "identical": is_same}


def migrate(rig, source, setup):
    """One run; returns (figures, words on equality)."""
    migration = Migration(rig, source, setup)
    try:
        figures = migration.result()
        return figures, f"{migration.words}, beside it {migration.beside[0]:.2f} + {migration.beside[1]:.2f} s"
    finally:
        rig.tidy()
