"""The text encoder: CLIP's architecture, trained alone to say in its hidden states what a caption names.

Without this step the UNet learns colours and directions late, for its gradient through the text is small. The heads
that read the attributes are thrown away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from videokit.prompts import token_windows

from demo_weights.captions import random_caption
from demo_weights.train.training import Plan, fit
from demo_weights.world import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, SIZES, random_scene

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence
    from pathlib import Path

WIDTH = 64
PLAN = Plan(steps=300, learning_rate=3e-3, warm_up=30, mean_over=30)
BATCH = 64
READ_AT = (0, 1, 8, 20)  # tokens after the caption's end at which an attribute must be readable: the UNet sees all
NAMES: dict[str, Sequence[str]] = {
    "colour": list(COLOURS),
    "shape": SHAPES,
    "motion": list(MOTIONS),
    "size": list(SIZES),
    "background": list(BACKGROUNDS),
}


def config(tokens: int) -> CLIPTextConfig:
    """Return the configuration for a tokenizer of so many tokens."""
    return CLIPTextConfig(
        vocab_size=tokens,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=WIDTH,
        max_position_embeddings=77,
        hidden_act="quick_gelu",
        bos_token_id=tokens - 2,
        eos_token_id=tokens - 1,
        pad_token_id=tokens - 1,
    )


def train(folder: Path, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Train the text encoder on captions alone."""
    torch.manual_seed(1)
    encoder = CLIPTextModel(config(len(tokenizer)))
    heads = nn.ModuleDict({name: nn.Linear(WIDTH, len(values)) for name, values in NAMES.items()})

    def loss_at(step: int, draw: random.Random) -> torch.Tensor:
        scenes = [random_scene(draw) for _ in range(BATCH)]
        captions = [random_caption(scene, draw) for scene in scenes]
        windows = token_windows(tokenizer, captions)
        length = 2 + max(windows.counts) + max(READ_AT)
        hidden = encoder(windows.ids[:, 0, :length]).last_hidden_state  # causal: what is cut off changes nothing
        losses = []
        for name, values in NAMES.items():
            wanted = torch.tensor([values.index(getattr(scene, name)) for scene in scenes])
            for behind in READ_AT:
                places = torch.tensor(windows.counts) + 1 + behind
                read = heads[name](hidden[torch.arange(BATCH), places])
                losses.append(F.cross_entropy(read, wanted))
        return torch.stack(losses).mean()

    fit("text", [*encoder.parameters(), *heads.parameters()], PLAN, loss_at, folder)
    return encoder.eval().requires_grad_(False)
