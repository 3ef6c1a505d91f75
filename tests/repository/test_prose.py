"""Words that CONTRIBUTING's "Rules for words" replace, in every text file of the repository."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from tree import ROOT

# The word, and what to write in its place. Underscores count as spaces, so names of functions and tests are included.
WORDS = {
    r"tells?|told": "report, return, raise",
    r"(lies?|lay) (in|on|at|below|there|here|beyond)": "is stored in, is located in",
    r"anew": "again",
    r"by turns": "alternately",
    r"reckon(s|ed|ing)?": "estimate",
    r"for ever": "forever",
    r"till": "until",
    r"(?<!there )(is|are) (no (?!longer|more)[a-z]+|(?-i:none))": "is not a, missing, unexpected, invalid",
    r"whoever|thereby|beside": "anyone who, so, next to",
    r"heed(s|ed|ing)?|believes?|doubt(s|ing)?": "depend on, use, weight",
    r"lets? go( of)?|lets? live": "release, unload, drop",
}
DENIED = {re.compile(rf"(?<![a-z])(?:{words})(?![a-z])", re.I): instead for words, instead in WORDS.items()}
SUFFIXES = {".py", ".md", ".toml", ".yaml", ".sh", ".mjs", ""}
EXEMPT = {"LICENSE", "CONTRIBUTING.md", "tests/repository/test_prose.py"}


def text_files() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = listed.stdout.splitlines()
    return [name for name in names if Path(name).suffix in SUFFIXES and name not in EXEMPT and (ROOT / name).is_file()]


@pytest.mark.parametrize("name", text_files())
def test_a_file_uses_plain_words(name: str) -> None:
    found = []
    for number, line in enumerate((ROOT / name).read_text("utf-8").splitlines(), start=1):
        spaced = line.replace("_", " ")
        for pattern, instead in DENIED.items():
            if match := pattern.search(spaced):
                found.append(f"{name}:{number}: {match[0]!r}; write: {instead}")
    assert not found, "\n".join(found)
