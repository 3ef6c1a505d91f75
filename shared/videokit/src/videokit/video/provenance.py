"""The metadata of output files: model, inputs, seed, software, and that a model made the file.

`encode` writes these texts where each file format stores them. `read_provenance` reads the comment of any file in
bounded time and memory.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NoReturn
from xml.sax.saxutils import quoteattr

import videokit
from videokit.errors import InvalidInput
from videokit.seeds import MAX_SEED

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# IPTC's term for media that a trained model made, the mark that search engines and networks look for:
# https://cv.iptc.org/newscodes/digitalsourcetype/
DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"

# XMP specification part 1, 7.3.2: the packet's wrapper. The id is the same in all packets; "r" means read-only.
_XMP_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    xmp:CreatorTool={software}
    Iptc4xmpExt:DigitalSourceType={source_type}/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""
_XMP_BOX = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")  # XMP specification part 3, "MPEG-4"
# XMP specification part 3, 1.1.2: a reader without XMP support reads bytes of the packet as lengths of sub-blocks. It
# arrives at one of these bytes, each of which skips to their end.
_XMP_TRAILER = bytes([1, *range(255, -1, -1), 0])

MAX_COMMENT = 4_000_000  # bytes; the longest letters take 12 in a comment
MAX_READS = 2_000_000  # of a header or a sub-block; a GIF of 250 MB has as many
# The boxes around an MP4's comment, each with the bytes before its content (ISO 14496-12; QuickTime File Format).
_MP4_PATH = ((b"moov", 0), (b"udta", 0), (b"meta", 4), (b"ilst", 0), (b"\xa9cmt", 0), (b"data", 8))


@dataclass(frozen=True)
class Provenance:
    """The model, inputs, seed and software of a file, and the textual inversions that its prompts named.

    `inputs` are the documented inputs as they were given, but for the resolved seed, in types that JSON has.
    `software` reads like "animate-diff 0.1.0, videokit 0.1.0". A textual inversion has its name, the number of its
    vectors, and the SHA-256 of its file.
    """

    model: str
    inputs: Mapping[str, object]
    seed: int
    software: str
    textual_inversions: tuple[Mapping[str, object], ...] = ()

    def statement(self) -> dict[str, object]:
        """Return everything by name, without an empty list of textual inversions."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("textual_inversions", ())}

    def comment(self) -> str:
        """Return everything as one line of JSON: keys sorted, ASCII only (as GIF requires), other letters escaped."""
        return json.dumps({**self.statement(), "digitalSourceType": DIGITAL_SOURCE_TYPE}, sort_keys=True)

    def xmp(self) -> bytes:
        """Return an XMP packet in UTF-8 with the software and IPTC's DigitalSourceType."""
        software, source_type = quoteattr(self.software), quoteattr(DIGITAL_SOURCE_TYPE)
        return _XMP_PACKET.format(software=software, source_type=source_type).encode()

    def xmp_box(self) -> bytes:
        """Return the box of an MP4 that holds the XMP packet."""
        packet = self.xmp()
        return struct.pack(">I4s", 8 + len(_XMP_BOX) + len(packet), b"uuid") + _XMP_BOX + packet

    def gif_blocks(self) -> bytes:
        """Return a Comment Extension (GIF89a section 24) and the Application Extension that holds the XMP packet."""
        text = self.comment().encode()
        parts = (text[at : at + 255] for at in range(0, len(text), 255))  # section 15: a sub-block has 255 bytes
        comment = b"!\xfe" + b"".join(bytes([len(part)]) + part for part in parts) + b"\0"
        return comment + b"!\xff\x0bXMP DataXMP" + self.xmp() + _XMP_TRAILER


def software(model: str, version: str) -> str:
    """Return the `software` of the files that this version of a model writes."""
    return f"{model} {version}, videokit {videokit.__version__}"


def read_provenance(path: Path) -> Provenance:
    """Return the provenance in the comment of an MP4, GIF or PNG; raise InvalidInput for a file without one of ours."""
    try:
        if not path.is_file():
            raise InvalidInput(f"{path} is not a file")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            comment = _comment(_Reader(content))
        if comment is None:
            raise InvalidInput(f"{path} states no inputs; give a file as the model wrote it")
        return _parse(comment)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise InvalidInput(f"{path}: the comment is not the one of a model: it is nested too deeply") from None
    except ValueError as error:  # mmap's for an empty file too
        raise InvalidInput(f"{path}: {error}") from None


class _Reader:
    """Reads the bytes at a position. Raises ValueError after the end, and after MAX_READS."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._reads = 0
        self.size = len(content)
        self.at = 0

    def read(self, size: int) -> bytes:
        self._reads += 1
        if self._reads > MAX_READS or self.at + size > self.size:
            raise ValueError("the file is damaged, or too large for one of a model")
        self.at += size
        return self._content[self.at - size : self.at]

    def read_comment(self, size: int) -> bytes:
        if size > MAX_COMMENT:
            raise ValueError(f"the comment has {size} bytes (at most {MAX_COMMENT})")
        return self.read(size)


def _comment(reader: _Reader) -> bytes | None:
    start = reader.read(min(reader.size, 8))
    if start == b"\x89PNG\r\n\x1a\n":
        return _png_comment(reader)
    if start[:6] in (b"GIF87a", b"GIF89a"):
        reader.at = 6
        return _gif_comment(reader)
    if start[4:] == b"ftyp":
        reader.at = 0
        return _mp4_comment(reader)
    raise ValueError("the file is not an MP4, GIF or PNG")


def _png_comment(reader: _Reader) -> bytes | None:
    """Return the text chunk with the keyword Comment (PNG specification, 11.3.3)."""
    kind = b""
    while kind != b"IEND":
        length, kind = struct.unpack(">I4s", reader.read(8))
        end = reader.at + length + 4
        if kind == b"tEXt" and length >= 8 and reader.read(8) == b"Comment\0":
            return reader.read_comment(length - 8)
        reader.at = end
    return None


def _gif_comment(reader: _Reader) -> bytes | None:
    """Return the last Comment Extension (GIF89a section 24)."""
    comment = None
    _skip_colours(reader, reader.read(7)[4])
    while (kind := reader.read(1)) != b";":
        if kind == b",":  # an image: its descriptor, its colours, and one byte of its own before the data
            _skip_colours(reader, reader.read(9)[8])
            reader.at += 1
        elif kind != b"!":
            raise ValueError("the file is damaged")
        label = reader.read(1) if kind == b"!" else b""
        text = bytearray()
        while size := reader.read(1)[0]:
            part = reader.read(size)
            if label == b"\xfe":
                text += part
                if len(text) > MAX_COMMENT:
                    raise ValueError(f"the comment has more than {MAX_COMMENT} bytes")
        comment = bytes(text) if label == b"\xfe" else comment
    return comment


def _skip_colours(reader: _Reader, flags: int) -> None:
    """Skip the colour table that the flags of a descriptor announce."""
    if flags & 0x80:
        reader.at += 3 << (flags & 7) + 1


def _mp4_comment(reader: _Reader) -> bytes | None:
    end = reader.size
    for name, header in _MP4_PATH:
        found = _find_box(reader, name, end)
        if found is None:
            return None
        end = found
        reader.at += header
    return reader.read_comment(max(0, end - reader.at))


def _find_box(reader: _Reader, name: bytes, end: int) -> int | None:
    """Go to the content of the next box of this name before `end`, and return the box's end."""
    while (start := reader.at) + 8 <= end:
        length, kind = struct.unpack(">I4s", reader.read(8))
        if length == 1:
            (length,) = struct.unpack(">Q", reader.read(8))
        stop = min(start + length, end) if length else end
        if stop < reader.at:
            raise ValueError("the file is damaged")
        if kind == name:
            return stop
        reader.at = stop
    return None


def _parse(comment: bytes) -> Provenance:
    """Return the provenance that `Provenance.comment` wrote; raise ValueError or RecursionError for another text."""

    def refuse(reason: str) -> NoReturn:
        raise ValueError(f"the comment is not the one of a model: {reason}")

    try:
        values = json.loads(comment, parse_constant=lambda name: refuse(f"{name} is not a number"))
    except json.JSONDecodeError as error:
        refuse(f"it is not JSON: {error}")
    keys = {"model", "inputs", "seed", "software", "digitalSourceType"}
    if not isinstance(values, dict) or values.keys() - {"textual_inversions"} != keys:
        refuse("it has other keys")
    model, inputs, seed, made_by = (values[name] for name in ("model", "inputs", "seed", "software"))
    if not all(isinstance(text, str) and text.isprintable() for text in (model, made_by)):
        refuse("model and software are not plain texts")
    if type(seed) is not int or not 0 <= seed <= MAX_SEED:
        refuse(f"the seed is not a whole number from 0 to {MAX_SEED}")
    if not isinstance(inputs, dict) or not inputs or not all(name.isidentifier() for name in inputs):
        refuse("inputs is not an object of names and values")
    for name, value in inputs.items():
        if not all(map(_is_plain, value if isinstance(value, list) else [value])):
            refuse(f"{name} is not a text, a number, a boolean, null or a list of these")
    inversions = values.get("textual_inversions", [])
    if not isinstance(inversions, list) or not all(map(_is_textual_inversion, inversions)):
        refuse("textual_inversions is not a list of names, numbers of vectors and SHA-256s")
    return Provenance(model, inputs, seed, made_by, tuple(inversions))


def _is_textual_inversion(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"name", "vectors", "sha256"}:
        return False
    texts = (value["name"], value["sha256"])
    return all(isinstance(text, str) and text.isprintable() for text in texts) and type(value["vectors"]) is int


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
