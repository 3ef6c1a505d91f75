"""A single-file checkpoint gives the modules exactly what it holds, and a file that cannot is refused by key."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from animate_diff.checkpoint import TEXT_ENCODER, UNET, VAE, Checkpoint
from animate_diff.inputs import CHECKPOINTS
from animate_diff.pipeline import Pipeline
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint
from random_weights import animate_diff as recipe
from safetensors.torch import load_file, save_file
from stores import CPU, store_of
from videokit.errors import WeightsError
from videokit.runtime import Stages

NAME = CHECKPOINTS[0]
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def published(random_weights: Path) -> Tensors:
    return load_file(random_weights / "checkpoints" / NAME)


@pytest.fixture
def own(tmp_path: Path) -> Callable[[Tensors], Path]:
    """Save tensors as a user's own checkpoint, and return the weights directory that holds it."""

    def save(tensors: Tensors) -> Path:
        file = tmp_path / "checkpoints" / NAME
        file.parent.mkdir()
        save_file(tensors, file)
        return tmp_path

    return save


def loaded(directory: Path, random_weights: Path) -> Pipeline:
    """A pipeline with the checkpoint from `directory`, the rest from the small weights."""
    pipeline = Pipeline(store_of(directory, random_weights), CPU)
    pipeline.load(NAME, "mm_sd_v14", Stages(CPU))
    return pipeline


def same(ours: torch.nn.Module, expected: Tensors) -> None:
    parameters = dict(ours.named_parameters())
    assert parameters.keys() == expected.keys()
    for name, parameter in parameters.items():
        assert torch.equal(parameter, expected[name].float()), name


def test_the_parts_are_what_diffusers_own_converter_reads(pipeline: Pipeline, random_weights: Path) -> None:
    """Three conversions written by others, of the same file."""
    pipeline.load(NAME, "mm_sd_v14", Stages(CPU))
    file, base = random_weights / "checkpoints" / NAME, random_weights / "stable-diffusion-v1-5"
    unet = UNet2DConditionModel.from_single_file(str(file), config=str(base), subfolder="unet", local_files_only=True)
    vae = AutoencoderKL.from_single_file(str(file), config=str(base), subfolder="vae", local_files_only=True)
    text = convert_ldm_clip_checkpoint(load_file(file))

    for name, expected in unet.named_parameters():
        assert torch.equal(pipeline.unet.get_parameter(name), expected), name
    same(pipeline.vae, dict(vae.named_parameters()))
    same(pipeline.text_encoder, {name.removeprefix("text_model."): tensor for name, tensor in text.items()})


def test_known_modules_written_in_the_files_names_give_their_outputs_again(
    random_weights: Path, tmp_path: Path, stages: Stages
) -> None:
    """Modules with values -> a checkpoint -> our modules: the same function, for UNet, VAE and text encoder."""
    name = CHECKPOINTS[1]
    tokens = recipe.write_tokenizer(None)
    known = {
        "unet": recipe.unet(recipe.SMALL),
        "vae": recipe.vae(recipe.SMALL),
        "text_encoder": recipe.text_encoder(recipe.SMALL, tokens),
    }
    for module in known.values():
        values = recipe.random_tensors(module, name)
        half = {key: value.half().float() for key, value in values.items()}
        module.load_state_dict(half, assign=True)
        module.eval()
    pipeline = Pipeline(store_of(random_weights), CPU)
    pipeline.load(name, "mm_sd_v15_v2", stages)
    for key, parameter in pipeline.unet.named_parameters():
        if ".motion_modules." in key and "proj_out" in key:
            parameter.zero_()  # a motion module that adds nothing leaves the spatial network
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(16, 4, 16, 16, generator=generator)
    text = torch.randn(1, 77, 64, generator=generator)
    with torch.inference_mode():
        spatial = known["unet"](latents, 300, text.expand(16, -1, -1)).sample
        clip = pipeline.unet(latents.movedim(0, 1)[None], 300, text.repeat(16, 1, 1)).sample[0].movedim(1, 0)
        torch.testing.assert_close(clip, spatial, rtol=1e-3, atol=1e-4)
        assert torch.equal(pipeline.vae.decode(latents[:2]).sample, known["vae"].decode(latents[:2]).sample)
        pictures = torch.randn(1, 3, 64, 64, generator=generator)
        assert torch.equal(
            pipeline.vae.encode(pictures).latent_dist.mean, known["vae"].encode(pictures).latent_dist.mean
        )
        ids = torch.randint(tokens, (1, 77), generator=generator)
        assert torch.equal(pipeline.text_encoder(ids).last_hidden_state, known["text_encoder"](ids).last_hidden_state)


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("model.diffusion_model.output_blocks.5.2.conv.weight", None),
        ("first_stage_model.decoder.up.3.block.0.conv1.bias", None),
        ("cond_stage_model.transformer.text_model.final_layer_norm.weight", None),
        ("model.diffusion_model.input_blocks.0.0.weight", (32, 9, 3, 3)),  # as an inpainting checkpoint has it
    ],
)
def test_a_missing_or_misshapen_key_is_named(
    published: Tensors, own: Callable[[Tensors], Path], random_weights: Path, key: str, shape: tuple[int, ...] | None
) -> None:
    published.pop(key)
    if shape:
        published[key] = torch.zeros(shape, dtype=torch.float16)
    with pytest.raises(WeightsError, match=re.escape(key)) as raised:
        loaded(own(published), random_weights)
    assert str(shape and list(shape)) in str(raised.value) or "lacks" in str(raised.value)


def test_a_refused_file_leaves_the_weights_that_were_there(
    published: Tensors, own: Callable[[Tensors], Path], random_weights: Path
) -> None:
    pipeline = Pipeline(store_of(random_weights), CPU)
    pipeline.load(CHECKPOINTS[1], "mm_sd_v14", Stages(CPU))
    before = {name: p.clone() for name, p in pipeline.unet.named_parameters()}
    published.pop("model.diffusion_model.out.2.bias")
    pipeline.store = store_of(own(published), random_weights)
    with pytest.raises(WeightsError):
        pipeline.load(NAME, "mm_sd_v14", Stages(CPU))
    assert all(torch.equal(before[name], p) for name, p in pipeline.unet.named_parameters())


@pytest.mark.parametrize("prefix", [VAE, TEXT_ENCODER])
def test_a_part_that_the_file_lacks_comes_from_the_base(
    published: Tensors, own: Callable[[Tensors], Path], random_weights: Path, prefix: str
) -> None:
    pipeline = loaded(own({k: t for k, t in published.items() if not k.startswith(prefix)}), random_weights)
    base = random_weights / "stable-diffusion-v1-5"
    if prefix == VAE:
        # diffusers knows the old names of the base's attention itself
        same(pipeline.vae, dict(AutoencoderKL.from_pretrained(base / "vae", variant="fp16").named_parameters()))
    else:
        tensors = load_file(base / "text_encoder" / "model.fp16.safetensors")
        same(pipeline.text_encoder, {key.removeprefix("text_model."): tensor for key, tensor in tensors.items()})


def test_a_lora_is_refused_as_what_it_is(tmp_path: Path) -> None:
    file = tmp_path / "style.safetensors"
    save_file({"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": torch.zeros(4, 32)}, file)
    with pytest.raises(WeightsError, match=r"is a LoRA .* merge it into a Stable Diffusion 1.5 checkpoint"):
        Checkpoint(file)


def test_a_file_without_unet_is_refused(published: Tensors, tmp_path: Path) -> None:
    file = tmp_path / "vae-only.safetensors"
    save_file({key: tensor for key, tensor in published.items() if not key.startswith(UNET)}, file)
    with pytest.raises(WeightsError, match=r"has no UNet \(no key begins with model.diffusion_model."):
        Checkpoint(file)


def test_known_extras_are_passed_over_and_unknown_ones_are_counted_in_one_line(
    published: Tensors, own: Callable[[Tensors], Path], random_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known = [
        "model_ema.diffusion_modeltime_embed0weight",
        "model_ema.num_updates",
        "cond_stage_model.transformer.text_model.embeddings.position_ids",
        "betas",
        "alphas_cumprod",
        "alphas_cumprod_prev",
        "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod",
        "posterior_variance",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
        "logvar",
    ]
    unknown = ["embedding_manager.x", *(f"copy_of.vae.{index}" for index in range(6))]
    extras = {key: torch.zeros(3) for key in (*known, *unknown)}
    with caplog.at_level(logging.INFO, logger="videokit"):
        loaded(own(published | extras), random_weights)
    lines = [record.getMessage() for record in caplog.records if "ignored" in record.getMessage()]
    assert len(lines) == 1
    assert "ignored 7 unknown keys: 7 keys, such as copy_of.vae.0, copy_of.vae.1" in lines[0]
    assert not any(key in lines[0] for key in known)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions_load_as_half_does(
    published: Tensors, own: Callable[[Tensors], Path], random_weights: Path, dtype: torch.dtype
) -> None:
    pipeline = loaded(own({key: tensor.to(dtype) for key, tensor in published.items()}), random_weights)
    for name in ("conv_in.weight", "up_blocks.3.resnets.2.conv2.weight"):
        key = {"conv_in.weight": "input_blocks.0.0.weight"}.get(name, "output_blocks.11.0.out_layers.3.weight")
        assert torch.equal(pipeline.unet.get_parameter(name), published[UNET + key].to(dtype).float())
    assert {p.dtype for p in pipeline.unet.parameters()} == {torch.float32}
