"""Prompt syntax of other programs, which these models read as plain words.

(word) is not reported: most parentheses are prose. AUTOMATIC1111 reads them as a weight of 1.1. Patterns have bounded
repeats, so that a prompt of any length takes linear time.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_SHOWN = 40  # characters of the prompt in a log line

_WEIGHTS = "weights are not read: put what matters first, or say it in more words"
# A word in capitals on its own, not in a text of capitals such as BREAK GLASS, and not in quotes
_CAPITALS = "(?<![\\w\"'“])(?<![A-Z]\\s){}(?![\\w\"'”])(?!\\s[A-Z]+\\b)"

_GROUP = r"(?:(?<!\\)\(|(?<=\)))[^()\n]{1,200}"  # what is in parentheses, or in them after an inner pair

# What other programs read, and what to do instead
UNREAD_SYNTAX = tuple(
    (re.compile(pattern), advice)
    for pattern, advice in (
        # (word:1.2) and (word:2), not (at 10:30), (16:9) or (look :3)
        (rf"{_GROUP}:\s?[+-]?\d?\.\d+\s?\)|{_GROUP}(?<![\s\d]):\s?[+-]?\d\s?\)", _WEIGHTS),
        # ((word)), not a smiley :((
        (r"(?<![\\:;=])\(\(\s?\w[^()\n]{0,200}\)\)", _WEIGHTS),
        # [word], [a|b] and [a:b:0.5], not [1], [...] or \[word\]
        (r"(?<!\\)\[[^\[\]\na-zA-Z]{0,60}[^\W\d_][^\[\]\n]{0,200}(?<!\\)\]", f"brackets are not read; {_WEIGHTS}"),
        (_CAPITALS.format("BREAK"), "remove it: a prompt of more than 75 tokens is cut at commas"),
        (_CAPITALS.format("AND"), "prompts are not combined: write one text, with commas"),
        (
            r"(?i:<(?:lora|lyco|loha|hypernet):[^<>\n]{1,200}>)",
            "a prompt loads no LoRA: merge it into a checkpoint, and set WEIGHTS to its directory",
        ),
        (r"(?<!\w)__(?!_)[\w*/-]{1,60}?__(?!\w)", "wildcards are not replaced: write the words"),
        (r"\{[^{}|\n]{0,200}\|[^{}\n]{0,200}\}", "alternatives are not chosen: write one of them"),
        (
            r"(?<!\S)--(?:ar|aspect|niji|no|seed|stylize|style|v)\s\S+",
            "options are not read: set the inputs of this model",
        ),
    )
)


def unread_syntax(prompts: Mapping[str, str]) -> list[str]:
    """Return one line for each syntax of other programs in prompts, by the inputs' names, with what to do instead."""
    lines = []
    for pattern, advice in UNREAD_SYNTAX:
        found = {name: match[0] for name, text in prompts.items() if (match := pattern.search(text))}
        if found:
            example = next(iter(found.values())).strip(", ")
            shown = example if len(example) <= MAX_SHOWN else f"{example[:MAX_SHOWN]}..."
            lines.append(f"{' and '.join(found)}: {shown} is read as plain words; {advice}")
    return lines
