"""A small vocabulary in the files of CLIP's tokenizer: every byte, and the words of simple prompts."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING

from transformers.convert_slow_tokenizer import bytes_to_unicode

if TYPE_CHECKING:
    from pathlib import Path

END_OF_WORD = "</w>"
WORDS = (  # noqa: SIM905 - a list would take a hundred lines
    "a an the of and on in with at to is photo picture drawing video clip "
    "red green blue yellow orange purple pink white black gray brown cyan light dark "
    "circle square triangle cross star ring dot shape ball big small large tiny plain background "
    "moving move moves right left up down still standing growing shrinking turning slow fast "
    "masterpiece best worst quality low high detailed solo girl boy cat dog hair eyes flower flowers petals "
    "cherry blossoms spring summer autumn winter season falling outdoors tree trees sky sea sun moon night day"
).split()


def write_tokenizer(directory: Path | None) -> int:
    """Write vocab.json, merges.txt and the two configurations, and return the number of tokens.

    Without a directory nothing is written. The order is CLIP's: bytes, bytes that end a word, merges, start, end.
    """
    bytes_ = list(bytes_to_unicode().values())
    merges = _merges()
    tokens = [*bytes_, *(b + END_OF_WORD for b in bytes_), *("".join(pair) for pair in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        special = {"bos_token": tokens[-2], "eos_token": tokens[-1], "unk_token": tokens[-1], "pad_token": tokens[-1]}
        config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, **special}
        vocabulary = {token: number for number, token in enumerate(tokens)}
        lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
        (directory / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
        (directory / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
        (directory / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    return len(tokens)


def _merges() -> list[tuple[str, str]]:
    """Return pairs, the highest rank first, that merge each word to one token.

    The earlier pairs are applied to a word before new ones are added, as byte-pair encoding applies them.
    """
    ranks: dict[tuple[str, str], int] = {}
    for word in WORDS:
        symbols = [*word[:-1], word[-1] + END_OF_WORD]
        while len(symbols) > 1:
            pairs = [pair for pair in itertools.pairwise(symbols) if pair in ranks]
            chosen = min(pairs, key=ranks.__getitem__) if pairs else (symbols[0], symbols[1])
            ranks.setdefault(chosen, len(ranks))
            place = list(itertools.pairwise(symbols)).index(chosen)
            symbols[place : place + 2] = ["".join(chosen)]
    return list(ranks)
