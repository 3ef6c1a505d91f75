"""Modules built from a configuration and filled from a weight file."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from accelerate import init_empty_weights
from torch import nn

from videokit.errors import WeightsError
from videokit.weights.kinds import refuse_other_kinds
from videokit.weights.quantization import EXTRAS
from videokit.weights.tensors import fill, format_keys, tensors_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from videokit.runtime import Device
    from videokit.weights.keys import Keys
    from videokit.weights.kinds import Kind

logger = logging.getLogger("videokit")

# A table of the numbers 0 to 76. transformers stored it with the weights in 2023 and computes it today.
POSITION_IDS = "position_ids"


def empty_module(construct: Callable[[], Any], device: Device) -> Any:
    """Return a module in evaluation mode, on its device in its dtype, whose parameters are not initialised."""
    with init_empty_weights():
        module = construct()
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            empty = torch.empty(parameter.shape, device=device.device, dtype=device.dtype)
            setattr(owner, name, nn.Parameter(empty, requires_grad=False))
    # This moves the buffers. diffusers' own `to` would warn of modules to keep in float32; these models have none.
    return nn.Module.to(module, device.device, device.dtype).eval()


def load_module(
    construct: Callable[[], Any],
    device: Device,
    tensors: Mapping[str, torch.Tensor],
    keys_of: Keys,
    source: Path,
    *,
    kind: Kind | None = None,
    strict: bool = False,
) -> Any:
    """Return a module on its device with a file's tensors as its parameters and stored buffers.

    `keys_of` returns the keys that a parameter may have in the file. Raises WeightsError if the file is of another kind
    than `kind`, or if a tensor is missing or has another shape. Unexpected keys are logged, or raise WeightsError if
    `strict`.
    """
    if kind is not None:
        refuse_other_kinds(tensors, source, kind)
    module = empty_module(construct, device)
    state = module.state_dict()
    fill(state, tensors_for(state, tensors, keys_of, source))
    expected = {key for name in state for key in keys_of(name)}
    unexpected = sorted(
        key for key in tensors.keys() - expected if not key.endswith(POSITION_IDS) and not EXTRAS.search(key)
    )
    if unexpected and strict:
        name = type(module).__name__
        raise WeightsError(f"{source} has unexpected keys: {format_keys(unexpected)}; use a file for {name}")
    if unexpected:
        logger.warning("weights: %s: ignored unexpected keys: %s", source, format_keys(unexpected))
    return module
