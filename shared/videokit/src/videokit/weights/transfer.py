"""One transfer: the bytes of a URL appended to a file, over as many connections as are needed.

The HTTP client is huggingface_hub's for every URL, with its proxies, certificates and offline switch. Its
hf_hub_download is not used: version 2.4 starts at byte 0 in each run, and its hf-xet transfer stops for
KeyboardInterrupt only, not for other cancels.
"""

from __future__ import annotations

import logging
import re
import shutil
import sys
import time
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

from tqdm import tqdm

from videokit.errors import DownloadFailed, WeightsError
from videokit.progress import LineStream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import httpx2

STALL_SECONDS = 30.0  # without a byte, after which a connection is closed
BACK_OFF = (1.0, 2.0, 4.0, 8.0)  # seconds before each further attempt; progress resets them
# Bytes that count as progress, or a hundredth of the file's size if that is less: a server that closes every connection
# after a few bytes is not tried forever.
PROGRESS_BYTES = 1_000_000
MAX_BYTES = 20_000_000_000  # of a file whose size is unknown; the largest known here has 2.8 GB
LOG_SECONDS = 10.0  # between two progress lines if standard error is not a terminal

RETRY_STATUSES = (408, 429, 500, 502, 503, 504)
STATUS_ADVICE = {
    401: "it needs a token: for a file of the Hub, set HF_TOKEN to a token that may read the file",
    403: "it refuses access: for a file of the Hub, accept the terms on the model's page and set HF_TOKEN",
    404: "the file is missing: correct the weights table, or the prefix in WEIGHTS_MIRROR",
}
PAGE_ADVICE = "if it is a sign-in page of the Hub, accept the terms on the model's page and set HF_TOKEN"
LIMIT_ADVICE = "the file in the weights table is not as large"
CACHE_ADVICE = "set WEIGHTS_CACHE to another directory"

logger = logging.getLogger("videokit")


class _TransferInterrupted(Exception):
    """The transfer ended early; another attempt may succeed."""


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


def transfer(url: str, headers: Mapping[str, str], part: Path, *, name: str, size: int | None, verified: bool) -> bool:
    """Fill `part`, over several connections if needed; return whether more than one wrote to it.

    `name` is the file's name in messages. `verified` says whether the caller compares a hash, so that a web page need
    not be refused. Raises DownloadFailed, WeightsError for another size than `size`, or OSError.
    """
    import httpx2  # imported here: with huggingface_hub it takes 0.2 s, and most runs fetch nothing

    if size is not None and size_of(part) > size:
        part.unlink()
    furthest = size_of(part)
    progress = PROGRESS_BYTES if size is None else min(PROGRESS_BYTES, size // 100)
    waits = iter(BACK_OFF)
    while True:
        try:
            return _transfer_once(url, headers, part, name, size, verified=verified)
        except (
            httpx2.TimeoutException,
            httpx2.NetworkError,
            httpx2.RemoteProtocolError,
            _TransferInterrupted,
        ) as error:
            stalled = isinstance(error, httpx2.TimeoutException)
            reason = f"no answer for {STALL_SECONDS:g} s" if stalled else str(error) or type(error).__name__
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise download_error(name, url, str(error)) from error
        received = size_of(part)
        if received > furthest + progress:
            furthest, waits = received, iter(BACK_OFF)
        wait = next(waits, None)
        if wait is None:
            raise download_error(name, url, f"{reason}, {len(BACK_OFF) + 1} times in a row; try again later")
        logger.warning("weights: %s: %s after %d bytes; trying again in %g s", name, reason, received, wait)
        time.sleep(wait)


def _transfer_once(
    url: str, headers: Mapping[str, str], part: Path, name: str, size: int | None, *, verified: bool
) -> bool:
    """Append to `part` over one connection until the file is complete; return whether `part` had bytes before."""
    from huggingface_hub import get_session

    offset = size_of(part)
    if offset and offset == size:
        return True
    # "identity", because a compressed answer has the length and ranges of other bytes.
    headers = {**headers, "Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
    with get_session().stream("GET", url, headers=headers, timeout=STALL_SECONDS, follow_redirects=True) as response:
        if response.status_code == 416:
            part.unlink(missing_ok=True)
            raise _TransferInterrupted(f"the file has no byte {offset}, so the part of an earlier run was removed")
        _check_status(response, name, url)
        if response.status_code != 206:  # the server ignored the range and starts at byte 0
            offset = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            part.unlink(missing_ok=True)
            raise _TransferInterrupted("the server sent another range than was requested")
        length = response.headers.get("Content-Length")
        total = size if length is None else offset + int(length)
        page = response.headers.get("Content-Type", "").startswith("text/html")
        if page and (total != size or not verified):
            raise download_error(name, url, f"answered with a web page; {PAGE_ADVICE}")
        if size is not None and total != size:
            raise WeightsError(f"{name}: {redact_url(url)} has {total} bytes; expected {size}. {other_sources(name)}")
        limit = MAX_BYTES if size is None else size
        if total is not None and total > limit:
            raise download_error(name, url, f"has {total} bytes; {LIMIT_ADVICE}")
        ensure_disk_space(part.parent, (total or 0) - offset)
        received = offset
        with part.open("ab" if offset else "wb") as file, _progress_bar(name, total, offset) as bar:
            for chunk in response.iter_bytes():
                received += file.write(chunk)
                bar.update(len(chunk))
                if received > limit:
                    break
        if received > limit and size is None:
            part.unlink()
            raise download_error(name, url, f"sent more than {limit} bytes; {LIMIT_ADVICE}")
    if received > limit:
        return offset > 0  # too long; the caller compares the size
    if total is not None and received < total:
        raise _TransferInterrupted("the connection ended early")
    return offset > 0


def size_of(file: Path) -> int:
    """Return the bytes of a file, 0 if it is missing."""
    return file.stat().st_size if file.exists() else 0


def total_size(sizes: Sequence[int | None]) -> str:
    """Return the sum of sizes of files as a text, such as `2.13 GB`; None is an unknown size."""
    text = re.sub(r"(?=[kMGT]?B)", " ", tqdm.format_sizeof(sum(size or 0 for size in sizes), "B"), count=1)
    if None not in sizes:
        return text
    return f"{text} or more" if any(sizes) else "unknown"


def _check_status(response: httpx2.Response, name: str, url: str) -> None:
    """Raise _TransferInterrupted for a status that may pass, DownloadFailed for any other error status."""
    if response.is_success:
        return
    answer = f"answered {response.status_code} {response.reason_phrase}"
    if response.status_code in RETRY_STATUSES:
        raise _TransferInterrupted(answer)
    advice = STATUS_ADVICE.get(response.status_code, "see the server's documentation")
    raise download_error(name, url, f"{answer}; {advice}")


def download_error(name: str, url: str, reason: str) -> DownloadFailed:
    """Return the error of a file that this URL does not give."""
    return DownloadFailed(f"{name}: {redact_url(url)}: {reason}. {other_sources(name)}")


def other_sources(name: str) -> str:
    """Return the advice where else a file may come from."""
    return f"Other sources: WEIGHTS_MIRROR=https://host/prefix, or WEIGHTS=DIR with DIR/{name}"


def redact_url(url: str) -> str:
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
