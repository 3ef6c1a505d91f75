"""Specification of script/predict --from, with Cog's real server and a model without weights."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import pictures
import pytest
import videokit
from called_scripts import predict
from videokit.video.encode import encode_gif, encode_mp4
from videokit.video.provenance import Provenance

SOFTWARE = f"one-file 1.0, videokit {videokit.__version__}"
INPUTS = {"mode": "clip", "steps": 3, "seconds": 0.0, "image": None, "seed": None, "hold": None}
DIGEST = f"sha256:{hashlib.sha256(b'a picture').hexdigest()}"


def clip(path: Path, model: str = "one-file", seed: int = 9, software: str = SOFTWARE, **inputs: Any) -> Path:
    """Write a file as the model would write it."""
    encode = {".mp4": encode_mp4, ".gif": encode_gif}[path.suffix]
    frames = list(pictures.gradient(2, 16, 16))
    encode(frames, path, fps=8, provenance=Provenance(model, {**INPUTS, **inputs}, seed, software))
    return path


def again(repository: Path, cwd: Path, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    return predict(repository, cwd, "one-file", *arguments, status=status)


@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_the_inputs_and_the_resolved_seed_come_from_the_file(repository: Path, tmp_path: Path, suffix: str) -> None:
    path = clip(tmp_path / f"clip.{suffix}")
    done = again(repository, tmp_path, "--from", str(path), "-v")
    assert done.stdout.endswith("seed 9\n")
    assert "3/3" in done.stderr
    assert "so the file may differ" not in done.stderr


def test_i_and_json_win_over_the_file(repository: Path, tmp_path: Path) -> None:
    path = clip(tmp_path / "clip.mp4")
    done = again(repository, tmp_path, "--from", str(path), "-v", "-i", "seed=5", "--json", '{"steps": 6, "seed": 4}')
    assert done.stdout.endswith("seed 5\n")
    assert "6/6" in done.stderr


def test_other_versions_are_named_in_one_line(repository: Path, tmp_path: Path) -> None:
    path = clip(tmp_path / "clip.mp4", software="one-file 0.9, videokit 0.0.1")
    done = again(repository, tmp_path, "--from", str(path))
    line = f"{path} is of one-file 0.9, videokit 0.0.1; this is {SOFTWARE}, so the file may differ"
    assert done.stderr.splitlines()[0] == line


def test_a_file_among_the_inputs_has_to_be_given_again(repository: Path, tmp_path: Path) -> None:
    path = clip(tmp_path / "clip.mp4", image=DIGEST)
    (tmp_path / "in.png").write_bytes(b"a picture")
    again(repository, tmp_path, "--from", str(path), "-i", "image=@in.png", "-o", "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == b"from a picture"


@pytest.mark.parametrize("arguments", [[], ["-o", "."]])
@pytest.mark.parametrize("link", [None, "link.mp4"])
def test_without_a_name_of_its_own_the_new_file_does_not_replace_the_old_one(
    repository: Path, tmp_path: Path, arguments: list[str], link: str | None
) -> None:
    old = clip(tmp_path / "one-file.mp4").read_bytes()
    if link:
        (tmp_path / link).symlink_to("one-file.mp4")
    done = again(repository, tmp_path, "--from", link or "one-file.mp4", "-i", "mode=clip", *arguments)
    assert (tmp_path / "one-file.mp4").read_bytes() == old
    assert str(tmp_path / "one-file-again.mp4") in done.stdout
    assert (tmp_path / "one-file-again.mp4").read_bytes() != old


def test_a_name_that_is_given_is_written(repository: Path, tmp_path: Path) -> None:
    old = clip(tmp_path / "one-file.mp4").read_bytes()
    again(repository, tmp_path, "--from", "one-file.mp4", "-o", "one-file.mp4")
    assert (tmp_path / "one-file.mp4").read_bytes() != old


@pytest.mark.parametrize(
    ("arguments", "starts"),
    [
        (["--from", "missing.mp4"], ["--from missing.mp4 is not a file"]),
        (["--from", "text.mp4"], ["--from text.mp4: the file is not an MP4, GIF or PNG"]),
        (["--from", "plain.mp4"], ["--from plain.mp4 states no inputs"]),
        (["--from", "other.mp4"], ["--from other.mp4 is a file of zeroscope: script/predict zeroscope"]),
        (["--from", "image.mp4"], [f"image was a file ({DIGEST}); give it again: -i image=@FILE"]),
        (["--from", "image.mp4", "-i", "image=@text.mp4"], ["image is another file (sha256:"]),
        (["--from", "newer.gif"], ["color is not an input", "steps=0 is less than"]),
        (
            ["--from", "other.mp4", "-i", "steps=0", "-o", "nowhere/x.mp4", "--weights", "nowhere"],
            ["--from other.mp4", "--weights nowhere", "-o nowhere/x.mp4", "steps=0"],
        ),
        (["--from", "image.mp4", "-i", "mode=x"], ["image was a file", "mode='x' is not one of"]),
    ],
)
def test_what_cannot_be_made_again_is_refused_before_a_server_starts(
    repository: Path, tmp_path: Path, arguments: list[str], starts: list[str]
) -> None:
    (tmp_path / "text.mp4").write_bytes(b"any text")
    encode_mp4(list(pictures.gradient(2, 16, 16)), tmp_path / "plain.mp4", fps=8)
    clip(tmp_path / "other.mp4", model="zeroscope")
    clip(tmp_path / "image.mp4", image=DIGEST)
    clip(tmp_path / "newer.gif", color="red", steps=0)
    before = sorted(tmp_path.iterdir())
    done = again(repository, tmp_path, *arguments, status=2)
    assert done.stdout == ""
    for line, start in zip(sorted(done.stderr.splitlines()), sorted(starts), strict=True):
        assert line.startswith(start)
    assert sorted(tmp_path.iterdir()) == before
