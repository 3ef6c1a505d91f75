"""The provenance in a file, read by exiftool and ffprobe."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pictures
import pytest
from programs import needs
from videokit.video.encode import encode_gif, encode_mp4
from videokit.video.provenance import Provenance

if TYPE_CHECKING:
    from pathlib import Path

# https://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia
AI_MEDIA = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
TEXT = 'a "red" circle,\n\tmoving <right> & left \\ \0 \x7f é 漢字 🎈 \u2028 \ud800'  # the last is half a pair
PROVENANCE = Provenance(
    model="animate-diff",
    inputs={"prompt": TEXT + "x" * 200_000, "seed": None, "guidance_scale": 7.5},
    seed=2**31 - 1,
    software="animate-diff 0.1.0, videokit 0.1.0",
)
COMMENT = {
    "model": "animate-diff",
    "inputs": {"prompt": TEXT + "x" * 200_000, "seed": None, "guidance_scale": 7.5},
    "seed": 2**31 - 1,
    "software": "animate-diff 0.1.0, videokit 0.1.0",
    "digitalSourceType": AI_MEDIA,
}
both_formats = pytest.mark.parametrize(
    ("encode", "suffix"), [(encode_mp4, "mp4"), (encode_gif, "gif")], ids=["mp4", "gif"]
)


def test_the_comment_is_one_line_of_ascii_json_with_sorted_keys() -> None:
    comment = PROVENANCE.comment()
    assert json.loads(comment) == COMMENT
    assert comment.isascii()
    assert "\n" not in comment
    assert list(json.loads(comment)) == sorted(COMMENT)


def test_the_xmp_packet_is_well_formed_with_any_software_name() -> None:
    packet = Provenance("m", {}, 1, software='a <b> & "c"').xmp()
    root = ElementTree.fromstring(packet)
    description = root.find(".//{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    assert description is not None
    assert description.get("{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType") == AI_MEDIA
    assert description.get("{http://ns.adobe.com/xap/1.0/}CreatorTool") == 'a <b> & "c"'


@both_formats
def test_exiftool_reads_the_comment_and_the_digital_source_type(encode, suffix: str, tmp_path: Path) -> None:
    clip = encode(pictures.gradient(4, 64, 64), tmp_path / f"clip.{suffix}", fps=8, provenance=PROVENANCE)
    command = [needs("exiftool"), "-json", "-groupNames1", "-Comment", "-XMP:all", "-validate", "-warning", clip.path]
    (tags,) = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert tags["XMP-iptcExt:DigitalSourceType"] == AI_MEDIA
    assert tags["XMP-xmp:CreatorTool"] == PROVENANCE.software
    (comment,) = (text for name, text in tags.items() if name.endswith(":Comment"))
    assert json.loads(comment) == COMMENT
    assert tags["ExifTool:Validate"] == "OK"


@both_formats
def test_a_file_with_provenance_decodes_to_the_same_frames(encode, suffix: str, tmp_path: Path) -> None:
    frames = list(pictures.gradient(4, 64, 64))
    plain = encode(frames, tmp_path / f"plain.{suffix}", fps=8)
    with_provenance = encode(frames, tmp_path / f"with_provenance.{suffix}", fps=8, provenance=PROVENANCE)
    assert with_provenance.size > plain.size + 200_000

    def hashes(path: Path) -> bytes:
        command = [needs("ffmpeg"), "-v", "error", "-xerror", "-i", path, "-f", "framemd5", "-"]
        done = subprocess.run(command, check=True, capture_output=True)
        assert done.stderr == b""
        return done.stdout

    assert hashes(plain.path) == hashes(with_provenance.path)


def test_ffprobe_reads_the_comment_of_an_mp4(tmp_path: Path) -> None:
    clip = encode_mp4(pictures.gradient(4, 64, 64), tmp_path / "clip.mp4", fps=8, provenance=PROVENANCE)
    command = [needs("ffprobe"), "-v", "error", "-show_entries", "format_tags", "-of", "json", clip.path]
    tags = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["format"]["tags"]
    assert json.loads(tags["comment"]) == COMMENT
    assert "creation_time" not in tags
    assert "encoder" not in tags
