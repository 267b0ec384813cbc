# SPDX-License-Identifier: Apache-2.0
"""corosync on the nodes of a room: configuration, key, and what it says."""

import os

from .client import together, wait_until


def config(nodes, token_ms, name="hamgr", ping_ms=200, idle_turns=30):
    """corosync.conf for nodes [(name, id, address)]; consensus is corosync's own 1.2 x token.
    idle_turns: how often the token goes round without news before it rests (corosync's own: 30).

    token_coefficient 0: else the token grows by 650 ms for each node beyond two. There is one link,
    so knet's own verdict on it (default: down after token/2 without a pong) can only do harm: under
    load or loss it takes away what the token would have survived. Four seconds of silence, then.
    """
    entries = "".join(f"""
    node {{
        name: {node_name}
        nodeid: {node_id}
        ring0_addr: {addr}
    }}""" for node_name, node_id, addr in nodes)
    return f"""totem {{
    version: 2
    cluster_name: {name}
    transport: knet
    crypto_cipher: aes256
    crypto_hash: sha256
    token: {token_ms}
    token_coefficient: 0
    seqno_unchanged_const: {idle_turns}
    interface {{
        linknumber: 0
        knet_ping_interval: {ping_ms}
        knet_ping_timeout: 4000
        knet_pong_count: 1
    }}
}}
nodelist {{{entries}
}}
quorum {{
    provider: corosync_votequorum
}}
logging {{
    to_stderr: no
    to_syslog: no
    to_logfile: yes
    logfile: /var/log/corosync/corosync.log
    timestamp: hires
}}
"""


UIDGID = "uidgid {\n    uid: hamgr\n    gid: hamgr\n}\n"
PROGRAM = "corosync 0:0 /usr/sbin/corosync -f"


def install(nodes, token_ms):
    """Writes configuration, one fresh key and hamgr's access to all nodes' disks."""
    text = config([(node.name, node.index, node.addr) for node in nodes], token_ms)
    key = os.urandom(256)
    for node in nodes:
        node.write(["etc-corosync", "corosync.conf"], text)
        node.write(["etc-corosync", "authkey"], key, mode=0o400)
        node.write(["etc-corosync", "uidgid.d", "hamgr"], UIDGID)


def members(node):
    """Ids of the nodes that corosync on `node` counts as members; empty if it does not answer."""
    done = node.run(["corosync-cmapctl", "-b", "runtime.members."], check=False, timeout_s=10)
    joined = set()
    for line in done.stdout.splitlines() if done.returncode == 0 else []:
        key, _, value = line.partition(" (str) = ")
        if key.endswith(".status") and value.strip() == "joined":
            joined.add(int(key.split(".")[2]))
    return joined


def wait_members(nodes, timeout_s=30):
    """Waits until each of nodes counts exactly all of them."""
    wanted = {node.index for node in nodes}
    together([lambda node=node: wait_until(lambda: members(node) == wanted,
                                           f"{node.name}: corosync members {sorted(wanted)}",
                                           timeout_s, 0.05) for node in nodes])
