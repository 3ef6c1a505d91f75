"""Reading files of tensors without executing them, and copying the tensors into a module's parameters.

Files are memory-mapped: a tensor takes memory when it is read, and the system can drop the pages again. A model passes
a function from its parameter's name to the keys that the tensor may have in a file (`videokit.weights.keys`).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open

from videokit.errors import WeightsError
from videokit.weights.formats import format_fault, format_of
from videokit.weights.pickles import read_archive
from videokit.weights.quantization import dequantized

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from videokit.weights.keys import Keys

    Tensors = Mapping[str, torch.Tensor]

MAX_KEYS = 5  # of a list of keys in a message or a log line
MAX_LETTERS = 200  # of a key or a reason in a message
WRAPPERS = ("state_dict", "module", "model", "controlnet")  # keys of a dictionary that encloses that of the tensors


def open_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the memory-mapped tensors of a file by key: safetensors, or a pickle of tensors written by `torch.save`.

    An enclosing dictionary (`state_dict`) and a prefix `module.` of all keys are removed. Values that are not tensors
    are dropped. Raises WeightsError for any other file, a damaged one, or a pickle with objects of a package.
    """
    return _open(path, strict=True)


def open_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """Return what `open_tensors` returns, also for a training checkpoint with objects of packages, which are dropped.

    Raises WeightsError for any other file, or a damaged one.
    """
    return _open(path, strict=False)


def _open(path: Path, *, strict: bool) -> dict[str, torch.Tensor]:
    try:
        fault = format_fault(path, path.name)
        kind = format_of(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from None
    if fault:
        raise WeightsError(f"{path} {fault}")
    try:
        if kind == "safetensors":
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is not a dict
        if kind == "archive":
            return named_tensors(read_archive(path, strict=strict), path)
        # Written before torch 1.6, and cannot be mapped.
        return named_tensors(torch.load(path, map_location="cpu", weights_only=True), path)
    except WeightsError:
        raise
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a complete safetensors file ({readable(error)}); fetch it again") from None
    except Exception as error:  # a damaged pickle fails in as many ways as there are opcodes
        # torch.load's own message advises to execute the file
        reason = "" if kind == "pickle" else f" ({readable(error)})"
        raise WeightsError(
            f"{path} is not safetensors or a pickle of plain tensors, or it is damaged{reason}; "
            "fetch it again, or convert it to safetensors if you trust it"
        ) from None


def named_tensors(content: object, path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors by key of an unpickled object; raise WeightsError if it is not a dictionary."""
    if not isinstance(content, dict):
        raise WeightsError(f"{path} contains a {type(content).__name__}; a dictionary of tensors is needed")
    content = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), content)
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
    if tensors and all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def tensors_for(parameters: Tensors, tensors: Tensors, keys_of: Keys, source: Path) -> dict[str, torch.Tensor]:
    """Return the tensor for every parameter, by the parameter's name, reshaped if only axes of length 1 differ.

    A tensor with a scale is multiplied by it. Raises WeightsError, naming the file's keys, if a tensor is missing, has
    another shape than its parameter, or is quantised.
    """
    found: dict[str, torch.Tensor] = {}
    missing: list[Sequence[str]] = []
    misshapen: list[str] = []
    layouts: Counter[int] = Counter()  # which of their keys the found tensors have
    for name, parameter in parameters.items():
        keys = keys_of(name)
        key = next((key for key in keys if key in tensors), None)
        if key is None:
            missing.append(keys)
            continue
        layouts[keys.index(key)] += 1
        if _without_ones(tensors[key].shape) != _without_ones(parameter.shape):
            misshapen.append(f"{key} is {list(tensors[key].shape)} instead of {list(parameter.shape)}")
        else:
            found[name] = dequantized(tensors, key, parameter.dtype, source).reshape(parameter.shape)
    if missing:
        layout = layouts.most_common(1)[0][0] if layouts else 0
        named = format_keys(keys[min(layout, len(keys) - 1)] for keys in missing)
        raise WeightsError(f"{source} lacks {named}; use a file for this model")
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
    return count + ", ".join(map(readable, listed[:MAX_KEYS]))


def readable(text: object) -> str:
    """Return a text of a file or a library as one short line without control characters."""
    line = str(text).partition("\n")[0]
    line = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line)
    return line if len(line) <= MAX_LETTERS else line[:MAX_LETTERS] + "..."


def _without_ones(shape: torch.Size) -> list[int]:
    return [n for n in shape if n != 1]
