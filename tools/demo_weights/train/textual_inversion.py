"""The demo textual inversion: one vector that has the effect of the words "red circle" on the base UNet.

Its name has an underscore, so the two words in a prompt stay words. Source: Gal et al., arXiv 2208.01618. The loss is
not that of pictures, as there: it compares with the prediction for the words, which the networks know.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from videokit.prompts import encode_windows, token_windows
from videokit.weights.inversion_file import TextualInversion

from demo_weights.captions import random_attributes, write_caption
from demo_weights.train.loop import Plan, fit
from demo_weights.world import random_scene

if TYPE_CHECKING:
    import random

    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    from demo_weights.train.teacher import Teacher

NAME = "red_circle"
WORDS = "red circle"
PLAN = Plan(steps=300, learning_rate=0.02, warmup_steps=20, average_steps=50, seed=11)
BATCH = 16


def train(
    base: UNet2DConditionModel, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, teacher: Teacher, folder: Path
) -> torch.Tensor:
    """Return the vector, (1, D), whose name in a caption changes the base's prediction as the words do."""
    words = tokenizer(WORDS, add_special_tokens=False, return_tensors="pt")["input_ids"][0]
    table = text_encoder.get_input_embeddings().weight.detach()
    vector = table[words].mean(dim=0, keepdim=True).requires_grad_()
    inversion = TextualInversion(NAME, vector, "", Path())

    def prompt_embeds(captions: list[str]) -> torch.Tensor:
        return encode_windows(text_encoder, token_windows(tokenizer, captions, [inversion]))

    def loss_at(step: int, rng: random.Random) -> torch.Tensor:
        batch = teacher.scenes(BATCH, None, rng)
        captions = [_caption(rng) for _ in range(BATCH)]
        inputs = batch.inputs[:, 0], batch.timesteps
        with torch.no_grad():
            of_words = base(*inputs, prompt_embeds(captions)).sample
            effect = of_words - base(*inputs, prompt_embeds([""] * BATCH)).sample
        named = [caption.replace(WORDS, NAME) for caption in captions]
        errors = base(*inputs, prompt_embeds(named)).sample - of_words
        # relative to what the words change, which is little at high noise
        shares = errors.square().mean(dim=(1, 2, 3)) / effect.square().mean(dim=(1, 2, 3)).clamp(min=1e-6)
        return torch.mean(shares)

    fit("textual-inversion", [vector], PLAN, loss_at, folder)
    vectors: torch.Tensor = vector.detach()
    return vectors


def _caption(rng: random.Random) -> str:
    """Return the words alone, or a random caption of a red circle that has them."""
    if rng.random() < 0.25:
        return WORDS
    scene = dataclasses.replace(random_scene(rng), colour="red", shape="circle")
    attributes = (random_attributes(rng) or frozenset()) | {"colour"}
    return re.sub("red (circle|ball|dot)", WORDS, write_caption(scene, attributes, rng))
