"""Frames of one size in a file on disk. The file has no name, so the system frees its space in every case."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from videokit.files import unnamed_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from videokit.video.frames import Frame


class FrameStore:
    """A list of frames on disk: each takes height * width * 3 bytes of the disk of `directory`, and no memory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._file = unnamed_file(directory)
        self._shape: tuple[int, ...] = ()
        self._length = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Frame]:
        return (self[index] for index in range(self._length))

    def __getitem__(self, index: int) -> Frame:
        """Return one frame; raise IndexError after the last."""
        if not 0 <= index < self._length:
            raise IndexError(f"frame {index} of {self._length}")
        size = int(np.prod(self._shape))
        self._file.seek(index * size)
        return np.frombuffer(self._file.read(size), np.uint8).reshape(self._shape)

    def append(self, frame: Frame) -> None:
        """Add a frame at the end."""
        self._shape = frame.shape
        self._file.seek(0, 2)
        self._file.write(np.ascontiguousarray(frame).data)
        self._length += 1

    def append_each(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Yield the frames, each after it was added."""
        for frame in frames:
            self.append(frame)
            yield frame
