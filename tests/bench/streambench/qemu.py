# SPDX-License-Identifier: Apache-2.0
"""QEMU's own migration of the same memory: multifd with 4 channels, zstd level 1, TLS with
certificates on both sides, guest never started. Memory is touched at both ends before; the counted
time is from the command to the destination's completion."""
import json
import os
import shutil
import socket
import subprocess
import time

from . import rig as rigging
from .baselines import Missing, free_port, need, spawn

CHANNELS = 4


class Qmp:
    """QEMU's control protocol, as much as is needed."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        for _ in range(500):
            try:
                self.socket.connect(path)
                break
            except OSError:
                time.sleep(0.02)  # QEMU tells nobody when it listens
        else:
            raise rigging.Failed("QEMU does not listen")
        self.socket.settimeout(rigging.PATIENCE_S)
        self.file = self.socket.makefile("r", encoding="utf-8")
        self.events = []
        self.take()
        self.call("qmp_capabilities")

    def take(self):
        line = self.file.readline()
        if not line:
            raise rigging.Failed("QEMU ended")
        return json.loads(line)

    def call(self, command, **arguments):
        words = {"execute": command, "arguments": arguments}
        self.socket.sendall(json.dumps(words).encode())
        while True:
            answer = self.take()
            if "event" in answer:
                self.events.append(answer)
            elif "error" in answer:
                raise rigging.Failed(f"QEMU: {command}: {answer['error']['desc']}")
            else:
                return answer["return"]

    def wait_migrated(self):
        while True:
            event = self.events.pop(0) if self.events else self.take()
            status = event.get("data", {}).get("status")
            if event.get("event") == "MIGRATION" and status == "completed":
                return
            if event.get("event") == "MIGRATION" and status == "failed":
                raise rigging.Failed("QEMU: the migration failed")

    def close(self):
        self.file.close()
        self.socket.close()


class Qemu:
    name = "qemu-multifd-zstd-tls"

    def __init__(self, rig, source):
        self.rig, self.source = rig, source
        self.ends = []

    def credentials(self, node, role):
        directory = os.path.join(self.rig.work, "qemu-" + role)
        os.makedirs(directory, exist_ok=True)
        for name, target in (("ca.pem", "ca-cert.pem"), ("node.pem", f"{role}-cert.pem"),
                             ("node.key", f"{role}-key.pem")):
            shutil.copy(os.path.join(self.rig.pem(node), name), os.path.join(directory, target))
        return directory

    def launch(self, binary, role, memory, *more):
        path = os.path.join(self.rig.work, f"qmp-{role}")
        size = os.path.getsize(self.source.image)
        node = "n1" if role == "client" else "n2"
        process = spawn(self.rig, [
            binary, "-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg", "-S",
            "-machine", "none,memory-backend=ram0", "-m", f"{size >> 20}",
            "-object", f"memory-backend-file,id=ram0,size={size},prealloc=on,{memory}",
            "-object", f"tls-creds-x509,id=tls0,endpoint={role},dir={self.credentials(node, role)}",
            "-qmp", f"unix:{path},server=on,wait=off", *more], subprocess.DEVNULL, self.rig.log)
        qmp = Qmp(path)
        self.ends.append((process, qmp))
        qmp.call("migrate-set-capabilities", capabilities=[
            {"capability": name, "state": True} for name in ("multifd", "events")])
        parameters = {"multifd-channels": CHANNELS, "multifd-compression": "zstd", "tls-creds": "tls0",
                      "multifd-zstd-level": 1}
        if role == "client":
            parameters.update({"tls-hostname": "n2", "max-bandwidth": 10**11})
        qmp.call("migrate-set-parameters", **parameters)
        return process.pid, qmp

    def result(self):
        if not self.source.image or self.source.arguments != ["--image", self.source.image]:
            raise Missing("only for raw memory in one round")
        binary = need("qemu-system-x86_64")
        arrived = f"/dev/shm/hamgr-bench-{os.getpid()}"
        port = free_port()
        try:
            with open(arrived, "wb") as file:
                file.truncate(os.path.getsize(self.source.image))
            far, destination = self.launch(binary, "server", f"mem-path={arrived},share=on",
                                           "-incoming", "defer")
            near, origin = self.launch(binary, "client", f"mem-path={self.source.image},share=off")
            destination.call("migrate-incoming", uri=f"tcp:127.0.0.1:{port}")
            figures = self.move(near, origin, far, destination, port)
            if subprocess.run(["cmp", "-s", self.source.image, arrived], check=False).returncode != 0:
                raise rigging.Failed("QEMU: the memory that arrived differs")
            return figures
        finally:
            for process, qmp in self.ends:
                qmp.close()
                process.kill()
            if os.path.exists(arrived):
                os.unlink(arrived)

    def move(self, near, origin, far, destination, port):
        cpu = [rigging.cpu_of(near), rigging.cpu_of(far)]
        wire = self.rig.wire()
        began = time.monotonic()
        origin.call("migrate", uri=f"tcp:127.0.0.1:{port}")
        destination.wait_migrated()
        wall = time.monotonic() - began
        origin.wait_migrated()
        return {"name": self.name, "image": self.source.name, "wall_s": round(wall, 4),
                "sender_cpu_s": round(rigging.cpu_of(near) - cpu[0], 4),
                "receiver_cpu_s": round(rigging.cpu_of(far) - cpu[1], 4),
                "wire_bytes": self.rig.wire() - wire}
