"""Loading the models as they are published, and keeping them: nothing is read twice that can be kept."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from stores import CPU
from videokit.errors import WeightsError, WeightsMissing
from videokit.weights.store import HubFile, WeightStore
from zeroscope.models import Model, Models
from zeroscope.pipeline import Pipeline
from zeroscope.weights import CONFIGS, FILES, LAMA, MODELS, PARTS, TEXT_ENCODER, TOKENIZER, UNET, VAE

PLENTY = 10**12


POSITION_IDS = "text_model.embeddings.position_ids"  # which transformers stored in 2023


def models_in(*directories: Path) -> Models:
    return Models(WeightStore(FILES, directories=directories, cache=None), CPU, on_device=PLENTY)


@pytest.fixture
def own(random_weights: Path, tmp_path: Path) -> Path:
    """A directory of one's own with two of the models, to do harm to."""
    for model in ("xl", "576w"):
        shutil.copytree(random_weights / model, tmp_path / model)
    return tmp_path


def parameters(models: Models, name: str) -> dict[str, torch.Tensor]:
    return {key: p.clone() for key, p in models.get(name).unet.named_parameters()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_the_table_has_all_that_a_model_needs_and_a_licence_for_each() -> None:
    needed = {f"{model}/{file}" for model in MODELS for file in (*CONFIGS, *TOKENIZER, *PARTS)}
    assert {file.path for file in FILES} == needed | {LAMA}
    assert all(file.licence for file in FILES)
    # model_index.json names classes that do not fit in some repositories, zs2_* are another program's
    names = {file.source.name for file in FILES if isinstance(file.source, HubFile)}
    assert not any("model_index" in name or "zs2" in name for name in names)
    non_commercial = {file.path.partition("/")[0] for file in FILES if "CC-BY-NC" in file.licence}
    assert non_commercial == set(MODELS)


@pytest.mark.parametrize("part", [UNET, VAE, TEXT_ENCODER])
def test_every_value_is_that_of_the_file(pipeline: Pipeline, random_weights: Path, part: str) -> None:
    model = pipeline.models.get("potat1")
    module = {UNET: model.unet, VAE: model.vae, TEXT_ENCODER: model.text_encoder}[part]
    file = torch.load(random_weights / "potat1" / part, weights_only=True)
    # by their sums, as the keys of 2023 are others in the same order of parameters
    ours = sorted(float(p.double().sum()) for p in module.parameters())
    theirs = sorted(float(t.double().sum()) for key, t in file.items() if key != POSITION_IDS)
    assert ours == theirs


def test_both_names_of_the_vaes_attention_are_read(own: Path) -> None:
    """diffusers 0.17 renamed it between the times when the four repositories were made."""
    old = torch.load(own / "xl" / VAE, weights_only=True)
    names = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    new = {}
    for key, tensor in old.items():
        head, _, layer = key.rpartition("mid_block.attentions.0.")
        layer, _, kind = layer.rpartition(".")
        new[f"{head}mid_block.attentions.0.{names.get(layer, layer)}.{kind}" if head else key] = tensor
    assert new.keys() != old.keys()
    torch.save(new, own / "576w" / VAE)
    models = models_in(own)
    ours = [models.get(name).vae.state_dict() for name in ("xl", "576w")]
    assert equal(*ours)


def test_a_text_encoder_without_the_superfluous_table_is_read(own: Path) -> None:
    change(own / "xl" / TEXT_ENCODER, lambda tensors: tensors.pop(POSITION_IDS))
    models_in(own).get("xl")


def change(file: Path, how: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = torch.load(file, weights_only=True)
    how(tensors)
    torch.save(tensors, file)


@pytest.mark.parametrize(
    ("part", "how", "message"),
    [
        (UNET, lambda t: t.pop("conv_in.weight"), r"lacks conv_in\.weight"),
        (UNET, lambda t: t.update({"conv_in.bias": torch.zeros(5)}), r"conv_in\.bias is \[5\] instead of \[8\]"),
        (VAE, lambda t: t.pop("decoder.conv_in.bias"), r"lacks decoder\.conv_in\.bias"),
    ],
)
def test_a_wrong_or_missing_key_is_named(
    own: Path, part: str, how: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    change(own / "xl" / part, how)
    with pytest.raises(WeightsError, match=message) as raised:
        models_in(own).get("xl")
    assert str(own / "xl" / part) in str(raised.value)


def test_unexpected_keys_are_ignored_and_logged(own: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = parameters(models_in(own), "xl")
    change(own / "xl" / TEXT_ENCODER, lambda t: t.update({"text_model.other": torch.zeros(1)}))
    with caplog.at_level(logging.WARNING, "videokit"):
        assert equal(parameters(models_in(own), "xl"), expected)
    file = own / "xl" / TEXT_ENCODER
    assert caplog.messages == [f"weights: {file}: ignored unexpected keys: text_model.other"]


class Harm:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("import pathlib; pathlib.Path('harm-was-done').touch()",)


@pytest.mark.parametrize("archive", [True, False])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archive: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    file = own / "xl" / UNET
    if archive:
        torch.save({"conv_in.weight": Harm()}, file)
    else:
        file.write_bytes(pickle.dumps({"conv_in.weight": Harm()}, protocol=2))
    with pytest.raises(WeightsError, match="not safetensors or a pickle of plain tensors"):
        models_in(own).get("xl")
    assert not Path("harm-was-done").exists()


def test_a_tokenizer_in_two_places_is_refused(random_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "xl" / "tokenizer").mkdir(parents=True)
    shutil.copy(random_weights / "xl" / TOKENIZER[0], tmp_path / "xl" / TOKENIZER[0])
    with pytest.raises(WeightsError, match=r"belong together but are in .* and .*; put all into one folder"):
        models_in(tmp_path, random_weights).get("xl")


def test_the_tokenizer_pads_as_stable_diffusion_2s(pipeline: Pipeline) -> None:
    """With "!", token 0, which its special_tokens_map.json says and its tokenizer_config.json does not."""
    tokenizer = pipeline.models.get("xl").tokenizer
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("!", 0)


def test_all_that_is_missing_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing) as raised:
        models_in(tmp_path).get("potat1")
    assert all(f"\n  potat1/{file}\n" in str(raised.value) for file in (*CONFIGS, *TOKENIZER, *PARTS))


def test_switching_back_reads_no_disk(own: Path) -> None:
    models = models_in(own)
    expected = {name: parameters(models, name) for name in ("xl", "576w")}
    assert not equal(expected["xl"], expected["576w"])
    shutil.rmtree(own / "xl")
    shutil.rmtree(own / "576w")
    for name in ("xl", "576w", "xl"):
        assert equal(parameters(models, name), expected[name])


def test_a_cancel_while_a_model_moves_does_not_lose_it(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = models_in(own)
    expected = parameters(models, "xl")

    def cancel(self: Model, device: torch.device) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Model, "to_device", cancel)
        with pytest.raises(KeyboardInterrupt):
            models.get("xl")
    shutil.rmtree(own / "xl")
    assert equal(parameters(models, "xl"), expected)


def test_a_cancel_while_a_model_is_read_leaves_the_next_one_whole(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = models_in(own)

    def cancel(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("videokit.weights.load.fill", cancel)
        with pytest.raises(KeyboardInterrupt):
            models.get("xl")
    assert not models.has("xl")
    assert equal(parameters(models, "xl"), parameters(models_in(own), "xl"))


def test_what_was_used_longest_ago_goes_when_there_is_no_room(
    pipeline: Pipeline, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = pipeline.models.get("xl").nbytes
    models = Models(pipeline.models.store, CPU, on_device=3 * each)
    monkeypatch.setattr(models, "_load", pipeline.models.get)  # reading is slow
    for name in ("xl", "576w", "potat1"):
        models.get(name)
    models.get("xl")
    with caplog.at_level(logging.INFO, "videokit"):
        models.get("animov-512x")
    assert [models.has(name) for name in MODELS] == [True, False, True, True]
    assert "models: removed 576w, 0.00 GB, from the cache" in caplog.messages
    # what the prediction at hand needs counts too
    models.get("animov-512x", room=each)
    assert [models.has(name) for name in MODELS] == [True, False, False, True]
    models.get("animov-512x", room=PLENTY)
    assert [models.has(name) for name in MODELS] == [False, False, False, True]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine to move models off")
def test_a_model_waits_in_pinned_host_memory_and_returns_as_it_was(own: Path) -> None:
    store = WeightStore(FILES, directories=[own], cache=None)
    cuda = type(CPU)(torch.device("cuda"), torch.float16)
    models = Models(store, cuda, on_device=1)
    expected = parameters(models, "xl")
    waiting = models.get("xl")
    models.get("576w")
    assert {(p.device.type, p.is_pinned()) for p in waiting.unet.parameters()} == {("cpu", True)}
    shutil.rmtree(own / "xl")
    assert equal(parameters(models, "xl"), expected)


def test_forgotten_models_are_read_again(own: Path) -> None:
    models = models_in(own)
    models.get("xl")
    models.unload()
    assert not models.has("xl")
    shutil.rmtree(own / "xl")
    with pytest.raises(WeightsMissing):
        models.get("xl")


def test_a_pickle_is_converted_once_and_the_weights_directory_is_left_alone(own: Path, tmp_path: Path) -> None:
    cache, before = tmp_path / "cache", sorted(own.rglob("*"))
    models = Models(WeightStore(FILES, directories=[own], cache=cache), CPU, on_device=PLENTY)
    expected = parameters(models, "xl")
    copies = sorted(path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file())
    assert copies == sorted(f"converted/xl/{part}.safetensors" for part in PARTS)
    assert [path for path in sorted(own.rglob("*")) if not path.is_relative_to(cache)] == before
    # from now on the pickles are not opened: their content is no pickle any more, all else of them is the same
    for part in PARTS:
        file = own / "xl" / part
        status = file.stat()
        file.write_bytes(bytes(status.st_size))
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    again = Models(WeightStore(FILES, directories=[own], cache=cache), CPU, on_device=PLENTY)
    assert equal(parameters(again, "xl"), expected)


def test_the_default_model_alone_is_loaded_at_set_up(random_weights: Path) -> None:
    pipeline = Pipeline(WeightStore(FILES, directories=[random_weights], cache=None), CPU)
    assert [pipeline.models.has(name) for name in MODELS] == [True, False, False, False]
