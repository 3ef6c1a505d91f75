"""Stable Diffusion 1.5, the base of two models: its files.

The files are stored below `stable-diffusion-v1-5/`, as in the published repository. A model's table lists those that it
needs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from videokit.errors import WeightsError
from videokit.weights.store import common_folder
from videokit.weights.table import HubFile, WeightFile
from videokit.weights.tensors import readable

if TYPE_CHECKING:
    from pathlib import Path

    from videokit.weights.store import WeightStore

BASE = "stable-diffusion-v1-5"
CONFIGS = UNET_CONFIG, VAE_CONFIG, TEXT_ENCODER_CONFIG = (
    f"{BASE}/unet/config.json",
    f"{BASE}/vae/config.json",
    f"{BASE}/text_encoder/config.json",
)
TOKENIZER = tuple(
    f"{BASE}/tokenizer/{name}"
    for name in ("merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json")
)
BASE_UNET = f"{BASE}/unet/diffusion_pytorch_model.fp16.safetensors"
BASE_VAE = f"{BASE}/vae/diffusion_pytorch_model.fp16.safetensors"
BASE_TEXT_ENCODER = f"{BASE}/text_encoder/model.fp16.safetensors"
SCHEDULER_CONFIG = f"{BASE}/scheduler/scheduler_config.json"  # of a user's base; not in the tables
SAFETY_CHECKER_CONFIG = f"{BASE}/safety_checker/config.json"
SAFETY_CHECKER = f"{BASE}/safety_checker/model.fp16.safetensors"


def _file(path: str, size: int, sha256: str | None) -> WeightFile:
    """Return a file of the repository that mirrors the withdrawn runwayml one; size and hash are the published ones."""
    revision = "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"
    source = HubFile("stable-diffusion-v1-5/stable-diffusion-v1-5", revision, path.removeprefix(f"{BASE}/"))
    return WeightFile(path, source, "CreativeML-OpenRAIL-M", size, sha256)


# every model on this base needs the networks' configurations and the tokenizer
CONFIGURATION = (
    _file(TOKENIZER[0], 524619, "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a"),
    _file(TOKENIZER[1], 472, "c4864a9376a8401918425bed71fc14fc0e81f9b59ec45c1cf96cccb2df508eac"),
    _file(TOKENIZER[2], 806, "00439066fcba73de57644cf41e4e3b9f2dbb09d7f3fc2005898ba52399045882"),
    _file(TOKENIZER[3], 1059962, "e089ad92ba36837a0d31433e555c8f45fe601ab5c221d4f607ded32d9f7a4349"),
    _file(UNET_CONFIG, 743, "78f474de6bab3d893868f37be97b636ae65c0df3073ed3256ca458ff599b5f96"),
    _file(VAE_CONFIG, 547, "786a7d21647ddea6a04b9675c03d3cb45e90a2f3c6da5fbda2c54ade040036de"),
    _file(TEXT_ENCODER_CONFIG, 617, "845df614cb9327ae7bbea027316246fae917827407da6df13572e41b5f93b4cc"),
)
TEXT_AND_PICTURES = (
    _file(BASE_TEXT_ENCODER, 246144864, "77795e2023adcf39bc29a884661950380bd093cf0750a966d473d1718dc9ef4e"),
    _file(BASE_VAE, 167335342, "4fbcf0ebe55a0984f5a5e00d8c4521d52359af7229bb4d81890039d2aa16dd7c"),
)
UNET = (_file(BASE_UNET, 1719125304, "c83908253f9a64d08c25fc90874c9c8aef9a329ce1ca5fb909d73b0c83d1ea21"),)
SAFETY = (
    _file(SAFETY_CHECKER_CONFIG, 4723, None),  # no published hash was found
    _file(SAFETY_CHECKER, 608018440, "08902f19b1cfebd7c989f152fc0507bef6898c706a91d666509383122324b511"),
)


@dataclass(frozen=True)
class Base:
    """The folders of the base: one for each network, with its config.json, and the tokenizer's."""

    unet: Path
    vae: Path
    text_encoder: Path
    tokenizer: Path


def base(store: WeightStore) -> Base:
    """Return the base's folders, and fetch missing files.

    Raises WeightsError for a tokenizer in two folders, or a user's base that does not predict noise.
    """
    paths = store.fetch((*CONFIGS, *TOKENIZER))
    _refuse_other_predictions(store)
    unet, vae, text_encoder = (paths[config].parent for config in CONFIGS)
    return Base(unet, vae, text_encoder, common_folder(paths[path] for path in TOKENIZER))


def _refuse_other_predictions(store: WeightStore) -> None:
    """Raise WeightsError if a user's base has a scheduler for another prediction than that of noise (epsilon).

    The models' schedulers are always those of Stable Diffusion 1.5, so that the file is not read otherwise.
    """
    config = store.find(SCHEDULER_CONFIG)
    if config is None:
        return
    try:
        prediction = json.loads(config.read_text()).get("prediction_type", "epsilon")
    except (OSError, ValueError, AttributeError):
        raise WeightsError(f"{config} is not a scheduler's configuration in JSON; remove it or replace it") from None
    if prediction != "epsilon":
        raise WeightsError(
            f"{config} has prediction_type {readable(prediction)}, and the model predicts epsilon (noise); "
            "give a base that predicts epsilon"
        )
