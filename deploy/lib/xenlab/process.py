# SPDX-License-Identifier: Apache-2.0
"""Processes the lab started: found again by pid and start time, ended for certain, never by name."""

import contextlib
import os
import select
import signal
import subprocess

from .errors import LabError, read, write


def start_time(pid):
    """The kernel's start time of a process; None if there is none (a zombie counts as none)."""
    text = read(f"/proc/{pid}/stat", "") if os.path.exists(f"/proc/{pid}") else ""
    words = text.rpartition(")")[2].split()
    return words[19] if len(words) > 19 and words[0] not in "ZX" else None


def share_priority(pid):
    """Gives a process that has a session of its own our session's share of the processors (the kernel's
    autogroups; they start at 0). A lab whose commands may hurry must have nodes that may."""
    ours = read("/proc/self/autogroup").split()
    if len(ours) == 3 and ours[2] != "0":
        with contextlib.suppress(OSError):  # it has ended, or there is no such thing here
            with open(f"/proc/{pid}/autogroup", "w", encoding="ascii") as file:
                file.write(ours[2])


def remember(path, pid):
    write(path, f"{pid} {start_time(pid)}\n")
    share_priority(pid)


def find(path):
    """The pid in a file of remember(), if that very process still lives; else None."""
    words = read(path).split()
    if len(words) != 2 or start_time(words[0]) != words[1]:
        return None
    return int(words[0])


def end(path, timeout_s=20):
    """Kills the process of a file and waits until it is gone. True if there was one."""
    pid = find(path)
    if pid is not None:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            handle = None
        if handle is not None:
            try:
                if find(path) == pid:
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    if not select.select([handle], [], [], timeout_s)[0]:
                        raise LabError(f"process {pid} is killed, but not gone after {timeout_s} s")
            finally:
                os.close(handle)
    if os.path.exists(path):
        os.unlink(path)
    return pid is not None


def spawn(path, argv, log):
    """Starts a process that outlives us, its output in a file; remembered in `path`."""
    with open(log, "ab") as output:
        process = subprocess.Popen([str(word) for word in argv], stdin=subprocess.DEVNULL,
                                   stdout=output, stderr=output, start_new_session=True)
    remember(path, process.pid)
    return process
