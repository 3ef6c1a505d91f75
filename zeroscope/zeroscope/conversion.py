"""Pickles converted to safetensors once: later runs map the safetensors copy in the weights cache.

A copy belongs to one file with one size and modification time. Any other file is converted again. Only the cache of a
weight store is ever written to, not its other directories.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from videokit.errors import WeightsError
from videokit.files import atomic_write
from videokit.weights.tensors import open_tensors
from videokit.weights.transfer import ensure_disk_space

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from videokit.weights.store import WeightStore

    Tensors = dict[str, torch.Tensor]

MADE_FROM = "made from"  # in the copy's metadata

logger = logging.getLogger("videokit")


def open_converted(store: WeightStore, path: str, read: Callable[[Path], Tensors] = open_tensors) -> Tensors:
    """Return the mapped tensors of a weight file that `read` reads, fetched if it is missing.

    A safetensors file is mapped directly. Without a writable cache the file itself is read at every call, and a warning
    is logged.
    """
    source = store.get(path)
    if store.cache is None or source.suffix == ".safetensors":
        return read(source)
    status = source.stat()
    made_from = f"{source.resolve()}, {status.st_size} bytes, {status.st_mtime_ns} ns"
    copy = store.cache / "converted" / f"{path}.safetensors"
    tensors = _open_copy(copy, made_from)
    if tensors is None:
        original = read(source)
        try:
            _write_copy(original, copy, made_from)
        except (OSError, RuntimeError, SafetensorError, WeightsError) as error:  # RuntimeError: tensors share memory
            logger.warning("weights: %s: not converted, so it is read again at every start: %s", path, error)
            return original
        logger.info("weights: %s: converted to %s", path, copy)
        tensors = _open_copy(copy, made_from)
    return original if tensors is None else tensors


def _open_copy(copy: Path, made_from: str) -> Tensors | None:
    """Return the mapped tensors of a copy, or None if there is no complete copy of this file."""
    try:
        with safe_open(copy, framework="pt") as file:
            if (file.metadata() or {}).get(MADE_FROM) != made_from:
                return None
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is not a dict
    except (OSError, SafetensorError):
        return None


def _write_copy(tensors: Tensors, copy: Path, made_from: str) -> None:
    """Write a copy and compare it with the original tensors; raise OSError if they differ."""
    ensure_disk_space(copy.parent, sum(tensor.nbytes for tensor in tensors.values()))
    with atomic_write(copy) as part:
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, part, {MADE_FROM: made_from})
        written = _open_copy(part, made_from) or {}
        if written.keys() != tensors.keys() or not all(_same_bytes(written[key], tensors[key]) for key in tensors):
            raise OSError(f"{part} differs from what was written")


def _same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Return whether two tensors have the same bytes; NaN equals itself here."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
