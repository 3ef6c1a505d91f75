"""The text encoder: CLIP's architecture, trained alone to make a caption's attributes readable in its hidden states.

Without this stage the UNets learn colours and directions late, as little gradient reaches the text encoder. The
classification heads are dropped.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from random_weights import stable_diffusion as sd
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from videokit.prompts import token_windows

from demo_weights.captions import random_caption
from demo_weights.train.loop import Plan, fit
from demo_weights.world import ATTRIBUTES, random_scene

if TYPE_CHECKING:
    import random
    from pathlib import Path

WIDTH = 64
PLAN = Plan(steps=300, learning_rate=3e-3, warmup_steps=30, average_steps=30)
BATCH = 64
READ_AT = (0, 1, 8, 20)  # tokens after the caption's end that are classified: the UNet attends to all tokens


def config(tokens: int) -> CLIPTextConfig:
    """Return the configuration for a tokenizer with this number of tokens."""
    size = replace(sd.SMALL, text_width=WIDTH, text_layers=2, text_heads=4)
    return CLIPTextConfig(**(sd.text_config(size, tokens) | {"architectures": None}))


def train(folder: Path, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return the text encoder, trained to classify the attributes of captions."""
    torch.manual_seed(1)
    encoder = CLIPTextModel(config(len(tokenizer)))
    heads = nn.ModuleDict({name: nn.Linear(WIDTH, len(values)) for name, values in ATTRIBUTES.items()})

    def loss_at(step: int, rng: random.Random) -> torch.Tensor:
        scenes = [random_scene(rng) for _ in range(BATCH)]
        captions = [random_caption(scene, rng) for scene in scenes]
        windows = token_windows(tokenizer, captions)
        length = 2 + max(windows.counts) + max(READ_AT)
        hidden = encoder(windows.ids[:, 0, :length]).last_hidden_state  # causal attention: the rest has no effect
        losses = []
        for name, values in ATTRIBUTES.items():
            targets = torch.tensor([values.index(getattr(scene, name)) for scene in scenes])
            for offset in READ_AT:
                positions = torch.tensor(windows.counts) + 1 + offset
                logits = heads[name](hidden[torch.arange(BATCH), positions])
                losses.append(F.cross_entropy(logits, targets))
        return torch.stack(losses).mean()

    fit("text", [*encoder.parameters(), *heads.parameters()], PLAN, loss_at, folder)
    return encoder.eval().requires_grad_(False)
