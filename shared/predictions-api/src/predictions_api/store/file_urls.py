"""How files are named within inputs and outputs, which are JSON values of any shape: by URLs, or by data: URIs.

In the database an output names its files by path alone, as nobody knows yet by which address a client will ask for it;
`with_absolute_urls` adds the address. In an input a file of ours has a URL by the name that the client knows this
server by.
data: URIs (RFC 2397) are the form in which Cog returns files and in which clients may be answered.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote_to_bytes, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DELIVERY_PATH: Final = re.compile(r"/v1/delivery/([0-9a-z]{52})/[^/?#\s]+")
OWN_FILE_PATH: Final = re.compile(r"(?:/replicate)?(?:/v1)?/(files|delivery)/([0-9a-z]{52})(?:/[^/]*)?/?")
MAX_URL_LENGTH: Final = 2048  # of a URL of ours
DEFAULT_TYPE = "application/octet-stream"
# RFC 9110 §8.3.1: tokens, and parameters whose values are tokens. Nothing else may reach a header.
MEDIA_TYPE = re.compile(r"[\w!#$%&'*+.^`|~-]+/[\w!#$%&'*+.^`|~-]+(?:\s*;\s*[\w.-]+=[\w!#$%&'*+.^`|~-]+)*", re.ASCII)


@dataclass(frozen=True)
class OwnFile:
    """What a URL says of a file that has, or had, its place here."""

    id: str
    is_upload: bool


def delivery_path(file_id: str, name: str) -> str:
    """Return the path of the URL from which anyone may read a file's bytes."""
    return f"/v1/delivery/{file_id}/{quote(name, safe='')}"


def with_absolute_urls(output: Any, base: str) -> Any:
    """Return an output with its files named by URLs below `base`."""
    return map_strings(output, lambda text: base + text if DELIVERY_PATH.fullmatch(text) else text)


def own_file(text: str) -> OwnFile | None:
    """Return which file a URL in an input stands for, if its path is one that this server gives to files."""
    if not text.startswith(("http://", "https://")) or len(text) > MAX_URL_LENGTH:
        return None
    try:
        found = OWN_FILE_PATH.fullmatch(urlsplit(text).path)
    except ValueError:
        return None
    return None if found is None else OwnFile(found[2], found[1] == "files")


def safe_name(name: str) -> str:
    """Return the last part of a path, of at most 255 bytes, without what headers and file systems take amiss."""
    last = re.split(r"[/\\]", name)[-1]
    last = "".join(letter for letter in last if letter.isprintable()).strip(". ")
    return last.encode(errors="ignore")[:255].decode(errors="ignore") or "file"


def strings_in(value: Any) -> Iterator[str]:
    """Give all strings of a JSON value, but for its keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings_in(item)


def map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """Return a JSON value with all its strings changed, but for its keys."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: map_strings(item, change) for key, item in value.items()}
    return [map_strings(item, change) for item in value] if isinstance(value, list) else value


def media_type(claimed: str | None) -> str:
    """Return the media type in lower case; application/octet-stream for none and for what is no media type."""
    claimed = (claimed or "").strip()
    return claimed.lower() if len(claimed) <= 255 and MEDIA_TYPE.fullmatch(claimed) else DEFAULT_TYPE


def encode_data_uri(content_type: str, content: bytes) -> str:
    """Return the URI of `content`."""
    return f"data:{content_type};base64,{base64.b64encode(content).decode('ascii')}"


def decode_data_uri(uri: str) -> tuple[str, bytes] | None:
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
