"""The clips of new-model, and what a client gets from Cog's server."""

from __future__ import annotations

import base64

import numpy as np
from cog_local.server import CogServer
from new_model.inputs import Inputs
from new_model.pipeline import SIDE, Pipeline
from pictures import decode_mp4
from tree import ROOT


def clip(seed: int) -> np.ndarray:
    return np.stack(list(Pipeline().generate(Inputs(num_frames=3), seed)))


def test_the_same_seed_gives_the_same_clip_and_another_seed_another() -> None:
    assert np.array_equal(clip(seed=1), clip(seed=1))
    assert not np.array_equal(clip(seed=1), clip(seed=2))


def test_a_client_gets_an_mp4_with_the_frames_that_it_requests() -> None:
    with CogServer(ROOT / "new-model") as server:
        answer = server.predict({"num_frames": 3, "seed": 1})
    assert answer["metrics"]["seed"] == 1
    header, _, content = answer["output"].partition(",")
    assert header == "data:video/mp4;base64"
    assert decode_mp4(base64.b64decode(content)).shape == (3, SIDE, SIDE, 3)
