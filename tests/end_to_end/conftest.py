"""One server of Cog for each model, with its demo weights, for all tests of a session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cog_local.server import CogServer
from served import Served
from tree import ROOT


@pytest.fixture(scope="session")
def animate_diff(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    temporary = tmp_path_factory.mktemp("animate-diff-server")
    log: list[str] = []
    with CogServer(ROOT / "animate-diff", env={"TMPDIR": str(temporary)}, on_log=log.append) as server:
        yield Served(server, temporary, log)


@pytest.fixture(scope="session")
def sd_animation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    temporary = tmp_path_factory.mktemp("sd-animation-server")
    log: list[str] = []
    # such small networks are slower in several threads than in one
    env = {"TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    with CogServer(ROOT / "sd-animation", env=env, on_log=log.append) as server:
        yield Served(server, temporary, log)


@pytest.fixture(scope="session")
def zeroscope(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    temporary = tmp_path_factory.mktemp("zeroscope-server")
    log: list[str] = []
    env = {"TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    with CogServer(ROOT / "zeroscope", env=env, on_log=log.append) as server:
        yield Served(server, temporary, log)
