"""Downloads: one file from a URL to the disk, complete and verified, resumed after a break, by one process at a time.

`videokit.weights.store` decides which file comes from which URL. The HTTP client is huggingface_hub's for every URL,
with its proxies, certificates and offline switch. Its hf_hub_download is not used: version 2.4 starts at byte 0 in each
run, and its hf-xet transfer stops for KeyboardInterrupt only, not for other cancels.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from tqdm import tqdm

from videokit.errors import DownloadFailed, WeightsError
from videokit.progress import LineStream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import httpx2

STALL_SECONDS = 30.0  # without a byte, after which a connection is closed
BACK_OFF = (1.0, 2.0, 4.0, 8.0)  # seconds before each further attempt; progress resets them
LOG_SECONDS = 10.0  # between two progress lines if standard error is not a terminal

RETRY_STATUSES = (408, 429, 500, 502, 503, 504)
STATUS_ADVICE = {
    401: "it needs a token: for a file of the Hub, set HF_TOKEN to a token that may read the file",
    403: "it refuses access: for a file of the Hub, accept the terms on the model's page and set HF_TOKEN",
    404: "the file is missing: correct the weights table, or the prefix in WEIGHTS_MIRROR",
}
CACHE_ADVICE = "set WEIGHTS_CACHE to another directory"

logger = logging.getLogger("videokit")


class _TransferInterrupted(Exception):
    """The transfer ended early; another attempt may succeed."""


def check_file(file: Path, size: int | None, sha256: str | None) -> str | None:
    """Return what is wrong with a file that should have `size` bytes and this SHA-256, or None.

    A size or hash of None is not compared.
    """
    actual = file.stat().st_size
    if size is not None and actual != size:
        return f"it has {actual} bytes; expected {size}"
    if sha256 is None:
        return None
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return None if digest == sha256 else f"its SHA-256 is {digest}; expected {sha256}"


def remaining_bytes(target: Path, size: int | None) -> int:
    """Return how many bytes `download` has yet to write for `target`; 0 if the size is unknown."""
    return max(0, (size or 0) - _size_of(_part_path(target)))


def ensure_disk_space(directory: Path, needed: int) -> None:
    """Create `directory`; raise DownloadFailed if that fails or its disk has fewer than `needed` bytes free."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(directory).free
    except OSError as error:
        raise DownloadFailed(f"{directory} cannot be used: {error}; {CACHE_ADVICE}") from error
    if needed > free:
        raise DownloadFailed(
            f"{directory}: {needed} bytes ({needed / 1e9:.2f} GB) are needed, {free} ({free / 1e9:.2f} GB) are free; "
            f"free some, or {CACHE_ADVICE}"
        )


def download(
    url: str, headers: Mapping[str, str], target: Path, *, name: str, size: int | None, sha256: str | None
) -> None:
    """Fetch `url` to `target`; return at once if another process has fetched it.

    Received bytes are stored in `<target>.part` until they are verified. They remain there after a break or a cancel,
    and the next call resumes. Without a hash a resumed file could not be verified, so the transfer starts at byte 0.
    `name` is the file's name in messages. Raises DownloadFailed, or WeightsError for wrong bytes.
    """
    part = _part_path(target)
    source = _redact_url(url)
    started = time.monotonic()
    try:
        ensure_disk_space(target.parent, 0)
        with _lock(target, name):
            if target.is_file() and size in (None, target.stat().st_size):
                return
            if sha256 is None:
                part.unlink(missing_ok=True)
            resumed = _fetch_with_retries(url, headers, part, name, size)
            fault = check_file(part, size, sha256)
            if fault is not None and resumed:
                logger.warning("weights: %s was resumed, but %s; starting again at byte 0", name, fault)
                part.unlink()
                _fetch_with_retries(url, headers, part, name, size)
                fault = check_file(part, size, sha256)
            if fault is not None:
                part.unlink()
                raise WeightsError(
                    f"{name}: {source} does not match the weights table: {fault}. {_other_sources(name)}"
                )
            part.replace(target)
    except OSError as error:
        raise DownloadFailed(f"{name} cannot be stored in {target.parent}: {error}; {CACHE_ADVICE}") from error
    megabytes, seconds = target.stat().st_size / 1e6, time.monotonic() - started
    verified = "no SHA-256 to compare" if sha256 is None else "SHA-256 verified"
    logger.info("weights: %s: %.1f MB from %s in %.1f s, %s", name, megabytes, source, seconds, verified)


@contextmanager
def _lock(target: Path, name: str) -> Iterator[None]:
    """Hold the lock of `target` among all processes and threads."""
    path = target.with_name(f"{target.name}.lock")
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        logger.info("weights: %s: another process is fetching it; waiting", name)
        lock.acquire()
    try:
        yield
    finally:
        # Remove the file before the release: a waiting filelock sees that its file is unlinked, and starts over.
        path.unlink(missing_ok=True)
        lock.release()


def _fetch_with_retries(url: str, headers: Mapping[str, str], part: Path, name: str, size: int | None) -> bool:
    """Fill `part`, over several connections if needed; return whether more than one wrote to it."""
    import httpx2  # imported here: with huggingface_hub it takes 0.2 s, and most runs fetch nothing

    if size is not None and _size_of(part) > size:
        part.unlink()
    furthest = _size_of(part)
    waits = iter(BACK_OFF)
    while True:
        try:
            return _fetch_once(url, headers, part, name, size)
        except (
            httpx2.TimeoutException,
            httpx2.NetworkError,
            httpx2.RemoteProtocolError,
            _TransferInterrupted,
        ) as error:
            stalled = isinstance(error, httpx2.TimeoutException)
            reason = f"no answer for {STALL_SECONDS:g} s" if stalled else str(error) or type(error).__name__
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise _download_error(name, url, str(error)) from error
        received = _size_of(part)
        if received > furthest:
            furthest, waits = received, iter(BACK_OFF)
        wait = next(waits, None)
        if wait is None:
            raise _download_error(name, url, f"{reason}, {len(BACK_OFF) + 1} times in a row; try again later")
        logger.warning("weights: %s: %s after %d bytes; trying again in %g s", name, reason, received, wait)
        time.sleep(wait)


def _fetch_once(url: str, headers: Mapping[str, str], part: Path, name: str, size: int | None) -> bool:
    """Append to `part` over one connection until the file is complete; return whether `part` had bytes before."""
    from huggingface_hub import get_session

    offset = _size_of(part)
    if offset and offset == size:
        return True
    # "identity", because a compressed answer has the length and ranges of other bytes.
    headers = {**headers, "Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
    with get_session().stream("GET", url, headers=headers, timeout=STALL_SECONDS, follow_redirects=True) as response:
        if response.status_code == 416:
            part.unlink()
            raise _TransferInterrupted(f"the file has no byte {offset}, so the part of an earlier run was removed")
        _check_status(response, name, url)
        if response.status_code != 206:  # the server ignored the range and starts at byte 0
            offset = 0
        length = response.headers.get("Content-Length")
        total = size if length is None else offset + int(length)
        if size is not None and total != size:
            raise WeightsError(f"{name}: {_redact_url(url)} has {total} bytes; expected {size}. {_other_sources(name)}")
        ensure_disk_space(part.parent, (total or 0) - offset)
        received = offset
        with part.open("ab" if offset else "wb") as file, _progress_bar(name, total, offset) as bar:
            for chunk in response.iter_bytes():
                received += file.write(chunk)
                bar.update(len(chunk))
                if size is not None and received > size:
                    return offset > 0  # too long; the caller compares the size
    if total is not None and received < total:
        raise _TransferInterrupted("the connection ended early")
    return offset > 0


def _part_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _size_of(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _check_status(response: httpx2.Response, name: str, url: str) -> None:
    """Raise _TransferInterrupted for a status that may pass, DownloadFailed for any other error status."""
    if response.is_success:
        return
    answer = f"answered {response.status_code} {response.reason_phrase}"
    if response.status_code in RETRY_STATUSES:
        raise _TransferInterrupted(answer)
    advice = STATUS_ADVICE.get(response.status_code, "see the server's documentation")
    raise _download_error(name, url, f"{answer}; {advice}")


def _download_error(name: str, url: str, reason: str) -> DownloadFailed:
    return DownloadFailed(f"{name}: {_redact_url(url)}: {reason}. {_other_sources(name)}")


def _other_sources(name: str) -> str:
    return f"Other sources: WEIGHTS_MIRROR=https://host/prefix, or WEIGHTS=DIR with DIR/{name}"


def _redact_url(url: str) -> str:
    """Return `url` without its password and query (a signed URL), which may be secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _progress_bar(name: str, total: int | None, offset: int) -> tqdm[NoReturn]:
    terminal = sys.stderr.isatty()
    return tqdm(
        desc=f"weights: {name}",
        total=total,
        initial=offset,
        unit="B",
        unit_scale=True,
        mininterval=0.1 if terminal else LOG_SECONDS,
        file=sys.stderr if terminal else LineStream(),
    )
