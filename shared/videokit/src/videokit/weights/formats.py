"""The format of a file, by its first bytes and its structure. It is checked before anything in the file is used.

A weights table lists safetensors, pickles of torch.save, JSON and texts. Other files are often stored under such names:
a sign-in page, a pointer of Git LFS, the first half of a download.
"""

from __future__ import annotations

import json
import re
import struct
import zipfile
from pathlib import PurePath
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

    Format = Literal["safetensors", "archive", "pickle"]

SAFETENSORS = ".safetensors"
PICKLES = (".ckpt", ".bin", ".pt", ".pth")
# A checkpoint of Stable Diffusion 1.5 with an averaged UNet has 1,816 parameters, and a quantised file a few scales for
# each.
MAX_TENSORS = 20_000
MAX_HEADER = 32 << 20  # bytes: a thousand for each tensor, and a picture in the metadata

ARCHIVE = b"PK\x03\x04"  # torch.save since 1.6: a zip archive (PKWARE APPNOTE 4.3.7)
PICKLE = re.compile(rb"\x80[\x02-\x05]")  # torch.save before 1.6: a pickle of protocol 2 or later (PEP 307)

DOWNLOAD = "download the file itself"
# first bytes, what the file is, and what to do
FOREIGN = (
    (rb"\s*<(!doctype|html|head|body|\?xml|!--)", "a web page (HTML), such as a sign-in or error page", DOWNLOAD),
    (rb"version https://git-lfs", "a pointer of Git LFS", f"run `git lfs pull`, or {DOWNLOAD}"),
    (rb"\s*[{\[][\s\x20-\x7e]{8}", "JSON text, such as a server's error message", DOWNLOAD),
    (rb"GGUF", "a GGUF file", "convert it to safetensors in float16"),
    (rb"\x89HDF\r\n", "an HDF5 file", "give PyTorch's file of the model"),
    (rb"\x1f\x8b|7z\xbc\xaf|Rar!|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd", "a compressed file", "unpack it"),
)


def format_of(path: Path) -> Format:
    """Return how a file stores tensors; a file of another kind counts as safetensors, and `format_fault` names it."""
    with path.open("rb") as file:
        start = file.read(4)
    if start == ARCHIVE:
        return "archive"
    return "pickle" if PICKLE.match(start) else "safetensors"


def format_fault(path: Path, name: str) -> str | None:
    """Return what a file is instead of what the suffix of `name` says, and what to do; or None.

    The content decides between safetensors and pickles under a pickle's suffix. Raises OSError.
    """
    suffix = PurePath(name).suffix
    if suffix == ".json":
        return _json_fault(path)
    if suffix == ".txt":
        return _foreign(path)
    if suffix not in (SAFETENSORS, *PICKLES):
        return None
    format = format_of(path)
    if format == "safetensors":
        fault = _safetensors_fault(path)
        return fault and (_foreign(path) or fault)
    if suffix == SAFETENSORS:
        return f"is a pickle under the name of a safetensors file; rename it to {PurePath(name).stem}.ckpt"
    return _archive_fault(path) if format == "archive" else None


def _foreign(path: Path) -> str | None:
    with path.open("rb") as file:
        start = file.read(256)
    return next(
        (f"is {kind}; {advice}" for mark, kind, advice in FOREIGN if re.match(mark, start, re.IGNORECASE)), None
    )


def _json_fault(path: Path) -> str | None:
    try:
        json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return _foreign_but_json(path) or f"is not JSON, or it is cut off; {DOWNLOAD}"
    return None


def _foreign_but_json(path: Path) -> str | None:
    fault = _foreign(path)
    return None if fault is None or "JSON" in fault else fault


def _safetensors_fault(path: Path) -> str | None:
    """Return what is wrong with a safetensors file: 8 bytes with the header's length, the header in JSON, the tensors.

    Source: the README of huggingface/safetensors, "Format".
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > MAX_HEADER and length <= size:
            return f"has a header of {length} bytes, and {MAX_HEADER} are allowed; {DOWNLOAD}"
        if 8 + length > size:
            return f"is not a safetensors file, or it is cut off after {size} bytes; {DOWNLOAD}"
        content = file.read(length)
    try:
        header = json.loads(content)
        tensors = [entry for key, entry in header.items() if key != "__metadata__"]
        end = max((entry["data_offsets"][1] for entry in tensors), default=0)
        if not isinstance(end, int):
            raise TypeError(end)
    except (ValueError, RecursionError, AttributeError, TypeError, LookupError):
        return f"has an invalid safetensors header; {DOWNLOAD}"
    if len(tensors) > MAX_TENSORS:
        return _too_many(len(tensors))
    if 8 + length + end != size:
        return f"is cut off: it has {size} bytes, and its header lists {8 + length + end}; {DOWNLOAD}"
    return None


def _archive_fault(path: Path) -> str | None:
    """Return what is wrong with an archive of torch.save."""
    if not zipfile.is_zipfile(path):
        return f"is cut off: the end of the archive is missing; {DOWNLOAD}"
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            sizes = [archive.getinfo(name).file_size for name in names if name.endswith("/data.pkl")]
    except Exception:  # a damaged directory fails in many ways
        return f"has a damaged archive directory; {DOWNLOAD}"
    if not sizes:
        return "is a zip archive, but not one of torch.save; unpack it, and give the file of the weights"
    if any("/code/" in name for name in names):
        return "is a TorchScript program; give a file of its tensors"
    if sizes[0] > MAX_HEADER:
        return f"has a pickle of {sizes[0]} bytes, and {MAX_HEADER} are allowed; {DOWNLOAD}"
    if len(names) > MAX_TENSORS:
        return _too_many(len(names))
    return None


def _too_many(count: int) -> str:
    return f"has {count} tensors, and no model has more than {MAX_TENSORS}; give a file of one model"
