"""The actions of script/weights: fetch a model's weight files, print their table, verify the files on this machine."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Literal

from videokit.errors import WeightsError, WeightsMissing
from videokit.weights.store import WeightStore

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from videokit.weights.store import Verification
    from videokit.weights.table import WeightFile


def run(
    model_dir: Path,
    files: Iterable[WeightFile],
    paths: list[str],
    *,
    action: Literal["fetch", "list", "verify"],
    target: Literal["baked", "cache"],
) -> int:
    """Do an action for some paths of a model's table (all if there are none) and return the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs each request, with signed addresses
    store = WeightStore.from_environment(files, model_dir.name, model_dir)
    if unknown := [path for path in paths if path not in store.files]:
        print(f"not in the weights table: {', '.join(unknown)}; --list prints the table", file=sys.stderr)
        return 2
    paths = paths or list(store.files)
    if action == "list":
        return _print_table(store, paths)
    if action == "verify":
        return _verify(store, paths)
    environ = {**os.environ, "WEIGHTS": "full"}  # not the choice that the user made for predictions
    if target == "baked":
        environ["WEIGHTS_CACHE"] = str(model_dir / "weights")
    try:
        fetched = WeightStore.from_environment(files, model_dir.name, model_dir, environ).fetch(paths)
    except WeightsError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; run the same command to continue", file=sys.stderr)
        return 130
    for path, location in fetched.items():
        print(f"{path}: {location}")
    return 0


def _print_table(store: WeightStore, paths: list[str]) -> int:
    for path in paths:
        size = store.files[path].size
        print(path)
        print(f"    {'size unknown' if size is None else f'{size} bytes'}, {store.files[path].licence}")
        print(f"    {store.find(path) or 'missing'}")
    return 0


def _verify(store: WeightStore, paths: list[str]) -> int:
    wrong = 0
    for path in paths:
        try:
            result = store.verify(path)
        except WeightsMissing:
            print(f"{path}: missing")
            continue
        wrong += result.fault is not None
        print(f"{path}: {_describe(result)}")
    if wrong:
        print(f"{wrong} wrong; remove them and fetch them again", file=sys.stderr)
    return int(wrong > 0)


def _describe(result: Verification) -> str:
    if result.fault:
        return f"WRONG: {result.location}: {result.fault}"
    if result.expected.sha256:
        return f"right, by {result.expected.stated_by}"
    if result.expected.size is not None:
        return f"not known: {result.location} has the right size, and no SHA-256 is known"
    return f"not known: no size and no SHA-256 of {result.location} are known"
