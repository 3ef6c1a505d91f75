"""Motion modules of every layout and kind give the UNet the same tensors; what does not fit is refused by key."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
import torch
from animate_diff.inputs import MOTION_MODULES
from animate_diff.motion_module import MotionModule, original_key, read_motion_module
from animate_diff.pipeline import Pipeline
from diffusers import MotionAdapter
from diffusers.loaders.single_file_utils import convert_animatediff_checkpoint_to_diffusers
from random_weights import animate_diff as recipe
from safetensors.torch import load_file, save_file
from stores import CPU, store_of
from videokit.errors import WeightsError
from videokit.runtime import Stages

V14, V15, V2 = MOTION_MODULES


def read(pipeline: Pipeline, path: Path) -> MotionModule:
    parameters = {name: p for name, p in pipeline.unet.named_parameters() if ".motion_modules." in name}
    return read_motion_module(path, parameters)


def written(path: Path, kind: str) -> Path:
    recipe.write_motion_module(path, recipe.SMALL, kind)
    return path


@pytest.mark.parametrize("kind", [V14, V2])
def test_all_layouts_hold_the_same_tensors(pipeline: Pipeline, tmp_path: Path, kind: str) -> None:
    pickled = read(pipeline, written(tmp_path / f"{kind}.ckpt", kind))
    plain = read(pipeline, written(tmp_path / f"{kind}.safetensors", kind))
    folder = read(pipeline, written(tmp_path / kind, kind))
    adapter = MotionAdapter.from_pretrained(tmp_path / kind)  # diffusers' own reading of the folder
    for name, expected in adapter.named_parameters():
        for module in (pickled, plain, folder):
            assert torch.equal(module.tensors[name], expected), name
    assert pickled.max_frames == plain.max_frames == folder.max_frames


def test_the_original_names_are_those_that_diffusers_converts_from(tmp_path: Path) -> None:
    original = load_file(written(tmp_path / "module.safetensors", V2))
    converted = convert_animatediff_checkpoint_to_diffusers(dict(original))
    assert {original_key(name) for name in converted} == {key for key in original if "pos_encoder" not in key}
    for name, tensor in converted.items():
        assert torch.equal(original[original_key(name)], tensor), name


@pytest.mark.parametrize(("kind", "max_frames", "mid_block"), [(V14, 24, False), (V15, 24, False), (V2, 32, True)])
@pytest.mark.parametrize("layout", [".ckpt", ".safetensors", ""])
def test_the_kind_is_recognised_by_content(
    pipeline: Pipeline, tmp_path: Path, kind: str, max_frames: int, mid_block: bool, layout: str
) -> None:
    module = read(pipeline, written(tmp_path / f"some{layout}", kind))
    assert (module.max_frames, module.has_mid_block, module.norms_over_frames) == (max_frames, mid_block, not mid_block)


def test_without_a_mid_block_the_mid_block_adds_exactly_nothing(
    pipeline: Pipeline, stages: Stages, random_weights: Path
) -> None:
    own = Pipeline(store_of(random_weights), CPU)
    own.load("toonyou_beta3.safetensors", V2, stages)
    own.load("toonyou_beta3.safetensors", V14, stages)  # after a kind that has one
    hidden = torch.randn(32, 64, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(own.unet.mid_block.motion_modules[0](hidden, num_frames=16), hidden)


@pytest.mark.parametrize("wrap", ["state_dict", "module."])
def test_wrappers_of_trained_files_are_taken_off(pipeline: Pipeline, tmp_path: Path, wrap: str) -> None:
    plain = written(tmp_path / "plain.ckpt", V14)
    tensors = torch.load(plain, weights_only=True)
    wrapped = tmp_path / "wrapped.ckpt"
    if wrap == "state_dict":
        torch.save(
            {"state_dict": {f"module.{k}": t for k, t in tensors.items()}, "epoch": 3, "global_step": 9}, wrapped
        )
    else:
        torch.save({f"module.{key}": tensor for key, tensor in tensors.items()}, wrapped)
    ours, expected = read(pipeline, wrapped), read(pipeline, plain)
    assert all(torch.equal(ours.tensors[name], tensor) for name, tensor in expected.tensors.items())


def test_position_tables_may_be_missing(pipeline: Pipeline, tmp_path: Path) -> None:
    tensors = load_file(written(tmp_path / "with.safetensors", V2))
    save_file({k: t for k, t in tensors.items() if "pos_encoder" not in k}, tmp_path / "without.safetensors")
    assert read(pipeline, tmp_path / "without.safetensors").max_frames == 32


@pytest.mark.parametrize("shape", [None, (3, 3)])
def test_a_missing_or_misshapen_key_is_named(pipeline: Pipeline, tmp_path: Path, shape: tuple[int, ...] | None) -> None:
    key = "up_blocks.2.motion_modules.1.temporal_transformer.transformer_blocks.0.attention_blocks.1.to_q.weight"
    tensors = load_file(written(tmp_path / "whole.safetensors", V15))
    del tensors[key]
    if shape:
        tensors[key] = torch.zeros(shape)
    save_file(tensors, tmp_path / "broken.safetensors")
    with pytest.raises(WeightsError, match=re.escape(key)):
        read(pipeline, tmp_path / "broken.safetensors")


def test_foreign_keys_are_counted_in_one_line(
    pipeline: Pipeline, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = load_file(written(tmp_path / "whole.safetensors", V15))
    save_file(tensors | {"animatediff_config": torch.zeros(1)}, tmp_path / "more.safetensors")
    with caplog.at_level(logging.INFO, logger="videokit"):
        read(pipeline, tmp_path / "more.safetensors")
    assert [r.getMessage() for r in caplog.records] == ["more.safetensors: ignored 1 unknown keys: animatediff_config"]


def test_what_is_no_motion_module_is_refused(pipeline: Pipeline, random_weights: Path) -> None:
    with pytest.raises(WeightsError, match="is not a motion module"):
        read(pipeline, random_weights / "checkpoints" / "lyriel_v16.safetensors")


def test_a_module_with_too_few_positions_is_refused(random_weights: Path, tmp_path: Path, stages: Stages) -> None:
    file = written(tmp_path / "motion_modules" / "mm_sd_v15.ckpt", V15)
    tensors = torch.load(file, weights_only=True)
    torch.save({k: t[:, :8] if k.endswith(".pe") else t for k, t in tensors.items()}, file)
    pipeline = Pipeline(store_of(tmp_path, random_weights), CPU)
    with pytest.raises(WeightsError, match="has 8 positions; a clip has 16 frames"):
        pipeline.load("toonyou_beta3.safetensors", V15, stages)
