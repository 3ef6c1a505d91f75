"""What textual inversions change in a clip of animate-diff, and that they affect no other clip."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from animate_diff.inputs import CHECKPOINTS, Inputs
from animate_diff.pipeline import Pipeline
from animate_diff.weights import FILES
from safetensors.torch import save_file
from stores import CPU, store_of
from videokit.errors import WeightsError
from videokit.runtime import Stages
from videokit.weights.textual_inversions import TEXTUAL_INVERSIONS


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder `embeddings` with `bad-hands`, three vectors of the small text encoder's width."""
    folder = tmp_path_factory.mktemp("user") / "embeddings"
    folder.mkdir()
    vectors = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    save_file({"emb_params": vectors}, folder / "bad-hands.safetensors")
    return folder


@pytest.fixture(scope="module")
def with_inversion(random_weights: Path, embeddings: Path) -> Pipeline:
    return Pipeline(store_of(embeddings.parent, random_weights), CPU)


@pytest.fixture
def stages() -> Iterator[Stages]:
    yield Stages(CPU)


def clip_of(pipeline: Pipeline, stages: Stages, **inputs: object) -> np.ndarray:
    checked = Inputs(**{"prompt": "a red circle", "num_inference_steps": 2, "seed": 3, **inputs})
    return np.stack(list(pipeline.generate(checked, 3, stages)))


def test_a_name_in_the_negative_prompt_changes_the_clip_only_where_its_file_is(
    pipeline: Pipeline, with_inversion: Pipeline
) -> None:
    words, vectors = (clip_of(p, Stages(CPU), negative_prompt="Bad-Hands, blue") for p in (pipeline, with_inversion))
    assert not np.array_equal(words, vectors)


def test_no_textual_inversion_affects_another_clip(pipeline: Pipeline, with_inversion: Pipeline) -> None:
    expected = clip_of(pipeline, Stages(CPU), negative_prompt="blue")
    for checkpoint in CHECKPOINTS[:2]:
        clip_of(with_inversion, Stages(CPU), prompt="bad-hands", negative_prompt="bad-hands", checkpoint=checkpoint)
    assert np.array_equal(clip_of(with_inversion, Stages(CPU), negative_prompt="blue"), expected)


def test_the_stages_list_what_the_prompts_named(with_inversion: Pipeline, stages: Stages) -> None:
    clip_of(with_inversion, stages, prompt="a red bad-hands")
    assert [(each.name, len(each.vectors)) for each in stages.textual_inversions] == [("bad-hands", 3)]


def test_without_guidance_the_negative_prompt_reads_no_file(with_inversion: Pipeline, stages: Stages) -> None:
    clip_of(with_inversion, stages, negative_prompt="bad-hands", guidance_scale=1)
    assert stages.textual_inversions == []


def test_a_file_that_cannot_be_used_fails_before_denoising(
    with_inversion: Pipeline, embeddings: Path, stages: Stages
) -> None:
    (embeddings / "broken.pt").write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(WeightsError, match=r"broken\.pt is not a textual inversion"):
        clip_of(with_inversion, stages, negative_prompt="broken")
    assert "denoise" not in stages.seconds
    assert len(clip_of(with_inversion, stages, negative_prompt="bad-hands")) == 16


def test_the_published_ones_are_in_the_table() -> None:
    assert set(TEXTUAL_INVERSIONS) <= set(FILES)
