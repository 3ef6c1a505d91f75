"""The weight files of animate-diff: source, size, hash, licence, and name on disk.

Sizes and hashes are the published ones (from the pointer files of the repositories). The layout below a weights
directory is the same for real weights, demo weights and your own:

    stable-diffusion-v1-5/   tokenizer and configurations of the base; its text encoder and VAE only if a checkpoint
                             lacks them
    checkpoints/             single files with UNet, VAE and text encoder, under CompVis' names
    motion_modules/          NAME.ckpt, NAME.safetensors, or a folder NAME/ that diffusers' MotionAdapter saved
    embeddings/              textual inversions, NAME.safetensors, .pt or .bin; fetched when a prompt names one
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from videokit.weights.stable_diffusion import CONFIGS, CONFIGURATION, TEXT_AND_PICTURES, TOKENIZER
from videokit.weights.table import HubFile, WeightFile
from videokit.weights.textual_inversions import TEXTUAL_INVERSIONS

from animate_diff.inputs import CHECKPOINTS, MOTION_MODULES

if TYPE_CHECKING:
    from pathlib import Path

    from videokit.weights.store import WeightStore

_OPENRAIL = "CreativeML-OpenRAIL-M"
_UNSTATED = "its creator's terms at civitai.com (a Stable Diffusion 1.5 derivative: CreativeML-OpenRAIL-M)"


def _checkpoint(name: str, size: int, sha256: str, licence: str = _UNSTATED, published_as: str = "") -> WeightFile:
    """Return a personalised checkpoint from the backup of AnimateDiff's authors."""
    revision = "32da2bfe2e4ede607dc4017a353a8c7f0822b4d0"
    source = HubFile("guoyww/animatediff_t2i_backups", revision, published_as or name)
    return WeightFile(f"checkpoints/{name}", source, licence, size, sha256)


def _motion_module(name: str, size: int, sha256: str) -> WeightFile:
    """Return a motion module in the original layout, a pickle of tensors."""
    source = HubFile("guoyww/animatediff", "fdfe36afa161e51b3e9c24022b0e368d59e7345e", f"{name}.ckpt")
    return WeightFile(f"motion_modules/{name}.ckpt", source, "Apache-2.0", size, sha256, or_folder=True)


FILES = (
    *CONFIGURATION,
    *TEXT_AND_PICTURES,
    _checkpoint(CHECKPOINTS[0], 2132626252, "52768d2bc4e73af920df3466d0806d9a40727dab0869fc7aa2f3bc82214bb071"),
    _checkpoint(CHECKPOINTS[1], 2132625432, "ec6f68ea6388951d53d6c8178c22aecfd1b4fedfe31f5a5814ddd7638c4eff37"),
    _checkpoint(CHECKPOINTS[2], 2132625644, "a6b4c0392d7486bfa4fd1a31c7b7d2679f743f8ea8d9f219c82b5c33db31ddb9"),
    _checkpoint(CHECKPOINTS[3], 2400040290, "a38fa861a24f4f4c6e0f68289101e645dd9ca1e93e1049cc8a4f2a77513fad52"),
    # The name is the documented one. The file is Realistic Vision V2.0 (civitai version 29460), and its backup was
    # renamed. The same bytes are in the creator's own repository, SG161222/Realistic_Vision_V2.0.
    _checkpoint(
        CHECKPOINTS[4],
        2132650523,
        "c0d1994c73d784a17a5b335ae8bda02dcc8dd2fc5f5dbf55169d5aab385e53f2",
        licence=_OPENRAIL,
        published_as="realisticVisionV60B1_v20Novae.safetensors",
    ),
    _motion_module(MOTION_MODULES[0], 1672133921, "aa7fd8a200a89031edd84487e2a757c5315460eca528fa70d4b3885c399bffd5"),
    _motion_module(MOTION_MODULES[1], 1672133921, "cf16ea656cb16124990c8e2c70a29c793f9841f3a2223073fac8bd89ebd9b69a"),
    _motion_module(MOTION_MODULES[2], 1817888431, "69ed0f5fef82b110aca51bcab73b21104242bc65d6ab4b8b2a2a94d31cad1bf0"),
    *TEXTUAL_INVERSIONS,
)


def fetch(store: WeightStore, checkpoint: str, motion_module: str) -> None:
    """Fetch the missing files of a combination; raise WeightsMissing that names all that cannot be fetched."""
    store.fetch((*CONFIGS, *TOKENIZER, f"checkpoints/{checkpoint}", f"motion_modules/{motion_module}.ckpt"))


def checkpoint_file(store: WeightStore, name: str) -> Path:
    """Return the file of a checkpoint (`toonyou_beta3.safetensors`), fetched if it is missing."""
    return store.get(f"checkpoints/{name}")


def motion_module_file(store: WeightStore, name: str) -> Path:
    """Return the file or MotionAdapter folder of a motion module (`mm_sd_v14`), fetched if it is missing."""
    return store.get(f"motion_modules/{name}.ckpt")
