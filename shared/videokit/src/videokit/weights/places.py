"""The names under which a directory may have one file of weights, and the search of a directory for them.

Users' files have the names that programs give them: diffusers' `save_pretrained`, with and without `variant="fp16"`,
transformers', and those of model pages. Each name of the table stands for all of them.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SUFFIXES = (".safetensors", ".ckpt", ".bin")
VARIANT = ".fp16"
TRANSFORMERS = ("pytorch_model", "model")  # a pickle's name and a safetensors file's, in transformers
# transformers 5 stores a whole tokenizer in one file, which replaces these
TOKENIZER_PARTS = ("vocab.json", "merges.txt", "special_tokens_map.json")
TOKENIZER = "tokenizer.json"


def names_of(path: str) -> list[str]:
    """Return the paths under which a directory may have the file `path` of a table, the preferred first.

    Safetensors have priority over pickles, then the table's own variant (`.fp16` or none) and name over others.
    """
    file = PurePosixPath(path)
    if file.name in TOKENIZER_PARTS:
        return [path, str(file.with_name(TOKENIZER))]
    if file.suffix not in SUFFIXES:
        return [path]
    stem = file.name.removesuffix(file.suffix)
    own, other = (VARIANT, "") if stem.endswith(VARIANT) else ("", VARIANT)
    stem = stem.removesuffix(VARIANT)
    stems = [stem, *(name for name in TRANSFORMERS if name != stem)] if stem in TRANSFORMERS else [stem]
    suffixes = dict.fromkeys((SUFFIXES[0], file.suffix, *SUFFIXES))
    names = (f"{name}{variant}{suffix}" for suffix in suffixes for variant in (own, other) for name in stems)
    return [str(file.with_name(name)) for name in names]


def find_in(directory: Path, path: str, *, folder: bool = False) -> Path | None:
    """Return the location of the file `path` of a table in a directory, under any of its names, or None.

    If `folder`, a folder of the file's name without suffix is a location too, such as one that MotionAdapter saved.
    """
    names = names_of(path)
    if folder:
        names.append(str(PurePosixPath(path).with_suffix("")))
    return next((location for name in names if (location := directory / name).exists()), None)
