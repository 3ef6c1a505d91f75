"""Random weights in the layout of the real ones, and a pipeline with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from random_weights import sd_animation as recipe
from sd_animation.pipeline import Pipeline
from sd_animation.weights import FILES
from stores import CPU
from videokit.runtime import Stages
from videokit.video.frame_store import FrameStore
from videokit.weights.store import WeightStore


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> WeightStore:
    """Return a store with every file, which opens no connection."""
    directory = tmp_path_factory.mktemp("random-weights")
    recipe.write(directory, recipe.SMALL)
    return WeightStore(FILES, directories=[directory], cache=None)


@pytest.fixture(scope="session")
def pipeline(store: WeightStore) -> Pipeline:
    """Return the pipeline that all tests share; no test may change the frames that the next test gets."""
    return Pipeline(store, CPU)


@pytest.fixture
def keyframes(tmp_path: Path) -> Iterator[FrameStore]:
    with FrameStore(tmp_path) as keyframes:
        yield keyframes


@pytest.fixture
def stages() -> Stages:
    return Stages(CPU)
