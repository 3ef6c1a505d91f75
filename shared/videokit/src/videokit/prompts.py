"""Prompts of any length for a CLIP text encoder: windows of 77 tokens, encoded separately and joined.

CLIP has 77 positions, two of which mark the start and the end of a text. A longer prompt is cut into windows of 75
tokens, each with its own start and end. The hidden states of the windows are joined along the sequence, which a UNet's
cross-attention accepts at any length. A prompt of at most 75 tokens gives the same result as without windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from einops import rearrange

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import CLIPTextModel, CLIPTokenizer


@dataclass(frozen=True)
class TokenWindows:
    """Token ids of several prompts, all padded to the same number of windows."""

    ids: torch.Tensor  # (P, W, 77) int64
    counts: tuple[int, ...]  # tokens of each prompt, without start, end and padding

    def __str__(self) -> str:
        windows = self.ids.shape[1]
        counts = " and ".join(map(str, self.counts))
        return f"{counts} tokens in {windows} window{'s' if windows > 1 else ''} of {self.ids.shape[2] - 2}"


def token_windows(tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> TokenWindows:
    """Return prompts as windows of `tokenizer.model_max_length` tokens (CLIP: 77), as many as the longest needs."""
    length = tokenizer.model_max_length
    texts = [tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"] for prompt in prompts]
    windows = max(1, *(-(-len(text) // (length - 2)) for text in texts))
    ids = torch.full((len(prompts), windows, length), tokenizer.pad_token_id, dtype=torch.int64)  # (P, W, 77)
    ids[:, :, 0] = tokenizer.bos_token_id
    for row, text in zip(ids, texts, strict=True):
        for index, window in enumerate(row):
            part = text[index * (length - 2) : (index + 1) * (length - 2)]
            window[1 : len(part) + 1] = torch.tensor(part, dtype=torch.int64)
            window[len(part) + 1] = tokenizer.eos_token_id
    return TokenWindows(ids, tuple(len(text) for text in texts))


def encode_windows(text_encoder: CLIPTextModel, windows: TokenWindows) -> torch.Tensor:
    """Return the last hidden states of every prompt, (P, W * 77, D), from one pass of the text encoder."""
    ids = rearrange(windows.ids, "p w l -> (p w) l").to(text_encoder.device)
    hidden = text_encoder(ids).last_hidden_state  # (P * W, 77, D)
    joined: torch.Tensor = rearrange(hidden, "(p w) l d -> p (w l) d", p=len(windows.counts))
    return joined
