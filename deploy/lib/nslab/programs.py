# SPDX-License-Identifier: Apache-2.0
"""Finds the built programs and copies them to where a room's nodes see them."""

import os
import shutil

from .client import RoomError

REQUIRED = ("hamgr-init",)
DAEMONS = ("hamgrd", "hamgr-hv", "hamgr-guest", "hamgr-disk", "hamgr-fence", "hamgr-watchdog",
           "hamgr-stream", "hactl", "cpg_watch")
AGENTS = ("fence_hamgr_ns",)


def find(build):
    """name -> path of every program of ours below a build directory."""
    wanted = set(REQUIRED + DAEMONS + AGENTS + ("hamgr-storage",))
    found = {}
    for directory, names, files in os.walk(build):
        names[:] = [name for name in names if name != "CMakeFiles"]
        for name in wanted.intersection(files):
            path = os.path.join(directory, name)
            if os.access(path, os.X_OK):
                found[name] = path
    return found


def stage(room, build, is_complete=False):
    """Copies programs and agents. is_complete: a cluster needs all of them."""
    found = find(build)
    missing = [name for name in REQUIRED + AGENTS + (DAEMONS if is_complete else ())
               if name not in found]
    if missing:
        raise RoomError(f"{build} lacks {', '.join(missing)}: build first")
    agents = {name: found[name] for name in AGENTS}
    for name in ("fence_ipmilan", "fence_dummy"):
        path = shutil.which(name, path="/usr/sbin:/usr/bin")
        if path:
            agents[name] = path
    room.stage({name: found[name] for name in REQUIRED + DAEMONS if name in found}, agents)
    return found
