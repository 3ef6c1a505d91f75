"""Ports of this machine for servers that start later."""

from __future__ import annotations

import contextlib
import socket
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "127.0.0.1"


@contextlib.contextmanager
def reserved_port(wanted: int = 0) -> Iterator[int]:
    """Yield `wanted`, or a free port for 0. Raises OSError for a port in use.

    On Linux a server can listen there meanwhile, and the system gives the port to no other program that asks for one.
    """
    with socket.socket() as reservation:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        reservation.bind((HOST, wanted))
        port = int(reservation.getsockname()[1])
        if sys.platform != "linux":
            reservation.close()
        yield port
