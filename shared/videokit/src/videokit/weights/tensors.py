"""Read files of tensors without executing them, and put their tensors into a module's parameters in place.

Files are memory-mapped: a tensor costs memory when it is read, and the pages can be dropped again. What the
tensors of a model's file are called is the model's business; it gives a function from parameter to key.
"""

from __future__ import annotations

import pickle
import zipfile
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from videokit.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    Tensors = Mapping[str, torch.Tensor]

SHOWN_KEYS = 5  # of a list of keys in a message or a log line


def open_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Map a file of tensors, safetensors or a pickle by `torch.save`, and return its tensors by key.

    Pickles are read with `weights_only=True`; a `state_dict` around the tensors and a `module.` before every key
    are taken off. What is no tensor is left out. Raises WeightsError for a file that is neither, or is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no dict
    except SafetensorError as not_safetensors:
        if path.suffix == ".safetensors":
            raise WeightsError(
                f"{path} is no whole safetensors file ({not_safetensors}); fetch it again"
            ) from not_safetensors
    try:
        # files from before torch 1.6 are no archives and cannot be mapped
        content = torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, OSError) as error:
        first_line = str(error).partition("\n")[0]
        raise WeightsError(
            f"{path} is neither safetensors nor a pickle of plain tensors, or it is damaged ({first_line}); "
            "fetch it again, or convert it to safetensors where you trust it"
        ) from error
    return named_tensors(content, path)


def named_tensors(content: object, path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors by key of what a pickle held; raises WeightsError if it was no dictionary."""
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}; a dictionary of tensors is needed")
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
    if tensors and all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def tensors_for(
    parameters: Tensors, tensors: Tensors, key_of: Callable[[str], str], source: Path
) -> dict[str, torch.Tensor]:
    """Return the tensor for every parameter, by the parameter's name, reshaped where only axes of length 1 differ.

    Raises WeightsError, naming the file's keys, if one is missing or has another shape than its parameter.
    """
    found: dict[str, torch.Tensor] = {}
    missing, misshapen = [], []
    for name, parameter in parameters.items():
        key = key_of(name)
        tensor = tensors.get(key)
        if tensor is None:
            missing.append(key)
        elif _without_ones(tensor.shape) != _without_ones(parameter.shape):
            misshapen.append(f"{key} is {list(tensor.shape)} instead of {list(parameter.shape)}")
        else:
            found[name] = tensor.reshape(parameter.shape)
    if missing:
        raise WeightsError(f"{source} lacks {shown(missing)}; use a file of the kind that this model was made for")
    if misshapen:
        raise WeightsError(f"{source} is of another architecture: {shown(misshapen)}; use one that fits the model")
    return found


def fill(parameters: Tensors, tensors: Tensors) -> None:
    """Copy every parameter's tensor into it, converted to its dtype and device; modules and storage stay."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def narrowed(tensors: Tensors, dtype: torch.dtype) -> tuple[dict[str, torch.Tensor], int]:
    """Convert the tensors that are wider than `dtype`; the others stay mapped to their file.

    Returns them all, and the bytes of memory that the converted ones take.
    """
    result = {name: t.to(dtype) if t.itemsize > dtype.itemsize else t for name, t in tensors.items()}
    return result, sum(t.nbytes for name, t in result.items() if t is not tensors[name])


def shown(keys: Iterable[str]) -> str:
    """Return the keys as text for a message: how many where there are many, and the first few."""
    listed = list(keys)
    count = f"{len(listed)} keys, among them " if len(listed) > SHOWN_KEYS else ""
    return count + ", ".join(listed[:SHOWN_KEYS])


def _without_ones(shape: torch.Size) -> list[int]:
    return [n for n in shape if n != 1]
