"""Attention over the frames of a video, for videos of any size.

Every latent pixel of every guidance pass is a sequence of frames, so the batch has 2 (W / 8) (H / 8) sequences. CUDA's
fused kernels accept fewer of them than large videos have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from einops import rearrange

if TYPE_CHECKING:
    from diffusers import UNet3DConditionModel
    from diffusers.models.attention_processor import Attention

# The blocks of a CUDA grid in its second and third dimension, one for each sequence: CUDA C++ Programming Guide,
# "Technical Specifications per Compute Capability". With one more, pytorch/pytorch#146704.
MAX_SEQUENCES = 65_535


def split_temporal_attention(unet: UNet3DConditionModel) -> None:
    """Compute the attention over frames at most MAX_SEQUENCES sequences at a time. The results are equal."""
    for module in unet.modules():
        if isinstance(module, TransformerTemporalModel):
            for block in module.transformer_blocks:
                block.attn1.set_processor(attend)
                block.attn2.set_processor(attend)


def attend(attention: Attention, hidden_states: torch.Tensor, **others: object) -> torch.Tensor:
    """Return the self-attention of sequences, (B, F, C); a processor of diffusers' attention without its options."""
    assert not [name for name, value in others.items() if value is not None]
    query, key, value = (
        rearrange(project(hidden_states), "b f (head d) -> b head f d", head=attention.heads)
        for project in (attention.to_q, attention.to_k, attention.to_v)
    )
    parts = zip(*(torch.split(tensor, MAX_SEQUENCES) for tensor in (query, key, value)), strict=True)
    results = [F.scaled_dot_product_attention(*part) for part in parts]
    attended = results[0] if len(results) == 1 else torch.cat(results)
    result: torch.Tensor = attention.to_out[0](rearrange(attended, "b head f d -> b f (head d)"))
    return result
