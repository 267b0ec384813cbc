# SPDX-License-Identifier: Apache-2.0
"""What others need for the same native stream: the zstd | openssl pipe, ssh, a plain TCP copy. Each
is fed and drained by the same programs as hamgr-stream; QEMU is in qemu.py."""
import os
import shutil
import socket
import subprocess
import time

from . import rig as rigging
from .rig import Failed, Tool, cpu_of, native_pair, verdict


class Missing(Exception):
    """Why a baseline can't run on this machine."""


def need(name, *places):
    found = shutil.which(name) or next((path for path in places if os.access(path, os.X_OK)), None)
    if not found:
        raise Missing(f"{name} is not installed")
    return found


def spawn(rig, words, stdin, stdout, **more):
    process = subprocess.Popen(words, stdin=stdin, stdout=stdout, stderr=rig.log, **more)
    rig.processes.append(process)
    return process


def reap(processes):
    """Processor seconds of processes that end by themselves."""
    total = 0.0
    for process in processes:
        deadline = time.monotonic() + rigging.PATIENCE_S
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                raise Failed(f"{process.args[0]} does not end")
            time.sleep(0.005)  # no event: wait4 has no time limit
        process.returncode = os.waitstatus_to_exitcode(status)
        total += usage.ru_utime + usage.ru_stime
    return total


def wait_listening(port):
    """Without connecting: openssl s_server takes one connection only."""
    want = f":{port:04X} 00000000:0000 0A"
    for _ in range(1000):
        with open("/proc/self/net/tcp", encoding="ascii") as file:
            if any(want in line for line in file):
                return
        time.sleep(0.01)  # s_server tells nobody
    raise Failed(f"nobody listens on port {port}")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def connected():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    return near, far


class Baseline:
    """Feeds, waits, verifies. A subclass starts sender and receiver processes in `start`."""
    name = ""

    def __init__(self, rig, source):
        self.rig, self.source = rig, source
        self.senders, self.receivers = [], []
        self.is_sink_counted = False  # the sink is a child of what is measured

    def start(self):
        raise NotImplementedError

    def tool_sink(self, fd):
        return Tool(self.rig, "sink", ["--fd", fd.fileno(), *self.source.arguments], [fd.fileno()])

    def result(self):
        self.to_sender, self.sender_fd = native_pair()
        self.receiver_fd, self.sink_fd = native_pair()
        self.start()
        feed = Tool(self.rig, "feed", ["--fd", self.to_sender.fileno(), *self.source.arguments],
                    [self.to_sender.fileno()])
        for fd in (self.to_sender, self.sender_fd, self.receiver_fd, self.sink_fd):
            fd.close()
        self.sink.expect("ready")
        feed.expect("ready")
        before = self.rig.wire()
        started = [sum(map(cpu_of, (process.pid for process in side))) for side in (self.senders, self.receivers)]
        feed.say("go")
        began = int(feed.expect("start")[1])
        while feed.expect("round", "fed")[0] == "round":
            feed.say("go")
        taken = self.sink.expect("taken")
        wire = self.rig.wire() - before
        is_same, words = verdict(self.sink)
        if not is_same:
            raise Failed(f"{self.name}: {words}")
        sink_cpu = int(self.sink.expect("done")[1]) / 1e9
        sender = reap(self.senders) - started[0]
        receiver = reap(self.receivers) - started[1] - (sink_cpu if self.is_sink_counted else 0)
        return {"name": self.name, "image": self.source.name, "wall_s": round((int(taken[2]) - began) / 1e9, 4),
                "sender_cpu_s": round(sender, 4), "receiver_cpu_s": round(receiver, 4), "wire_bytes": wire}


class Tcp(Baseline):
    name = "tcp"

    def start(self):
        near, far = connected()
        self.sink = self.tool_sink(self.sink_fd)
        probe = self.rig.tool("probe")
        for side, source, target in ((self.senders, self.sender_fd, near),
                                     (self.receivers, far, self.receiver_fd)):
            fds = [source.fileno(), target.fileno()]
            side.append(spawn(self.rig, [probe, "--copy", *map(str, fds)], subprocess.DEVNULL,
                              subprocess.DEVNULL, pass_fds=fds))
        near.close()
        far.close()


class Pipe(Baseline):
    name = "zstd-openssl"

    def start(self):
        rig, port = self.rig, free_port()
        zstd, openssl = need("zstd"), need("openssl")
        tls = ["-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"]
        self.sink = self.tool_sink(self.sink_fd)
        pem = rig.pem("n2")
        # It reads its own input, too, and ends with it: a pipe nobody closes before we do.
        self.idle_out, self.idle_in = os.pipe()
        server = spawn(rig, [openssl, "s_server", "-quiet", "-accept", f"127.0.0.1:{port}", "-naccept", "1",
                             "-cert", pem + "/node.pem", "-key", pem + "/node.key", *tls],
                       self.idle_out, subprocess.PIPE)
        unpacker = spawn(rig, [zstd, "-dc"], server.stdout, self.receiver_fd)
        server.stdout.close()
        wait_listening(port)
        packer = spawn(rig, [zstd, "-1", "-T0", "-c"], self.sender_fd, subprocess.PIPE)
        client = spawn(rig, [openssl, "s_client", "-quiet", "-no_ign_eof", "-nocommands",
                             "-connect", f"127.0.0.1:{port}",
                             "-CAfile", rig.pem("n1") + "/ca.pem", "-verify_return_error", *tls],
                       packer.stdout, subprocess.DEVNULL)
        packer.stdout.close()
        self.senders, self.receivers = [packer, client], [server, unpacker]

    def result(self):
        try:
            return super().result()
        finally:
            for fd in (getattr(self, "idle_out", None), getattr(self, "idle_in", None)):
                if fd is not None:
                    os.close(fd)


class Ssh(Baseline):
    name = "ssh"
    CIPHER = "aes128-gcm@openssh.com"

    def keys(self, sshd):
        directory = os.path.join(self.rig.work, "ssh")
        config = os.path.join(directory, "sshd_config")
        if os.path.exists(config):
            return directory, config
        os.mkdir(directory, 0o700)
        for name in ("host", "user"):
            rigging.run(need("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", os.path.join(directory, name))
        with open(config, "w", encoding="ascii") as file:
            file.write(f"HostKey {directory}/host\nAuthorizedKeysFile {directory}/user.pub\nStrictModes no\n"
                       "UsePAM no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\nPidFile none\n"
                       "LogLevel ERROR\n")
        os.makedirs("/run/sshd", exist_ok=True)
        if subprocess.run([sshd, "-t", "-f", config], stderr=self.rig.log, check=False).returncode != 0:
            os.unlink(config)
            raise Missing("sshd refuses its configuration here")
        return directory, config

    def start(self):
        ssh, sshd = need("ssh"), need("sshd", "/usr/sbin/sshd")
        directory, config = self.keys(sshd)
        command = ["exec", self.rig.tool("sink"), "--control", self.rig.control_path, "--fd", "0",
                   *self.source.arguments]
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            client = spawn(self.rig, [ssh, "-F", "none", "-p", str(listener.getsockname()[1]), "-i",
                                      directory + "/user", "-o", "StrictHostKeyChecking=no", "-o",
                                      "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", "-o",
                                      "LogLevel=ERROR", "-c", self.CIPHER, "root@127.0.0.1", " ".join(command)],
                           self.sender_fd, subprocess.DEVNULL)
            listener.settimeout(rigging.PATIENCE_S)
            connection, _ = listener.accept()
        with connection:
            server = spawn(self.rig, [sshd, "-i", "-e", "-f", config], connection, connection)
        self.senders, self.receivers = [client], [server]
        self.sink = Tool(self.rig, "sink", None)
        self.is_sink_counted = True


ALL = {kind.name: kind for kind in (Pipe, Ssh, Tcp)}


def measure(rig, kind, source):
    """One run of one baseline; its figures. Raises Missing or Failed."""
    try:
        return kind(rig, source).result()
    finally:
        rig.tidy()
