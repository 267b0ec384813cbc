# SPDX-License-Identifier: Apache-2.0
"""Where a lab keeps what: images that stay (DIR/image-KEY), and what runs (DIR/labs/NAME)."""

import contextlib
import fcntl
import os
import re
import time

from .errors import LabError, read
from .recipe import HERE, image_key

DEFAULT_DIR = "/var/cache/hamgr-lab"
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))


class Place:
    """Paths of the lab `name` below `directory`."""

    def __init__(self, directory, name):
        if not re.fullmatch(r"[a-z0-9]{1,8}", name):
            raise LabError(f"--name {name}: 1 to 8 of a-z and 0-9 are possible")
        self.directory = os.path.abspath(directory)
        self.name = name
        self.lab = os.path.join(self.directory, "labs", name)
        # Trees that want different packages share a directory, not an image.
        self.image = os.path.join(self.directory, f"image-{image_key()[:12]}")
        self.namespace = f"hamgr-{name}"

    def is_built(self):
        return read(self.of_image("key")) == image_key()

    def need_image(self):
        if not self.is_built():
            raise LabError(f"there is no image for this tree ({self.image}); run: deploy/lab build")

    def of_image(self, *names):
        return os.path.join(self.image, *names)

    def of_lab(self, *names):
        return os.path.join(self.lab, *names)

    @contextlib.contextmanager
    def lock(self, what, wait_s=0):
        """One change at a time to the images or to a lab: who is late waits so long, then is told."""
        os.makedirs(self.directory, exist_ok=True)
        path = os.path.join(self.directory, f"{what}.lock")
        with open(path, "w", encoding="ascii") as file:
            end = time.monotonic() + wait_s
            while not try_lock(file):
                if time.monotonic() >= end:
                    raise LabError(f"another deploy/lab works on this ({path} is locked); "
                                   "wait for it, or use another --name")
                time.sleep(0.2)
            yield


def try_lock(file):
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
