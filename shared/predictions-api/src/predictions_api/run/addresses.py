"""Check the addresses of webhooks and input URLs, so that callers cannot reach internal hosts (SSRF).

Host names are resolved and checked for each call. A call connects to the address that was checked, which protects
against DNS rebinding. The ports of this server and of its Cog servers are never allowed, as a Cog server ends at a
request to /shutdown.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import httpx

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class ForbiddenAddress(httpx.TransportError):
    """Requests must not be sent to this address."""


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


@dataclass(frozen=True)
class AddressRules:
    """The addresses to which requests of one kind may be sent.

    | member | meaning |
    |---|---|
    | `purpose`, `flag` | words of the error: what is sent, and the flag that allows private addresses |
    | `allow_private`, `allow_loopback` | whether these addresses are allowed |
    | `needs_https` | whether public addresses need https |
    | `servers` | returns the URLs of this server and of its Cog servers, whose ports are not allowed |
    """

    purpose: str
    flag: str
    resolver: Resolver
    allow_private: bool = False
    allow_loopback: bool = False
    needs_https: bool = False
    servers: Callable[[], Iterable[str]] = tuple

    async def fault(self, url: httpx.URL, addresses: list[str]) -> str | None:
        """Return why no request may be sent to a URL whose host has these addresses, or None.

        Without addresses (the name cannot be resolved), only the scheme is checked.
        """
        resolved = [_embedded_ipv4(ipaddress.ip_address(address.partition("%")[0])) for address in addresses]
        are_public = [address.is_global and not address.is_reserved for address in resolved]
        for address, is_public in zip(resolved, are_public, strict=True):
            is_allowed = is_public or self.allow_private or (self.allow_loopback and address.is_loopback)
            if address.is_multicast or not is_allowed:
                return (
                    f"{url.host} is at {address}, which is not a public address; {self.purpose} only "
                    f"if the server was started with {self.flag}"
                )
        if url.scheme != "https" and self.needs_https and (any(are_public) or not are_public):
            return "a public address needs an https:// URL"
        port = url.port or DEFAULT_PORTS[url.scheme]
        if await self._is_own(set(resolved), port):
            return f"port {port} of {url.host} belongs to this server or to one of its Cog servers"
        return None

    async def _is_own(self, addresses: set[IPAddress], port: int) -> bool:
        servers = [server for server in map(httpx.URL, self.servers()) if _port(server) == port]
        for host in {server.host for server in servers}:
            with contextlib.suppress(OSError):
                own = {_embedded_ipv4(ipaddress.ip_address(text)) for text in await self.resolver.resolve(host)}
                if addresses & own or (any(map(_is_here, own)) and any(map(_is_here, addresses))):
                    return True
        return False


def _port(url: httpx.URL) -> int:
    return url.port or DEFAULT_PORTS.get(url.scheme, 0)


def _is_here(address: IPAddress) -> bool:
    """Return whether an address belongs to this machine, as a socket can be bound only to such an address."""
    if address.is_loopback or address.is_unspecified:
        return True
    family = socket.AF_INET if isinstance(address, ipaddress.IPv4Address) else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True


def _embedded_ipv4(address: IPAddress) -> IPAddress:
    """Return the IPv4 address that an IPv6 address embeds, or the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    nat64 = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in NAT64 else None
    return address.ipv4_mapped or address.sixtofour or nat64 or address


class CheckedTransport(httpx.AsyncBaseTransport):
    """Resolves and checks the host of a request, then connects to the checked address.

    The certificate is verified against the host name. Connections are not reused: the pool's key is the address, which
    two host names may share.
    """

    def __init__(self, rules: AddressRules, *, verify: ssl.SSLContext | bool = True) -> None:
        self.rules = rules
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._transport = httpx.AsyncHTTPTransport(verify=verify, limits=limits, trust_env=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        if request.url.scheme not in DEFAULT_PORTS or not host:
            raise httpx.UnsupportedProtocol(f"{request.url.scheme}:// is not http:// or https://")
        try:
            addresses = await self.rules.resolver.resolve(host)
        except OSError as error:
            raise httpx.ConnectError(f"the name {host} cannot be resolved") from error
        fault = await self.rules.fault(request.url, addresses)
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
