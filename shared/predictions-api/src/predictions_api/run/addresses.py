"""To which addresses a webhook may be sent: a caller must not reach, through this server, what only the server can.

Names are resolved and checked twice: when a webhook is given, and for each call, which then goes to the very address
that was checked. So a name that points elsewhere by then (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import httpx

if TYPE_CHECKING:
    import ssl

NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address


class ForbiddenAddress(httpx.TransportError):
    """A webhook's address is one that webhooks are not sent to."""


def address_fault(host: str, scheme: str, addresses: list[str], *, private: bool) -> str | None:
    """Tell what speaks against sending to `host`, which has these addresses; None if nothing does.

    `private`: whether addresses that are not public are allowed. Loopback always is. HTTPS is demanded for public ones,
    and for a name without an address.
    """
    resolved = [_embedded_ipv4(ipaddress.ip_address(address.partition("%")[0])) for address in addresses]
    are_public = [address.is_global and not address.is_reserved for address in resolved]
    for address, is_public in zip(resolved, are_public, strict=True):
        if address.is_multicast or not (is_public or private or address.is_loopback):
            return (
                f"{host} is at {address}, which is not a public address; webhooks are sent there only where the server "
                f"was started with --allow-private-webhooks"
            )
    if scheme != "https" and (any(are_public) or not are_public):
        return "webhooks are sent to https:// URLs; http:// only to this machine itself (localhost)"
    return None


def _embedded_ipv4(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the IPv4 address that an IPv6 address stands for; else the address."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    within = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in NAT64 else None
    return address.ipv4_mapped or address.sixtofour or within or address


class Resolver:
    """The system's resolver in threads of its own, so that a slow name server holds up nothing else."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="resolver")

    async def resolve(self, host: str) -> list[str]:
        """Return all addresses of a host; raises OSError. 2130706433 and 0x7f.1 are addresses, too."""
        resolved = await asyncio.get_running_loop().run_in_executor(self._threads, _look_up, host)
        return list(dict.fromkeys(str(entry[4][0]) for entry in resolved))

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str) -> list[tuple[Any, ...]]:
    try:
        return list(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    except UnicodeError as error:  # a label that is empty or too long
        raise OSError(f"{host} is no host name") from error


class CheckedTransport(httpx.AsyncBaseTransport):
    """Sends a request to an address of its host that was checked just before; raises ForbiddenAddress for others.

    The certificate is checked against the host's name all the same. No connection is used twice, as connections are
    told apart by address here, and two names may share one.
    """

    def __init__(self, resolver: Resolver, *, private: bool, verify: ssl.SSLContext | bool = True) -> None:
        self.resolver = resolver
        self.private = private
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._transport = httpx.AsyncHTTPTransport(verify=verify, limits=limits, trust_env=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request."""
        host, scheme = request.url.host, request.url.scheme
        try:
            addresses = await self.resolver.resolve(host)
        except OSError as error:
            raise httpx.ConnectError(f"the name {host} cannot be resolved") from error
        fault = address_fault(host, scheme, addresses, private=self.private)
        if fault is not None:
            raise ForbiddenAddress(fault)
        for address in addresses[:-1]:
            try:
                return await self._send(request, address, host)
            except httpx.ConnectError:
                continue  # as with localhost at ::1 where the receiver listens at 127.0.0.1 only
        return await self._send(request, addresses[-1], host)

    async def _send(self, request: httpx.Request, address: str, host: str) -> httpx.Response:
        return await self._transport.handle_async_request(
            httpx.Request(
                request.method,
                request.url.copy_with(host=address),
                headers=request.headers,  # with the Host of the original URL
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": host},
            )
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()
