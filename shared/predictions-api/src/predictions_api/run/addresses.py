"""Check the addresses of webhooks, so that callers cannot reach internal hosts through this server (SSRF).

Host names are resolved and checked when a prediction is created, and again for each call. A call connects to the
address that was checked, which protects against DNS rebinding.
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
    """Webhooks must not be sent to this address."""


def address_fault(host: str, scheme: str, addresses: list[str], *, allow_private: bool) -> str | None:
    """Return why no webhook may be sent to `host`, which has these addresses, or None.

    Loopback addresses are always allowed. HTTPS is required for public addresses and for an unresolved name.
    """
    resolved = [_embedded_ipv4(ipaddress.ip_address(address.partition("%")[0])) for address in addresses]
    are_public = [address.is_global and not address.is_reserved for address in resolved]
    for address, is_public in zip(resolved, are_public, strict=True):
        if address.is_multicast or not (is_public or allow_private or address.is_loopback):
            return (
                f"{host} is at {address}, which is not a public address; webhooks are sent there only if the server "
                f"was started with --allow-private-webhooks"
            )
    if scheme != "https" and (any(are_public) or not are_public):
        return "webhooks are sent to https:// URLs; http:// is allowed only for localhost"
    return None


def _embedded_ipv4(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the IPv4 address that an IPv6 address embeds, or the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    nat64 = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in NAT64 else None
    return address.ipv4_mapped or address.sixtofour or nat64 or address


class Resolver:
    """The system's resolver in its own threads, so that a slow name server delays nothing else."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="resolver")

    async def resolve(self, host: str) -> list[str]:
        """Return all addresses of a host. Raises OSError. 2130706433 and 0x7f.1 are addresses, too."""
        resolved = await asyncio.get_running_loop().run_in_executor(self._threads, _look_up, host)
        return list(dict.fromkeys(str(entry[4][0]) for entry in resolved))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str) -> list[tuple[Any, ...]]:
    try:
        return list(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    except UnicodeError as error:  # an empty label, or one that is too long
        raise OSError(f"{host} is not a valid host name") from error


class CheckedTransport(httpx.AsyncBaseTransport):
    """Resolves and checks the host of a request, then connects to the checked address.

    The certificate is verified against the host name. Connections are not reused: the pool's key is the address, which
    two host names may share.
    """

    def __init__(self, resolver: Resolver, *, allow_private: bool, verify: ssl.SSLContext | bool = True) -> None:
        self.resolver = resolver
        self.allow_private = allow_private
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._transport = httpx.AsyncHTTPTransport(verify=verify, limits=limits, trust_env=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host, scheme = request.url.host, request.url.scheme
        try:
            addresses = await self.resolver.resolve(host)
        except OSError as error:
            raise httpx.ConnectError(f"the name {host} cannot be resolved") from error
        fault = address_fault(host, scheme, addresses, allow_private=self.allow_private)
        if fault is not None:
            raise ForbiddenAddress(fault)
        for address in addresses[:-1]:
            try:
                return await self._send(request, address, host)
            except httpx.ConnectError:
                continue  # e.g. localhost at ::1 when the receiver listens only at 127.0.0.1
        return await self._send(request, addresses[-1], host)

    async def _send(self, request: httpx.Request, address: str, host: str) -> httpx.Response:
        return await self._transport.handle_async_request(
            httpx.Request(
                request.method,
                request.url.copy_with(host=address),
                headers=request.headers,  # include the Host of the original URL
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": host},
            )
        )

    async def aclose(self) -> None:
        await self._transport.aclose()
