"""What a PNG of a frame contains, and that a cancel leaves no part of one."""

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

PROVENANCE = Provenance("a-model", {"prompt": "é | <x>"}, 5, "a-model 1.0")


def test_a_png_has_the_pixels_of_the_frame(tmp_path: Path) -> None:
    frame = next(natural(1, 70, 40))
    path = write_png(frame, tmp_path / "one.png", PROVENANCE)
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        assert np.array_equal(np.asarray(image), frame)


def test_exiftool_reads_the_provenance(tmp_path: Path) -> None:
    path = write_png(next(natural(1, 32, 32)), tmp_path / "one.png", PROVENANCE)
    done = subprocess.run([needs("exiftool"), "-j", "-n", path], capture_output=True, check=True)
    (tags,) = json.loads(done.stdout)
    assert tags["DigitalSourceType"] == "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    assert tags["CreatorTool"] == "a-model 1.0"
    assert json.loads(tags["Comment"])["inputs"] == {"prompt": "é | <x>"}


def test_a_cancel_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save_and_cancel(self: Image.Image, file: IO[bytes], *_: object, **__: object) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", save_and_cancel)
    with pytest.raises(KeyboardInterrupt):
        write_png(next(natural(1, 32, 32)), tmp_path / "one.png", PROVENANCE)
    assert list(tmp_path.iterdir()) == []
