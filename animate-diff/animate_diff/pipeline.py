"""From inputs to frames: weights into the modules, prompts into embeddings, noise into latents, latents into pictures.

The modules are built once. Another checkpoint or motion module replaces parameters in place, so nothing of one
combination reaches the next.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel, UNetMotionModel
from einops import rearrange
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from videokit.errors import WeightsError
from videokit.prompts import encode_windows, token_windows
from videokit.runtime import host_memory, progress
from videokit.seeds import noise
from videokit.video.frames import frames_from_tensor
from videokit.weights.stable_diffusion import (
    BASE_TEXT_ENCODER,
    BASE_VAE,
    base,
    base_text_encoder_key,
    base_vae_key,
    empty_module,
)
from videokit.weights.tensors import fill, narrowed, open_tensors, tensors_for

from animate_diff import weights
from animate_diff.cache import ByteLRU
from animate_diff.checkpoint import (
    TEXT_ENCODER,
    VAE,
    Checkpoint,
    text_encoder_key,
    unet_key,
    vae_key,
)
from animate_diff.inputs import NUM_FRAMES
from animate_diff.motion_module import MotionModule, read_motion_module, scope_norms, set_norm_scope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import nn
    from videokit.runtime import Device, Stages
    from videokit.video.frames import Frame
    from videokit.weights.store import WeightStore

    from animate_diff.inputs import Inputs

logger = logging.getLogger("videokit")

DECODE_FRAMES = 4  # that the VAE decodes at once: its peak memory, and how soon the encoder gets its first frames


class Pipeline:
    """AnimateDiff's four modules on a device, and which weights are in them."""

    def __init__(self, store: WeightStore, device: Device) -> None:
        """Build the modules by the base's configurations; the parameters' values come with the first clip."""
        folders = base(store)
        self.store = store
        self.device = device
        self.tokenizer = CLIPTokenizer.from_pretrained(folders.tokenizer)
        self.text_encoder = empty_module(
            lambda: CLIPTextModel(CLIPTextConfig.from_pretrained(folders.text_encoder)), device
        )
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
        self._checkpoint = self._motion_module = ""  # the names of what the parameters hold now
        # what has been converted; the three published motion modules, 5.2 GB in float32, are 2.6 GB in float16
        self._cache = ByteLRU(host_memory() // 4)

    def generate(self, inputs: Inputs, seed: int, stages: Stages) -> Iterator[Frame]:
        """Make the clip that `inputs` ask for: NUM_FRAMES frames at the checkpoint's native size.

        All but the decoding is done when this returns; the frames are decoded as they are drawn.
        """
        # 1. the weights of this combination
        self.load(inputs.checkpoint, inputs.motion_module, stages)
        # 2. the prompts, (1 or 2, L, D): without guidance there is nothing to steer away from
        guided = inputs.guidance_scale > 1
        prompts = [inputs.negative_prompt, inputs.prompt] if guided else [inputs.prompt]
        windows = token_windows(self.tokenizer, prompts)
        with stages("text", str(windows)), torch.inference_mode():
            prompt_embeds = encode_windows(self.text_encoder, windows)
        # 3. noise, and the way from there to a clip's latents
        side = self.unet.config.sample_size
        latents = noise((1, self.unet.config.in_channels, NUM_FRAMES, side, side), seed).to(self.device.device)
        steps = inputs.num_inference_steps
        what = f"{steps} steps, {len(prompts) * steps} UNet evaluations of {NUM_FRAMES} frames {side}x{side}"
        with stages("denoise", what), torch.inference_mode():
            latents = self.denoise(latents, prompt_embeds, steps, inputs.guidance_scale)
        # 4. the pictures
        return self.decode(latents)

    def load(self, checkpoint: str, motion_module: str, stages: Stages) -> None:
        """Put a checkpoint and a motion module into the modules; what is there already stays."""
        if (checkpoint, motion_module) != (self._checkpoint, self._motion_module):
            weights.fetch(self.store, checkpoint, motion_module)
        if checkpoint != self._checkpoint:
            with stages("load", checkpoint):
                self._load_checkpoint(checkpoint)
        if motion_module != self._motion_module:
            with stages("load", motion_module):
                self._load_motion_module(motion_module)

    def denoise(
        self, latents: torch.Tensor, prompt_embeds: torch.Tensor, num_inference_steps: int, guidance_scale: float
    ) -> torch.Tensor:
        """Turn noise into the latents of a clip, both (1, C, F, h, w) float32, by DDIM with classifier-free guidance.

        `prompt_embeds` are (2, L, D), unconditional first, or (1, L, D) for a clip without guidance.
        Source: Song et al., arXiv 2010.02502, eq. 12 with sigma = 0; Ho & Salimans, arXiv 2207.12598, eq. 6, whose
        1 + w is `guidance_scale`; the schedule as in guoyww/AnimateDiff@e92bd56 configs/inference/inference-v1.yaml.
        """
        scheduler = DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="linear", steps_offset=1, clip_sample=False
        )
        scheduler.set_timesteps(num_inference_steps)
        text = prompt_embeds.repeat_interleave(latents.shape[2], dim=0)  # (B * F, L, D)
        for timestep in progress(scheduler.timesteps.tolist(), "denoise"):
            sample = latents.to(self.device.dtype).expand(len(prompt_embeds), -1, -1, -1, -1)  # (B, C, F, h, w)
            predicted = self.unet(sample, timestep, text).sample.float()
            if len(prompt_embeds) == 2:
                unconditional, conditional = predicted.chunk(2)
                predicted = unconditional + guidance_scale * (conditional - unconditional)
            latents = scheduler.step(predicted, timestep, latents).prev_sample
        return latents

    def decode(self, latents: torch.Tensor) -> Iterator[Frame]:
        """Decode latents (1, C, F, h, w) to F frames, a few at a time."""
        scaled = rearrange(latents, "1 c f h w -> f c h w") / self.vae.config.scaling_factor
        for chunk in scaled.to(self.device.dtype).split(DECODE_FRAMES):
            with torch.inference_mode():
                pictures = frames_from_tensor(self.vae.decode(chunk).sample)
            yield from pictures

    def forget(self) -> None:
        """Drop what is kept of files, and load the next combination anew."""
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
            wanted = self._checkpoint_parameters
            parts = {"unet": checkpoint.take(wanted["unet"], unet_key)}
            if checkpoint.has(VAE):
                parts["vae"] = checkpoint.take(wanted["vae"], vae_key)
            else:
                parts["vae"] = self._read_base(BASE_VAE, wanted["vae"], base_vae_key)
            if checkpoint.has(TEXT_ENCODER):
                parts["text_encoder"] = checkpoint.take(wanted["text_encoder"], text_encoder_key)
            else:
                parts["text_encoder"] = self._read_base(
                    BASE_TEXT_ENCODER, wanted["text_encoder"], base_text_encoder_key
                )
            checkpoint.log_what_is_passed_over()
            narrow = {part: narrowed(tensors, self.device.dtype) for part, tensors in parts.items()}
            return {part: tensors for part, (tensors, _) in narrow.items()}, sum(size for _, size in narrow.values())

        return self._cache.get(path, read)

    def _read_base(
        self, path: str, parameters: dict[str, nn.Parameter], key_of: Callable[[str], str]
    ) -> dict[str, torch.Tensor]:
        file = self.store.get(path)
        logger.info("the checkpoint has no such part: %s from the base", path)
        return tensors_for(parameters, open_tensors(file), key_of, file)

    def _read_motion_module(self, path: Path) -> MotionModule:
        def read() -> tuple[MotionModule, int]:
            motion = read_motion_module(path, self._motion_parameters)
            if motion.max_frames < NUM_FRAMES:
                raise WeightsError(f"{path} knows {motion.max_frames} positions; a clip has {NUM_FRAMES} frames")
            tensors, size = narrowed(motion.tensors, self.device.dtype)
            return MotionModule(tensors, motion.max_frames, motion.has_mid_block), size

        return self._cache.get(path, read)


def _motion_unet(config: Path) -> UNetMotionModel:
    """Build the UNet with motion modules for a UNet2DConditionModel's configuration."""
    spatial = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(config))
    return UNetMotionModel.from_unet2d(spatial, load_weights=False)
