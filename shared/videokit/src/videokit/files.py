"""Files that are whole or absent, also when a cancel comes at any moment."""

from __future__ import annotations

import io
import os
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary name in the directory of `path`; rename it to `path` at the end.

    After an exception the temporary file is removed and `path` is what it was before. Two processes may write at once.
    """
    part = path.absolute().with_name(f".{secrets.token_hex(8)}.part")  # absolute: ffmpeg reads "a:b" as a URL
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def unnamed_file(directory: Path) -> io.BufferedRandom:
    """Return an empty file on the disk of `directory`; it has no name, so the system frees its space in every case.

    A cancel is an exception that is raised between two bytecodes. tempfile.TemporaryFile has some between the opening
    and the file object, where it loses the descriptor. Here C code opens the file and removes its name, which is a
    string, because a Path is code of Python.
    """
    name = str(directory / f".{secrets.token_hex(8)}.part")
    [(file, _)] = zip(map(io.FileIO, [name], ["x+"]), map(os.unlink, [name]), strict=True)
    return io.BufferedRandom(file)
