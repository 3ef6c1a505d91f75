"""Bring one file from a URL to its place on disk: whole, verified, resumed after a break, by one process at a time.

It knows nothing of models and places; `videokit.weights.store` decides what comes from where. The HTTP client is
huggingface_hub's for every URL (its proxies, certificates and offline switch). Its hf_hub_download is not used:
that of 2.4 begins at zero in each run, and its hf-xet path stops for no other cancel than KeyboardInterrupt.
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

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import httpx2

STALL_SECONDS = 30.0  # a connection that gives no byte for so long is given up
BACK_OFF = (1.0, 2.0, 4.0, 8.0)  # seconds before each further attempt; any progress starts the row again
LOG_SECONDS = 10.0  # between two lines of progress where no terminal shows a bar

PASSING = (408, 429, 500, 502, 503, 504)  # statuses that may be gone at the next attempt
ADVICE = {
    401: "it must know who asks: for a file of the Hub, set HF_TOKEN to a token that may read it",
    403: "it refuses access: for a file of the Hub, accept the terms on the model's page and set HF_TOKEN",
    404: "there is no such file: mend the weights table, or the prefix in WEIGHTS_MIRROR",
}
ELSEWHERE = "set WEIGHTS_CACHE to a directory elsewhere"

logger = logging.getLogger("videokit")


class _Interrupted(Exception):
    """The transfer broke off in a way that another attempt may mend."""


def file_fault(file: Path, size: int | None, sha256: str | None) -> str | None:
    """Tell whether a file has `size` bytes and this SHA-256; None is not compared."""
    found = file.stat().st_size
    if size is not None and found != size:
        return f"it has {found} bytes; expected {size}"
    if sha256 is None:
        return None
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return None if digest == sha256 else f"its SHA-256 is {digest}; expected {sha256}"


def still_to_come(target: Path, size: int | None) -> int:
    """Return how many bytes `download` has yet to write for `target`; 0 where the size is not known."""
    return max(0, (size or 0) - _length(_part(target)))


def make_room(directory: Path, needed: int) -> None:
    """Make `directory`; raise DownloadFailed unless it can be made and its disk has `needed` bytes free."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(directory).free
    except OSError as error:
        raise DownloadFailed(f"{directory} cannot be used: {error}; {ELSEWHERE}") from error
    if needed > free:
        raise DownloadFailed(
            f"{directory}: {needed} bytes ({needed / 1e9:.2f} GB) are needed, {free} ({free / 1e9:.2f} GB) are free; "
            f"free some, or {ELSEWHERE}"
        )


def download(
    url: str, headers: Mapping[str, str], target: Path, *, name: str, size: int | None, sha256: str | None
) -> None:
    """Fetch `url` to `target`; return at once if another process has done it meanwhile.

    What arrives lies in `<target>.part` until it is verified, and stays there after a break or a cancel: the
    next call goes on from it. Without a hash nothing could tell whose bytes they are, so then it begins anew.
    `name` is what messages call the file. Raises DownloadFailed, or WeightsError for wrong bytes.
    """
    part = _part(target)
    source = _shown(url)
    started = time.monotonic()
    try:
        make_room(target.parent, 0)
        with _alone(target, name):
            if target.is_file() and size in (None, target.stat().st_size):
                return
            if sha256 is None:
                part.unlink(missing_ok=True)
            resumed = _receive(url, headers, part, name, size)
            fault = file_fault(part, size, sha256)
            if fault is not None and resumed:
                logger.warning("weights: %s was resumed, but %s; once more from the beginning", name, fault)
                part.unlink()
                _receive(url, headers, part, name, size)
                fault = file_fault(part, size, sha256)
            if fault is not None:
                part.unlink()
                raise WeightsError(
                    f"{name}: {source} has another file than the weights table: {fault}. {_others(name)}"
                )
            part.replace(target)
    except OSError as error:
        raise DownloadFailed(f"{name} cannot be put into {target.parent}: {error}; {ELSEWHERE}") from error
    megabytes, seconds = target.stat().st_size / 1e6, time.monotonic() - started
    checked = "no SHA-256 to compare" if sha256 is None else "SHA-256 right"
    logger.info("weights: %s: %.1f MB from %s in %.1f s, %s", name, megabytes, source, seconds, checked)


@contextmanager
def _alone(target: Path, name: str) -> Iterator[None]:
    """Hold the lock of `target` among all processes and threads."""
    path = target.with_name(f"{target.name}.lock")
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        logger.info("weights: %s: another process fetches it; waiting", name)
        lock.acquire()
    try:
        yield
    finally:
        # Removed while it is held: filelock sees that a file it has waited for is no longer linked, and starts over.
        path.unlink(missing_ok=True)
        lock.release()


def _receive(url: str, headers: Mapping[str, str], part: Path, name: str, size: int | None) -> bool:
    """Fill `part` over as many connections as that takes; return whether more than one wrote it."""
    import httpx2  # not at the top: it and huggingface_hub take 0.2 s, and most runs fetch nothing

    if size is not None and _length(part) > size:
        part.unlink()
    furthest = _length(part)
    waits = iter(BACK_OFF)
    while True:
        try:
            return _connect(url, headers, part, name, size)
        except (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError, _Interrupted) as error:
            stalled = isinstance(error, httpx2.TimeoutException)
            reason = f"no answer for {STALL_SECONDS:g} s" if stalled else str(error) or type(error).__name__
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise _failure(name, url, str(error)) from error
        have = _length(part)
        if have > furthest:
            furthest, waits = have, iter(BACK_OFF)
        wait = next(waits, None)
        if wait is None:
            raise _failure(name, url, f"{reason}, {len(BACK_OFF) + 1} times in a row; try again later")
        logger.warning("weights: %s: %s, after %d bytes; once more in %g s", name, reason, have, wait)
        time.sleep(wait)


def _connect(url: str, headers: Mapping[str, str], part: Path, name: str, size: int | None) -> bool:
    """Add to `part` what one connection gives, to the end; return whether it held something before."""
    from huggingface_hub import get_session

    offset = _length(part)
    if offset and offset == size:
        return True
    # Compressed, the length and the ranges would be those of other bytes.
    asked = {**headers, "Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
    with get_session().stream("GET", url, headers=asked, timeout=STALL_SECONDS, follow_redirects=True) as response:
        if response.status_code == 416:
            part.unlink()
            raise _Interrupted("what an earlier run left is no beginning of the file")
        _check_status(response, name, url)
        if response.status_code != 206:  # the server knows no ranges and begins at the first byte
            offset = 0
        length = response.headers.get("Content-Length")
        total = size if length is None else offset + int(length)
        if size is not None and total != size:
            raise WeightsError(f"{name}: {_shown(url)} has {total} bytes; expected {size}. {_others(name)}")
        make_room(part.parent, (total or 0) - offset)
        have = offset
        with part.open("ab" if offset else "wb") as file, _bar(name, total, offset) as bar:
            for chunk in response.iter_bytes():
                have += file.write(chunk)
                bar.update(len(chunk))
                if size is not None and have > size:
                    return offset > 0  # no use in more: the file's size tells that it is wrong
    if total is not None and have < total:
        raise _Interrupted("the connection ended early")
    return offset > 0


def _part(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _length(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _check_status(response: httpx2.Response, name: str, url: str) -> None:
    if response.is_success:
        return
    answer = f"answered {response.status_code} {response.reason_phrase}"
    if response.status_code in PASSING:
        raise _Interrupted(answer)
    raise _failure(name, url, f"{answer}; {ADVICE.get(response.status_code, 'see what the server wants')}")


def _failure(name: str, url: str, what: str) -> DownloadFailed:
    return DownloadFailed(f"{name}: {_shown(url)}: {what}. {_others(name)}")


def _others(name: str) -> str:
    return f"Other sources: WEIGHTS_MIRROR=https://host/prefix, or WEIGHTS=DIR with DIR/{name}"


def _shown(url: str) -> str:
    """Return `url` without what may be secret: a password, a signed query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class _Lines:
    """A stream for tqdm that writes each state of a bar as a line of its own, for logs."""

    def write(self, text: str) -> None:
        if text := text.strip("\r\n "):
            sys.stderr.write(f"{text}\n")

    def flush(self) -> None:
        sys.stderr.flush()


def _bar(name: str, total: int | None, offset: int) -> tqdm[NoReturn]:
    terminal = sys.stderr.isatty()
    return tqdm(
        desc=f"weights: {name}",
        total=total,
        initial=offset,
        unit="B",
        unit_scale=True,
        mininterval=0.1 if terminal else LOG_SECONDS,
        file=sys.stderr if terminal else _Lines(),
    )
