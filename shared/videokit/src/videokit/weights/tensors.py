"""Reading files of tensors without executing them, and copying the tensors into a module's parameters.

Files are memory-mapped: a tensor takes memory when it is read, and the system can drop the pages again. A model passes
a function from its parameter's name to the file's key.
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

MAX_KEYS = 5  # of a list of keys in a message or a log line


def open_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the memory-mapped tensors of a file by key: safetensors, or a pickle written by `torch.save`.

    Pickles are read with `weights_only=True`. An enclosing `state_dict` and a prefix `module.` of all keys are removed.
    Values that are not tensors are dropped. Raises WeightsError for any other file, or a damaged one.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is not a dict
    except SafetensorError as not_safetensors:
        if path.suffix == ".safetensors":
            raise WeightsError(
                f"{path} is not a complete safetensors file ({not_safetensors}); fetch it again"
            ) from not_safetensors
    try:
        # files written before torch 1.6 are not archives and cannot be mapped
        content = torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, OSError) as error:
        first_line = str(error).partition("\n")[0]
        raise WeightsError(
            f"{path} is not safetensors or a pickle of plain tensors, or it is damaged ({first_line}); "
            "fetch it again, or convert it to safetensors if you trust it"
        ) from error
    return named_tensors(content, path)


def named_tensors(content: object, path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors by key of an unpickled object; raise WeightsError if it is not a dictionary."""
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise WeightsError(f"{path} contains a {type(content).__name__}; a dictionary of tensors is needed")
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
    if tensors and all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def tensors_for(
    parameters: Tensors, tensors: Tensors, key_of: Callable[[str], str], source: Path
) -> dict[str, torch.Tensor]:
    """Return the tensor for every parameter, by the parameter's name, reshaped if only axes of length 1 differ.

    Raises WeightsError, naming the file's keys, if a tensor is missing or has another shape than its parameter.
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
        raise WeightsError(f"{source} lacks {format_keys(missing)}; use a file for this model")
    if misshapen:
        raise WeightsError(f"{source} has another architecture: {format_keys(misshapen)}; use a file for this model")
    return found


def fill(parameters: Tensors, tensors: Tensors) -> None:
    """Copy every tensor into its parameter, converted to the parameter's dtype and device."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def format_keys(keys: Iterable[str]) -> str:
    """Return keys as text for a message: the first few, and the number if there are more."""
    listed = list(keys)
    count = f"{len(listed)} keys, such as " if len(listed) > MAX_KEYS else ""
    return count + ", ".join(listed[:MAX_KEYS])


def _without_ones(shape: torch.Size) -> list[int]:
    return [n for n in shape if n != 1]
