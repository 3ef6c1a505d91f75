"""How clients reach this server: the base of every URL in an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection


def base(request: HTTPConnection) -> str:
    """Return scheme://host[:port] without a slash at the end: as configured, else as the request came."""
    public_url: str | None = request.app.state.settings.public_url
    if public_url:
        return public_url.rstrip("/")
    return f"{request.url.scheme}://{request.url.netloc}"
