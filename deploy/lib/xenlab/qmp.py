# SPDX-License-Identifier: Apache-2.0
"""QMP: asking a QEMU over its monitor socket, one connection per question."""

import json
import socket

from .errors import LabError

TIMEOUT_S = 10


def ask(path, command, **arguments):
    """Runs one QMP command and returns its answer; LabError if QEMU is gone, silent or refuses."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(TIMEOUT_S)
            sock.connect(path)
            lines = sock.makefile("r", encoding="utf-8")
            lines.readline()  # the greeting
            for words in ({"execute": "qmp_capabilities"},
                          {"execute": command, "arguments": arguments}):
                sock.sendall(json.dumps(words).encode() + b"\n")
                answer = next_answer(lines)
                if "error" in answer:
                    raise LabError(f"QEMU refuses {words['execute']}: {answer['error'].get('desc')}")
    except (OSError, ValueError) as error:
        raise LabError(f"QEMU's monitor {path} does not answer ({error}); "
                       "is the node on? deploy/lab status tells") from None
    return answer["return"]


def next_answer(lines):
    """The next line that answers; events are passed over."""
    while True:
        line = lines.readline()
        if not line:
            raise ValueError("closed")
        words = json.loads(line)
        if "return" in words or "error" in words:
            return words
