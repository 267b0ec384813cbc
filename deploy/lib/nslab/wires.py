# SPDX-License-Identifier: Apache-2.0
"""The switch and its cables, in the network namespace the room has for itself."""

import fcntl
import socket
import struct
import subprocess

SWITCH = "switch"
# Its own, or it would be that of some port, and change when that port goes.
SWITCH_MAC = "02:00:00:00:00:ff"
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 1
COMMAND_TIMEOUT_S = 10


def run_command(argv, text=None):
    """Runs a command; an error carries what it said."""
    done = subprocess.run(argv, input=text, text=True, capture_output=True,
                          timeout=COMMAND_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def set_link(name, is_up):
    """Brings an interface up or down by ioctl: microseconds, for the cable of a dying node."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH14x", name.encode(), 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(sock, SIOCGIFFLAGS, request))[1]
        flags = flags | IFF_UP if is_up else flags & ~IFF_UP
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH14x", name.encode(), flags))


def make_switch():
    """A bridge that forwards at once and learns nothing for long."""
    run_command(["ip", "-batch", "-"], f"link set lo up\n"
                f"link add {SWITCH} address {SWITCH_MAC} type bridge forward_delay 0 stp_state 0\n"
                f"link set {SWITCH} up\n")


def plug_in(port, pid, mac, is_up):
    """Connects eth0 of the network namespace of process pid with the switch."""
    run_command(["ip", "-batch", "-"],
                f"link add {port} type veth peer name eth0 address {mac} netns {pid}\n"
                f"link set {port} master {SWITCH} {'up' if is_up else 'down'}\n")


def unplug(port):
    """Removes a cable with both its ends; no error if it is gone already."""
    subprocess.run(["ip", "link", "del", port], capture_output=True, timeout=COMMAND_TIMEOUT_S,
                   check=False)


def set_filters(filters):
    """Replaces all filters. Each: {"from": port, "to": port, "loss": percent, "match": words}.

    from/to None = any port; loss 100 = drop all; match = nftables words, such as "udp dport 5405".
    """
    lines = ["add table bridge room", "delete table bridge room", "add table bridge room",
             "add chain bridge room cables { type filter hook forward priority 0; }"]
    for item in filters:
        words = []
        if item.get("from"):
            words.append(f'iifname "{item["from"]}"')
        if item.get("to"):
            words.append(f'oifname "{item["to"]}"')
        if item.get("match"):
            words.append(item["match"])
        loss = int(item.get("loss", 100))
        if loss < 100:
            words.append(f"numgen random mod 100 < {loss}")
        lines.append("add rule bridge room cables " + " ".join(words) + " drop")
    run_command(["nft", "-f", "-"], "\n".join(lines) + "\n")
