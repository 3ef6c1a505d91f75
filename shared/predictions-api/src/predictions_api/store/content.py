"""Store bytes on disk by their SHA-256. Equal files share one path, and a path never holds an incomplete file.

Several servers may share the directory, on a network file system whose rename is atomic. A row of the table of files
is written before its content is renamed into place. Unreferenced content is moved aside, and the table is checked again
before it is deleted, so a file stored during that removal is not lost.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from predictions_api.errors import Problem, unavailable

if TYPE_CHECKING:
    from pathlib import Path

CHUNK = 1 << 20
ABANDONED_AFTER = 3600.0  # seconds; an older temporary file was left by a server that crashed


@dataclass(frozen=True)
class Part:
    """Content on disk that `commit` has not yet moved to its path."""

    path: Path
    sha256: str
    md5: str
    size: int


class ContentStore:
    """The content below one directory. All methods block, so call them in a thread."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._directory = root / "aside"  # of temporary files

    def path(self, sha256: str) -> Path:
        """Return the path for content with this hash, stored or not."""
        return self.root / sha256[:2] / sha256

    def write(self, source: BinaryIO, *, at_most: int, too_large: Problem) -> Part:
        """Write `source` to a part. Raises `too_large` above `at_most` bytes, and Problem 503 for a full disk."""
        part = self._temporary_path("part")
        sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            with part.open("xb") as file:
                while chunk := source.read(CHUNK):
                    size += len(chunk)
                    if size > at_most:
                        raise too_large
                    sha256.update(chunk)
                    md5.update(chunk)
                    file.write(chunk)
        except BaseException as error:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise unavailable(f"The file cannot be stored now: {error.strerror}") from error
            raise
        return Part(part, sha256.hexdigest(), md5.hexdigest(), size)

    def commit(self, part: Part) -> None:
        """Move a part to the path of its content. Equal content is overwritten."""
        path = self.path(part.sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        part.path.replace(path)

    def put_aside(self, sha256: str) -> Path | None:
        """Move content to a temporary path and return that path, or None if the content is missing."""
        aside = self._temporary_path(sha256)
        aside.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.path(sha256).rename(aside)
        except FileNotFoundError:
            return None
        return aside

    def put_back(self, aside: Path, sha256: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            aside.replace(self.path(sha256))

    def list_abandoned(self) -> list[tuple[Path, str | None]]:
        """Return (path, SHA-256) of temporary files that crashed servers left. The hash is None for parts."""
        abandoned: list[tuple[Path, str | None]] = []
        for path in self._directory.glob("*"):
            with contextlib.suppress(FileNotFoundError):  # another server may remove it at the same time
                if time.time() - path.stat().st_ctime > ABANDONED_AFTER:  # st_ctime: last write or rename
                    name = path.name.partition(".")[0]
                    abandoned.append((path, None if name == "part" else name))
        return abandoned

    def _temporary_path(self, name: str) -> Path:
        return self._directory / f"{name}.{os.getpid()}.{secrets.token_hex(8)}"
