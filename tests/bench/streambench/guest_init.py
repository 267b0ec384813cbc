#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""PID 1 of the guest whose RAM becomes the image `real` (real.py): a database under load, a key-value
store if there is one, a Python heap, page cache. Says READY on the serial console and goes on."""
import ctypes
import glob
import json
import os
import socket
import subprocess
import sys
import time

POSTGRES = 1000
FREE_MIB = 80  # left unused, as a guest that is used well leaves it


def mount(kind, target):
    os.makedirs(target, exist_ok=True)
    ctypes.CDLL(None, use_errno=True).mount(kind.encode(), target.encode(), kind.encode(), 0, None)


def say(words):
    print(words, flush=True)


def as_postgres(words, **more):
    return subprocess.Popen(words, user=POSTGRES, group=POSTGRES, cwd="/pg", env={"PATH": "/usr/bin", "LC_ALL": "C"},
                            stdin=subprocess.DEVNULL, **more)


def wait_socket(path):
    for _ in range(600):
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(path)
            return
        except OSError:
            time.sleep(0.1)  # the server is starting
    raise SystemExit(f"nobody listens on {path}")


def database(programs):
    os.makedirs("/pg/data", exist_ok=True)
    for path in ("/pg", "/pg/data"):
        os.chown(path, POSTGRES, POSTGRES)
    as_postgres([programs + "/initdb", "-D", "/pg/data", "-U", "postgres", "--auth=trust", "--no-sync",
                 "--locale=C"]).wait()
    as_postgres([programs + "/postgres", "-D", "/pg/data", "-k", "/tmp", "-c", "shared_buffers=160MB", "-c",
                 "fsync=off", "-c", "max_wal_size=64MB", "-c", "listen_addresses="])
    wait_socket("/tmp/.s.PGSQL.5432")
    client = ["-h", "/tmp", "-U", "postgres", "postgres"]
    as_postgres([programs + "/pgbench", "-i", "-I", "dtGvp", "-q", "-s", "2", *client]).wait()
    say("database filled")
    as_postgres([programs + "/pgbench", "-n", "-c", "2", "-T", "3", *client]).wait()
    return as_postgres([programs + "/pgbench", "-n", "-c", "1", "-R", "20", "-T", "100000", *client],
                       stdout=subprocess.DEVNULL)


def store():
    if not os.path.exists("/usr/bin/redis-server"):
        return
    subprocess.Popen(["/usr/bin/redis-server", "--save", "", "--port", "0", "--unixsocket", "/tmp/redis"],
                     stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    wait_socket("/tmp/redis")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("/tmp/redis")
        answers = client.makefile("rb")
        for first in range(0, 50000, 1000):
            client.sendall(b"".join(
                b"SET session:%d {\"user\":%d,\"cart\":[%d,%d],\"seen\":%d}\r\n"
                % (i, i * 7919 % 100003, i % 977, i % 1013, 1700000000 + i) for i in range(first, first + 1000)))
            for _ in range(1000):
                answers.readline()


def free_mib():
    with open("/proc/meminfo", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("MemFree")) // 1024


def heap():
    """Objects of an application: what it read, what it made of it; all different."""
    kept = []
    files = sorted(glob.glob("/usr/lib/python3*/**/*.py", recursive=True))
    for turn in range(1000):
        for path in files:
            with open(path, "rb") as file:
                data = file.read()
            lines = data.decode("utf-8", "replace").splitlines()
            kept.append({"path": path, "turn": turn, "body": bytearray(data), "lines": lines,
                         "sizes": list(map(len, lines)), "text": json.dumps(lines[turn::2])})
            if free_mib() <= FREE_MIB:
                return kept
    return kept


def main():
    for kind, target in (("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")):
        mount(kind, target)
    for target in ("/dev/shm", "/tmp", "/run"):
        mount("tmpfs", target)
    os.chmod("/tmp", 0o1777)
    console = os.open("/dev/ttyS0", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(console, fd)
    say("guest up")
    database(os.path.dirname(glob.glob("/usr/lib/postgresql/*/bin/postgres")[0]))
    store()
    say("store filled")
    everything = heap()
    say(f"READY {len(everything)} {free_mib()} MiB free")
    while True:
        time.sleep(1)


if __name__ == "__main__":
    try:
        main()
    except BaseException as error:  # PID 1 must not end: say why, and stay
        print("FAILED", repr(error), flush=True)
        while True:
            time.sleep(1)
    sys.exit(1)
