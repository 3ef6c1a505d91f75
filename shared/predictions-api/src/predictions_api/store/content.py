"""Bytes on disk, kept by their SHA-256: equal files are one file, and a name never shows half of one.

A directory may be shared by several servers (a network file system whose rename is atomic). Which content is still
wanted is known by rows of the table of files: a row is written first, its content is renamed into place second, and
what nobody wants is first put aside and then looked for once more. So a file that is stored while its equal is being
removed is never lost.
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
ABANDONED_AFTER = 3600.0  # seconds after which a part belongs to a server that has died


@dataclass(frozen=True)
class Part:
    """Bytes that are on disk, but not yet under their name."""

    path: Path
    sha256: str
    md5: str
    size: int


class ContentStore:
    """The content below one directory. All methods block: call them in a thread."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, sha256: str) -> Path:
        """Return where the content of this hash lies, or would lie."""
        return self.root / sha256[:2] / sha256

    def write(self, source: BinaryIO, *, at_most: int, too_large: Problem) -> Part:
        """Write `source` to a part; raise `too_large` for more than `at_most` bytes, Problem 503 for a full disk."""
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
        """Give a part its name, over an equal one if there is one."""
        path = self.path(part.sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        part.path.replace(path)

    def put_aside(self, sha256: str) -> Path | None:
        """Take a content's name away; return where it lies now, None where there is no such content."""
        aside = self._temporary_path(sha256)
        aside.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.path(sha256).rename(aside)
        except FileNotFoundError:
            return None
        return aside

    def put_back(self, aside: Path, sha256: str) -> None:
        """Give a content that was put aside its name back, if no other server has done so."""
        with contextlib.suppress(FileNotFoundError):
            aside.replace(self.path(sha256))

    def list_abandoned(self) -> list[tuple[Path, str | None]]:
        """Return what servers that died have left: parts (with None) and content that was put aside (with its hash)."""
        leftovers: list[tuple[Path, str | None]] = []
        for path in self._directory.glob("*"):
            with contextlib.suppress(FileNotFoundError):  # another server looks as well
                if time.time() - path.stat().st_ctime > ABANDONED_AFTER:  # the time of the last write or rename
                    name = path.name.partition(".")[0]
                    leftovers.append((path, None if name == "part" else name))
        return leftovers

    @property
    def _directory(self) -> Path:
        return self.root / "aside"

    def _temporary_path(self, name: str) -> Path:
        return self._directory / f"{name}.{os.getpid()}.{secrets.token_hex(8)}"
