"""The tables of weight files, compared with a recorded copy, so that a change of a revision or a hash is deliberate."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from tree import models, package_of
from videokit.weights.table import WeightFile

RECORDED = Path(__file__).with_name("weights.txt").read_text().splitlines()


def describe(file: WeightFile) -> str:
    return " | ".join(map(str, (file.path, file.pinned, file.size, file.sha256, file.licence)))


@pytest.mark.parametrize("model", models("*/weights.py"))
def test_the_files_of_a_model_are_the_recorded_ones(model: str) -> None:
    files = importlib.import_module(f"{package_of(model)}.weights").FILES
    recorded = [line for line in RECORDED if line.startswith(f"{model} | ")]
    assert [f"{model} | {describe(file)}" for file in files] == recorded, "change tests/repository/weights.txt too"
