"""Find and replace file URLs within inputs and outputs, which are JSON values of any shape.

Outputs in the database hold only the paths of their files, as clients may use different addresses for this server.
`with_absolute_urls` adds the address. Files of this server in an input have absolute URLs with the client's address.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

DELIVERY_PATH: Final = re.compile(r"/v1/delivery/([0-9a-z]{52})/[^/?#\s]+")
# Any path may precede: of this API, and of a public URL behind a reverse proxy.
OWN_FILE_PATH: Final = re.compile(r"(?:/.*)?/(files|delivery)/([0-9a-z]{52})(?:/[^/]*)?/?")
MAX_URL_LENGTH: Final = 2048  # of a file URL of this server


@dataclass(frozen=True)
class OwnFile:
    """The file of this server that a URL refers to. It may have been deleted."""

    id: str
    is_upload: bool


def delivery_path(file_id: str, name: str) -> str:
    return f"/v1/delivery/{file_id}/{quote(name, safe='')}"


def with_absolute_urls(output: Any, base: str) -> Any:
    """Return an output with the paths of its files replaced by URLs below `base`."""
    return map_strings(output, lambda text: base + text if DELIVERY_PATH.fullmatch(text) else text)


def is_http_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def is_data_uri(text: str) -> bool:
    return text[:5].lower() == "data:"


def own_file(text: str) -> OwnFile | None:
    """Return the file that a URL in an input refers to, or None if it is not a file of this server."""
    if not is_http_url(text) or len(text) > MAX_URL_LENGTH:
        return None
    try:
        match = OWN_FILE_PATH.fullmatch(urlsplit(text).path)
    except ValueError:
        return None
    return None if match is None else OwnFile(match[2], match[1] == "files")


def safe_name(name: str) -> str:
    """Return the last part of a path, at most 255 bytes, without unprintable characters and outer dots."""
    last = re.split(r"[/\\]", name)[-1]
    last = "".join(letter for letter in last if letter.isprintable()).strip(". ")
    return last.encode(errors="ignore")[:255].decode(errors="ignore") or "file"


def strings_in(value: Any) -> Iterator[str]:
    """Yield all strings of a JSON value except its keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings_in(item)


def map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """Return a JSON value with `change` applied to all strings except its keys."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: map_strings(item, change) for key, item in value.items()}
    return [map_strings(item, change) for item in value] if isinstance(value, list) else value


def replace_strings(value: Any, replacements: Mapping[str, str]) -> Any:
    """Return a JSON value with the strings that are keys of `replacements` replaced by their values."""
    return map_strings(value, lambda text: replacements.get(text, text))
