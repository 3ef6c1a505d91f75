"""Attention over frames in parts that CUDA's fused kernels accept, with equal results."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet3DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from zeroscope.attention import attend
from zeroscope.pipeline import Pipeline


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Yield a list that gets the number of sequences of each call of the fused attention."""
    counts: list[int] = []
    attention = F.scaled_dot_product_attention

    def count(query: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        counts.append(len(query))
        return attention(query, *args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", count)
    return counts


def noise_of(unet: UNet3DConditionModel) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    sample = torch.randn(2, 4, 3, 8, 16, generator=rng)
    text = torch.randn(2, 77, unet.config.cross_attention_dim, generator=rng)
    with torch.inference_mode():
        return unet(sample, 500, text).sample


def test_the_network_computes_the_same_in_parts_and_as_diffusers_does(
    pipeline: Pipeline, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    unet = pipeline.models.get("xl").unet
    expected = noise_of(unet)
    assert max(batches) == 2 * 8 * 16  # a sequence for each latent pixel and pass
    batches.clear()
    monkeypatch.setattr("zeroscope.attention.MAX_SEQUENCES", 100)
    assert torch.equal(noise_of(unet), expected)
    assert max(batches) == 100
    monkeypatch.setattr("zeroscope.models.split_temporal_attention", lambda unet: None)
    pipeline.unload()
    plain = pipeline.models.get("xl").unet
    assert attend not in {module.processor for module in plain.modules() if isinstance(module, Attention)}
    assert torch.equal(noise_of(plain), expected)
    pipeline.unload()


def test_no_part_has_more_sequences_than_a_cuda_grid_has_blocks(batches: list[int]) -> None:
    torch.manual_seed(0)
    attention = Attention(query_dim=8, heads=1, dim_head=8).eval()
    sequences = torch.randn(2 * 65_536 + 3, 2, 8)  # of more than 2048x2048 pixels
    with torch.inference_mode():
        attention.set_processor(AttnProcessor2_0())
        expected = attention(sequences)
        attention.set_processor(attend)
        batches.clear()
        assert torch.equal(attention(sequences), expected)
    # 65535: the largest y- and z-dimension of a grid, CUDA C++ Programming Guide
    assert batches == [65_535, 65_535, 5]
