# SPDX-License-Identifier: Apache-2.0
"""What a campaign does to its cluster and when: follows from the seed alone, so it can be replayed.

A campaign is rounds of chaos, healing and a look whether all came back. Each round has faults of a
random subset of all kinds at a rate of its own (swarm testing: with all kinds at once some hide
others), and most durations lie just before, at or just after one of the cluster's own timeouts.
"""

import random
from dataclasses import dataclass

# kind -> (weight, longest duration in s; 0: over at once)
KINDS = {
    # daemons
    "kill-hamgrd": (4, 0), "kill-hamgr-hv": (4, 0), "kill-hamgr-disk": (2, 0),
    "kill-hamgr-fence": (2, 0), "kill-hamgr-watchdog": (2, 0), "kill-corosync": (2, 0),
    "kill-stream": (2, 0), "kill-worker": (2, 0), "kill-all-daemons": (1, 0),
    "stop-hamgrd": (3, 14), "stop-hamgr-hv": (3, 14), "stop-hamgr-disk": (2, 14),
    "stop-hamgr-fence": (2, 14), "stop-hamgr-watchdog": (2, 14), "stop-corosync": (3, 14),
    # power and network
    "power": (5, 0), "cable": (4, 14), "one-way": (3, 14), "pair": (3, 14), "blackout": (1, 12),
    "loss": (3, 15), "delay": (3, 15), "reorder": (3, 15), "duplicate": (3, 15), "flap": (2, 6),
    "damage": (2, 10), "lossy-node": (2, 14), "split": (2, 14), "shutdown": (1, 0),
    # disks, clocks, power devices
    "store-stall": (2, 12), "store-fails": (1, 6), "disk-full": (1, 8), "clock": (3, 12),
    "bmc-refuses": (2, 20), "bmc-dead": (2, 20), "bmc-slow": (3, 20),
    "storage-held": (2, 3), "storage-late": (3, 12), "storage-path": (2, 3),
    # operators
    "migrate": (10, 0), "cancel": (2, 0), "drain": (3, 15), "failover": (2, 0),
    "fence": (1, 0), "restart-guest": (1, 4), "disarm": (1, 8),
}
# One of them ends a round in the end, so that healing always has something to heal.
LAST = ("power", "cable", "blackout", "kill-corosync", "stop-hamgrd", "stop-corosync", "one-way",
        "kill-all-daemons", "stop-hamgr-hv")
LAST_S = 1.5
# Never left out of a round: without migrations and lost nodes there is little to break.
ALWAYS = ("migrate", "power", "kill-hamgrd")


@dataclass
class Fault:
    """One thing to do: at_s after its round began, for seconds."""

    number: int
    at_s: float
    kind: str
    seconds: float
    lot: int  # whom it meets follows from this, of those there are then

    def __str__(self):
        return f"#{self.number} {self.kind} for {self.seconds:.2f} s"


@dataclass
class Timing:
    """The cluster's timeouts, in seconds; durations are drawn around them."""

    heartbeat: float
    detection: float  # corosync's token + consensus
    watchdog: float
    lease: float
    wait: float

    def edges(self):
        return (self.heartbeat, self.detection, self.watchdog, self.lease / 2, self.lease,
                self.lease + self.watchdog, self.wait)


def duration(rng, timing, longest):
    """Near an edge two times of three, anything otherwise."""
    if longest == 0:
        return 0.0
    edges = [edge for edge in timing.edges() if edge < longest]
    if edges and rng.random() < 2 / 3:
        return max(0.05, rng.choice(edges) + rng.choice((-0.3, -0.1, 0.0, 0.1, 0.3)))
    return rng.uniform(0.05, longest)


def chaos_seconds(seed, number):
    return random.Random(f"{seed} {number} length").uniform(30, 60)


def round_of(seed, number, seconds, timing):
    """The faults of a round, in order of time."""
    rng = random.Random(f"{seed} {number} faults")
    share = rng.uniform(0.3, 0.9)
    kinds = [kind for kind in KINDS if kind in ALWAYS or rng.random() < share]
    weights = [KINDS[kind][0] for kind in kinds]
    pause_s = rng.uniform(0.4, 2.5)  # on average between two faults
    faults = []
    at_s = rng.uniform(0, 1)
    while at_s < seconds - LAST_S - 4:
        kind = rng.choices(kinds, weights)[0]
        faults.append(Fault(len(faults) + 1, at_s, kind, duration(rng, timing, KINDS[kind][1]),
                            rng.getrandbits(32)))
        at_s += rng.expovariate(1 / pause_s)
    faults.append(Fault(len(faults) + 1, seconds - rng.uniform(0.3, LAST_S), rng.choice(LAST), 30.0,
                        rng.getrandbits(32)))
    return faults
