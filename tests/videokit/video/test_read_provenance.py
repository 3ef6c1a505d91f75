"""The comment of a file, read back: the files of the encoders, signed ones, and comments that nobody should write."""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pictures
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from videokit.errors import InvalidInput
from videokit.video.encode import encode_gif, encode_mp4
from videokit.video.provenance import Provenance, read_provenance

TEXT = 'a "red" circle,\n\tmoving <right> & left \\ \0 \x7f é 漢字 🎈 \u2028 \ud800'  # the last is half a pair
PROVENANCE = Provenance(
    "a-model", {"prompt": TEXT, "fps": 8, "strength": 0.5, "init_video": None, "loop": True, "words": ["a"]}, 7, "m 1"
)
DOCUMENT = {**asdict(PROVENANCE), "digitalSourceType": "x"}


def write(path: Path, comment: str) -> Path:
    """Write a small PNG with any comment."""
    chunks = PngInfo()
    chunks.add_text("Comment", comment)
    Image.new("RGB", (1, 1)).save(path, pnginfo=chunks)
    return path


@pytest.mark.parametrize(("encode", "suffix"), [(encode_mp4, "mp4"), (encode_gif, "gif")], ids=["mp4", "gif"])
@pytest.mark.parametrize("length", [0, 300_000])
def test_a_clip_states_what_was_written_into_it(encode: Any, suffix: str, length: int, tmp_path: Path) -> None:
    inputs = {**PROVENANCE.inputs, "prompt": TEXT + "漢" * length}
    provenance = Provenance("a-model", inputs, 2**31 - 1, "m 1")
    path = tmp_path / f"clip.{suffix}"
    encode(list(pictures.gradient(4, 64, 64)), path, fps=8, provenance=provenance)
    assert read_provenance(path) == provenance


def test_a_png_states_what_was_written_into_it(tmp_path: Path) -> None:
    assert read_provenance(write(tmp_path / "one.png", PROVENANCE.comment())) == PROVENANCE


def test_textual_inversions_are_stated_only_if_there_are_any(tmp_path: Path) -> None:
    named = replace(PROVENANCE, textual_inversions=({"name": "bad-hands", "vectors": 6, "sha256": "0f" * 32},))
    assert read_provenance(write(tmp_path / "one.png", named.comment())) == named
    assert "textual_inversions" not in PROVENANCE.comment()
    # the comment of a file without any is what it was before they were known
    assert json.loads(PROVENANCE.comment()).keys() == {"model", "inputs", "seed", "software", "digitalSourceType"}


@pytest.mark.parametrize(
    "value",
    [
        3,
        {},
        "a",
        ["a"],
        [{"name": "a"}],
        [{"name": "a", "vectors": "1", "sha256": "b"}],
        [{"name": "a\n", "vectors": 1, "sha256": "b"}],
        [{"name": "a", "vectors": 1, "sha256": "b", "more": 1}],
    ],
)
def test_other_values_for_textual_inversions_are_refused(value: object, tmp_path: Path) -> None:
    comment = json.dumps({**json.loads(PROVENANCE.comment()), "textual_inversions": value})
    with pytest.raises(InvalidInput, match="textual_inversions is not a list of names"):
        read_provenance(write(tmp_path / "one.png", comment))


@pytest.mark.parametrize(("encode", "suffix"), [(encode_mp4, "mp4"), (encode_gif, "gif")], ids=["mp4", "gif"])
def test_a_clip_without_a_comment_is_refused(encode: Any, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"clip.{suffix}"
    encode(list(pictures.gradient(4, 64, 64)), path, fps=8)
    with pytest.raises(InvalidInput, match=f"clip.{suffix} states no inputs"):
        read_provenance(path)


@pytest.mark.parametrize(
    ("comment", "message"),
    [
        ("made by hand", "is not JSON"),
        ("", "is not JSON"),
        ('{"model": NaN}', "NaN is not a number"),
        ("[" * 100_000, "nested too deeply"),
        ('{"inputs":' * 100_000, "nested too deeply"),
        ("9" * 10_000, "digits"),
        ("null", "other keys"),
        ("{}", "other keys"),
        (json.dumps({**DOCUMENT, "more": 1}), "other keys"),
        (json.dumps({**DOCUMENT, "model": 5}), "model and software"),
        (json.dumps({**DOCUMENT, "software": "\x1b[2J"}), "model and software"),
        (json.dumps({**DOCUMENT, "seed": None}), "the seed"),
        (json.dumps({**DOCUMENT, "seed": True}), "the seed"),
        (json.dumps({**DOCUMENT, "seed": -1}), "the seed"),
        (json.dumps({**DOCUMENT, "seed": 2**31}), "the seed"),
        (json.dumps({**DOCUMENT, "inputs": []}), "inputs is not"),
        (json.dumps({**DOCUMENT, "inputs": {}}), "inputs is not"),
        (json.dumps({**DOCUMENT, "inputs": {"\x1b[2J": 1}}), "inputs is not"),
        (json.dumps({**DOCUMENT, "inputs": {"prompt": {"a": 1}}}), "prompt is not a text"),
        (json.dumps({**DOCUMENT, "inputs": {"words": [["a"]]}}), "words is not a text"),
        (json.dumps(DOCUMENT).replace("0.5", "1e999"), "strength is not a text"),
        (f'"{"x" * 4_000_000}"', r"the comment has 4000002 bytes \(at most 4000000\)"),
    ],
    ids=range(22),
)
def test_a_comment_that_no_model_writes_is_refused(comment: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=message) as raised:
        read_provenance(write(tmp_path / "one.png", comment))
    assert len(raised.value.faults) == 1
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < len(str(tmp_path)) + 200


def box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), name) + content


GIF = b"GIF89a" + bytes(7)
PNG = b"\x89PNG\r\n\x1a\n"
FTYP = box(b"ftyp", b"isom")
CASES = {
    "empty": (b"", "empty file"),
    "text": (b"any text", "is not an MP4, GIF or PNG"),
    "PNG that ends": (PNG + b"\0\0\0\x01IHDR", "damaged"),
    "PNG with a long chunk": (PNG + struct.pack(">I4s", 2**32 - 1, b"tEXt") + b"Comment\0", "4294967287 bytes"),
    "PNG without a comment": (PNG + struct.pack(">I4s", 0, b"IEND"), "states no inputs"),
    "GIF that ends": (GIF, "damaged"),
    "GIF with an unknown block": (GIF + b"x", "damaged"),
    "GIF with a long comment": (GIF + b"!\xfe" + (b"\xff" + b" " * 255) * 20_000 + b"\0;", "more than 4000000 bytes"),
    "GIF without a comment": (GIF + b";", "states no inputs"),
    "MP4 without an index": (FTYP, "states no inputs"),
    "MP4 with a box of size 4": (FTYP + struct.pack(">I4s", 4, b"free"), "damaged"),
    "MP4 with a box of 2**64 bytes": (FTYP + struct.pack(">I4sQ", 1, b"free", 2**64 - 1), "states no inputs"),
    "MP4 with an index that ends": (FTYP + struct.pack(">I4s", 10**6, b"moov"), "states no inputs"),
    "MP4 with a short comment": (
        FTYP + box(b"moov", box(b"udta", box(b"meta", bytes(4) + box(b"ilst", box(b"\xa9cmt", box(b"data", b"")))))),
        "damaged",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_damaged_file_is_refused(case: str, tmp_path: Path) -> None:
    content, message = CASES[case]
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InvalidInput, match=message):
        read_provenance(tmp_path / "file")


@pytest.mark.parametrize("suffix", ["mp4", "gif", "png"])
def test_a_file_cut_or_changed_anywhere_gives_its_provenance_or_a_clear_error(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"clip.{suffix}"
    if suffix == "png":
        write(path, PROVENANCE.comment())
    else:
        encode = {"mp4": encode_mp4, "gif": encode_gif}[suffix]
        encode(list(pictures.gradient(2, 32, 32)), path, fps=8, provenance=PROVENANCE)
    whole = path.read_bytes()
    for at in range(0, len(whole), 23):
        for content in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]):
            path.write_bytes(content)
            try:
                assert isinstance(read_provenance(path), Provenance)
            except InvalidInput as error:
                assert len(error.faults) == 1


@pytest.mark.parametrize("start", [PNG, GIF, FTYP], ids=["png", "gif", "mp4"])
def test_a_file_of_millions_of_empty_blocks_is_refused(start: bytes, tmp_path: Path) -> None:
    blocks = {PNG: b"\0\0\0\0tIME\0\0\0\0", GIF: b"!\x01\0", FTYP: b"\0\0\0\x08free"}
    (tmp_path / "file").write_bytes(start + blocks[start] * 3_000_000)
    with pytest.raises(InvalidInput, match="too large"):
        read_provenance(tmp_path / "file")


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.mp4", Path("/dev/zero")):
        with pytest.raises(InvalidInput, match="is not a file"):
            read_provenance(path)
