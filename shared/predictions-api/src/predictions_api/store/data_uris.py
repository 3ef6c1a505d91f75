"""Read and write data: URIs (RFC 2397), also those that browsers write without the quotation marks of the standard."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final
from urllib.parse import unquote_to_bytes

DEFAULT_TYPE: Final = "application/octet-stream"
# RFC 9110 §8.3.1, without quoted parameter values. The type is sent in a header.
MEDIA_TYPE: Final = re.compile(
    r"[\w!#$%&'*+.^`|~-]+/[\w!#$%&'*+.^`|~-]+(?:\s*;\s*[\w.-]+=[\w!#$%&'*+.^`|~-]+)*", re.ASCII
)
# Chrome's MediaRecorder writes codecs=vp8,opus, which RFC 6381 allows only in quotation marks.
_CODECS: Final = r"codecs=[\w.*+-]++(?:,\s*+[\w.*+-]++)++(?=\s*;)"
_HEAD: Final = re.compile(
    rf'data:(?P<type>[^",;]*+)(?P<parameters>(?:;\s*+(?:{_CODECS}|[^",;]*+(?:"(?:[^"\\]|\\.)*+")?))*),',
    re.ASCII | re.IGNORECASE,
)
_IS_BASE64: Final = re.compile(r";\s*base64\s*(?=;|$)", re.IGNORECASE)
_LINE_BREAKS: Final = re.compile(rb"[ \t]*[\r\n]+[ \t]*")
_FROM_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")  # RFC 4648, section 5


class InvalidDataUri(ValueError):
    """A text is not a data: URI. The message says what is wrong, and fits after the name of a field."""


def encode_data_uri(content_type: str, content: bytes) -> str:
    return f"data:{content_type};base64,{base64.b64encode(content).decode('ascii')}"


def decode_data_uri(uri: str) -> tuple[str, bytes]:
    """Return (media type, content). Raises InvalidDataUri.

    Base64 may have line breaks, the URL-safe alphabet, and no padding. A blank within a line is refused, as it may be
    a + that a form has changed.
    """
    head = _HEAD.match(uri)
    if head is None:
        raise InvalidDataUri("a data: URI has the form data:TYPE;base64,DATA; this one has no comma before its data")
    claimed = head["type"].strip()
    if claimed and "/" not in claimed:
        raise InvalidDataUri(f"a data: URI has the form data:TYPE;base64,DATA; {claimed[:40]!r} is not a media type")
    parameters = _IS_BASE64.sub("", head["parameters"])
    body = uri[head.end() :]
    content = unquote_to_bytes(body) if parameters == head["parameters"] else _decode_base64(body)
    return media_type(claimed + parameters, claimed), content


def media_type(*claims: str | None) -> str:
    """Return the first valid media type in lower case, or application/octet-stream."""
    for claim in claims:
        text = (claim or "").strip()
        if len(text) <= 255 and MEDIA_TYPE.fullmatch(text):
            return text.lower()
    return DEFAULT_TYPE


def _decode_base64(text: str) -> bytes:
    data = unquote_to_bytes(text) if "%" in text else text.encode()
    data = _LINE_BREAKS.sub(b"", data)
    if b" " in data:
        raise InvalidDataUri("the base64 of its data: URI has a blank; if it was sent in a form, write + as %2B")
    letters = data.translate(_FROM_URL_SAFE).rstrip(b"=")
    given, needed = len(data) - len(letters), -len(letters) % 4
    if needed == 3 or given not in (0, needed):
        raise InvalidDataUri(
            f"the base64 of its data: URI has {len(letters)} letters and {given} '=', so its end is missing or wrong"
        )
    try:
        return base64.b64decode(letters + b"=" * needed, validate=True)
    except binascii.Error:
        raise InvalidDataUri("the base64 of its data: URI has a letter that base64 does not have") from None
