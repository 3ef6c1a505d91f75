"""Names below .test (RFC 6761) that this process resolves as a test says."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any

import pytest


def resolve(patch: pytest.MonkeyPatch, addresses: Mapping[str, Sequence[str]]) -> list[str]:
    """Resolve names to these addresses, which may change, and no other name below .test. Return what is looked up."""
    getaddrinfo, lookups = socket.getaddrinfo, []

    def look_up(host: Any, *args: Any, **options: Any) -> Any:
        if not str(host).endswith(".test"):
            return getaddrinfo(host, *args, **options)
        lookups.append(host)
        if host not in addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses[host]]

    patch.setattr(socket, "getaddrinfo", look_up)
    return lookups
