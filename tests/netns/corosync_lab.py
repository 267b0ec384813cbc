# SPDX-License-Identifier: Apache-2.0
"""N network namespaces with a real corosync each, on a switch in a namespace of its own.

A node is `ip netns exec NS unshare -m -u -i -p -f --mount-proc --kill-child` around a sleeping
PID 1 with private /run, /dev/shm and corosync directories; killing it ends everything in it. Only
processes started here are ever signalled, by pid. The lab ends with its `with` block.
"""
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time

LIFE_S = 1800  # a node left behind ends by itself

INIT = r"""
mount --make-rprivate /
hostname "$1"
mount -t tmpfs -o mode=755 tmpfs /run && mkdir -p /run/lock
mount -t tmpfs -o mode=1777,size=512m tmpfs /dev/shm
mount --bind "$2/etc" /etc/corosync
mount --bind "$2/lib" /var/lib/corosync
ip link set lo up
touch "$2/ready"
exec sleep "$3"
"""


def missing():
    """Why this machine can't run a lab, or None."""
    if os.geteuid() != 0:
        return "needs root"
    for program in ("ip", "unshare", "nsenter", "corosync", "setpriv"):
        if not shutil.which(program):
            return f"needs {program}"
    probe = subprocess.run(["unshare", "-n", "-m", "true"], capture_output=True)
    return None if probe.returncode == 0 else "can't make namespaces"


def run(*words):
    subprocess.run(words, check=True, capture_output=True, timeout=20)


def until(condition, timeout_s, what):
    """Waits for a condition that no event announces (a process of somebody else coming up)."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"not within {timeout_s} s: {what}")


def conf(count, token=1000, quorum="", totem="", crypto=True, node_extra=""):
    """The text of corosync.conf; quorum and totem are further lines of their sections."""
    ciphers = "crypto_cipher: aes256\n  crypto_hash: sha256" if crypto else ""
    nodes = "\n".join(
        f"  node {{\n    nodeid: {n}\n    name: n{n}\n    ring0_addr: 10.77.0.{n}\n{node_extra}  }}"
        for n in range(1, count + 1))
    return f"""totem {{
  version: 2
  cluster_name: lab
  transport: knet
  token: {token}
  token_coefficient: 0
  {ciphers}
  {totem}
}}
nodelist {{
{nodes}
}}
quorum {{
  provider: corosync_votequorum
  {quorum}
}}
logging {{
  to_logfile: yes
  logfile: /var/lib/corosync/corosync.log
  to_syslog: no
  timestamp: hires
}}
"""


class Node:
    def __init__(self, lab, number):
        self.lab = lab
        self.number = number
        self.namespace = f"{lab.prefix}n{number}"
        self.directory = os.path.join(lab.directory, f"n{number}")
        self.corosync_pid = None
        self.corosync_shell = None
        for name in ("etc/uidgid.d", "lib"):
            os.makedirs(os.path.join(self.directory, name))
        os.chmod(os.path.join(self.directory, "lib"), 0o755)

    def start(self):
        wire = f"{self.lab.prefix}v{self.number}"
        run("ip", "netns", "add", self.namespace)
        run("ip", "-n", self.lab.switch, "link", "add", wire, "type", "veth",
            "peer", "name", "eth0", "netns", self.namespace)
        run("ip", "-n", self.lab.switch, "link", "set", wire, "master", "br0", "up")
        run("ip", "-n", self.namespace, "addr", "add", f"10.77.0.{self.number}/24", "dev", "eth0")
        run("ip", "-n", self.namespace, "link", "set", "eth0", "up")
        self.unshare = subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, "unshare", "-m", "-u", "-i", "-p", "-f",
             "--mount-proc", "--kill-child", "sh", "-ec", INIT, "init", f"n{self.number}",
             self.directory, str(LIFE_S)], stdin=subprocess.DEVNULL,
            stderr=open(os.path.join(self.directory, "init.err"), "wb"))
        until(lambda: os.path.exists(os.path.join(self.directory, "ready")), 10, "node's PID 1")
        self.pid = self._child(self.unshare.pid)

    @staticmethod
    def _child(pid):
        """The only child of a process of ours."""
        def look():
            with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
                return file.read().split()
        return int(until(look, 5, f"child of {pid}")[0])

    def popen(self, words, **options):
        return subprocess.Popen(["nsenter", "-t", str(self.pid), "-m", "-u", "-i", "-n", "-p",
                                 "--"] + words, **options)

    def start_corosync(self, text=None):
        if text is not None:
            with open(os.path.join(self.directory, "etc/corosync.conf"), "w",
                      encoding="ascii") as file:
                file.write(text)
        self.corosync_shell = self.popen(["corosync", "-f"], stdin=subprocess.DEVNULL,
                                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.corosync_pid = self._child(self.corosync_shell.pid)

    def signal_corosync(self, number):
        os.kill(self.corosync_pid, number)
        if number == signal.SIGCONT:  # nsenter stopped itself along with its child
            self.corosync_shell.send_signal(number)

    def kill_corosync(self):
        if self.corosync_pid:
            os.kill(self.corosync_pid, signal.SIGKILL)
            self.corosync_shell.wait(timeout=10)
            self.corosync_pid = None

    def log(self):
        text = ""
        for name in ("init.err", "lib/corosync.log"):
            path = os.path.join(self.directory, name)
            if os.path.exists(path):
                with open(path, encoding="utf-8", errors="replace") as file:
                    text += file.read()
        return text

    def stop(self):
        if self.corosync_shell:
            self.corosync_shell.send_signal(signal.SIGCONT)  # or it reaps nothing
        if getattr(self, "pid", None):
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.unshare.wait(timeout=10)
        if self.corosync_shell:
            self.corosync_shell.wait(timeout=10)
        subprocess.run(["ip", "netns", "del", self.namespace], capture_output=True, timeout=20)


class Lab:
    """with Lab(3) as lab: lab.nodes[0].start_corosync(conf(3))"""

    def __init__(self, count):
        self.prefix = f"cl{os.getpid()}"
        self.switch = f"{self.prefix}sw"
        self.directory = tempfile.mkdtemp(prefix="corosync-lab-")
        os.chmod(self.directory, 0o755)
        self.nodes = [Node(self, n) for n in range(1, count + 1)]

    def __enter__(self):
        try:
            run("ip", "netns", "add", self.switch)
            run("ip", "-n", self.switch, "link", "add", "br0", "type", "bridge")
            run("ip", "-n", self.switch, "link", "set", "br0", "up")
            key = os.urandom(256)
            for node in self.nodes:
                with open(os.path.join(node.directory, "etc/authkey"), "wb") as file:
                    os.fchmod(file.fileno(), 0o400)
                    file.write(key)
                node.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None:
            for node in self.nodes:
                print(f"--- corosync of n{node.number}, end of its log\n{node.log()[-3000:]}")
        self.close()

    def cable(self, number, is_up):
        run("ip", "-n", self.switch, "link", "set", f"{self.prefix}v{number}",
            "up" if is_up else "down")

    def close(self):
        for node in self.nodes:
            node.stop()
        subprocess.run(["ip", "netns", "del", self.switch], capture_output=True, timeout=20)
        shutil.rmtree(self.directory, ignore_errors=True)


class Driver:
    """A program that takes lines on stdin and prints JSON objects with "event" on stdout."""

    def __init__(self, node, words, uid=None):
        if uid is not None:
            words = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] + words
        self.node = node
        self.events = []
        self.position = 0
        self.news = threading.Condition()
        self.process = node.popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                  bufsize=1)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            with self.news:
                self.events.append(json.loads(line))
                self.news.notify_all()

    def tell(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def expect(self, event, timeout_s=15, **fields):
        """The next event of that name with these fields; earlier ones are passed over for good."""
        def look():
            while self.position < len(self.events):
                found = self.events[self.position]
                self.position += 1
                if found["event"] == event and all(found.get(k) == v for k, v in fields.items()):
                    return found
            return None
        with self.news:
            found = look()
            end = time.monotonic() + timeout_s
            while not found and time.monotonic() < end:
                self.news.wait(max(0.0, end - time.monotonic()))
                found = look()
        if not found:
            raise AssertionError(f"n{self.node.number}: no {event} {fields} within {timeout_s} s; "
                                 f"last: {self.events[-6:]}")
        return found

    def seen(self, event):
        with self.news:
            return [e for e in self.events if e["event"] == event]

    def stop(self):
        """Ends it; returns its last event."""
        if self.process.poll() is None:
            self.tell("quit")
        self.process.wait(timeout=15)
        self.reader.join(timeout=5)
        return self.events[-1] if self.events else None
