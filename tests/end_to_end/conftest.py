"""One server of Cog for each model, with its demo weights, for all tests of a session."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from cog_local.server import CogServer
from declared_inputs import missing_field
from served import Served
from tree import ROOT


@contextmanager
def serve(model: str, temporaries: pytest.TempPathFactory, **environ: str) -> Iterator[Served]:
    if fault := missing_field(model):
        pytest.fail(fault, pytrace=False)
    temporary = temporaries.mktemp(f"{model}-server")
    log: list[str] = []
    with CogServer(ROOT / model, env={"TMPDIR": str(temporary), **environ}, on_log=log.append) as server:
        yield Served(server, temporary, log)


@pytest.fixture(scope="session")
def animate_diff(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve("animate-diff", tmp_path_factory) as served:
        yield served


@pytest.fixture(scope="session")
def sd_animation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    # such small networks are slower in several threads than in one
    with serve("sd-animation", tmp_path_factory, OMP_NUM_THREADS="1") as served:
        yield served


@pytest.fixture(scope="session")
def zeroscope(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve("zeroscope", tmp_path_factory, OMP_NUM_THREADS="1") as served:
        yield served
