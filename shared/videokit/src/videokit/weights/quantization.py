"""Quantised files, whose numbers give a weight only together with a scale.

ComfyUI's scaled float8 has one scale for each layer, and is read. Other kinds are refused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from videokit.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

# the last part of a weight's scale: ComfyUI's name, its older name
SCALES = ("weight_scale", "scale_weight")
# the last parts of scales that other programs store: DeepSeek's blocks, NVIDIA's 4 bits, bitsandbytes' 8 and 4 bits
OTHER_SCALES = ("weight_scale_inv", "weight_scale_2", "SCB", "weight.absmax")
# What else ComfyUI stores for a layer: the scale of its input, for a multiplication in float8, and marks.
EXTRAS = re.compile(r"(^|\.)(weight_scale|scale_weight|input_scale|scale_input|scaled_fp8|comfy_quant)$")

ADVICE = "give a file of the same model in float16, bfloat16 or float32"


def dequantized(tensors: Mapping[str, torch.Tensor], key: str, dtype: torch.dtype, source: Path) -> torch.Tensor:
    """Return the values of a tensor for a parameter of this dtype, multiplied by the tensor's scale if it has one.

    Raises WeightsError for integers in place of a floating-point parameter, or a scale of another kind.
    """
    tensor = tensors[key]
    if not dtype.is_floating_point:
        return tensor
    if not tensor.dtype.is_floating_point:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise WeightsError(f"{source} is quantised: {key} has {kind} numbers in place of weights; {ADVICE}")
    layer, _, last = key.rpartition(".")
    if last != "weight":
        return tensor
    prefix = f"{layer}." if layer else ""
    if other := next((prefix + name for name in OTHER_SCALES if prefix + name in tensors), None):
        raise WeightsError(f"{source} is quantised: {key} has the scales {other}, which are not read; {ADVICE}")
    scale = next((tensors[prefix + name] for name in SCALES if prefix + name in tensors), None)
    if scale is None:
        return tensor
    if scale.numel() != 1 or not scale.dtype.is_floating_point:
        raise WeightsError(f"{source} is quantised: {key} has {scale.numel()} scales, and one is allowed; {ADVICE}")
    return (tensor.float() * scale.float().reshape(())).to(dtype)
