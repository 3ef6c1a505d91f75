"""Quantised files: ComfyUI's scaled float8 is read with its scales, and every other kind is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from videokit.errors import WeightsError
from videokit.weights.keys import same_key
from videokit.weights.tensors import open_tensors, tensors_for

Tensors = dict[str, torch.Tensor]
WEIGHT = torch.randn(16, 8, generator=torch.Generator().manual_seed(0)) / 50
PARAMETERS = {"layer.weight": torch.empty(16, 8)}


def read(tmp_path: Path, tensors: Tensors, parameters: Tensors = PARAMETERS) -> torch.Tensor:
    save_file(tensors, tmp_path / "given.safetensors")
    file = tmp_path / "given.safetensors"
    return tensors_for(parameters, open_tensors(file), same_key, file)["layer.weight"]


@pytest.mark.parametrize("name", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_scaled_float8_weight_is_multiplied_by_its_scale(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    """As ComfyUI stores it: a scale that maps the largest weight to 448, the largest number of float8_e4m3fn."""
    scale = WEIGHT.abs().max() / 448
    tensors = {
        "layer.weight": (WEIGHT / scale).to(torch.float8_e4m3fn),
        f"layer.{name}": scale.reshape(shape),
        "layer.scale_input": torch.tensor(3.0),
        "scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn),
    }
    result = read(tmp_path, tensors)
    # three bits of mantissa: half a unit in the last place is 1/16 of a number
    assert ((result - WEIGHT).abs() <= WEIGHT.abs() / 16 + scale * 2**-10).all()


def test_a_scale_is_applied_in_float32_and_the_result_has_the_parameters_type(tmp_path: Path) -> None:
    tensors = {
        "layer.weight": torch.full((16, 8), 448.0).to(torch.float8_e4m3fn),
        "layer.scale_weight": torch.tensor(1e3),
    }
    bfloat16 = {"layer.weight": torch.empty(16, 8, dtype=torch.bfloat16)}
    result = read(tmp_path, tensors, bfloat16)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, torch.full((16, 8), 448e3).bfloat16())  # infinite in float16


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float64])
def test_a_plain_weight_of_any_precision_keeps_its_values(tmp_path: Path, dtype: torch.dtype) -> None:
    result = read(tmp_path, {"layer.weight": WEIGHT.to(dtype)})
    assert torch.equal(result.float(), WEIGHT.to(dtype).float())


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"layer.SCB": torch.ones(16), "layer.weight_format": torch.zeros(1, dtype=torch.uint8)}, "int8 numbers"),
        ({"layer.weight_scale": torch.tensor(0.1)}, "int8 numbers"),  # ComfyUI's int8_tensorwise
    ],
)
def test_integers_are_refused(tmp_path: Path, extra: Tensors, message: str) -> None:
    with pytest.raises(WeightsError, match=rf"is quantised: layer\.weight has {message}.*float16"):
        read(tmp_path, {"layer.weight": torch.ones(16, 8, dtype=torch.int8), **extra})


@pytest.mark.parametrize(
    "extra",
    [
        {"layer.weight_scale": torch.ones(16, 1)},  # one for each row
        {"layer.weight_scale": torch.ones(1, dtype=torch.uint8)},  # MXFP8
        {"layer.weight_scale_inv": torch.ones(1)},  # DeepSeek's
        {"layer.weight_scale": torch.ones(1), "layer.weight_scale_2": torch.ones(1)},  # NVFP4
    ],
)
def test_scales_of_other_kinds_are_refused(tmp_path: Path, extra: Tensors) -> None:
    with pytest.raises(WeightsError, match=r"is quantised: layer\.weight has .*scale"):
        read(tmp_path, {"layer.weight": WEIGHT.to(torch.float8_e4m3fn), **extra})


def test_integers_fill_a_buffer_of_integers(tmp_path: Path) -> None:
    found = tensors_for({"ids": torch.empty(3, dtype=torch.long)}, {"ids": torch.arange(3)}, same_key, tmp_path)
    assert found["ids"].tolist() == [0, 1, 2]
