# SPDX-License-Identifier: Apache-2.0
"""The room: PID 1 of its own PID, mount and network namespace, started by client.Room.

Takes commands as JSON over the SEQPACKET socket DIR/room.sock, one object a packet:
{"do": name, ...} -> {"ok": true, ...} or {"ok": false, "error": words}. It ends on `down`, on
SIGTERM, and, unless told to `keep`, when its standard input ends (its starter died). What happens
to power and cables goes to DIR/room.log, one JSON object a line.
"""

import argparse
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from nslab import devices, wires  # noqa: E402  (found by the line above)
from nslab.node import OFF, ON, STARTING, Node, stamp  # noqa: E402

COMMAND_MAX = 65536


class Loop:
    """Sockets, and callbacks that other threads hand to the main one."""

    def __init__(self):
        self.selector = selectors.DefaultSelector()
        self.wake_read, self.wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.posted = []
        self.lock = threading.Lock()
        self.register(self.wake_read, selectors.EVENT_READ, self.run_posted)

    def register(self, file, events, callback):
        self.selector.register(file, events, callback)

    def unregister(self, file):
        self.selector.unregister(file)

    def post(self, callback):
        with self.lock:
            self.posted.append(callback)
        os.write(self.wake_write, b"x")

    def run_posted(self):
        os.read(self.wake_read, 4096)
        with self.lock:
            posted, self.posted = self.posted, []
        for callback in posted:
            callback()

    def step(self, timeout_s):
        for key, _ in self.selector.select(timeout_s):
            if key.fd in self.selector.get_map():  # an earlier callback may have closed it
                key.data()


class Plug:
    """One node with what belongs to it, as power device, watchdog and commands act on it."""

    def __init__(self, room, spec):
        self.room = room
        self.node = Node(room.dir, spec)
        self.waiting_off = []
        self.waiting_on = []
        hw = os.path.join(self.node.dir, "hw")
        self.watchdog = devices.Watchdog(room.loop, os.path.join(hw, "watchdog"),
                                         spec.get("watchdog_step_ms", 100),
                                         lambda: self.cut("watchdog"))

    def is_off(self):
        return self.node.state == OFF

    def power_off(self, done, why="power device"):
        if self.is_off():
            done("ok")
            return
        self.waiting_off.append(done)
        self.cut(why)

    def cut(self, why):
        if self.node.state == STARTING:
            self.node.is_cut_wanted = why
        elif self.node.state == ON:
            self.node.cut()
            self.watchdog.reset()
            self.room.note("cut", node=self.node.name, why=why, at=self.node.cut_stamp)

    def power_on(self, done):
        if self.node.state == ON:
            done("ok")
        else:
            self.waiting_on.append(done)
            if self.node.state == OFF:  # else: it starts already, or starts when it has ended
                self.start()

    def start(self):
        self.node.state = STARTING
        self.node.is_cut_wanted = None
        threading.Thread(target=self.boot, daemon=True).start()

    def boot(self):
        try:
            self.node.boot()
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            words = f"error: {error}"  # `error` is unbound when the callback runs
            self.room.loop.post(lambda: self.boot_failed(words))
        else:
            self.room.loop.post(self.booted)

    def boot_failed(self, words):
        self.node.boot_failed()
        self.room.note("boot failed", node=self.node.name, error=words)
        self.tell("waiting_on", words)
        self.tell("waiting_off", "ok")

    def booted(self):
        self.node.booted()
        self.room.loop.register(self.node.pidfd, selectors.EVENT_READ, self.gone)
        self.room.note("on", node=self.node.name)
        self.tell("waiting_on", "ok")
        if self.node.is_cut_wanted:
            self.cut(self.node.is_cut_wanted)

    def gone(self):
        by_itself = self.node.state == ON
        self.room.loop.unregister(self.node.pidfd)
        self.node.gone()
        self.tell("waiting_off", "ok")
        self.watchdog.reset()
        self.room.note("off", node=self.node.name, by_itself=by_itself)
        if self.waiting_on:
            self.start()

    def tell(self, attribute, text):
        waiting = getattr(self, attribute)
        setattr(self, attribute, [])
        for done in waiting:
            done(text)


class Room:
    """The main loop and the commands of DIR/room.sock."""

    def __init__(self, directory, specs):
        self.dir = directory
        self.loop = Loop()
        self.log = open(os.path.join(directory, "room.log"), "a", encoding="utf-8", buffering=1)
        self.is_kept = False
        self.is_over = False
        self.filters_lock = threading.Lock()
        self.helpers = {}
        self.plugs = {}
        wires.make_switch()
        for spec in specs:
            self.plugs[spec["name"]] = Plug(self, spec)
        self.power = {name: devices.PowerDevice(
            self.loop, os.path.join(plug.node.dir, "hw", "bmc"), self.plugs)
            for name, plug in self.plugs.items()}
        self.listener = devices.listen(os.path.join(directory, "room.sock"))
        self.loop.register(self.listener, selectors.EVENT_READ, self.on_connect)
        self.loop.register(sys.stdin.fileno(), selectors.EVENT_READ, self.on_lifeline)

    def note(self, event, **more):
        self.log.write(json.dumps({"event": event, **stamp(), **more}) + "\n")

    def on_lifeline(self):
        if os.read(sys.stdin.fileno(), 4096):
            return
        self.loop.unregister(sys.stdin.fileno())
        if not self.is_kept:
            self.is_over = True

    def on_connect(self):
        sock, _ = self.listener.accept()
        sock.setblocking(False)
        self.loop.register(sock, selectors.EVENT_READ, lambda: self.on_command(sock))

    def on_command(self, sock):
        try:
            packet = sock.recv(COMMAND_MAX)
        except OSError:
            packet = b""
        if not packet:
            self.loop.unregister(sock)
            sock.close()
            return

        def reply(**fields):
            try:
                sock.setblocking(True)
                sock.send(json.dumps(fields).encode())
                sock.setblocking(False)
            except OSError:
                pass

        try:
            command = json.loads(packet)
            verb = getattr(self, "do_" + str(command.pop("do")), None)
            if verb is None:
                raise ValueError("no such command")
            verb(reply, **command)
        except (KeyError, ValueError, TypeError, OSError, RuntimeError,
                subprocess.SubprocessError) as error:
            reply(ok=False, error=f"{type(error).__name__}: {error}")

    # --- commands: each replies exactly once ---

    def do_nodes(self, reply):
        reply(ok=True, nodes=[plug.node.describe() for plug in self.plugs.values()])

    def do_power_on(self, reply, node):
        self.plugs[node].power_on(lambda text: reply(ok=text == "ok", error=text))

    def do_power_off(self, reply, node, why="operator"):
        plug = self.plugs[node]
        plug.power_off(lambda text: reply(ok=text == "ok", error=text, at=plug.node.cut_stamp), why)

    def do_cable(self, reply, node, is_in):
        self.plugs[node].node.set_cable(is_in)
        self.note("cable", node=node, is_in=is_in)
        reply(ok=True)

    def do_filters(self, reply, filters):
        def port(name):
            return self.plugs[name].node.port if name else None
        ports = [{**item, "from": port(item.get("from")), "to": port(item.get("to"))}
                 for item in filters]

        def set_filters():
            with self.filters_lock:
                wires.set_filters(ports)
                self.note("filters", filters=filters)
        self.aside(reply, set_filters)

    def aside(self, reply, act):
        """Runs what may take long (a program on a busy machine) while devices go on."""
        def run():
            try:
                answer = {"ok": True, "text": act()}
            except (OSError, ValueError, RuntimeError, subprocess.SubprocessError) as error:
                answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
            self.loop.post(lambda: reply(**answer))
        threading.Thread(target=run, daemon=True).start()

    def do_bmc(self, reply, node, mode):
        if mode not in ("ok", "dead", "refuse", "slow", "lie"):
            raise ValueError("mode: ok, dead, refuse, slow or lie")
        self.power[node].mode = mode
        reply(ok=True)

    def do_watchdog(self, reply, node):
        dog = self.plugs[node].watchdog
        reply(ok=True, state=dog.serve("GET"), petted=dog.petted)

    def do_init(self, reply, node, command):
        """Asks a node's hamgr-init; a node that can't answer in 5 s is an error."""
        pid = self.plugs[node].node.pid

        def ask():
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.settimeout(5)
                sock.connect(f"/proc/{pid}/root/run/hamgr-init.sock")
                sock.send(command.encode())
                text = sock.recv(COMMAND_MAX).decode()
            if text.startswith("error"):
                raise RuntimeError(text)
            return text
        self.aside(reply, ask)

    def do_spawn(self, reply, name, argv):
        """Starts a helper of the room (the shared storage), with DIR/NAME.log as its output."""
        if name in self.helpers and self.helpers[name].poll() is None:
            raise ValueError(f"{name} runs already")
        with open(os.path.join(self.dir, f"{name}.log"), "ab") as log:
            self.helpers[name] = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log,
                                                  stderr=log, cwd="/")
        reply(ok=True, pid=self.helpers[name].pid)

    def do_run(self, reply, argv):
        """Runs a short command in the room's network."""
        self.aside(reply, lambda: wires.run_command(argv))

    def do_kill(self, reply, name):
        process = self.helpers.pop(name)
        process.kill()
        process.wait(timeout=10)
        reply(ok=True)

    def do_keep(self, reply):
        self.is_kept = True
        reply(ok=True)

    def do_down(self, reply):
        self.is_over = True
        reply(ok=True)

    # --- loop ---

    def next_due(self):
        """Lets watchdogs and slow answers act; seconds until the next of them."""
        things = [plug.watchdog for plug in self.plugs.values()] + list(self.power.values())
        dues = [due for due in (thing.due() for thing in things) if due is not None]
        return min(dues) if dues else None

    def run(self):
        while not self.is_over:
            self.loop.step(self.next_due())
        self.power_down()

    def power_down(self):
        """All nodes and helpers off, so that nothing writes any more; at most 10 s."""
        end = time.monotonic() + 10
        for plug in self.plugs.values():
            plug.cut("down")
        for process in self.helpers.values():
            process.kill()
        while time.monotonic() < end and not all(plug.is_off() for plug in self.plugs.values()):
            self.loop.step(0.1)
            self.next_due()


def be_hardware():
    """Hardware does not wait for the nodes' programs: real-time, but not our children."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except OSError:
        pass  # not allowed here: devices are a little slower


def main():
    parser = argparse.ArgumentParser(prog="room", description="Started by nslab.client.Room.")
    parser.add_argument("--dir", required=True)
    parser.add_argument("--nodes", required=True, help="JSON list of {name, id, addr}")
    options = parser.parse_args()
    sys.setswitchinterval(0.0005)  # the main thread must get the interpreter quickly
    be_hardware()
    room = Room(options.dir, json.loads(options.nodes))
    signal.signal(signal.SIGTERM, lambda *_: setattr(room, "is_over", True) or
                  os.write(room.loop.wake_write, b"x"))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's ^C is its starter's business
    os.write(1, b"ready\n")
    os.close(1)
    os.open("/dev/null", os.O_WRONLY)
    room.run()
    if os.path.exists(os.path.join(options.dir, "remove-when-down")):
        shutil.rmtree(options.dir, ignore_errors=True)


if __name__ == "__main__":
    main()
