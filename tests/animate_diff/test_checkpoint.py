"""How a single-file checkpoint becomes the parameters of three modules, and which files are rejected."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from animate_diff.checkpoint import Checkpoint
from animate_diff.inputs import CHECKPOINTS
from animate_diff.pipeline import Pipeline
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint
from random_weights import animate_diff as recipe
from safetensors.torch import load_file, save_file
from stores import CPU, store_of
from videokit.errors import WeightsError
from videokit.runtime import Stages
from videokit.weights.keys import TEXT_ENCODER, UNET, VAE
from videokit.weights.store import WeightStore

NAME = CHECKPOINTS[0]
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def tensors(random_weights: Path) -> Tensors:
    """Return the tensors of a checkpoint in the published layout."""
    return load_file(random_weights / "checkpoints" / NAME)


@pytest.fixture
def store_with(tmp_path: Path, random_weights: Path) -> Callable[[Tensors], WeightStore]:
    """Return a function that saves tensors as the default checkpoint and returns a store with it and random weights."""

    def save(tensors: Tensors) -> WeightStore:
        file = tmp_path / "checkpoints" / NAME
        file.parent.mkdir()
        save_file(tensors, file)
        return store_of(tmp_path, random_weights)

    return save


def assert_parameters(module: torch.nn.Module, expected: Tensors) -> None:
    parameters = dict(module.named_parameters())
    assert parameters.keys() == expected.keys()
    for name, parameter in parameters.items():
        assert torch.equal(parameter, expected[name].float()), name


def test_every_part_equals_the_conversion_by_diffusers(pipeline: Pipeline, random_weights: Path) -> None:
    pipeline.load(NAME, "mm_sd_v14", Stages(CPU))
    file, base = random_weights / "checkpoints" / NAME, random_weights / "stable-diffusion-v1-5"
    unet = UNet2DConditionModel.from_single_file(str(file), config=str(base), subfolder="unet", local_files_only=True)
    vae = AutoencoderKL.from_single_file(str(file), config=str(base), subfolder="vae", local_files_only=True)
    text = convert_ldm_clip_checkpoint(load_file(file))

    for name, expected in unet.named_parameters():
        assert torch.equal(pipeline.unet.get_parameter(name), expected), name
    assert_parameters(pipeline.vae, dict(vae.named_parameters()))
    assert_parameters(
        pipeline.text_encoder, {name.removeprefix("text_model."): tensor for name, tensor in text.items()}
    )


def test_modules_saved_as_a_checkpoint_compute_the_same_after_loading(random_weights: Path, stages: Stages) -> None:
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
            parameter.zero_()  # motion modules that add nothing leave the network for single frames
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
        ("model.diffusion_model.input_blocks.0.0.weight", (32, 6, 3, 3)),
    ],
)
def test_a_missing_or_misshapen_tensor_is_named(
    tensors: Tensors,
    store_with: Callable[[Tensors], WeightStore],
    key: str,
    shape: tuple[int, ...] | None,
) -> None:
    tensors.pop(key)
    if shape:
        tensors[key] = torch.zeros(shape, dtype=torch.float16)
    with pytest.raises(WeightsError, match=re.escape(key)) as raised:
        Pipeline(store_with(tensors), CPU)
    assert str(shape and list(shape)) in str(raised.value) or "lacks" in str(raised.value)


def test_a_rejected_checkpoint_leaves_the_parameters_unchanged(
    tensors: Tensors, store_with: Callable[[Tensors], WeightStore], random_weights: Path
) -> None:
    pipeline = Pipeline(store_of(random_weights), CPU)
    pipeline.load(CHECKPOINTS[1], "mm_sd_v14", Stages(CPU))
    before = {name: p.clone() for name, p in pipeline.unet.named_parameters()}
    tensors.pop("model.diffusion_model.out.2.bias")
    pipeline.store = store_with(tensors)
    with pytest.raises(WeightsError):
        pipeline.load(NAME, "mm_sd_v14", Stages(CPU))
    assert all(torch.equal(before[name], p) for name, p in pipeline.unet.named_parameters())


@pytest.mark.parametrize("prefix", [VAE, TEXT_ENCODER])
def test_a_part_missing_from_the_checkpoint_is_loaded_from_stable_diffusion(
    tensors: Tensors, store_with: Callable[[Tensors], WeightStore], random_weights: Path, prefix: str
) -> None:
    pipeline = Pipeline(store_with({k: t for k, t in tensors.items() if not k.startswith(prefix)}), CPU)
    base = random_weights / "stable-diffusion-v1-5"
    if prefix == VAE:
        # diffusers converts the older names of the attention itself
        assert_parameters(
            pipeline.vae, dict(AutoencoderKL.from_pretrained(base / "vae", variant="fp16").named_parameters())
        )
    else:
        expected = load_file(base / "text_encoder" / "model.fp16.safetensors")
        assert_parameters(
            pipeline.text_encoder, {key.removeprefix("text_model."): tensor for key, tensor in expected.items()}
        )


def test_a_lora_is_rejected_with_advice(tmp_path: Path) -> None:
    file = tmp_path / "style.safetensors"
    save_file({"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": torch.zeros(4, 32)}, file)
    with pytest.raises(WeightsError, match=r"is a LoRA .* merge it into a Stable Diffusion 1.5 checkpoint"):
        Checkpoint(file)


def test_a_file_without_a_unet_is_rejected(tensors: Tensors, tmp_path: Path) -> None:
    file = tmp_path / "vae-only.safetensors"
    save_file({key: tensor for key, tensor in tensors.items() if not key.startswith(UNET)}, file)
    with pytest.raises(WeightsError, match=r"has no UNet \(no key begins with model.diffusion_model."):
        Checkpoint(file)


def test_unknown_keys_are_logged_in_one_line_without_the_known_extras(
    tensors: Tensors,
    store_with: Callable[[Tensors], WeightStore],
    caplog: pytest.LogCaptureFixture,
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
        Pipeline(store_with(tensors | extras), CPU)
    lines = [record.getMessage() for record in caplog.records if "ignored" in record.getMessage()]
    assert len(lines) == 1
    assert "ignored 7 unknown keys: 7 keys, such as copy_of.vae.0, copy_of.vae.1" in lines[0]
    assert not any(key in lines[0] for key in known)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checkpoint_in_another_precision_is_converted(
    tensors: Tensors, store_with: Callable[[Tensors], WeightStore], dtype: torch.dtype
) -> None:
    pipeline = Pipeline(store_with({key: tensor.to(dtype) for key, tensor in tensors.items()}), CPU)
    for name in ("conv_in.weight", "up_blocks.3.resnets.2.conv2.weight"):
        key = {"conv_in.weight": "input_blocks.0.0.weight"}.get(name, "output_blocks.11.0.out_layers.3.weight")
        assert torch.equal(pipeline.unet.get_parameter(name), tensors[UNET + key].to(dtype).float())
    assert {p.dtype for p in pipeline.unet.parameters()} == {torch.float32}


OLD_NAMES = {"q": "query", "k": "key", "v": "value", "proj_out": "proj_attn", "norm": "group_norm"}
NEW_NAMES = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0", "norm": "group_norm"}


@pytest.mark.parametrize("names", [OLD_NAMES, NEW_NAMES])
@pytest.mark.parametrize("path", ["mid.attn_1", "mid_block.attentions.0"])
def test_the_vaes_attention_may_have_the_names_of_any_program(
    tensors: Tensors,
    store_with: Callable[[Tensors], WeightStore],
    random_weights: Path,
    names: dict[str, str],
    path: str,
) -> None:
    """As converters wrote them after diffusers renamed its layers; then the weights are those of linear layers."""
    renamed = {}
    for key, tensor in tensors.items():
        head, found, layer = key.partition(".mid.attn_1.")
        layer, _, kind = layer.rpartition(".")
        renamed[f"{head}.{path}.{names[layer]}.{kind}" if found else key] = (
            tensor[..., 0, 0].contiguous() if found and tensor.ndim == 4 else tensor
        )
    assert len(renamed.keys() - tensors.keys()) >= 16  # weights and biases of four layers, in two halves
    pipeline, expected = Pipeline(store_with(renamed), CPU), Pipeline(store_of(random_weights), CPU)
    assert_parameters(pipeline.vae, dict(expected.vae.named_parameters()))


def test_the_random_weights_have_the_shapes_of_published_checkpoints(tensors: Tensors) -> None:
    """CompVis' attention has 1x1 convolutions (ldm/modules/diffusionmodules/model.py, AttnBlock)."""
    for layer in ("q", "k", "v", "proj_out"):
        for half in ("encoder", "decoder"):
            assert tensors[f"first_stage_model.{half}.mid.attn_1.{layer}.weight"].shape == (64, 64, 1, 1)


def test_novelais_text_encoder_without_text_model_is_read(
    tensors: Tensors, store_with: Callable[[Tensors], WeightStore], random_weights: Path
) -> None:
    prefix = "cond_stage_model.transformer."
    flat = {key.replace(f"{prefix}text_model.", prefix): tensor for key, tensor in tensors.items()}
    assert flat.keys() != tensors.keys()
    pipeline, expected = Pipeline(store_with(flat), CPU), Pipeline(store_of(random_weights), CPU)
    assert_parameters(pipeline.text_encoder, dict(expected.text_encoder.named_parameters()))


def test_a_checkpoint_in_scaled_float8_is_read_with_its_scales(
    tensors: Tensors, store_with: Callable[[Tensors], WeightStore], caplog: pytest.LogCaptureFixture
) -> None:
    """As ComfyUI stores it: linear layers in float8 with one scale each, other layers unchanged."""
    scaled = {UNET + "scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)}
    for key, tensor in tensors.items():
        if key.startswith(UNET) and tensor.ndim == 2:
            scale = tensor.float().abs().max() / 448
            scaled[key] = (tensor.float() / scale).to(torch.float8_e4m3fn)
            scaled[key.removesuffix("weight") + "scale_weight"] = scale
        else:
            scaled[key] = tensor
    with caplog.at_level(logging.INFO, logger="videokit"):
        pipeline = Pipeline(store_with(scaled), CPU)
    assert not [message for message in caplog.messages if "unknown keys" in message]
    weight = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    original = tensors[f"{UNET}input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"].float()
    # three bits of mantissa: half a unit in the last place is 1/16 of a number
    assert torch.allclose(
        pipeline.unet.get_parameter(weight), original, rtol=1 / 16, atol=float(original.abs().max()) / 2**18
    )
    assert torch.equal(pipeline.unet.get_parameter("conv_in.weight"), tensors[f"{UNET}input_blocks.0.0.weight"].float())


def test_a_plain_float8_checkpoint_keeps_its_values(
    tensors: Tensors, store_with: Callable[[Tensors], WeightStore]
) -> None:
    pipeline = Pipeline(store_with({key: tensor.to(torch.float8_e4m3fn) for key, tensor in tensors.items()}), CPU)
    expected = tensors[f"{UNET}input_blocks.0.0.weight"].to(torch.float8_e4m3fn).float()
    assert torch.equal(pipeline.unet.get_parameter("conv_in.weight"), expected)


def test_a_checkpoint_quantised_by_bitsandbytes_is_refused(
    tensors: Tensors, store_with: Callable[[Tensors], WeightStore]
) -> None:
    key = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    tensors[key] = torch.ones(tensors[key].shape, dtype=torch.int8)
    tensors[key.removesuffix("weight") + "SCB"] = torch.ones(len(tensors[key]))
    with pytest.raises(WeightsError, match=r"is quantised: .*to_q\.weight has int8 numbers.*float16"):
        Pipeline(store_with(tensors), CPU)


@pytest.mark.parametrize("mark", ["v_pred", "ztsnr"])
def test_a_checkpoint_with_a_mark_of_another_prediction_is_refused(tensors: Tensors, tmp_path: Path, mark: str) -> None:
    save_file(tensors | {mark: torch.zeros(0)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=rf"\({mark}\).*predict noise \(epsilon\)"):
        Checkpoint(tmp_path / "model.safetensors")


def test_the_message_about_a_checkpoint_in_a_pickle_has_no_advice_to_execute_it(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(1)}, "callback": logging.Filter()}, tmp_path / "model.ckpt")
    with pytest.raises(WeightsError, match=r"it contains logging\.Filter") as raised:
        Checkpoint(tmp_path / "model.ckpt")
    assert "weights_only" not in str(raised.value)
    assert str(raised.value).isprintable()
