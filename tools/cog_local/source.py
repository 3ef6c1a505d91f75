"""The file that --from makes again: its inputs, and whether versions and textual inversions are still the same."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

from tree import package_of
from videokit.errors import InvalidInput
from videokit.video.provenance import Provenance, read_provenance, software

from cog_local.inputs import InvalidInputs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


def read_source(path: Path, model: str) -> Provenance:
    """Return the provenance of a file of `model`. Raises InvalidInputs for another model's, and for other files."""
    try:
        provenance = read_provenance(path)
    except InvalidInput as error:
        raise InvalidInputs(*(f"--from {fault}" for fault in error.faults)) from None
    if provenance.model != model:
        raise InvalidInputs(f"--from {path} is a file of {provenance.model}: script/predict {provenance.model} ...")
    return provenance


def report_versions(source: Path | None, provenance: Provenance, model_dir: Path) -> None:
    """Write one line to stderr if the file is of other versions than these."""
    package = importlib.import_module(package_of(model_dir.name))
    ours = software(model_dir.name, package.__version__)
    if provenance.software != ours:
        print(f"{source} is of {provenance.software}; this is {ours}, so the file may differ", file=sys.stderr)


def report_textual_inversions(source: Path | None, provenance: Provenance, paths: list[Path]) -> None:
    """Write one line to stderr if the new files are of other textual inversions than the file that was made again."""
    for path in paths[:1]:
        try:
            made = read_provenance(path)
        except InvalidInput:  # not a file of videokit
            return
        if made.textual_inversions != provenance.textual_inversions:
            before, now = map(_listed, (provenance.textual_inversions, made.textual_inversions))
            print(f"{source} is of {before}; {path} is of {now}, so the files may differ", file=sys.stderr)


def _listed(inversions: Iterable[Mapping[str, object]]) -> str:
    words = [f"{each['name']} (vectors: {each['vectors']}, SHA-256 {each['sha256']})" for each in inversions]
    return f"the textual inversions {', '.join(words)}" if words else "no textual inversions"
