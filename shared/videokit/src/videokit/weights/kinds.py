"""The kind of network in a file, by the names and shapes of its tensors: a table of kinds, with advice for each.

A model names the kinds that it reads. Any other kind is refused, and the error names it. Users often confuse files of
these kinds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from videokit.errors import WeightsError
from videokit.weights.tensors import format_keys, readable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

    Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Kind:
    """One kind of file: every pattern of `has` matches a key, none of `lacks` does, and a tensor has a size.

    `size` is a pattern of a key, an axis, and the length of that axis. `advice` says what to do with such a file.
    """

    name: str
    has: tuple[str, ...]
    advice: str
    lacks: tuple[str, ...] = ()
    size: tuple[str, int, int] | None = None

    def matches(self, tensors: Tensors) -> bool:
        """Return whether a file with these tensors is of this kind."""

        def found(pattern: str) -> bool:
            return any(re.search(pattern, key) for key in tensors)

        if not all(map(found, self.has)) or any(map(found, self.lacks)):
            return False
        if self.size is None:
            return True
        pattern, axis, length = self.size
        shapes = [tensor.shape for key, tensor in tensors.items() if re.search(pattern, key)]
        return any(len(shape) > axis and shape[axis] == length for shape in shapes)


GIVE_SD15 = "give one of Stable Diffusion 1.5"
GIVE_MODULE = "give a motion module for Stable Diffusion 1.5, such as v14, v15, v15_v2 or v3"
MOTION = r"(^|\.)motion_modules\."
FIRST_CONVOLUTION = r"(^|\.)(input_blocks\.0\.0|conv_in)\.weight$"  # of a UNet in CompVis' or diffusers' names
TEXT_WIDTH = r"\.attn2\.to_k\.weight$"  # its second axis is the width of the text encoder
LORA = r"(^|[._])lora[._]|\.(hada|lokr|oft|ia3)_|\.dora_scale$|\.base_layer\."

# The kinds that a model reads.
CHECKPOINT = Kind(
    "a single-file checkpoint of Stable Diffusion",
    (r"^model\.diffusion_model\.input_blocks\.",),
    "animate-diff reads it below checkpoints/",
)
MOTION_MODULE = Kind("a motion module", (MOTION,), "animate-diff reads it below motion_modules/")
UNET = Kind("a UNet of Stable Diffusion", (r"^down_blocks\.\d+\.resnets\.",), "sd-animation reads it below unet/")
UNET_3D = Kind(
    "a UNet over frames", (r"^(transformer_in|down_blocks\..*temp_convs)\.",), "zeroscope reads it below unet/"
)
VAE_FILE = Kind("a VAE", (r"^(encoder|decoder)\.(mid|mid_block)\.",), "it belongs below vae/")
SAFETY_CHECKER_FILE = Kind("a safety checker", (r"^special_care_embeds$",), "it belongs below safety_checker/")
TEXT_ENCODER_FILE = Kind(
    "a text encoder", (r"^(text_model\.)?embeddings\.token_embedding\.weight$",), "it belongs below text_encoder/"
)

# The first kind that matches counts. Sources of the marks: Kosinkadink/ComfyUI-AnimateDiff-Evolved@d8d163c
# animatediff/motion_module_ad.py; guoyww/AnimateDiff@e92bd56 animatediff/models/sparse_controlnet.py; the published
# files' keys.
KINDS = (
    Kind("a textual inversion", (r"^(emb_params|string_to_param|clip_[gl])$",), "it belongs below embeddings/"),
    Kind(
        "a motion LoRA of AnimateDiff",
        (r"(motion_modules|temporal_transformer)\..*lora",),
        "merge it into a motion module, and give that file",
    ),
    Kind("a LoRA", (LORA,), "merge it into a Stable Diffusion 1.5 checkpoint and give that file"),
    Kind(
        "a SparseCtrl encoder of AnimateDiff",
        (r"(^|\.)controlnet_(cond_embedding|down_blocks)\.", MOTION),
        f"it needs input images, which no model here has; {GIVE_MODULE}",
    ),
    Kind("a ControlNet", (r"(^control_model\.|(^|\.)controlnet_(cond_embedding|down_blocks)\.)",), GIVE_SD15),
    Kind("an IP-Adapter", (r"^(image_proj|ip_adapter)\.",), GIVE_SD15),
    Kind(
        "a motion module of HotShot-XL, for Stable Diffusion XL",
        (r"(^|\.)temporal_attentions\.|pos_encoder\.positional_encoding$",),
        GIVE_MODULE,
    ),
    Kind("a motion module for Stable Diffusion XL", (MOTION,), GIVE_MODULE, lacks=(r"(^|\.)down_blocks\.3\.",)),
    Kind(
        "a motion module of PIA, which needs an input image",
        (MOTION, r"^conv_in\.weight$"),
        GIVE_MODULE,
        size=(r"^conv_in\.weight$", 1, 9),
    ),
    Kind(
        "a motion module of AnimateLCM, which has no position tables and needs another sampler",
        (MOTION, r"\.temporal_transformer\."),
        GIVE_MODULE,
        lacks=(r"\.pos_encoder\.",),
    ),
    MOTION_MODULE,
    Kind(
        "a model of the Stable Diffusion 3 or Flux kind",
        (r"(^|\.)(joint_blocks|double_blocks|single_transformer_blocks)\.",),
        GIVE_SD15,
    ),
    Kind(
        "a model of Stable Video Diffusion",
        (r"\.time_stack\.|\.time_mixer\.|temporal_transformer_blocks\.",),
        GIVE_SD15,
    ),
    Kind(
        "a UNet over frames in the layout of ModelScope's own program",
        (r"\.temopral_conv\.",),  # spelled so
        "give the file below unet/ in the model's repository",
    ),
    UNET_3D,
    Kind(
        "a checkpoint of Stable Diffusion XL",
        (r"^conditioner\.embedders\.|(^|\.)(label_emb|add_embedding)\.",),
        GIVE_SD15,
    ),
    Kind("a UNet of Stable Diffusion XL", (TEXT_WIDTH,), GIVE_SD15, size=(TEXT_WIDTH, 1, 2048)),
    Kind("a checkpoint of Stable Diffusion 2", (r"^cond_stage_model\.model\.",), GIVE_SD15),
    Kind("a UNet of Stable Diffusion 2", (TEXT_WIDTH,), GIVE_SD15, size=(TEXT_WIDTH, 1, 1024)),
    *(
        Kind(name, (FIRST_CONVOLUTION,), f"it needs an input image, which no model here has; {GIVE_SD15}", (), size)
        for name, size in (
            ("an inpainting checkpoint", (FIRST_CONVOLUTION, 1, 9)),
            ("a checkpoint of InstructPix2Pix", (FIRST_CONVOLUTION, 1, 8)),
            ("a checkpoint of an upscaler", (FIRST_CONVOLUTION, 1, 7)),
            ("a checkpoint that needs a depth map", (FIRST_CONVOLUTION, 1, 5)),
        )
    ),
    Kind(
        "a Latent Consistency Model, which needs another sampler",
        (r"(^|\.)(time_embed|time_embedding)\.cond_proj\.",),
        GIVE_SD15,
    ),
    Kind(
        "a checkpoint with the mark of v-prediction or of zero terminal SNR",
        (r"(^|\.)(v_pred|ztsnr|edm_mean|edm_vpred\.sigma_max)$",),
        f"the models here predict noise (epsilon), so its pictures would be wrong; {GIVE_SD15} that predicts noise",
    ),
    CHECKPOINT,
    UNET,
    VAE_FILE,
    SAFETY_CHECKER_FILE,
    TEXT_ENCODER_FILE,
)


def identify(tensors: Tensors) -> Kind | None:
    """Return the kind of a file with these tensors, or None for an unknown one."""
    return next((kind for kind in KINDS if kind.matches(tensors)), None)


def refuse_other_kinds(tensors: Tensors, source: Path, wanted: Kind) -> None:
    """Raise WeightsError if a file's tensors are known to be of another kind than `wanted`.

    Also raised for a file whose metadata say that it does not predict noise.
    """
    kind = identify(tensors)
    if kind not in (None, wanted):
        found = next(key for key in tensors if re.search(kind.has[0], key))
        raise WeightsError(f"{source} is {kind.name} ({format_keys([found])}), not {wanted.name}; {kind.advice}")
    prediction = _metadata(source).get("modelspec.prediction_type", "epsilon")
    if prediction != "epsilon":
        raise WeightsError(
            f"{source} states that it predicts {readable(prediction)}; {GIVE_SD15} that predicts epsilon"
        )


def _metadata(source: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file (Stability-AI/ModelSpec), or none for another file."""
    try:
        with safe_open(source, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return {}
