# SPDX-License-Identifier: Apache-2.0
"""BMCs for the nodes of a room: OpenIPMI's ipmi_sim, one a node, reachable over the switch.

Debian's fence_ipmilan talks to them as to real ones; what they do to a chassis, the room's power
device does. Their addresses are 10.77.0.(100 + N) for node N.
"""

import os

USER, PASSWORD = "hamgr", "only-for-the-lab"

LAN_CONF = """name "{name}"
set_working_mc 0x20
  startlan 1
    addr {addr} 623
    priv_limit admin
    allowed_auths_callback none md2 md5 straight
    allowed_auths_user none md2 md5 straight
    allowed_auths_operator none md2 md5 straight
    allowed_auths_admin none md2 md5 straight
    guid a123456789abcdefa123456789abcd{index:02x}
  endlan
  chassis_control "{chassis} {name}"
  user 1 true "" "" user 10 none md2 md5 straight
  user 2 true "{user}" "{password}" admin 10 none md2 md5 straight
"""
EMU = "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02\nmc_enable 0x20\n"
# What ipmi_sim calls: NODE get|set power [0|1]. The agent's exit code of status: 0 on, 2 off.
CHASSIS = """#!/bin/sh
ask() {{ {agent} --path={bmc} -n "$node" -o "$1" > /dev/null 2>&1; }}
node=$1
case "$2 $3 $4" in
    "get power "*) ask status; case $? in 0) echo power:1 ;; 2) echo power:0 ;; *) exit 1 ;; esac ;;
    "set power 0") ask off ;;
    "set power 1") ask on ;;
    *) exit 1 ;;
esac
"""


def address(node):
    return f"10.77.0.{100 + node.index}"


def start(room):
    """Starts a BMC for each node of a room."""
    directory = os.path.join(room.dir, "ipmi")
    os.makedirs(directory)
    nodes = list(room.nodes.values())
    chassis = os.path.join(directory, "chassis")
    bmc = os.path.join(directory, "bmc")
    os.symlink(nodes[0].path("hw", "bmc"), bmc)
    agent = os.path.join(room.dir, "agents", "fence_hamgr_ns")
    write(chassis, CHASSIS.format(agent=agent, bmc=bmc))
    os.chmod(chassis, 0o755)
    write(os.path.join(directory, "emu"), EMU)
    for node in nodes:
        room.call("run", argv=["ip", "addr", "add", f"{address(node)}/24", "dev", "switch"])
        conf = os.path.join(directory, f"{node.name}.conf")
        write(conf, LAN_CONF.format(name=node.name, addr=address(node), index=node.index,
                                    chassis=chassis, user=USER, password=PASSWORD))
        state = os.path.join(directory, f"state-{node.name}")
        os.makedirs(state)
        room.call("spawn", name=f"ipmi-{node.name}", argv=[
            "ipmi_sim", "-c", conf, "-f", os.path.join(directory, "emu"), "-s", state, "-n"])


def write(path, text):
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def fence_conf(room):
    """Each node's own BMC. Cipher suite 3: ipmi_sim does not answer what it has."""
    return "".join(f"""[device bmc-{node.name}]
agent = fence_ipmilan
level = 1
nodes = {node.name}
timeout = 20s
monitor = 1h
ip = {address(node)}
username = {USER}
password = {PASSWORD}
lanplus = 1
cipher = 3
privlvl = administrator

""" for node in room.nodes.values())
