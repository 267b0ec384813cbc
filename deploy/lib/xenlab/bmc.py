# SPDX-License-Identifier: Apache-2.0
"""BMCs: OpenIPMI's ipmi_sim, one a node, on the cluster's switch as 10.77.0.(100 + N).

fence_ipmilan and ipmitool talk to them as to real ones. What they do to a node's power, the lab does:
the chassis program is deploy/lab itself.
"""

import os

from nslab.ipmi import EMU, LAN_CONF, PASSWORD, USER

from . import net, process
from .errors import wait_until, write
from .place import ROOT

CHASSIS = """#!/bin/sh
exec {lab} --dir {dir} --name {name} chassis "$@"
"""


def pid_file(machine):
    return os.path.join(machine.dir, "bmc", "pid")


def start(place, machine):
    directory = os.path.join(machine.dir, "bmc")
    os.makedirs(os.path.join(directory, "state"), exist_ok=True)
    chassis = os.path.join(directory, "chassis")
    lab = os.path.join(ROOT, "deploy", "lab")
    write(chassis, CHASSIS.format(lab=lab, dir=place.directory, name=place.name), 0o755)
    write(os.path.join(directory, "emu"), EMU)
    write(os.path.join(directory, "lan.conf"), LAN_CONF.format(
        name=machine.name, addr=net.bmc_address(machine.index), index=machine.index,
        chassis=chassis, user=USER, password=PASSWORD), 0o600)
    process.spawn(pid_file(machine), [
        *net.inside(place.namespace), "ipmi_sim", "-c", os.path.join(directory, "lan.conf"),
        "-f", os.path.join(directory, "emu"), "-s", os.path.join(directory, "state"), "-n"],
        os.path.join(directory, "log"))


def stop(machine):
    process.end(pid_file(machine))


def chassis(machine, words):
    """What ipmi_sim asks: get power, set power 0|1, set reset. Returns what to print, or None."""
    if words[:2] == ["get", "power"]:
        return f"power:{0 if machine.state() == 'off' else 1}"
    if words[:1] == ["set"]:
        pairs = dict(zip(words[1::2], words[2::2]))
        if pairs.get("power") == "0":
            machine.power_off()
        elif pairs.get("power") == "1":
            machine.power_on()
        elif "reset" in pairs:
            machine.power_off()
            machine.power_on()
        else:
            return None
        return ""
    return None


def is_ready(machine):
    return wait_until(lambda: process.find(pid_file(machine)),
                      f"the BMC of {machine.name}", 10)


def fence_conf(machines):
    """Each node's own BMC. Cipher suite 3: ipmi_sim does not answer what it has. Python alone takes
    an emulated node on a busy machine many seconds: the timeout is no measure of a real BMC."""
    return "".join(f"""[device bmc-{m.name}]
agent = fence_ipmilan
level = 1
nodes = {m.name}
timeout = 120s
monitor = 1h
ip = {net.bmc_address(m.index)}
username = {USER}
password = {PASSWORD}
lanplus = 1
cipher = 3
privlvl = administrator

""" for m in machines)
