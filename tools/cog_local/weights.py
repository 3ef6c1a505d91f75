"""The actions of script/weights: fetch a model's weight files, print their table, verify the files on this machine."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Literal

from tqdm import tqdm
from videokit.errors import WeightsError, WeightsMissing
from videokit.weights.store import WeightStore
from videokit.weights.transfer import total_size

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
    for path, location in fetched.items():
        print(f"{path}: {location}")
    return 0


def _print_table(store: WeightStore, paths: list[str]) -> int:
    """Print the files by licence, each with its size and location, and the totals."""
    locations = {path: store.find(path) for path in paths}
    by_licence: dict[str, list[str]] = {}
    for path in paths:
        by_licence.setdefault(store.files[path].licence, []).append(path)
    for licence, licensed in by_licence.items():
        print(f"{licence}: {_total(store, licensed)}")
        for path in licensed:
            print(f"{_total(store, [path]):>10}  {path}: {locations[path] or 'missing'}")
    missing = [path for path, location in locations.items() if location is None]
    print(f"{len(paths)} files, {_total(store, paths)}; missing: {len(missing)}, {_total(store, missing)}")
    return 0


def _total(store: WeightStore, paths: Iterable[str]) -> str:
    return total_size([store.files[path].size for path in paths])


def _verify(store: WeightStore, paths: list[str]) -> int:
    present = {path: location for path in paths if (location := store.find(path))}
    sizes = {path: location.stat().st_size for path, location in present.items()}
    wrong = 0
    with tqdm(total=sum(sizes.values()), unit="B", unit_scale=True, disable=None, leave=False) as bar:
        for path in paths:
            bar.set_description(path)
            try:
                result = store.verify(path)
            except WeightsMissing:
                bar.write(f"{path}: missing")
                continue
            wrong += result.fault is not None
            bar.write(f"{path}: {_describe(result)}")
            bar.update(sizes.get(path, 0))
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
