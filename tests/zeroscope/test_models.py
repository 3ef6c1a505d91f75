"""How the four models are loaded from their published files, and how long they are cached."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from stores import CPU
from videokit.errors import WeightsError, WeightsMissing
from videokit.weights.keys import checkpoint_vae_keys, vae_keys
from videokit.weights.store import WeightStore
from videokit.weights.table import HubFile
from zeroscope.models import Model, Models
from zeroscope.pipeline import Pipeline
from zeroscope.weights import CONFIGS, FILES, LAMA, MODELS, PARTS, TEXT_ENCODER, TOKENIZER, UNET, VAE

PLENTY = 10**12  # bytes
POSITION_IDS = "text_model.embeddings.position_ids"  # stored by transformers in 2023


def models_in(*directories: Path) -> Models:
    return Models(WeightStore(FILES, directories=directories, cache=None), CPU, on_device=PLENTY)


@pytest.fixture
def weights(random_weights: Path, tmp_path: Path) -> Path:
    """Return a copy of two models that a test may change."""
    for model in ("xl", "576w"):
        shutil.copytree(random_weights / model, tmp_path / model)
    return tmp_path


def parameters(models: Models, name: str) -> dict[str, torch.Tensor]:
    return {key: p.clone() for key, p in models.get(name).unet.named_parameters()}


def have_equal_tensors(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_the_table_has_every_file_of_every_model_with_its_licence() -> None:
    needed = {f"{model}/{file}" for model in MODELS for file in (*CONFIGS, *TOKENIZER, *PARTS)}
    assert {file.path for file in FILES} == needed | {LAMA}
    assert all(file.licence for file in FILES)
    # model_index.json names wrong classes in some repositories, and zs2_* are for another program
    names = {file.source.name for file in FILES if isinstance(file.source, HubFile)}
    assert not any("model_index" in name or "zs2" in name for name in names)
    non_commercial = {file.path.partition("/")[0] for file in FILES if "CC-BY-NC" in file.licence}
    assert non_commercial == set(MODELS)


@pytest.mark.parametrize("part", [UNET, VAE, TEXT_ENCODER])
def test_every_parameter_has_the_values_of_the_file(pipeline: Pipeline, random_weights: Path, part: str) -> None:
    model = pipeline.models.get("potat1")
    module = {UNET: model.unet, VAE: model.vae, TEXT_ENCODER: model.text_encoder}[part]
    file = torch.load(random_weights / "potat1" / part, weights_only=True)
    # compared by their sums, because the keys of 2023 differ
    sums = sorted(float(p.double().sum()) for p in module.parameters())
    expected = sorted(float(t.double().sum()) for key, t in file.items() if key != POSITION_IDS)
    assert sums == expected


def test_both_names_of_the_vaes_attention_are_accepted(weights: Path) -> None:
    """diffusers 0.17 renamed its layers, and the four repositories are from before and after."""
    old = torch.load(weights / "xl" / VAE, weights_only=True)
    names = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    new = {}
    for key, tensor in old.items():
        head, _, layer = key.rpartition("mid_block.attentions.0.")
        layer, _, kind = layer.rpartition(".")
        new[f"{head}mid_block.attentions.0.{names.get(layer, layer)}.{kind}" if head else key] = tensor
    assert new.keys() != old.keys()
    torch.save(new, weights / "576w" / VAE)
    models = models_in(weights)
    assert have_equal_tensors(*(models.get(name).vae.state_dict() for name in ("xl", "576w")))


def test_files_under_other_names_and_keys_are_read(weights: Path) -> None:
    """A text encoder as transformers saves it, with flat keys, and a VAE in CompVis' layout."""
    text = torch.load(weights / "576w" / TEXT_ENCODER, weights_only=True)
    save_file(
        {key.removeprefix("text_model."): tensor for key, tensor in text.items()},
        weights / "576w" / "text_encoder" / "model.safetensors",
    )
    (weights / "576w" / TEXT_ENCODER).unlink()
    parameter_names = dict(models_in(weights).get("xl").vae.named_parameters())
    vae = torch.load(weights / "576w" / VAE, weights_only=True)
    compvis = {checkpoint_vae_keys(name)[0].removeprefix("first_stage_model."): name for name in parameter_names}
    assert "encoder.mid.attn_1.q.weight" in compvis
    torch.save({key: vae[vae_keys(name)[0]] for key, name in compvis.items()}, weights / "576w" / VAE)
    models = models_in(weights)
    for part in ("vae", "text_encoder"):
        assert have_equal_tensors(*(getattr(models.get(name), part).state_dict() for name in ("xl", "576w")))


@pytest.mark.parametrize(
    ("part", "key", "message"),
    [
        (UNET, "down_blocks.0.resnets.0.norm1.weight", "is a UNet of Stable Diffusion .*, not a UNet over frames"),
        (UNET, "input_blocks.1.0.temopral_conv.conv1.0.weight", "ModelScope's own program"),
        (UNET, "unet.down_blocks.0.lora_A.weight", "is a LoRA"),
        (VAE, "text_model.embeddings.token_embedding.weight", "is a text encoder .*, not a VAE"),
    ],
)
def test_a_network_of_another_kind_is_refused_by_its_name(weights: Path, part: str, key: str, message: str) -> None:
    torch.save({key: torch.zeros(4, 4)}, weights / "xl" / part)
    with pytest.raises(WeightsError, match=message):
        models_in(weights).get("xl")


def test_a_users_configuration_without_its_weights_is_refused(weights: Path, tmp_path: Path) -> None:
    own = tmp_path / "own" / "xl" / "unet" / "config.json"
    own.parent.mkdir(parents=True)
    shutil.copy(weights / "xl" / "unet" / "config.json", own)
    with pytest.raises(
        WeightsError, match=r"own/xl/unet/config\.json would be used with .*; store the weights next to"
    ):
        models_in(tmp_path / "own", weights).get("xl")


def test_a_text_encoder_without_position_ids_is_accepted(weights: Path) -> None:
    edit_file(weights / "xl" / TEXT_ENCODER, lambda tensors: tensors.pop(POSITION_IDS))
    models_in(weights).get("xl")


def edit_file(file: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = torch.load(file, weights_only=True)
    edit(tensors)
    torch.save(tensors, file)


@pytest.mark.parametrize(
    ("part", "edit", "message"),
    [
        (UNET, lambda t: t.pop("conv_in.weight"), r"lacks conv_in\.weight"),
        (UNET, lambda t: t.update({"conv_in.bias": torch.zeros(5)}), r"conv_in\.bias is \[5\] instead of \[8\]"),
        (VAE, lambda t: t.pop("decoder.conv_in.bias"), r"lacks decoder\.conv_in\.bias"),
    ],
)
def test_a_missing_or_misshapen_tensor_is_named(
    weights: Path, part: str, edit: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    edit_file(weights / "xl" / part, edit)
    with pytest.raises(WeightsError, match=message) as raised:
        models_in(weights).get("xl")
    assert str(weights / "xl" / part) in str(raised.value)


def test_unexpected_keys_are_ignored_and_logged(weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = parameters(models_in(weights), "xl")
    edit_file(weights / "xl" / TEXT_ENCODER, lambda t: t.update({"text_model.other": torch.zeros(1)}))
    with caplog.at_level(logging.WARNING, "videokit"):
        assert have_equal_tensors(parameters(models_in(weights), "xl"), expected)
    file = weights / "xl" / TEXT_ENCODER
    assert caplog.messages == [f"weights: {file}: ignored unexpected keys: text_model.other"]


class Exploit:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("import pathlib; pathlib.Path('executed').touch()",)


@pytest.mark.parametrize("archive", [True, False])
def test_a_pickle_that_executes_code_is_rejected_without_executing_it(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archive: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    file = weights / "xl" / UNET
    if archive:
        torch.save({"conv_in.weight": Exploit()}, file)
    else:
        file.write_bytes(pickle.dumps({"conv_in.weight": Exploit()}, protocol=2))
    with pytest.raises(WeightsError, match="not safetensors or a pickle of plain tensors"):
        models_in(weights).get("xl")
    assert not Path("executed").exists()


def test_a_tokenizer_in_two_folders_is_rejected(random_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "xl" / "tokenizer").mkdir(parents=True)
    shutil.copy(random_weights / "xl" / TOKENIZER[0], tmp_path / "xl" / TOKENIZER[0])
    with pytest.raises(WeightsError, match=r"belong together but are in .* and .*; put all into one folder"):
        models_in(tmp_path, random_weights).get("xl")


def test_the_tokenizer_pads_like_that_of_stable_diffusion_2(pipeline: Pipeline) -> None:
    """It pads with "!", token 0, which only special_tokens_map.json states."""
    tokenizer = pipeline.models.get("xl").tokenizer
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("!", 0)


def test_all_missing_files_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing) as raised:
        models_in(tmp_path).get("potat1")
    assert all(f"\n  potat1/{file}\n" in str(raised.value) for file in (*CONFIGS, *TOKENIZER, *PARTS))


def test_switching_back_to_a_model_reads_no_file(weights: Path) -> None:
    models = models_in(weights)
    expected = {name: parameters(models, name) for name in ("xl", "576w")}
    assert not have_equal_tensors(expected["xl"], expected["576w"])
    shutil.rmtree(weights / "xl")
    shutil.rmtree(weights / "576w")
    for name in ("xl", "576w", "xl"):
        assert have_equal_tensors(parameters(models, name), expected[name])


def test_a_model_stays_cached_after_a_cancel_while_it_is_moved(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = models_in(weights)
    expected = parameters(models, "xl")

    def cancel(self: Model, device: torch.device) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Model, "to_device", cancel)
        with pytest.raises(KeyboardInterrupt):
            models.get("xl")
    shutil.rmtree(weights / "xl")
    assert have_equal_tensors(parameters(models, "xl"), expected)


def test_a_model_is_complete_after_a_cancel_while_it_was_loaded(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = models_in(weights)

    def cancel(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("videokit.weights.load.fill", cancel)
        with pytest.raises(KeyboardInterrupt):
            models.get("xl")
    assert not models.has("xl")
    assert have_equal_tensors(parameters(models, "xl"), parameters(models_in(weights), "xl"))


def test_the_least_recently_used_model_is_removed_when_there_is_no_room(
    pipeline: Pipeline, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbytes = pipeline.models.get("xl").nbytes
    models = Models(pipeline.models.store, CPU, on_device=3 * nbytes)
    monkeypatch.setattr(models, "_load", pipeline.models.get)  # from the shared cache, because loading is slow
    for name in ("xl", "576w", "potat1"):
        models.get(name)
    models.get("xl")
    with caplog.at_level(logging.INFO, "videokit"):
        models.get("animov-512x")
    assert [models.has(name) for name in MODELS] == [True, False, True, True]
    assert "models: removed 576w, 0.00 GB, from the cache" in caplog.messages
    # the room for the current prediction counts too
    models.get("animov-512x", room=nbytes)
    assert [models.has(name) for name in MODELS] == [True, False, False, True]
    models.get("animov-512x", room=PLENTY)
    assert [models.has(name) for name in MODELS] == [False, False, False, True]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="requires a GPU")
def test_a_model_is_moved_to_pinned_host_memory_and_back_unchanged(weights: Path) -> None:
    store = WeightStore(FILES, directories=[weights], cache=None)
    cuda = type(CPU)(torch.device("cuda"), torch.float16)
    models = Models(store, cuda, on_device=1)
    expected = parameters(models, "xl")
    model = models.get("xl")
    models.get("576w")
    assert {(p.device.type, p.is_pinned()) for p in model.unet.parameters()} == {("cpu", True)}
    shutil.rmtree(weights / "xl")
    assert have_equal_tensors(parameters(models, "xl"), expected)


def test_unloaded_models_are_loaded_from_their_files_again(weights: Path) -> None:
    models = models_in(weights)
    models.get("xl")
    models.unload()
    assert not models.has("xl")
    shutil.rmtree(weights / "xl")
    with pytest.raises(WeightsMissing):
        models.get("xl")


def test_pickles_are_converted_once_and_the_weights_directory_is_not_changed(weights: Path, tmp_path: Path) -> None:
    cache, before = tmp_path / "cache", sorted(weights.rglob("*"))
    models = Models(WeightStore(FILES, directories=[weights], cache=cache), CPU, on_device=PLENTY)
    expected = parameters(models, "xl")
    copies = sorted(path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file())
    assert copies == sorted(f"converted/xl/{part}.safetensors" for part in PARTS)
    assert [path for path in sorted(weights.rglob("*")) if not path.is_relative_to(cache)] == before
    # the pickles are not opened again: their content becomes invalid, with the same size and time
    for part in PARTS:
        file = weights / "xl" / part
        status = file.stat()
        file.write_bytes(bytes(status.st_size))
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    again = Models(WeightStore(FILES, directories=[weights], cache=cache), CPU, on_device=PLENTY)
    assert have_equal_tensors(parameters(again, "xl"), expected)


def test_setup_loads_only_the_default_model(random_weights: Path) -> None:
    pipeline = Pipeline(WeightStore(FILES, directories=[random_weights], cache=None), CPU)
    assert [pipeline.models.has(name) for name in MODELS] == [True, False, False, False]
