"""Random weights in the layouts of the real ones, and a pipeline with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from animate_diff.pipeline import Pipeline
from random_weights import animate_diff as recipe
from stores import CPU, store_of
from videokit.runtime import Stages


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a weights directory with every file."""
    directory = tmp_path_factory.mktemp("random-weights")
    recipe.write(directory, recipe.SMALL)
    return directory


@pytest.fixture(scope="session")
def pipeline(random_weights: Path) -> Pipeline:
    """Return the pipeline that all tests share; no test may change the frames that the next test gets."""
    return Pipeline(store_of(random_weights), CPU)


@pytest.fixture
def stages() -> Stages:
    return Stages(CPU)
