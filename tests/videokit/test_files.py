"""Files are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from cancels import cancelled_at_every_moment
from videokit.files import atomic_write, unnamed_file


def test_the_file_appears_at_the_end_and_nothing_else_remains(tmp_path: Path) -> None:
    target = tmp_path / "clip.mp4"
    with atomic_write(target) as part:
        part.write_text("half")
        assert part.parent == tmp_path
        assert not target.exists()
        part.write_text("whole")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"clip.mp4": "whole"}


def test_a_second_write_replaces_the_file_at_once(tmp_path: Path) -> None:
    target = tmp_path / "clip.mp4"
    target.write_text("old")
    with atomic_write(target) as part:
        part.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("old", ["old", None])
def test_an_exception_leaves_the_directory_as_it_was(
    error: type[BaseException], old: str | None, tmp_path: Path
) -> None:
    target = tmp_path / "clip.mp4"
    if old is not None:
        target.write_text(old)
    with pytest.raises(error), atomic_write(target) as part:
        part.write_text("half")
        raise error
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == ({} if old is None else {"clip.mp4": old})


def test_a_block_that_writes_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "clip.mp4"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    target = tmp_path / "clip.mp4"
    with atomic_write(target) as first:
        with atomic_write(target) as second:
            first.write_text("first")
            second.write_text("second")
        assert target.read_text() == "second"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"clip.mp4": "first"}


def test_the_path_may_be_relative_and_look_like_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with atomic_write(Path("data:clip.mp4")) as part:
        assert part.is_absolute()
        part.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["data:clip.mp4"]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the cancelled call's file is closed by its destructor
def test_a_cancel_at_any_moment_leaves_no_name_of_an_unnamed_file(tmp_path: Path) -> None:
    for number in cancelled_at_every_moment(lambda: unnamed_file(tmp_path).close(), ("/files.py", "/pathlib.py")):
        assert list(tmp_path.iterdir()) == [], number
    assert number > 20
