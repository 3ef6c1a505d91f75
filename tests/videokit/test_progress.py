"""Progress bars in logs."""

from __future__ import annotations

import re
import threading

import pytest
from videokit.progress import LineStream, progress


def test_progress_lines_match_the_pattern_of_replicates_client(capsys: pytest.CaptureFixture[str]) -> None:
    # replicate-python@1.0.7 replicate/prediction.py, Prediction.Progress
    pattern = re.compile(r"^(?P<percentage>\d+)%\s*\|.+?\|\s*(?P<current>\d+)\/(?P<total>\d+)")
    assert list(progress(range(3), "denoise")) == [0, 1, 2]
    lines = capsys.readouterr().err.splitlines()
    matches = [pattern.match(line) for line in lines]
    assert all(matches)
    assert matches[0] and matches[0]["percentage"] == "0"
    assert matches[-1] and matches[-1].groupdict() == {"percentage": "100", "current": "3", "total": "3"}


def test_progress_starts_no_thread() -> None:
    before = threading.enumerate()
    assert list(progress(range(3), "denoise")) == [0, 1, 2]
    assert threading.enumerate() == before


def test_cancelled_progress_does_not_reach_100_percent(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        for item in progress(range(100), "denoise"):
            if item == 1:
                raise KeyboardInterrupt
    assert "100%" not in capsys.readouterr().err


def test_a_repeated_update_is_written_once(capsys: pytest.CaptureFixture[str]) -> None:
    stream = LineStream()
    for text in ("\r 50%", "\r 50%", "\n", "\r100%"):
        stream.write(text)
    assert capsys.readouterr().err == "50%\n100%\n"
