# SPDX-License-Identifier: Apache-2.0
"""What a node's services see of the room: their watchdog and everybody's power device.

Both are SEQPACKET sockets, one ASCII line a packet. The watchdog is the one of
fence/WATCHDOG-SOCKET.md. The power device ("BMC") takes "ACTION PLUG" with on, off, status, list
(the agent fence_hamgr_ns asks) and answers when it is done: off only when the node's PID namespace
is gone.
"""

import os
import selectors
import socket
import time

WATCHDOG_MIN_MS = 100
WATCHDOG_MAX_MS = 3600000
OFF_TIMEOUT_S = 10
SLOW_S = 5
PACKET_MAX = 256


def listen(path):
    """A SEQPACKET listener; reached by the short way of a directory fd, for paths are 108 bytes."""
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
    short = f"/proc/self/fd/{directory}/{os.path.basename(path)}"
    try:
        if os.path.lexists(path):
            os.unlink(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        sock.bind(short)
        os.chmod(path, 0o600)
        sock.listen(16)
        return sock
    finally:
        os.close(directory)


def send(sock, text):
    """Sends an answer to a client that may be gone or not reading: then it is lost."""
    try:
        sock.send(text.encode())
    except OSError:
        pass


class Watchdog:
    """One node's watchdog. `expire` is called when it was not petted in time."""

    def __init__(self, loop, path, granularity_ms, expire):
        self.loop = loop
        self.granularity_ms = granularity_ms
        self.expire = expire
        self.client = None
        self.timeout_ms = 0
        self.deadline = None
        self.petted = 0
        self.listener = listen(path)
        loop.register(self.listener, selectors.EVENT_READ, self.on_connect)

    def on_connect(self):
        sock, _ = self.listener.accept()
        sock.setblocking(False)
        if self.client:
            send(sock, "ERR busy")
            sock.close()
            return
        self.client = sock
        self.loop.register(sock, selectors.EVENT_READ, self.on_packet)

    def drop_client(self):
        if self.client:
            self.loop.unregister(self.client)
            self.client.close()
            self.client = None

    def on_packet(self):
        try:
            packet = self.client.recv(PACKET_MAX)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self.drop_client()  # the timer goes on, as a device's does
            return
        answer = self.serve(packet.decode("ascii", "replace"))
        if answer and self.client:
            send(self.client, answer)

    def serve(self, text):
        now = time.monotonic()
        if text == "PET":
            if self.deadline is not None:
                self.petted += 1
                self.deadline = now + self.timeout_ms / 1000
            return None
        if text == "GET":
            left = 0 if self.deadline is None else max(0, int((self.deadline - now) * 1000))
            return f"OK {0 if self.deadline is None else 1} {self.timeout_ms} {left}"
        if text == "CLOSE":
            self.disarm()
            return "OK"
        words = text.split(" ")
        if len(words) != 2 or words[0] != "ARM":
            return "ERR expected ARM ms, PET, GET or CLOSE"
        if not words[1].isascii() or not words[1].isdigit() or len(words[1]) > 7 \
                or not WATCHDOG_MIN_MS <= int(words[1]) <= WATCHDOG_MAX_MS:
            return f"ERR expected {WATCHDOG_MIN_MS}..{WATCHDOG_MAX_MS} ms"
        step = self.granularity_ms
        self.timeout_ms = (int(words[1]) + step - 1) // step * step
        self.deadline = now + self.timeout_ms / 1000
        return f"OK {self.timeout_ms}"

    def disarm(self):
        self.deadline = None
        self.timeout_ms = 0

    def reset(self):
        """The node lost power."""
        self.disarm()
        self.drop_client()

    def due(self):
        """Seconds until expiry or None; acts on it if it is now."""
        if self.deadline is None:
            return None
        left = self.deadline - time.monotonic()
        if left <= 0 and self.client:
            self.on_packet()  # a device would have taken it when it came; this process was away
            left = self.deadline - time.monotonic() if self.deadline is not None else 1
        if left > 0:
            return left
        self.disarm()
        self.expire()
        return None


class PowerDevice:
    """The power device as one node reaches it: all plugs, through that node's socket.

    mode: ok; dead (accepts, never answers); refuse (every action fails); slow (acts SLOW_S late);
    lie (says ok and off without acting: for tests that must catch it).
    """

    def __init__(self, loop, path, plugs):
        self.loop = loop
        self.plugs = plugs  # name -> object with is_off(), off(done), on(done)
        self.mode = "ok"
        self.clients = {}  # socket -> deadline of its pending answer or None
        self.late = []  # (when, socket, words) of a slow device
        self.listener = listen(path)
        loop.register(self.listener, selectors.EVENT_READ, self.on_connect)

    def on_connect(self):
        sock, _ = self.listener.accept()
        sock.setblocking(False)
        self.clients[sock] = None
        self.loop.register(sock, selectors.EVENT_READ, lambda: self.on_packet(sock))

    def close(self, sock):
        if sock in self.clients:
            del self.clients[sock]
            self.loop.unregister(sock)
            sock.close()

    def on_packet(self, sock):
        try:
            packet = sock.recv(PACKET_MAX)
        except OSError:
            packet = b""
        if not packet:
            self.close(sock)
        elif self.mode == "slow":
            self.late.append((time.monotonic() + SLOW_S, sock,
                              packet.decode("ascii", "replace").split(" ")))
        elif self.mode != "dead":
            self.serve(sock, packet.decode("ascii", "replace").split(" "))

    def answer(self, sock, text):
        if sock in self.clients:
            self.clients[sock] = None
            send(sock, text)

    def serve(self, sock, words):
        action = words[0]
        plug = self.plugs.get(words[1] if len(words) > 1 else "")
        if self.mode == "refuse":
            self.answer(sock, "error: refused")
        elif action == "list":
            self.answer(sock, " ".join(self.plugs))
        elif plug is None or action not in ("on", "off", "status"):
            self.answer(sock, "error: no such plug or action")
        elif self.mode == "lie":
            self.answer(sock, "off" if action == "status" else "ok")
        elif action == "status":
            self.answer(sock, "off" if plug.is_off() else "on")
        else:
            self.clients[sock] = time.monotonic() + OFF_TIMEOUT_S
            act = plug.power_on if action == "on" else plug.power_off
            act(lambda text: self.answer(sock, text))

    def due(self):
        """Answers clients whose action takes too long: nothing is known then."""
        now = time.monotonic()
        ready = [item for item in self.late if item[0] <= now]
        self.late = [item for item in self.late if item[0] > now]
        for _, sock, words in ready:
            if sock in self.clients:
                self.serve(sock, words)
        ends = [when - now for when, _, _ in self.late]
        for sock, end in list(self.clients.items()):
            if end is None:
                continue
            left = end - time.monotonic()
            if left <= 0:
                self.answer(sock, "error: not done in time")
            else:
                ends.append(left)
        return min(ends) if ends else None
