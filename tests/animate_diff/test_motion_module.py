"""How motion modules of every layout and kind become the UNet's parameters, and which files are rejected."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
import torch
from animate_diff.inputs import MOTION_MODULES
from animate_diff.motion_module import MotionModule, motion_keys, read_motion_module
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


def write_module(path: Path, kind: str) -> Path:
    """Write a motion module in the layout of the path's suffix, and return the path."""
    recipe.write_motion_module(path, recipe.SMALL, kind)
    return path


@pytest.mark.parametrize("kind", [V14, V2])
def test_every_layout_gives_the_same_tensors(pipeline: Pipeline, tmp_path: Path, kind: str) -> None:
    pickled = read(pipeline, write_module(tmp_path / f"{kind}.ckpt", kind))
    plain = read(pipeline, write_module(tmp_path / f"{kind}.safetensors", kind))
    folder = read(pipeline, write_module(tmp_path / kind, kind))
    adapter = MotionAdapter.from_pretrained(tmp_path / kind)  # read by diffusers
    for name, expected in adapter.named_parameters():
        for module in (pickled, plain, folder):
            assert torch.equal(module.tensors[name], expected), name
    assert pickled.max_frames == plain.max_frames == folder.max_frames


def test_the_original_keys_are_those_that_diffusers_converts(tmp_path: Path) -> None:
    original = load_file(write_module(tmp_path / "module.safetensors", V2))
    converted = convert_animatediff_checkpoint_to_diffusers(dict(original))
    assert {motion_keys(name)[0] for name in converted} == {key for key in original if "pos_encoder" not in key}
    for name, tensor in converted.items():
        assert torch.equal(original[motion_keys(name)[0]], tensor), name


@pytest.mark.parametrize(("kind", "max_frames", "mid_block"), [(V14, 24, False), (V15, 24, False), (V2, 32, True)])
@pytest.mark.parametrize("layout", [".ckpt", ".safetensors", ""])
def test_the_kind_is_determined_by_the_content(
    pipeline: Pipeline, tmp_path: Path, kind: str, max_frames: int, mid_block: bool, layout: str
) -> None:
    module = read(pipeline, write_module(tmp_path / f"some{layout}", kind))
    assert (module.max_frames, module.has_mid_block, module.norms_over_frames) == (max_frames, mid_block, not mid_block)


def test_a_module_without_mid_block_leaves_the_mid_block_input_unchanged(pipeline: Pipeline, stages: Stages) -> None:
    pipeline.load("toonyou_beta3.safetensors", V2, stages)
    pipeline.load("toonyou_beta3.safetensors", V14, stages)  # after a kind with a mid block
    hidden = torch.randn(32, 64, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(pipeline.unet.mid_block.motion_modules[0](hidden, num_frames=16), hidden)


@pytest.mark.parametrize("wrap", ["state_dict", "module."])
def test_wrapped_state_dicts_are_unwrapped(pipeline: Pipeline, tmp_path: Path, wrap: str) -> None:
    plain = write_module(tmp_path / "plain.ckpt", V14)
    tensors = torch.load(plain, weights_only=True)
    wrapped = tmp_path / "wrapped.ckpt"
    if wrap == "state_dict":
        torch.save(
            {"state_dict": {f"module.{k}": t for k, t in tensors.items()}, "epoch": 3, "global_step": 9}, wrapped
        )
    else:
        torch.save({f"module.{key}": tensor for key, tensor in tensors.items()}, wrapped)
    module, expected = read(pipeline, wrapped), read(pipeline, plain)
    assert all(torch.equal(module.tensors[name], tensor) for name, tensor in expected.tensors.items())


def test_a_folder_without_tables_and_config_has_the_length_of_its_kind(pipeline: Pipeline, tmp_path: Path) -> None:
    for kind, length in ((V14, 24), (V2, 32)):
        file = write_module(tmp_path / kind, kind) / "diffusion_pytorch_model.safetensors"
        save_file({k: t for k, t in load_file(file).items() if not k.endswith(".pe")}, file)
        (tmp_path / kind / "config.json").unlink()
        assert read(pipeline, tmp_path / kind).max_frames == length


def test_the_config_of_a_folder_without_tables_has_their_length(pipeline: Pipeline, tmp_path: Path) -> None:
    file = write_module(tmp_path / "folder", V2) / "diffusion_pytorch_model.safetensors"
    save_file({k: t for k, t in load_file(file).items() if not k.endswith(".pe")}, file)
    config = tmp_path / "folder" / "config.json"
    config.write_text('{"motion_max_seq_length": 30}')
    assert read(pipeline, tmp_path / "folder").max_frames == 30
    config.write_text("{}")
    with pytest.raises(WeightsError, match=r"config\.json has no number motion_max_seq_length"):
        read(pipeline, tmp_path / "folder")


@pytest.mark.parametrize(
    ("mid_block", "positions", "over_frames"),
    [(False, 24, True), (False, 32, False), (True, 32, False), (True, 24, False)],
)
def test_norms_run_over_frames_for_modules_like_v14_only(mid_block: bool, positions: int, over_frames: bool) -> None:
    """The originals' use_inflated_groupnorm, which is false for v1 only: guoyww/AnimateDiff configs/inference/."""
    assert MotionModule({}, positions, mid_block).norms_over_frames == over_frames


@pytest.mark.parametrize("layout", [".ckpt", ".safetensors", ""])
def test_v3_has_the_norms_of_single_frames_in_every_layout(pipeline: Pipeline, tmp_path: Path, layout: str) -> None:
    module = read(pipeline, write_module(tmp_path / f"v3_sd15_mm{layout}", "v3_sd15_mm"))
    assert (module.max_frames, module.has_mid_block, module.norms_over_frames) == (32, False, False)


@pytest.mark.parametrize(
    "name",
    ["diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.bin"],
)
def test_a_folder_may_have_any_name_that_save_pretrained_gives(pipeline: Pipeline, tmp_path: Path, name: str) -> None:
    expected = read(pipeline, write_module(tmp_path / "a", V2))
    file = write_module(tmp_path / "b", V2) / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    file.unlink()
    (torch.save if name.endswith(".bin") else save_file)(tensors, tmp_path / "b" / name)
    tensors = read(pipeline, tmp_path / "b").tensors
    assert tensors.keys() == expected.tensors.keys()
    assert all(torch.equal(tensors[key], tensor) for key, tensor in expected.tensors.items())


def test_a_folder_without_weights_is_an_error_that_lists_the_names(pipeline: Pipeline, tmp_path: Path) -> None:
    (write_module(tmp_path / "folder", V2) / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"no weights of a MotionAdapter; .* diffusion_pytorch_model\.fp16\.bin"):
        read(pipeline, tmp_path / "folder")


@pytest.mark.parametrize("shape", [None, (3, 3)])
def test_a_missing_or_misshapen_tensor_is_named(
    pipeline: Pipeline, tmp_path: Path, shape: tuple[int, ...] | None
) -> None:
    key = "up_blocks.2.motion_modules.1.temporal_transformer.transformer_blocks.0.attention_blocks.1.to_q.weight"
    tensors = load_file(write_module(tmp_path / "whole.safetensors", V15))
    del tensors[key]
    if shape:
        tensors[key] = torch.zeros(shape)
    save_file(tensors, tmp_path / "broken.safetensors")
    with pytest.raises(WeightsError, match=re.escape(key)):
        read(pipeline, tmp_path / "broken.safetensors")


def test_unknown_keys_are_logged_in_one_line(
    pipeline: Pipeline, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = load_file(write_module(tmp_path / "whole.safetensors", V15))
    save_file(tensors | {"animatediff_config": torch.zeros(1)}, tmp_path / "more.safetensors")
    with caplog.at_level(logging.INFO, logger="videokit"):
        read(pipeline, tmp_path / "more.safetensors")
    assert [r.getMessage() for r in caplog.records] == ["more.safetensors: ignored 1 unknown keys: animatediff_config"]


def test_a_file_that_is_not_a_motion_module_is_rejected(
    pipeline: Pipeline, random_weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=r"is a single-file checkpoint of Stable Diffusion .*, not a motion module"):
        read(pipeline, random_weights / "checkpoints" / "lyriel_v16.safetensors")
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"is not a motion module \(it has weight\)"):
        read(pipeline, tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("down_blocks.0.motion_modules.0.temporal_transformer.proj_in_lora.down.weight", "is a motion LoRA"),
        ("down_blocks.0.temporal_attentions.0.transformer_blocks.0.ff.net.2.bias", "is a motion module of HotShot-XL"),
        ("lora_unet_mid_block_attentions_0_proj_in.lora_up.weight", "is a LoRA"),
    ],
)
def test_a_file_of_another_kind_is_refused_by_its_name(
    pipeline: Pipeline, tmp_path: Path, key: str, message: str
) -> None:
    save_file({key: torch.zeros(1)}, tmp_path / "module.safetensors")
    with pytest.raises(WeightsError, match=rf"{message}.*, not a motion module; "):
        read(pipeline, tmp_path / "module.safetensors")


def test_animatelcm_is_refused_for_its_missing_position_tables(pipeline: Pipeline, tmp_path: Path) -> None:
    tensors = load_file(write_module(tmp_path / "with.safetensors", V2))
    save_file({k: t for k, t in tensors.items() if "pos_encoder" not in k}, tmp_path / "without.safetensors")
    with pytest.raises(WeightsError, match="is a motion module of AnimateLCM, which has no position tables"):
        read(pipeline, tmp_path / "without.safetensors")


def test_a_sparsectrl_encoder_in_its_published_wrapper_is_refused_by_its_name(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    """The wrapper is read in guoyww/AnimateDiff@e92bd56 scripts/animate.py."""
    key = "down_blocks.0.motion_modules.0.temporal_transformer.norm.weight"
    content = {"controlnet": {f"module.{name}": torch.zeros(1) for name in (key, "controlnet_down_blocks.0.weight")}}
    torch.save(content, tmp_path / "v3_sd15_sparsectrl_rgb.ckpt")
    with pytest.raises(WeightsError, match="is a SparseCtrl encoder of AnimateDiff"):
        read(pipeline, tmp_path / "v3_sd15_sparsectrl_rgb.ckpt")


def test_a_module_with_too_few_positions_is_rejected(random_weights: Path, tmp_path: Path, stages: Stages) -> None:
    file = write_module(tmp_path / "motion_modules" / "mm_sd_v15.ckpt", V15)
    tensors = torch.load(file, weights_only=True)
    torch.save({k: t[:, :8] if k.endswith(".pe") else t for k, t in tensors.items()}, file)
    pipeline = Pipeline(store_of(tmp_path, random_weights), CPU)
    with pytest.raises(WeightsError, match="has 8 positions; a clip has 16 frames"):
        pipeline.load("toonyou_beta3.safetensors", V15, stages)
