"""The textual inversions that prompts name: which ones, and their files on this machine.

A textual inversion is a file `embeddings/NAME.safetensors`, .pt or .bin below a weights directory, or an entry of
`videokit.weights.textual_inversions`, which is fetched when a prompt first names it. NAME in a prompt, in upper or
lower case, is replaced by its vectors.
"""

from __future__ import annotations

import logging
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from videokit.errors import DownloadFailed, WeightsMissing
from videokit.prompts import find_names, name_ids
from videokit.weights.inversion_file import SUFFIXES, read_textual_inversion
from videokit.weights.textual_inversions import FOLDER, TEXTUAL_INVERSIONS, WIDTH
from videokit.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from transformers import CLIPTokenizer

    from videokit.weights.inversion_file import TextualInversion
    from videokit.weights.store import WeightStore

logger = logging.getLogger("videokit")

_PUBLISHED = {PurePosixPath(file.path).stem: file.path for file in TEXTUAL_INVERSIONS}


class TextualInversions:
    """The textual inversions of a model: its user's files, and the published ones in its weights table.

    `width` is that of the input embeddings of the model's text encoder, or None if it is not CLIP's: then all names
    stay words.
    """

    def __init__(self, store: WeightStore, width: int | None) -> None:
        self.store = store
        self.width = width

    def read(self, tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> list[TextualInversion]:
        """Return the textual inversions that prompts name, and log each; missing files are fetched.

        A published one that cannot be fetched, or has another width, stays words, and the log has the reason. Raises
        WeightsError for a file that cannot be used.
        """
        files = self._files()
        named = _named(tokenizer, prompts, files)
        if self.width is None:
            _log_words(named, "they are for the text encoder of Stable Diffusion 1, and this model has another")
            return []
        while missing := [name for name in named if files[name] is None]:
            files = {name: file for name, file in files.items() if name not in missing} | self._fetch(missing)
            named = _named(tokenizer, prompts, files)  # a shorter name may be in one that stays words
        inversions = [read_textual_inversion(file, name, self.width) for name in named if (file := files[name])]
        for inversion in inversions:
            vectors = counted(len(inversion.vectors), "vector")
            hashed = f"{inversion.file}, SHA-256 {inversion.sha256}"
            logger.info("textual inversion: %s, %s, %s", inversion.name, vectors, hashed)
        return inversions

    def _files(self) -> dict[str, Path | None]:
        """Return the file of each known name; None for a published one that is not on this machine."""
        files: dict[str, Path | None] = {}
        for directory in self.store.directories:
            for file in _files_in(directory / FOLDER):
                files.setdefault(file.stem, file)
        for name, path in _PUBLISHED.items():
            files.setdefault(name, self.store.find(path) if self.width == WIDTH else None)
        return files

    def _fetch(self, names: Sequence[str]) -> dict[str, Path | None]:
        """Return the files of published textual inversions; log those that cannot be fetched, and leave them out."""
        if self.width != WIDTH:
            _log_words(names, f"their vectors have {WIDTH} numbers, and this text encoder's have {self.width}")
            return {}
        try:
            self.store.fetch(_PUBLISHED[name] for name in names)
        except (WeightsMissing, DownloadFailed) as error:
            _log_words([name for name in names if self.store.find(_PUBLISHED[name]) is None], str(error))
        return {name: file for name in names if (file := self.store.find(_PUBLISHED[name]))}


def _files_in(folder: Path) -> Iterator[Path]:
    """Yield the textual inversions in a folder; of files with one name, the safetensors file is the first."""
    try:
        files = sorted(folder.iterdir(), key=lambda file: (file.stem, file.suffix.lower() != SUFFIXES[0], file.suffix))
    except OSError:
        return
    for file in files:
        # a hidden file, such as `.safetensors`, has no name; one without letters would match every comma or dash
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file():
            if file.stem.isprintable() and any(map(str.isalnum, file.stem)):
                yield file
            else:
                logger.warning("textual inversion: %s is ignored: its name has no letters, or unprintable ones", file)


def _named(tokenizer: CLIPTokenizer, prompts: Iterable[str], names: Iterable[str]) -> list[str]:
    """Return the names that prompts have, each once, in the prompts' order."""
    by_ids: dict[tuple[int, ...], str] = {}
    for name in names:
        by_ids.setdefault(name_ids(tokenizer, name), name)  # names that differ in case only have the same ids
    return list(dict.fromkeys(name for prompt in prompts for name in find_names(tokenizer, prompt, by_ids)))


def _log_words(names: Sequence[str], reason: str) -> None:
    if names:
        logger.warning("textual inversions: %s stay words: %s", ", ".join(names), reason)
