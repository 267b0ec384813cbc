#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The machine room itself, with real corosync but without hamgr: what other scenarios rest on."""

import os
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from harness import check, equal, main, scenario  # noqa: E402
from nslab import client, corosync, ipmi  # noqa: E402

TOKEN_MS = 1000
SLOW_CLIENT = """
import socket
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.connect("/run/hamgr-init.sock")
print("connected", flush=True)
input()
sock.sendall(b"status")
print(sock.recv(4096).decode())
"""


def start(context, names=("n1", "n2", "n3"), lines=(corosync.PROGRAM,), token_ms=TOKEN_MS):
    room = context.room(names)
    nodes = list(room.nodes.values())
    corosync.install(nodes, token_ms)
    for node in nodes:
        node.set_programs(lines)
    room.power_on_all()
    return room, nodes


def agent(node, action, plug=""):
    """Runs the fence agent inside a node, as hamgr-fence does: (exit code, output)."""
    done = node.run(["fence_hamgr_ns"], text=f"action={action}\nplug={plug}\n", check=False)
    return done.returncode, done.stdout.strip()


@scenario(60)
def membership(context):
    """Three cold nodes find each other; one loses power and comes back, one loses its cable."""
    room, nodes = start(context)
    began = time.monotonic()
    corosync.wait_members(nodes)
    context.note(f"three members {time.monotonic() - began:.2f} s after power on")
    at = nodes[2].power_off()
    corosync.wait_members(nodes[:2])
    seen_ms = (time.clock_gettime_ns(time.CLOCK_MONOTONIC) - at["mono_ns"]) / 1e6
    # token + consensus, and at most a second for joins and our polling; not sooner than the token.
    check(TOKEN_MS < seen_ms < 2.2 * TOKEN_MS + 1000, f"power cut seen after {seen_ms:.0f} ms")
    context.note(f"power cut seen after {seen_ms:.0f} ms")
    nodes[2].power_on()
    corosync.wait_members(nodes)
    nodes[1].cable(False)
    corosync.wait_members([nodes[0], nodes[2]])
    equal(corosync.members(nodes[1]), {2}, "members seen by the node without cable")
    nodes[1].cable(True)
    corosync.wait_members(nodes)
    cuts = [(e["node"], e["why"]) for e in room.events() if e["event"] == "cut"]
    equal(cuts, [("n3", "operator")], "power cuts")


@scenario(60)
def filters(context):
    """The switch drops what a filter says, in one direction too, and nothing afterwards."""
    room, nodes = start(context, lines=("idle 0:0 /bin/sleep 1000",))

    def hears(source, target):
        """Nobody listens at port 1: a refusal has come back from the target."""
        done = source.run(["timeout", "1", "bash", "-c", f"exec 3<>/dev/tcp/{target.addr}/1"],
                          check=False)
        return "refused" in done.stderr

    check(hears(nodes[0], nodes[1]), "n1 does not reach n2 without filters")
    room.filters([{"from": "n1", "to": "n2"}])
    check(not hears(nodes[0], nodes[1]), "n1 reaches n2 through a filter")
    check(hears(nodes[0], nodes[2]), "a filter between n1 and n2 cut n3 off")
    room.filters([{"from": "n2", "match": "ip protocol tcp"}])
    check(not hears(nodes[2], nodes[1]), "the way back of TCP is not filtered")
    room.filters([])
    check(hears(nodes[0], nodes[1]), "n1 does not reach n2 after the filters went")


@scenario(60)
def identity(context):
    """A node keeps its disk and hardware id through a power cut, and gets a new boot id."""
    _, nodes = start(context, names=("a1", "a2"), lines=("idle 0:0 /bin/sleep 1000",))
    node = nodes[0]

    def read(path):
        return node.run(["cat", path]).stdout.strip()

    boot, hardware = read("/run/hamgr-node/boot_id"), read("/run/hamgr-node/product_uuid")
    equal(read("/proc/sys/kernel/random/boot_id"), boot, "the kernel's boot id")
    equal(read("/etc/hostname"), "a1", "host name")
    check(hardware != nodes[1].run(["cat", "/run/hamgr-node/product_uuid"]).stdout.strip(),
          "two nodes have one hardware id")
    node.run(["sh", "-c", "echo kept > /var/lib/hamgr/x; echo lost > /run/x"])
    equal(node.run(["id", "-u", "hamgr"]).stdout.strip(), str(client.HAMGR_UID), "uid of hamgr")
    node.power_off()
    node.power_on()
    check(read("/run/hamgr-node/boot_id") != boot, "the boot id survived a power cut")
    equal(read("/run/hamgr-node/product_uuid"), hardware, "hardware id after a power cut")
    equal(read("/var/lib/hamgr/x"), "kept", "the disk after a power cut")
    check(node.run(["test", "-e", "/run/x"], check=False).returncode == 1, "/run survived")
    check(not os.path.exists("/var/lib/hamgr/x"), "a node wrote to the host's disk")


@scenario(60)
def power_device(context):
    """The agent's word on a node: off only when nothing of it runs; on, status, list, monitor."""
    room, nodes = start(context, lines=("idle 0:0 /bin/sleep 1000",))
    code, text = agent(nodes[0], "metadata")
    check(code == 0 and '<action name="off"' in text, "metadata")
    equal(agent(nodes[0], "monitor")[0], 0, "monitor")
    equal(agent(nodes[0], "list"), (0, "n1,\nn2,\nn3,"), "list")
    equal(agent(nodes[0], "status", "n3")[0], 0, "status of a running node")
    equal(agent(nodes[0], "status", "nobody")[0], 1, "status of an unknown plug")
    equal(agent(nodes[0], "off")[0], 1, "off without a plug")
    victim = nodes[2].describe()["pid"]
    began = time.monotonic()
    equal(agent(nodes[0], "off", "n3")[0], 0, "off")
    context.note(f"off took {(time.monotonic() - began) * 1e3:.1f} ms")
    check(not nodes[2].is_on() and victim != 0, "n3 runs after off")
    equal(agent(nodes[0], "status", "n3")[0], 2, "status of a node that is off")
    equal(agent(nodes[1], "on", "n3")[0], 0, "on")
    equal(agent(nodes[1], "status", "n3")[0], 0, "status after on")
    for mode, wanted in (("refuse", 1), ("lie", 0)):
        nodes[0].bmc(mode)
        equal(agent(nodes[0], "off", "n3")[0], wanted, f"off, mode {mode}")
        check(nodes[2].is_on(), f"mode {mode} acted")
    nodes[0].bmc("ok")
    equal([e["why"] for e in room.events() if e["event"] == "cut"], ["power device"], "cuts")


@scenario(90)
def bmcs(context):
    """Debian's fence_ipmilan reads and switches a node through its own simulated BMC."""
    room, nodes = start(context, lines=("idle 0:0 /bin/sleep 1000",))
    ipmi.start(room)

    def fence(action, plug):
        text = (f"action={action}\nip={ipmi.address(plug)}\nusername={ipmi.USER}\n"
                f"password={ipmi.PASSWORD}\nlanplus=1\ncipher=3\nprivlvl=administrator\n")
        return nodes[0].run(["fence_ipmilan"], text=text, check=False).returncode

    client.wait_until(lambda: fence("status", nodes[2]) == 0, "the BMC answers", 20)
    began = time.monotonic()
    equal(fence("off", nodes[2]), 0, "off")
    context.note(f"fence_ipmilan took {(time.monotonic() - began) * 1e3:.0f} ms for off")
    check(not nodes[2].is_on(), "n3 runs after off")
    equal(fence("status", nodes[2]), 2, "status")
    equal(fence("status", nodes[1]), 0, "status of another node")
    equal(fence("on", nodes[2]), 0, "on")
    check(nodes[2].is_on(), "n3 is off after on")


class Dog:
    """A keeper's side of the watchdog socket, from outside the node."""

    def __init__(self, node):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(5)
        self.sock.connect(node.path("hw", "watchdog"))

    def ask(self, text):
        self.sock.send(text.encode())
        return self.sock.recv(256).decode()


@scenario(60)
def watchdog(context):
    """A watchdog fires unless petted, outlives its keeper, and is calmed by CLOSE alone."""
    room, nodes = start(context, lines=("idle 0:0 /bin/sleep 1000",))
    node = nodes[0]
    dog = Dog(node)
    equal(dog.ask("GET"), "OK 0 0 0", "before arming")
    for bad in ("ARM 99", "ARM -1", "ARM", "ARM 500 1", "ARM 99999999", "ARM \u0665\u0660\u0660",
                "x" * 200, ""):
        if bad:
            check(dog.ask(bad).startswith("ERR"), f"{bad!r} was accepted")
    equal(dog.ask("ARM 450"), "OK 500", "the timeout is rounded up to the device's steps")
    equal(Dog(node).sock.recv(64), b"ERR busy", "a second client")
    for _ in range(4):
        time.sleep(0.25)
        dog.sock.send(b"PET")
    check(node.is_on(), "the watchdog fired though it was petted")
    dog.sock.close()
    dog = Dog(node)
    check(dog.ask("GET").startswith("OK 1 500 "), "the timer stopped when its keeper died")
    equal(dog.ask("CLOSE"), "OK", "magic close")
    time.sleep(0.7)
    check(node.is_on(), "the watchdog fired after CLOSE")
    equal(dog.ask("ARM 300"), "OK 300", "armed again")
    began = time.monotonic()
    client.wait_until(lambda: not node.is_on(), "the watchdog's shot", 5, 0.005)
    late_ms = (time.monotonic() - began) * 1e3 - 300
    check(-20 < late_ms < 100, f"fired {late_ms:.0f} ms after its time")
    equal(dog.sock.recv(64), b"", "the connection after a reset")
    node.power_on()
    equal(Dog(node).ask("GET"), "OK 0 0 0", "after power on")
    equal([(e["node"], e["why"]) for e in room.events() if e["event"] == "cut"],
          [("n1", "watchdog")], "cuts")


@scenario(60)
def busy_room(context):
    """The room itself stands still for longer than a watchdog's timeout: who petted lives on."""
    room, nodes = start(context, names=("n1",), lines=("idle 0:0 /bin/sleep 1000",))
    node = nodes[0]
    dog = Dog(node)
    equal(dog.ask("ARM 800"), "OK 800", "armed")
    os.kill(room.pid, signal.SIGSTOP)
    for _ in range(6):
        dog.sock.send(b"PET")
        time.sleep(0.25)  # petting is what takes time here
    os.kill(room.pid, signal.SIGCONT)
    dog.sock.send(b"PET")
    equal(dog.ask("GET").split()[:2], ["OK", "1"], "the watchdog after the room's pause")
    equal(dog.ask("CLOSE"), "OK", "magic close")
    check(node.is_on(), "the watchdog fired though it was petted all the while")


def slow_client(node, program):
    """Who connects to hamgr-init and is slow to speak is heard all the same, and keeps it from nothing:
    it starts a program again meanwhile."""
    def pids():
        return node.run(["pgrep", "-f", "-x", program], check=False).stdout.split()
    with node.popen(["python3", "-c", SLOW_CLIENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                    text=True) as process:
        equal(process.stdout.readline(), "connected\n", "the slow client")
        old = pids()
        node.run(["kill", "-KILL", *old])
        client.wait_until(lambda: pids() and not set(pids()) & set(old), f"{program} runs again", 30)
        said = process.communicate("speak\n", timeout=30)[0]
    check("second" in said, f"the slow client was told {said!r}")


@scenario(60)
def services(context):
    """hamgr-init restarts what is killed, stops and starts by name, and ends a node in order."""
    lines = ["first 0:0 /bin/sleep 1000",
             f"second {client.HAMGR_UID}:{client.HAMGR_UID} /bin/sleep 1001",
             "!goodbye 0:0 /bin/echo farewell"]
    room, nodes = start(context, names=("n1",), lines=lines)
    node = nodes[0]

    def up(name, starts):
        state, pid, count = node.services()[name]
        return pid if state == "up" and count == starts else 0

    pid = client.wait_until(lambda: up("second", 1), "second is up", 5)
    # It is up from its fork on, and its user's only after that.
    owner = ["stat", "-c", "%u", f"/proc/{pid}"]
    client.wait_until(lambda: node.run(owner).stdout.strip() == str(client.HAMGR_UID),
                      "second is its user's", 30)
    node.signal("second", signal.SIGKILL)
    client.wait_until(lambda: up("second", 2), "second is up again", 5)
    slow_client(node, "/bin/sleep 1001")
    client.wait_until(lambda: up("second", 3), "second is up once more", 5)
    node.init("stop first")
    client.wait_until(lambda: node.services()["first"][0] == "down", "first is down", 5)
    node.init("start first")
    client.wait_until(lambda: up("first", 2), "first is up again", 5)
    check("no such" in error_of(lambda: node.init("stop third")), "an unknown service was stopped")
    node.init("shutdown")
    client.wait_until(lambda: not node.is_on(), "the node ends by itself", 20)
    with open(node.path("log", "goodbye.log"), encoding="ascii") as file:
        equal(file.read(), "farewell\n", "what the farewell said")
    off = [e for e in room.events() if e["event"] == "off"][-1]
    check(off["by_itself"], "the room thinks it cut the power")


def error_of(call):
    try:
        call()
    except client.RoomError as error:
        return str(error)
    return ""


@scenario(60)
def nothing_left(context):
    """Two rooms live side by side; when one's starter is killed, all of it is gone soon."""
    other, _ = start(context, names=("n1",), lines=("idle 0:0 /bin/sleep 1000",))
    directory = context.directory()
    program = (f"import sys, time; sys.path.insert(0, {os.path.dirname(client.HERE)!r})\n"
               "from nslab import client, programs\n"
               f"room = client.Room.start({directory!r}, ['n1', 'n2'])\n"
               f"programs.stage(room, {context.build!r})\n"
               "for node in room.nodes.values(): node.set_programs(['idle 0:0 /bin/sleep 1000'])\n"
               "room.power_on_all()\n"
               "print('up', room.pid, flush=True)\n"
               "time.sleep(60)\n")
    with subprocess.Popen([client.PYTHON, "-c", program], stdout=subprocess.PIPE) as starter:
        words = starter.stdout.readline().split()
        equal(words[:1], [b"up"], "the second room")
        pid = int(words[1])
        starter.kill()
        starter.wait()
    client.wait_until(lambda: client.start_time(pid) == 0, "the room's process ends", 15)
    check(not os.path.exists(directory), "its directory is left")
    check(other.nodes["n1"].is_on(), "the other room's node went with it")
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
    check("port1" not in links and "switch" not in links, f"links on the host: {links}")


if __name__ == "__main__":
    sys.exit(main())
