"""A user's own base in the folders and names that save_pretrained writes, and other files in its place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from random_weights import sd_animation as recipe
from random_weights.stable_diffusion import random_tensors
from safetensors.torch import load_file, save_file
from sd_animation.pipeline import Pipeline
from sd_animation.weights import FILES, SETUP
from stores import CPU
from transformers import CLIPTextModel, CLIPTokenizer
from videokit.errors import WeightsError
from videokit.weights.store import WeightStore

BASE = "stable-diffusion-v1-5"
CLASSES = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "safety_checker": StableDiffusionSafetyChecker,
}


@pytest.fixture
def own(store: WeightStore, tmp_path: Path) -> Path:
    """Return a directory with a user's base, other values than the published ones, as save_pretrained writes it."""
    write_own(store.directories[0], tmp_path / "own")
    return tmp_path / "own"


def write_own(published: Path, directory: Path, **options: object) -> dict[str, dict[str, torch.Tensor]]:
    """Write a base with other values, and return the values by network."""
    values = {}
    for part, kind in CLASSES.items():
        module = kind.from_pretrained(published / BASE / part, variant="fp16")
        state = random_tensors(module, "own") if part != "safety_checker" else dict(module.named_parameters())
        state = {name: tensor.half().float() for name, tensor in state.items()}
        module.load_state_dict(state, strict=False, assign=True)
        module.save_pretrained(directory / BASE / part, **options)
        values[part] = state
    CLIPTokenizer.from_pretrained(published / BASE / "tokenizer").save_pretrained(directory / BASE / "tokenizer")
    return values


def parameters(pipeline: Pipeline, part: str) -> dict[str, torch.Tensor]:
    module = {"safety_checker": pipeline.safety_checker.network}.get(part) or getattr(pipeline, part)
    return dict(module.named_parameters())


def store_with(own: Path, store: WeightStore) -> WeightStore:
    return WeightStore(FILES, directories=[own, *store.directories], cache=None)


@pytest.mark.parametrize(
    "options",
    [{}, {"variant": "fp16"}, {"safe_serialization": False}, {"variant": "fp16", "safe_serialization": False}],
)
def test_every_network_of_a_saved_base_is_used(store: WeightStore, tmp_path: Path, options: dict[str, object]) -> None:
    values = write_own(store.directories[0], tmp_path / "own", **options)
    pipeline = Pipeline(store_with(tmp_path / "own", store), CPU)
    for part, expected in values.items():
        found = parameters(pipeline, part)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items()), part


def test_the_saved_tokenizer_gives_the_same_tokens(own: Path, store: WeightStore, pipeline: Pipeline) -> None:
    text = "a red circle moving right, \N{LATIN SMALL LETTER E WITH ACUTE}"
    saved = Pipeline(store_with(own, store), CPU).tokenizer
    assert not (own / BASE / "tokenizer" / "vocab.json").exists()  # transformers 5 saves one file
    assert saved(text)["input_ids"] == pipeline.tokenizer(text)["input_ids"]
    assert saved.pad_token_id == pipeline.tokenizer.pad_token_id


@pytest.mark.parametrize("part", CLASSES)
def test_a_users_configuration_without_its_weights_is_refused(own: Path, store: WeightStore, part: str) -> None:
    for file in (own / BASE / part).iterdir():
        if file.suffix != ".json":
            file.rename(file.with_name(f"unusual{file.suffix}"))
    # otherwise equal bytes would be no mixture
    config = own / BASE / part / "config.json"
    with pytest.raises(WeightsError, match=f"{config} would be used with .*; store the weights next to"):
        Pipeline(store_with(own, store), CPU)


def test_a_users_weights_alone_are_used_with_the_published_configuration(own: Path, store: WeightStore) -> None:
    for part in CLASSES:
        (own / BASE / part / "config.json").unlink()
    shutil.rmtree(own / BASE / "tokenizer")
    Pipeline(store_with(own, store), CPU)


def rename_keys(file: Path, rename: Callable[[str], str]) -> None:
    tensors = load_file(file)
    renamed = {rename(key): tensor for key, tensor in tensors.items()}
    assert renamed.keys() != tensors.keys()
    save_file(renamed, file)


def test_flat_keys_of_a_safety_checker_and_a_text_encoder_are_read(
    own: Path, store: WeightStore, pipeline: Pipeline
) -> None:
    """As transformers 5 names them in its own modules."""
    checker = own / BASE / "safety_checker" / "model.safetensors"
    tensors = {key.replace("vision_model.vision_model.", "vision_model."): t for key, t in load_file(checker).items()}
    save_file(tensors, checker)
    rename_keys(own / BASE / "text_encoder" / "model.safetensors", lambda key: key.removeprefix("text_model."))
    found = Pipeline(store_with(own, store), CPU)
    expected = parameters(pipeline, "safety_checker")
    assert all(torch.equal(t, expected[name]) for name, t in parameters(found, "safety_checker").items())


@pytest.mark.parametrize(
    ("part", "key", "shape", "message"),
    [
        (
            "unet",
            "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight",
            (64, 2048),
            "Stable Diffusion XL",
        ),
        ("unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight", (64, 1024), "Stable Diffusion 2"),
        ("unet", "conv_in.weight", (32, 9, 3, 3), "an inpainting checkpoint"),
        ("unet", "unet.down_blocks.0.attentions.0.proj_in.lora_A.weight", (4, 4), "a LoRA"),
        ("unet", "v_pred", (0,), "v-prediction"),
        ("vae", "text_model.embeddings.token_embedding.weight", (8, 8), None),
    ],
)
def test_a_network_of_another_kind_is_refused_by_its_name(
    own: Path, store: WeightStore, part: str, key: str, shape: tuple[int, ...], message: str | None
) -> None:
    file = own / BASE / part / "diffusion_pytorch_model.safetensors"
    if message is None:  # a text encoder in place of the VAE
        save_file({key: torch.zeros(shape)}, file)
        message = "is a text encoder .*, not a VAE; it belongs below text_encoder/"
    else:
        save_file(load_file(file) | {key: torch.zeros(shape)}, file)
    with pytest.raises(WeightsError, match=message):
        Pipeline(store_with(own, store), CPU)


@pytest.mark.parametrize(("prediction", "refused"), [("v_prediction", True), ("epsilon", False)])
def test_a_base_that_does_not_predict_noise_is_refused(
    own: Path, store: WeightStore, prediction: str, refused: bool
) -> None:
    config = own / BASE / "scheduler" / "scheduler_config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"_class_name": "DDIMScheduler", "prediction_type": prediction}))
    if refused:
        with pytest.raises(WeightsError, match=r"scheduler_config\.json has prediction_type v_prediction"):
            Pipeline(store_with(own, store), CPU)
    else:
        Pipeline(store_with(own, store), CPU)


def test_the_random_weights_have_every_file_that_a_prediction_needs(tmp_path: Path) -> None:
    recipe.write(tmp_path, recipe.SMALL)
    assert all((tmp_path / path).is_file() for path in SETUP)
