"""Random weights in the published layout, a pipeline with them, and an initial video."""

from __future__ import annotations

from pathlib import Path

import pytest
from pictures import gradient
from random_weights import zeroscope as recipe
from stores import CPU
from videokit.runtime import Stages
from videokit.video.encode import encode_mp4
from videokit.weights.store import WeightStore
from zeroscope.pipeline import Pipeline
from zeroscope.weights import FILES


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a weights directory with every file."""
    directory = tmp_path_factory.mktemp("random-weights")
    recipe.write(directory, recipe.SMALL)
    return directory


@pytest.fixture(scope="session")
def pipeline(random_weights: Path) -> Pipeline:
    """Return the pipeline that all tests share; no test may change the frames that the next test gets."""
    return Pipeline(WeightStore(FILES, directories=[random_weights], cache=None), CPU)


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a video of 6 frames, 320x256."""
    return encode_mp4(gradient(6, 320, 256), tmp_path_factory.mktemp("video") / "lamps.mp4", fps=6).path


@pytest.fixture
def stages() -> Stages:
    return Stages(CPU)
