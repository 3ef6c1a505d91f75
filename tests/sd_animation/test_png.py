"""One PNG: the frame without loss, its provenance, and whole or not at all."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from pictures import natural
from PIL import Image
from programs import needs
from sd_animation.png import write_png
from videokit.video.provenance import Provenance

NOTES = Provenance("a-model", {"prompt": "é | <x>"}, 5, "a-model 1.0")


def test_the_picture_is_the_frame_without_loss(tmp_path: Path) -> None:
    frame = next(natural(1, 70, 40))
    path = write_png(frame, tmp_path / "one.png", NOTES)
    with Image.open(path) as picture:
        assert (picture.format, picture.mode) == ("PNG", "RGB")
        assert np.array_equal(np.asarray(picture), frame)


def test_exiftool_reads_who_made_it_and_from_what(tmp_path: Path) -> None:
    path = write_png(next(natural(1, 32, 32)), tmp_path / "one.png", NOTES)
    done = subprocess.run([needs("exiftool"), "-j", "-n", path], capture_output=True, check=True)
    (tags,) = json.loads(done.stdout)
    assert tags["DigitalSourceType"] == "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    assert tags["CreatorTool"] == "a-model 1.0"
    assert json.loads(tags["Comment"])["inputs"] == {"prompt": "é | <x>"}


def test_a_cancel_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cancelled(self: Image.Image, file: IO[bytes], *_: object, **__: object) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", cancelled)
    with pytest.raises(KeyboardInterrupt):
        write_png(next(natural(1, 32, 32)), tmp_path / "one.png", NOTES)
    assert list(tmp_path.iterdir()) == []
