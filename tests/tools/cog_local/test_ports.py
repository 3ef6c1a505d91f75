"""Specification of cog_local.ports: a port that only the server for which it is reserved gets."""

from __future__ import annotations

import socket
import struct
import sys

import pytest
from cog_local.ports import HOST, reserved_port

IP_LOCAL_PORT_RANGE = 51  # ip(7), Linux 6.3


def given_port(among: int) -> int:
    """Return the port that the system gives to a program that asks for any port among one."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("=I", among << 16 | among))
        except OSError:
            pytest.skip("this system has no range of ports for a socket")
        other.bind((HOST, 0))
        return int(other.getsockname()[1])


@pytest.mark.skipif(sys.platform != "linux", reason="Linux reserves a port for a server that listens later")
def test_a_reserved_port_is_given_to_no_other_program_and_a_server_listens_there() -> None:
    with reserved_port() as port:
        with pytest.raises(OSError, match="in use"):
            given_port(among=port)
        with socket.create_server((HOST, port)):
            pass
    assert given_port(among=port) == port
