"""Downloads: one file from a URL to the disk, complete and verified, resumed after a break, by one process at a time.

`videokit.weights.store` decides which file comes from which URL, and `videokit.weights.transfer` transfers the bytes.
"""

from __future__ import annotations

import hashlib
import logging
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from videokit.errors import DownloadFailed, WeightsError
from videokit.weights.formats import format_fault
from videokit.weights.transfer import (
    CACHE_ADVICE,
    download_error,
    ensure_disk_space,
    other_sources,
    redact_url,
    size_of,
    transfer,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

logger = logging.getLogger("videokit")


@dataclass(frozen=True)
class Expected:
    """What is known of a file: its size in bytes and its SHA-256, each None if it is not known, and who states it."""

    size: int | None
    sha256: str | None
    stated_by: str = "the weights table"


def check_file(file: Path, expected: Expected) -> str | None:
    """Return how a file differs from what is expected, or None; what is not known is not compared."""
    actual = file.stat().st_size
    if expected.size is not None and actual != expected.size:
        return f"it has {actual} bytes; expected {expected.size}"
    if expected.sha256 is None:
        return None
    digest = sha256_of(file)
    return None if digest == expected.sha256 else f"its SHA-256 is {digest}; expected {expected.sha256}"


def sha256_of(file: Path) -> str:
    """Return a file's SHA-256 in lower-case hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remaining_bytes(target: Path, size: int | None) -> int:
    """Return how many bytes `download` has yet to write for `target`; 0 if the size is unknown."""
    return max(0, (size or 0) - size_of(_part_path(target)))


def download(
    url: str,
    headers: Mapping[str, str],
    target: Path,
    *,
    name: str,
    expected: Expected,
    record: Callable[[int, str], None],
) -> None:
    """Fetch `url` to `target`; return at once if another process has fetched it.

    Received bytes are stored in `<target>.part` until they are verified. They remain there after a break or a cancel,
    and the next call resumes. Without a hash a resumed file could not be verified, so the transfer starts at byte 0;
    then its format is checked, and `record` gets its size and hash. `name` is the file's name in messages. Raises
    DownloadFailed, or WeightsError for wrong bytes.
    """
    part = _part_path(target)
    source = redact_url(url)
    started = time.monotonic()
    verified = expected.sha256 is not None
    fill = partial(transfer, url, headers, part, name=name, size=expected.size, verified=verified)
    try:
        ensure_disk_space(target.parent, 0)
        with locked(target, f"{name}: another process is fetching it"):
            if is_complete(target, name, expected.size):
                return
            if not verified:
                part.unlink(missing_ok=True)
            resumed = fill()
            fault = check_file(part, expected)
            if fault is not None and resumed:
                logger.warning("weights: %s was resumed, but %s; starting again at byte 0", name, fault)
                part.unlink()
                fill()
                fault = check_file(part, expected)
            if fault is not None:
                part.unlink()
                raise WeightsError(
                    f"{name}: {source} does not match {expected.stated_by}: {fault}. {other_sources(name)}"
                )
            if not verified:
                _record(part, name, url, record)
            part.replace(target)
    except OSError as error:
        raise DownloadFailed(f"{name} cannot be stored in {target.parent}: {error}; {CACHE_ADVICE}") from error
    megabytes, seconds = target.stat().st_size / 1e6, time.monotonic() - started
    check = "verified" if verified else "recorded"
    logger.info("weights: %s: %.1f MB from %s in %.1f s, SHA-256 %s", name, megabytes, source, seconds, check)


def is_complete(target: Path, name: str, size: int | None) -> bool:
    """Return whether a file has the size, if that is known, and the format of `name`."""
    return target.is_file() and size in (None, target.stat().st_size) and format_fault(target, name) is None


def _record(part: Path, name: str, url: str, record: Callable[[int, str], None]) -> None:
    """Record a transferred file without a known hash; raise DownloadFailed if it is not of its name's format."""
    if fault := format_fault(part, name):
        part.unlink()
        raise download_error(name, url, f"the received file {fault}")
    record(part.stat().st_size, sha256_of(part))


@contextmanager
def locked(target: Path, reason: str) -> Iterator[None]:
    """Hold the lock of `target` among all processes and threads; `reason` is logged if that takes time."""
    path = target.with_name(f"{target.name}.lock")
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        logger.info("weights: %s; waiting", reason)
        lock.acquire()
    try:
        yield
    finally:
        # Remove the file before the release: a waiting filelock sees that its file is unlinked, and starts over.
        path.unlink(missing_ok=True)
        lock.release()


def _part_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")
