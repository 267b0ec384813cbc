# SPDX-License-Identifier: Apache-2.0
"""The lab's network: one namespace, a switch for the cluster and one for administration and storage.

A node's cable to the first is the one that can be pulled; the second stays, so that a node without
its cable can still be looked into, and can still write where it must not.
"""

import os

from .errors import LabError, run

CLUSTER, ADMIN = "10.77.0", "10.78.0"
HOST_SUFFIX = 254  # what is outside all nodes: BMCs' neighbour, storage


def address(index):
    return f"{CLUSTER}.{index}"


def admin_address(index):
    return f"{ADMIN}.{index}"


def bmc_address(index):
    return f"{CLUSTER}.{100 + index}"


def exists(namespace):
    return os.path.exists(f"/run/netns/{namespace}")


def inside(namespace):
    """What a command line begins with to run there."""
    return ["ip", "netns", "exec", namespace]


def make(namespace, count):
    """Makes namespace, switches and a tap per node and switch."""
    if exists(namespace):
        raise LabError(f"network namespace {namespace} exists already; deploy/lab down removes it")
    commands = ["link set lo up"]
    for bridge, prefix in (("cluster", CLUSTER), ("admin", ADMIN)):
        commands += [f"link add name {bridge} type bridge forward_delay 0 mcast_snooping 0",
                     f"addr add {prefix}.{HOST_SUFFIX}/24 dev {bridge}", f"link set {bridge} up"]
    for index in range(1, count + 1):
        commands.append(f"addr add {bmc_address(index)}/24 dev cluster")
        for bridge, tap in (("cluster", f"tap{index}"), ("admin", f"adm{index}")):
            commands += [f"tuntap add {tap} mode tap", f"link set {tap} master {bridge}",
                         f"link set {tap} up"]
    run(["ip", "netns", "add", namespace], 30, "making the lab's network")
    for command in commands:
        run(["ip", "-n", namespace, *command.split()], 30, "making the lab's network")


def remove(namespace):
    if exists(namespace):
        run(["ip", "netns", "del", namespace], 30, "removing the lab's network")
