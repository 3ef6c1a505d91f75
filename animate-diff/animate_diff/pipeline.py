"""The pipeline of animate-diff: it loads weights, encodes prompts, denoises latents and decodes frames.

The modules are built once. Another checkpoint or motion module replaces parameters in place, so no combination affects
the next.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel, UNetMotionModel
from einops import rearrange
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from videokit.errors import WeightsError
from videokit.inversion_names import TextualInversions
from videokit.latents import decode_latents
from videokit.progress import progress
from videokit.prompts import encode_prompts
from videokit.runtime import Stages, host_memory
from videokit.seeds import noise
from videokit.weights.keys import (
    TEXT_ENCODER,
    VAE,
    checkpoint_text_encoder_keys,
    checkpoint_vae_keys,
    text_encoder_keys,
    vae_keys,
)
from videokit.weights.kinds import TEXT_ENCODER_FILE, VAE_FILE, refuse_other_kinds
from videokit.weights.load import empty_module
from videokit.weights.stable_diffusion import BASE_TEXT_ENCODER, BASE_VAE, TEXT_ENCODER_CONFIG, VAE_CONFIG, base
from videokit.weights.tensors import fill, open_tensors, tensors_for
from videokit.words import counted

from animate_diff import weights
from animate_diff.cache import ByteLRU, convert_dtype
from animate_diff.checkpoint import Checkpoint, unet_keys
from animate_diff.inputs import NUM_FRAMES, Inputs
from animate_diff.motion_module import MotionModule, read_motion_module, scope_norms, set_norm_scope

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from videokit.runtime import Device
    from videokit.video.frames import Frame
    from videokit.weights.store import WeightStore

logger = logging.getLogger("videokit")

DECODE_FRAMES = 4  # in one batch of the VAE; determines its peak memory, and when the encoder gets its first frames

# The parts of a checkpoint: prefix and keys in its file. Then the base's configuration and file, its keys and kind, for
# a checkpoint without the part.
PARTS = {
    "vae": (VAE, checkpoint_vae_keys, VAE_CONFIG, BASE_VAE, vae_keys, VAE_FILE),
    "text_encoder": (
        TEXT_ENCODER,
        checkpoint_text_encoder_keys,
        TEXT_ENCODER_CONFIG,
        BASE_TEXT_ENCODER,
        text_encoder_keys,
        TEXT_ENCODER_FILE,
    ),
}


class Pipeline:
    """AnimateDiff's four modules on a device, and the names of the weights in them."""

    def __init__(self, store: WeightStore, device: Device) -> None:
        """Build the modules by the base's configurations, and load the default checkpoint and motion module."""
        weights.fetch(store, Inputs.checkpoint, Inputs.motion_module)
        folders = base(store)
        self.store = store
        self.device = device
        self.tokenizer = CLIPTokenizer.from_pretrained(folders.tokenizer)
        self.text_encoder = empty_module(
            lambda: CLIPTextModel(CLIPTextConfig.from_pretrained(folders.text_encoder)), device
        )
        self.inversions = TextualInversions(store, self.text_encoder.config.hidden_size)
        self.vae = empty_module(lambda: AutoencoderKL.from_config(AutoencoderKL.load_config(folders.vae)), device)
        self.unet = empty_module(lambda: _motion_unet(folders.unet), device)
        scope_norms(self.unet)
        parameters = dict(self.unet.named_parameters())
        self._motion_parameters = {name: p for name, p in parameters.items() if ".motion_modules." in name}
        self._checkpoint_parameters = {
            "unet": {name: p for name, p in parameters.items() if name not in self._motion_parameters},
            "vae": dict(self.vae.named_parameters()),
            "text_encoder": dict(self.text_encoder.named_parameters()),
        }
        self._checkpoint = self._motion_module = ""  # the names of the weights in the modules
        # Holds converted tensors: the three published motion modules, 5.2 GB in float32, take 2.6 GB in float16.
        self._cache = ByteLRU(host_memory() // 4)
        self.load(Inputs.checkpoint, Inputs.motion_module, Stages(device))

    def generate(self, inputs: Inputs, seed: int, stages: Stages) -> Iterator[Frame]:
        """Return the NUM_FRAMES frames of a clip, at the checkpoint's native size.

        Everything except the decoding is done when this returns; frames are decoded as they are consumed.
        """
        # 1. Load the checkpoint and the motion module.
        self.load(inputs.checkpoint, inputs.motion_module, stages)
        # 2. Encode the prompts.
        prompt_embeds = self.encode_prompt(inputs, stages)
        # 3. Denoise.
        latents = self.prepare_latents(seed)
        steps, side = inputs.num_inference_steps, latents.shape[-1]
        evaluations = counted(len(prompt_embeds) * steps, "UNet evaluation")
        description = f"{counted(steps, 'step')}, {evaluations} of {NUM_FRAMES} frames {side}x{side}"
        with stages("denoise", description), torch.inference_mode():
            latents = self.denoise(latents, prompt_embeds, steps, inputs.guidance_scale)
        # 4. Decode.
        return decode_latents(self.vae, rearrange(latents, "1 c f h w -> f c h w"), DECODE_FRAMES)

    def load(self, checkpoint: str, motion_module: str, stages: Stages) -> None:
        """Load a checkpoint and a motion module into the modules, unless they are loaded."""
        if (checkpoint, motion_module) != (self._checkpoint, self._motion_module):
            weights.fetch(self.store, checkpoint, motion_module)
        if checkpoint != self._checkpoint:
            with stages("load", checkpoint):
                self._load_checkpoint(checkpoint)
        if motion_module != self._motion_module:
            with stages("load", motion_module):
                self._load_motion_module(motion_module)

    def encode_prompt(self, inputs: Inputs, stages: Stages) -> torch.Tensor:
        """Return the prompt embeddings, (2, L, D) with the negative prompt first, or (1, L, D) without guidance."""
        prompts = [inputs.negative_prompt, inputs.prompt] if inputs.guidance_scale > 1 else [inputs.prompt]
        return encode_prompts(self.text_encoder, self.tokenizer, prompts, stages, self.inversions)

    def prepare_latents(self, seed: int) -> torch.Tensor:
        """Return the initial noise, (1, C, F, h, w) float32."""
        config = self.unet.config
        shape = (1, config.in_channels, NUM_FRAMES, config.sample_size, config.sample_size)
        return noise(shape, seed).to(self.device.device)

    def denoise(
        self, latents: torch.Tensor, prompt_embeds: torch.Tensor, num_inference_steps: int, guidance_scale: float
    ) -> torch.Tensor:
        """Return the latents of a clip from noise, both (1, C, F, h, w) float32, by DDIM with classifier-free guidance.

        `prompt_embeds` are (2, L, D), unconditional first, or (1, L, D) for a clip without guidance.
        Source: Song et al., arXiv 2010.02502, eq. 12 with sigma = 0; Ho & Salimans, arXiv 2207.12598, eq. 6, whose
        1 + w is `guidance_scale`; the schedule is guoyww/AnimateDiff@e92bd56 configs/inference/inference-v1.yaml.
        """
        scheduler = DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="linear", steps_offset=1, clip_sample=False
        )
        scheduler.set_timesteps(num_inference_steps)
        text = prompt_embeds.repeat_interleave(latents.shape[2], dim=0)  # (B * F, L, D)
        for timestep in progress(scheduler.timesteps.tolist(), "denoise"):
            sample = latents.to(self.device.dtype).expand(len(prompt_embeds), -1, -1, -1, -1)  # (B, C, F, h, w)
            noise_pred = self.unet(sample, timestep, text).sample.float()
            if len(prompt_embeds) == 2:
                noise_pred_uncond, noise_pred_text = noise_pred.chunk(2)
                noise_pred = noise_pred_uncond + guidance_scale * (noise_pred_text - noise_pred_uncond)
            latents = scheduler.step(noise_pred, timestep, latents).prev_sample
        return latents

    def unload(self) -> None:
        """Clear the cache, and load both files again at the next prediction."""
        self._checkpoint = self._motion_module = ""
        self._cache.clear()

    def _load_checkpoint(self, name: str) -> None:
        parts = self._read_checkpoint(weights.checkpoint_file(self.store, name))
        self._checkpoint = ""  # a cancel in the middle leaves a mixture
        for part, parameters in self._checkpoint_parameters.items():
            fill(parameters, parts[part])
        self._checkpoint = name

    def _load_motion_module(self, name: str) -> None:
        motion = self._read_motion_module(weights.motion_module_file(self.store, name))
        self._motion_module = ""
        fill(self._motion_parameters, motion.tensors)
        set_norm_scope(self.unet, NUM_FRAMES if motion.norms_over_frames else 1)
        self._motion_module = name

    def _read_checkpoint(self, path: Path) -> dict[str, dict[str, torch.Tensor]]:
        def read() -> tuple[dict[str, dict[str, torch.Tensor]], int]:
            checkpoint = Checkpoint(path)
            parts = {"unet": checkpoint.tensors_for(self._checkpoint_parameters["unet"], unet_keys)}
            for part, (prefix, keys_of, config, base_path, base_keys_of, kind) in PARTS.items():
                parameters = self._checkpoint_parameters[part]
                if checkpoint.has(prefix):
                    parts[part] = checkpoint.tensors_for(parameters, keys_of)
                else:
                    logger.info("%s: using the %s of Stable Diffusion 1.5, %s", path.name, part, base_path)
                    file = self.store.get(base_path)
                    self.store.refuse_mixture(config, base_path)
                    tensors = open_tensors(file)
                    refuse_other_kinds(tensors, file, kind)
                    parts[part] = tensors_for(parameters, tensors, base_keys_of, file)
            checkpoint.log_unknown_keys()
            converted = {part: convert_dtype(tensors, self.device.dtype) for part, tensors in parts.items()}
            size = sum(nbytes for _, nbytes in converted.values())
            return {part: tensors for part, (tensors, _) in converted.items()}, size

        return self._cache.get(path, read)

    def _read_motion_module(self, path: Path) -> MotionModule:
        def read() -> tuple[MotionModule, int]:
            motion = read_motion_module(path, self._motion_parameters)
            if motion.max_frames < NUM_FRAMES:
                raise WeightsError(f"{path} has {motion.max_frames} positions; a clip has {NUM_FRAMES} frames")
            tensors, size = convert_dtype(motion.tensors, self.device.dtype)
            return MotionModule(tensors, motion.max_frames, motion.has_mid_block), size

        return self._cache.get(path, read)


def _motion_unet(config: Path) -> UNetMotionModel:
    """Return the UNet with motion modules for a UNet2DConditionModel's configuration."""
    spatial = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(config))
    return UNetMotionModel.from_unet2d(spatial, load_weights=False)
