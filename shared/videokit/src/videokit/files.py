"""Writing files atomically."""

from __future__ import annotations

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
