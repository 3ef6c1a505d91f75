"""Files that are given in place of each other are refused by their names.

The keys are those of published files: kohya-ss/sd-scripts and diffusers for LoRAs, guoyww/animatediff, hotshotco,
wangfuyun/AnimateLCM, stabilityai and Laxhar/noobai-XL-Vpred-1.0.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from videokit.errors import WeightsError
from videokit.weights.kinds import (
    CHECKPOINT,
    MOTION_MODULE,
    TEXT_ENCODER_FILE,
    UNET,
    UNET_3D,
    VAE_FILE,
    Kind,
    identify,
    refuse_other_kinds,
)

MOTION = "down_blocks.{}.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0."
CROSS = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
CONVOLUTION = "model.diffusion_model.input_blocks.0.0.weight"
MOTION_KEYS = [MOTION.format(block) + name for block in range(4) for name in ("to_q.weight", "pos_encoder.pe")]


def tensors(*keys: str, **shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Return empty tensors, with the keys of an SD 1.5 checkpoint if a key is one of it."""
    return {key: torch.zeros(shapes.get(key, (1,)), device="meta") for key in keys}


def shaped(key: str, *shape: int) -> dict[str, torch.Tensor]:
    return {key: torch.zeros(shape, device="meta")}


SD15 = shaped(CONVOLUTION, 320, 4, 3, 3) | shaped(CROSS, 320, 768)
FOREIGN = [
    ("is a LoRA", tensors("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight")),
    (
        "is a LoRA",
        tensors("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight"),
    ),
    ("is a LoRA", tensors("unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight")),
    ("is a LoRA", tensors("lora_te_text_model_encoder_layers_0_mlp_fc1.hada_w1_a")),
    ("is a motion LoRA", tensors(MOTION.format(0) + "processor.to_q_lora.down.weight")),
    ("is a motion LoRA", tensors("unet.mid_block.motion_modules.0.transformer_blocks.0.attn1.to_k.lora_B.weight")),
    (
        "is a SparseCtrl encoder",
        tensors(*MOTION_KEYS, "controlnet_cond_embedding.conv_in.weight", "controlnet_down_blocks.0.weight"),
    ),
    ("is a ControlNet", tensors("control_model.zero_convs.0.0.weight")),
    (
        "is a motion module of HotShot-XL",
        tensors("down_blocks.0.temporal_attentions.0.transformer_blocks.0.ff.net.2.bias"),
    ),
    (
        "is a motion module for Stable Diffusion XL",
        tensors(*(MOTION.format(block) + "to_q.weight" for block in range(3))),
    ),
    ("is a motion module of AnimateLCM", tensors(*(MOTION.format(block) + "to_q.weight" for block in range(4)))),
    ("is a motion module of PIA", tensors(*MOTION_KEYS) | shaped("conv_in.weight", 320, 9, 3, 3)),
    ("is a checkpoint of Stable Diffusion XL", SD15 | tensors("conditioner.embedders.1.model.ln_final.bias")),
    (
        "is a UNet of Stable Diffusion XL",
        shaped("down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight", 640, 2048),
    ),
    (
        "is a checkpoint of Stable Diffusion 2",
        SD15 | tensors("cond_stage_model.model.transformer.resblocks.0.ln_1.bias"),
    ),
    ("is a UNet of Stable Diffusion 2", shaped(CROSS, 320, 1024)),
    ("is an inpainting checkpoint", SD15 | shaped(CONVOLUTION, 320, 9, 3, 3)),
    (
        "is an inpainting checkpoint",
        tensors("down_blocks.0.resnets.0.norm1.bias") | shaped("conv_in.weight", 320, 9, 3, 3),
    ),
    ("is a checkpoint of InstructPix2Pix", SD15 | shaped(CONVOLUTION, 320, 8, 3, 3)),
    ("is a Latent Consistency Model", tensors("down_blocks.0.resnets.0.norm1.bias", "time_embedding.cond_proj.weight")),
    ("the mark of v-prediction", SD15 | tensors("v_pred")),
    ("zero terminal SNR", SD15 | tensors("ztsnr")),
    (
        "is a model of the Stable Diffusion 3 or Flux kind",
        tensors("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.bias"),
    ),
    ("is a textual inversion", tensors("emb_params")),
]


@pytest.mark.parametrize(("name", "content"), FOREIGN)
@pytest.mark.parametrize("wanted", [CHECKPOINT, MOTION_MODULE, UNET, UNET_3D])
def test_a_file_of_another_kind_is_refused_by_its_name_with_what_to_do(
    name: str, content: dict[str, torch.Tensor], wanted: Kind, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=f"given.safetensors .*{name}.*, not {wanted.name}; ") as raised:
        refuse_other_kinds(content, tmp_path / "given.safetensors", wanted)
    assert len(str(raised.value).rpartition("; ")[2]) > 10  # the advice


KNOWN = [
    (CHECKPOINT, SD15 | tensors("first_stage_model.decoder.conv_in.bias", "model_ema.num_updates")),
    (MOTION_MODULE, tensors(*MOTION_KEYS)),
    (MOTION_MODULE, tensors(*(f"down_blocks.{block}.motion_modules.0.norm.bias" for block in range(4)))),
    (UNET, tensors("down_blocks.0.resnets.0.norm1.bias") | shaped("conv_in.weight", 320, 4, 3, 3)),
    (
        UNET_3D,
        shaped("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight", 320, 1024)
        | tensors("transformer_in.norm.bias"),
    ),
    (VAE_FILE, tensors("encoder.mid_block.attentions.0.query.weight")),
    (VAE_FILE, tensors("encoder.mid.attn_1.q.weight")),
    (TEXT_ENCODER_FILE, tensors("text_model.embeddings.token_embedding.weight")),
    (TEXT_ENCODER_FILE, tensors("embeddings.token_embedding.weight")),
]


@pytest.mark.parametrize(("kind", "content"), KNOWN)
def test_a_file_that_a_model_reads_is_not_refused(kind: Kind, content: dict[str, torch.Tensor], tmp_path: Path) -> None:
    assert identify(content) is kind
    refuse_other_kinds(content, tmp_path / "given.safetensors", kind)


def test_an_unknown_file_is_not_refused_here(tmp_path: Path) -> None:
    """Its missing tensors are named later."""
    assert identify(tensors("weight")) is None
    refuse_other_kinds(tensors("weight"), tmp_path / "given.safetensors", CHECKPOINT)


@pytest.mark.parametrize(("prediction", "refused"), [("v", True), ("epsilon", False)])
def test_the_prediction_type_in_the_metadata_counts(tmp_path: Path, prediction: str, refused: bool) -> None:
    """The key is that of Stability-AI/ModelSpec 1.0."""
    file = tmp_path / "given.safetensors"
    save_file({"weight": torch.zeros(1)}, file, {"modelspec.prediction_type": prediction})
    if refused:
        with pytest.raises(WeightsError, match=r"states that it predicts v; give one of Stable Diffusion 1\.5"):
            refuse_other_kinds(tensors("weight"), file, CHECKPOINT)
    else:
        refuse_other_kinds(tensors("weight"), file, CHECKPOINT)
