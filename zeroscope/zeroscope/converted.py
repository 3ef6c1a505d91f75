"""Tensors out of pickles, converted once: later runs map a safetensors copy that lies in the weights cache.

The copy belongs to one file as it was when it was read: another file under the same name, or the same one changed,
is converted anew. The directories of a weight store other than its cache are never written to.
"""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from videokit.errors import WeightsError
from videokit.weights.download import make_room
from videokit.weights.tensors import open_tensors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from videokit.weights.store import WeightStore

    Tensors = dict[str, torch.Tensor]

MADE_FROM = "made from"  # the copy's metadata

logger = logging.getLogger("videokit")


def open_converted(store: WeightStore, path: str, read: Callable[[Path], Tensors] = open_tensors) -> Tensors:
    """Map the tensors of a weight file that `read` understands, fetched where it is missing.

    One in safetensors is mapped as it is. Where there is no cache, or it cannot be written, the file itself is read at
    every call, and the log says so.
    """
    source = store.get(path)
    if store.cache is None or source.suffix == ".safetensors":
        return read(source)
    status = source.stat()
    made_from = f"{source.resolve()}, {status.st_size} bytes, {status.st_mtime_ns} ns"
    copy = store.cache / "converted" / f"{path}.safetensors"
    tensors = _mapped(copy, made_from)
    if tensors is None:
        original = read(source)
        try:
            _write(original, copy, made_from)
        except (OSError, RuntimeError, SafetensorError, WeightsError) as error:  # RuntimeError: tensors share memory
            logger.warning("weights: %s: not converted, and read as it is at every start: %s", path, error)
            return original
        logger.info("weights: %s: converted to %s", path, copy)
        tensors = _mapped(copy, made_from)
    return original if tensors is None else tensors


def _mapped(copy: Path, made_from: str) -> Tensors | None:
    """Map a copy, or return None where there is no whole one of this file."""
    try:
        with safe_open(copy, framework="pt") as file:
            if (file.metadata() or {}).get(MADE_FROM) != made_from:
                return None
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no dict
    except (OSError, SafetensorError):
        return None


def _write(tensors: Tensors, copy: Path, made_from: str) -> None:
    """Write a copy under a name of its own, compare it with what it was made from, and only then give it its name."""
    make_room(copy.parent, sum(tensor.nbytes for tensor in tensors.values()))
    part = copy.with_name(f"{copy.name}.{secrets.token_hex(8)}.part")  # two processes may do this at once
    try:
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, part, {MADE_FROM: made_from})
        written = _mapped(part, made_from) or {}
        if written.keys() != tensors.keys() or not all(_same(written[key], tensors[key]) for key in tensors):
            raise OSError(f"{part} reads back other than it was written")
        part.replace(copy)
    finally:
        part.unlink(missing_ok=True)


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Tell whether two tensors have the same bytes; NaN equals itself here."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
