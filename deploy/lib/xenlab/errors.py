# SPDX-License-Identifier: Apache-2.0
"""What the lab says when something cannot be done, and bounded ways to wait and to run."""

import os
import subprocess
import time


class LabError(Exception):
    """A sentence for the operator: what failed, why, and what helps."""


def run(argv, timeout_s, what, **more):
    """Runs a program to its end; returns what it printed. LabError with its last words if it failed."""
    try:
        done = subprocess.run([str(word) for word in argv], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=timeout_s, check=False, **more)
    except FileNotFoundError:
        raise LabError(f"{what}: {argv[0]} is not installed; try: deploy/lib/packages lab") from None
    except subprocess.TimeoutExpired:
        raise LabError(f"{what}: not done within {timeout_s} s ({argv[0]})") from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()
        raise LabError(f"{what}: {os.path.basename(str(argv[0]))} failed ({done.returncode}): "
                       + " / ".join(said[-4:]))
    return done.stdout


def wait_until(condition, what, timeout_s, every_s=0.1):
    """Waits until condition() is true and returns its value; LabError with `what` if it never is."""
    end = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise LabError(f"waited {timeout_s} s in vain: {what}")
        time.sleep(every_s)


def write(path, content, mode=0o644):
    """Replaces a file; nobody ever sees half of it."""
    data = content.encode() if isinstance(content, str) else content
    temporary = f"{path}.new"
    with open(temporary, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(data)
    os.rename(temporary, path)


def read_bytes(path):
    with open(path, "rb") as file:
        return file.read()


def read(path, default=""):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return default
