"""What the log says about syntax of other programs in prompts, and that prose is not taken for it."""

from __future__ import annotations

import time

import pytest
from videokit.prompt_syntax import MAX_SHOWN, unread_syntax

# As users write them for AUTOMATIC1111 (its wiki, "Features"), dynamic prompts and Midjourney
SYNTAX = [
    ("a cat, (red hat:1.2)", "(red hat:1.2)", "put what matters first"),
    ("(masterpiece, (best quality), detailed:1.4), cat", "detailed:1.4)", "put what matters first"),
    ("(cat:2)", "(cat:2)", "put what matters first"),
    ("(cat:.5)", "(cat:.5)", "put what matters first"),
    ("((blue eyes)), cat", "((blue eyes))", "put what matters first"),
    ("[blurry], cat", "[blurry]", "brackets are not read"),
    ("[cat|dog]", "[cat|dog]", "brackets are not read"),
    ("[cat:dog:0.5]", "[cat:dog:0.5]", "brackets are not read"),
    ("a cat BREAK a dog", "BREAK", "cut at commas"),
    ("a cat\nBREAK\na dog", "BREAK", "cut at commas"),
    ("a cat AND a dog", "AND", "write one text"),
    ("cat <lora:pixel:0.8>", "<lora:pixel:0.8>", "merge it into a checkpoint"),
    ("cat <LyCO:pixel>", "<LyCO:pixel>", "merge it into a checkpoint"),
    ("a __colour__ cat", "__colour__", "write the words"),
    ("a __animals/big-cat__", "__animals/big-cat__", "write the words"),
    ("a {red|blue} cat", "{red|blue}", "write one of them"),
    ("a cat --ar 16:9", "--ar 16:9", "set the inputs"),
]
PROSE = [
    "",
    "a cat (a small one) in a box",
    "a clock (at 10:30), a screen (16:9), a map (1:500)",
    "a cat (look :3) and a sad face :(( or :)) here",
    "a sign [1], a quotation [...] and [2023]",
    r"hatsune miku \(vocaloid\), \[brackets\]",
    "a poster: BREAK GLASS IN CASE OF FIRE",
    "CATS AND DOGS",
    'a sign that says "BREAK" and one that says "AND"',
    "BREAKFAST, a BAND, sand and coffee breaks",
    "snake_case__name and __ and ____",
    "{one} and a | b",
    "x < y > z, <3, an em-dash -- no, a--v b",
    "a cat, 1:1, f/1.8, iso:100",
]


@pytest.mark.parametrize(("prompt", "shown", "advice"), SYNTAX, ids=[shown for _, shown, _ in SYNTAX])
def test_unread_syntax_is_named_with_what_to_do_instead(prompt: str, shown: str, advice: str) -> None:
    (line,) = unread_syntax({"prompt": prompt})
    assert line.startswith(f"prompt: {shown} is read as plain words; ")
    assert advice in line


@pytest.mark.parametrize("prompt", PROSE)
def test_prose_is_not_reported(prompt: str) -> None:
    assert unread_syntax({"prompt": prompt}) == []


def test_each_syntax_is_named_once_with_all_its_inputs() -> None:
    lines = unread_syntax({"prompt": "(a:1.2), (b:1.3)", "n_prompt": "(c:1.4), [d]"})
    assert [line.partition(" is read")[0] for line in lines] == ["prompt and n_prompt: (a:1.2)", "n_prompt: [d]"]


def test_only_the_beginning_of_a_long_example_is_shown() -> None:
    (line,) = unread_syntax({"prompt": f"[{'cat ' * 40}]"})
    assert line.startswith(f"prompt: [{'cat ' * 40}"[: MAX_SHOWN + 8] + "... is read")


@pytest.mark.parametrize(
    "text", ["(", "((a", "[a", "[é", "__a", "_", "{|", "a:", "(a:1", "<lora:", "BREAK ", "[1 ", "--ar "]
)
def test_a_prompt_of_200_000_characters_takes_seconds_at_most(text: str) -> None:
    before = time.process_time()
    unread_syntax({"prompt": text + text * (200_000 // len(text)), "n_prompt": text + "a" * 200_000})
    assert time.process_time() - before < 10
