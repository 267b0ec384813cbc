# SPDX-License-Identifier: Apache-2.0
"""A story on a terminal: lines of text, and below them a picture of the cluster that stays alive.

What is drawn is what the outside observer sees (who made a guest's last step, and when) and what
the room knows (power, cables): never what a daemon believes. Without a terminal there is no picture
but a line whenever it would have changed.
"""

import shutil
import sys
import threading
import time

# A guest without a step for this long is not running: three steps of 100 ms, and some.
SILENT_NS = 400_000_000
GREEN, RED, YELLOW, DIM, BOLD, PLAIN = ("\033[32m", "\033[31m", "\033[33m", "\033[2m", "\033[1m",
                                        "\033[0m")
REDRAW_S = 0.1


def placement(cluster):
    """node index -> sorted [(guest, is it making steps)], by the observer's page."""
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    homes = {}
    for guest, slot in sorted(cluster.slots.items()):
        word = cluster.observer.u64(slot, 0)
        if word:
            last = cluster.observer.u64(slot, 56)
            homes.setdefault(word >> 56, []).append((guest, now - last < SILENT_NS))
    return homes


def fit(names, width):
    """As many names as fit, and how many did not."""
    text = " ".join(names)
    if len(text) <= width:
        return text
    count = len(names)
    while count and len(" ".join(names[:count])) > width - 6:
        count -= 1
    return f"{' '.join(names[:count])} +{len(names) - count}".strip()


def bar(share, width=30):
    full = int(max(0.0, min(1.0, share)) * width)
    return "█" * full + "░" * (width - full)


class Picture:
    """The story's teller. A context manager: the picture is alive inside of it."""

    def __init__(self, out=None):
        self.out = out or sys.stdout
        self.is_live = self.out.isatty()
        self.cluster = None
        self.progress_text = ""
        self.notes = {}  # node name -> a word about it
        self.lock = threading.Lock()
        self.drawn = 0
        self.last_line = ""
        self.began = time.monotonic()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        with self.lock:
            self.erase()
            self.out.flush()

    def run(self):
        while not self.stop.wait(REDRAW_S):
            with self.lock:
                self.draw()

    # --- story ---

    def say(self, text, mark=""):
        """A sentence of the story, above the picture."""
        with self.lock:
            self.erase()
            stamp = f"{time.monotonic() - self.began:6.1f} s  "
            if self.is_live:
                stamp = DIM + stamp + PLAIN
            self.out.write(f"{stamp}{mark}{text}\n")
            self.draw()

    def title(self, text):
        with self.lock:
            self.erase()
            self.out.write("\n")
        self.say(f"{BOLD}{text}{PLAIN}" if self.is_live else f"--- {text} ---")

    def progress(self, text):
        """The line below the nodes; empty takes it away."""
        with self.lock:
            self.progress_text = text

    # --- picture ---

    def erase(self):
        if self.drawn:
            self.out.write(f"\033[{self.drawn}F\033[J")
            self.drawn = 0

    def draw(self):
        if not self.cluster:
            return
        lines = self.live_lines() if self.is_live else [self.plain_line()]
        if self.is_live:
            self.erase()
            self.out.write("".join(line + "\n" for line in lines))
            self.drawn = len(lines)
            self.out.flush()
        elif lines[0] != self.last_line:
            self.last_line = lines[0]
            self.out.write(f"{time.monotonic() - self.began:6.1f} s  {lines[0]}\n")
            self.out.flush()

    def node_words(self):
        """node name -> (has power, a word about it)"""
        power = {node["name"]: node["state"] for node in self.cluster.room.call("nodes")["nodes"]}
        return {name: (state == "on", self.notes.get(name) or state)
                for name, state in power.items()}

    def live_lines(self):
        homes = placement(self.cluster)
        words = self.node_words()
        width = shutil.get_terminal_size((80, 24)).columns - 1
        lines = [DIM + "─" * min(78, width) + PLAIN]
        for node in self.cluster.nodes:
            guests = homes.get(node.index, [])
            running = [name for name, is_running in guests if is_running]
            silent = [name for name, is_running in guests if not is_running]
            is_on, word = words[node.name]
            lamp = GREEN + "●" if is_on else RED + "○"
            left = max(8, width - 34)
            quiet = fit(silent, left // 2) if silent else ""
            names = GREEN + fit(running, left - len(quiet) - 1) + " " + RED + quiet + PLAIN
            lines.append(f" {lamp} {PLAIN}{BOLD}{node.name:<6}{PLAIN}{word:<10}"
                         f"{len(running):>3} running  {names}")
        if self.progress_text:
            lines.append(f" {YELLOW}{self.progress_text[:width - 1]}{PLAIN}")
        return lines

    def plain_line(self):
        homes = placement(self.cluster)
        states = self.node_words()
        words = []
        for node in self.cluster.nodes:
            guests = homes.get(node.index, [])
            running = sum(is_running for _, is_running in guests)
            text = f"{node.name} {states[node.name][1]}: {running} running"
            if len(guests) > running:
                text += f", {len(guests) - running} silent"
            words.append(text)
        return " | ".join(words)
