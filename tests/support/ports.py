"""Ports for servers that a test starts at an address that is known before."""

from __future__ import annotations

import itertools
import os
import socket

# Below those that Linux gives to port 0 and to clients, so that no other program of the tests gets one meanwhile.
FIRST, LAST = 15_000, 30_000
_numbers = itertools.count(os.getpid() * 50)  # the processes of pytest-xdist have numbers of their own


def free_port() -> int:
    """Return a port of loopback that nothing uses now, and that this process returns only once."""
    while True:
        port = FIRST + next(_numbers) % (LAST - FIRST)
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
