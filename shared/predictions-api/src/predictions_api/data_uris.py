"""data: URIs (RFC 2397), the form in which Cog returns files and in which clients may be answered."""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote_to_bytes

DEFAULT_TYPE = "application/octet-stream"
# RFC 9110 §8.3.1: tokens, and parameters whose values are tokens. Nothing else may reach a header.
MEDIA_TYPE = re.compile(r"[\w!#$%&'*+.^`|~-]+/[\w!#$%&'*+.^`|~-]+(?:\s*;\s*[\w.-]+=[\w!#$%&'*+.^`|~-]+)*", re.ASCII)


def media_type(claimed: str | None) -> str:
    """Return the media type in lower case; application/octet-stream for none and for what is no media type."""
    claimed = (claimed or "").strip()
    return claimed.lower() if len(claimed) <= 255 and MEDIA_TYPE.fullmatch(claimed) else DEFAULT_TYPE


def encode(content_type: str, content: bytes) -> str:
    """Return the URI of `content`."""
    return f"data:{content_type};base64,{base64.b64encode(content).decode('ascii')}"


def decode(uri: str) -> tuple[str, bytes] | None:
    """Return (media type, content); None for what is no data: URI."""
    head, comma, body = uri.partition(",")
    if not comma or head[:5].lower() != "data:":
        return None
    claimed = head[5:]
    if not claimed.lower().endswith(";base64"):
        return media_type(claimed), unquote_to_bytes(body)
    try:
        return media_type(claimed[: -len(";base64")]), base64.b64decode(unquote_to_bytes(body), validate=True)
    except binascii.Error:
        return None
