"""Prompts of any length for a CLIP text encoder: windows of 77 tokens, encoded separately and joined.

CLIP has 77 positions, two of which mark the start and the end of a text. A longer prompt is cut into windows of at most
75 tokens, each with its own start and end. The hidden states of the windows are joined along the sequence, which a
UNet's cross-attention accepts at any length. A prompt of at most 75 tokens gives the same result as without windows.

A window ends at the last comma, if that is among its last 20 positions, and never inside a word. The name of a textual
inversion takes as many positions as it has vectors, which are the input embeddings there; they stay in one window.
Source: AUTOMATIC1111/stable-diffusion-webui modules/sd_hijack_clip.py, which also cuts words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from einops import rearrange
from transformers.masking_utils import create_causal_mask

from videokit.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from transformers import CLIPTextModel, CLIPTokenizer

    from videokit.inversion_names import TextualInversions
    from videokit.runtime import Stages
    from videokit.weights.inversion_file import TextualInversion

COMMA_POSITIONS = 20  # at the end of a window, where a comma ends it

T = TypeVar("T")


@dataclass(frozen=True)
class Placement:
    """Where the vectors of a textual inversion, (n, D), are the input embeddings: prompt, window and first position."""

    prompt: int
    window: int
    position: int
    vectors: torch.Tensor


@dataclass(frozen=True)
class TokenWindows:
    """Token ids of several prompts, all padded to the same number of windows, and the vectors at some positions."""

    ids: torch.Tensor  # (P, W, 77) int64
    counts: tuple[int, ...]  # positions of each prompt, without start, end and padding
    placements: tuple[Placement, ...] = ()

    def __str__(self) -> str:
        windows = counted(self.ids.shape[1], "window")
        return f"{' and '.join(map(str, self.counts))} tokens in {windows} of {self.ids.shape[2] - 2}"


def encode_prompts(
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    prompts: Sequence[str],
    stages: Stages,
    inversions: TextualInversions,
) -> torch.Tensor:
    """Return the last hidden states of every prompt, (P, L, D), with the textual inversions that the prompts name.

    Raises WeightsError if the file of a textual inversion cannot be used.
    """
    stages.textual_inversions = inversions.read(tokenizer, prompts)
    windows = token_windows(tokenizer, prompts, stages.textual_inversions)
    with stages("text", str(windows)), torch.inference_mode():
        return encode_windows(text_encoder, windows)


def token_windows(
    tokenizer: CLIPTokenizer, prompts: Sequence[str], inversions: Sequence[TextualInversion] = ()
) -> TokenWindows:
    """Return prompts as windows of `tokenizer.model_max_length` tokens (CLIP: 77), as many as the longest needs.

    The names of `inversions` in the prompts become the positions of their vectors.
    """
    length = tokenizer.model_max_length
    names = {name_ids(tokenizer, inversion.name): inversion for inversion in inversions}
    texts = [_windows(_parts(tokenizer, prompt, names, length - 2), length - 2) for prompt in prompts]
    count = max(1, *map(len, texts))
    ids = torch.full((len(prompts), count, length), tokenizer.pad_token_id, dtype=torch.int64)  # (P, W, 77)
    ids[:, :, 0] = tokenizer.bos_token_id
    ids[:, :, 1] = tokenizer.eos_token_id
    placements = []
    for prompt, text in enumerate(texts):
        for window, parts in enumerate(text):
            position = 1
            for part in parts:
                if part.inversion is None:
                    ids[prompt, window, position : position + len(part)] = torch.tensor(part.ids)
                else:
                    placements.append(Placement(prompt, window, position, part.inversion.vectors))
                position += len(part)
            ids[prompt, window, position] = tokenizer.eos_token_id
    counts = tuple(sum(len(part) for parts in text for part in parts) for text in texts)
    return TokenWindows(ids, counts, tuple(placements))


def encode_windows(text_encoder: CLIPTextModel, windows: TokenWindows) -> torch.Tensor:
    """Return the last hidden states of every prompt, (P, W * 77, D), from one pass of the text encoder."""
    ids = rearrange(windows.ids, "p w l -> (p w) l").to(text_encoder.device)
    # The steps of CLIPTextModel, which takes no input embeddings. Nothing of the module is changed, so a cancel leaves
    # no vector behind.
    embeds = text_encoder.embeddings.token_embedding(ids)  # (P * W, 77, D)
    for at in windows.placements:
        row = at.prompt * windows.ids.shape[1] + at.window
        embeds[row, at.position : at.position + len(at.vectors)] = at.vectors.to(embeds)
    hidden = text_encoder.embeddings(inputs_embeds=embeds)
    causal = create_causal_mask(text_encoder.config, hidden, attention_mask=None, cache=None)
    hidden = text_encoder.encoder(inputs_embeds=hidden, attention_mask=causal, is_causal=True).last_hidden_state
    hidden = text_encoder.final_layer_norm(hidden)
    joined: torch.Tensor = rearrange(hidden, "(p w) l d -> p (w l) d", p=len(windows.counts))
    return joined


def name_ids(tokenizer: CLIPTokenizer, name: str) -> tuple[int, ...]:
    """Return the token ids of a textual inversion's name, which are the same for any case; () for a blank name."""
    return tuple(tokenizer(name, add_special_tokens=False, verbose=False)["input_ids"])


def find_names(tokenizer: CLIPTokenizer, prompt: str, names: Mapping[tuple[int, ...], T]) -> list[T]:
    """Return the values of `names`, by token ids, that a prompt has, in its order.

    A name begins where a word of CLIP's begins. Of two names that begin there, the longer one is returned.
    """
    encoding = tokenizer(prompt, add_special_tokens=False, verbose=False)
    return [value for _, _, value in _matches(encoding["input_ids"], encoding.word_ids(), names)]


@dataclass(frozen=True)
class _Part:
    """Positions that stay in one window: the tokens of a word, or the vectors of a textual inversion."""

    ids: Sequence[int] = ()
    inversion: TextualInversion | None = None
    ends_with_comma: bool = False

    def __len__(self) -> int:
        return len(self.ids) if self.inversion is None else len(self.inversion.vectors)


def _parts(
    tokenizer: CLIPTokenizer, prompt: str, names: Mapping[tuple[int, ...], TextualInversion], longest: int
) -> Iterator[_Part]:
    """Yield the parts of a prompt. A word of more than `longest` tokens, which no window holds, becomes single ones."""
    encoding = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
    begin = 0
    for start, end, inversion in [*_matches(ids, encoding.word_ids(), names), (len(ids), len(ids), None)]:
        for index in range(begin, start):
            comma = prompt.endswith(",", 0, offsets[index][1])
            if comma or index + 1 == start or offsets[index + 1][0] > offsets[index][1]:
                word = ids[begin : index + 1]
                if len(word) <= longest:
                    yield _Part(word, ends_with_comma=comma)
                else:
                    yield from (_Part([token]) for token in word)
                begin = index + 1
        if inversion is not None:
            yield _Part(inversion=inversion)
        begin = end


def _windows(parts: Iterator[_Part], size: int) -> list[list[_Part]]:
    """Return parts in windows of at most `size` positions."""
    windows: list[list[_Part]] = []
    window: list[_Part] = []
    for part in parts:
        if sum(map(len, window)) + len(part) > size:
            rest = [] if part.inversion else _after_comma(window, size)
            windows.append(window[: len(window) - len(rest)])
            window = rest
            if sum(map(len, window)) + len(part) > size:
                windows.append(window)
                window = []
        window.append(part)
    return [*windows, window] if window else windows


def _after_comma(window: list[_Part], size: int) -> list[_Part]:
    """Return the parts after the last comma of a window; none if no comma is in its last positions."""
    position = sum(map(len, window))
    for index in reversed(range(len(window))):
        if position <= size - COMMA_POSITIONS:
            break
        if window[index].ends_with_comma:
            return window[index + 1 :]
        position -= len(window[index])
    return []


def _matches(
    ids: Sequence[int], words: Sequence[int | None], names: Mapping[tuple[int, ...], T]
) -> Iterator[tuple[int, int, T]]:
    """Yield where names are in the token ids of a prompt, as begin, end and value; `words` has each token's word."""
    lengths = sorted({len(name) for name in names if name}, reverse=True)
    position = 0
    while position < len(ids):
        end = position + 1
        if position == 0 or words[position] != words[position - 1]:
            for length in lengths:
                name = tuple(ids[position : position + length])
                if name in names:
                    end = position + length
                    yield position, end, names[name]
                    break
        position = end
