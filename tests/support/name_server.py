"""A name server of the tests' own, and programs that use it instead of the machine's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from dnslib import QTYPE, RCODE, RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSHandler, DNSLogger, DNSServer

ADDRESS = "127.0.0.153"


class Names(BaseResolver):  # type: ignore[misc]
    """Names and their addresses, which a test changes."""

    def __init__(self) -> None:
        self.addresses: dict[str, list[str]] = {}

    def resolve(self, request: DNSRecord, _handler: DNSHandler) -> DNSRecord:
        reply = request.reply()
        addresses = self.addresses.get(str(request.q.qname).rstrip("."), [])
        if not addresses:
            reply.header.rcode = RCODE.NXDOMAIN
        if request.q.qtype == QTYPE.A:
            reply.add_answer(*(RR(request.q.qname, QTYPE.A, rdata=A(address), ttl=0) for address in addresses))
        return reply


@contextmanager
def name_server() -> Iterator[Names]:
    if os.geteuid() != 0:
        pytest.skip("a name server of the test's own needs root, for its port and for mount namespaces")
    names = Names()
    server = DNSServer(names, address=ADDRESS, port=53, logger=DNSLogger(logf=lambda _: None))
    server.start_thread()
    try:
        yield names
    finally:
        server.stop()
        server.server.server_close()


def with_name_server(command: list[str], directory: Path) -> list[str]:
    """Return a command that runs another in a mount namespace whose resolv.conf names the tests' name server."""
    settings = directory / "resolv.conf"
    settings.write_text(f"nameserver {ADDRESS}\n")
    script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, str(settings), *command]
