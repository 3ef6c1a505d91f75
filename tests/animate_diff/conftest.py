"""Small weights in the real layouts, and a pipeline on them."""

from __future__ import annotations

from pathlib import Path

import pytest
from animate_diff.pipeline import Pipeline
from random_weights import animate_diff as recipe
from stores import CPU, store_of
from videokit.runtime import Stages


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights directory with everything, made once."""
    directory = tmp_path_factory.mktemp("random-weights")
    recipe.write(directory, recipe.SMALL)
    return directory


@pytest.fixture(scope="session")
def pipeline(random_weights: Path) -> Pipeline:
    """A pipeline on the CPU that all tests share: no test may change what the next one gets."""
    return Pipeline(store_of(random_weights), CPU)


@pytest.fixture
def stages() -> Stages:
    return Stages(CPU)
