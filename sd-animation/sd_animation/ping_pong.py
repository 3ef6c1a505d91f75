"""Ping-pong clips: the frames, then the same frames in reverse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from videokit.video.frame_store import FrameStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from videokit.video.frames import Frame


def ping_pong(frames: Iterable[Frame], directory: Path) -> Iterator[Frame]:
    """Yield the frames, then the same ones in reverse without the first and the last, read back from disk."""
    with FrameStore(directory) as store:
        yield from store.append_each(frames)
        for index in reversed(range(1, len(store) - 1)):
            yield store[index]
