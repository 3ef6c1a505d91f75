"""From inputs to frames: prompts into embeddings, noise or a video into latents, latents into pictures.

Video by video, and frame by frame where the networks allow it: what is held at once does not grow with the batch, and
a video's pictures are decoded as the encoder draws them.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange
from videokit.prompts import encode_windows, token_windows
from videokit.seeds import noise
from videokit.video.decode import decode
from videokit.video.frames import frames_from_tensor

from zeroscope import memory
from zeroscope.inputs import Inputs
from zeroscope.models import Model, Models
from zeroscope.sampler import denoise, noised, solver, start_index
from zeroscope.watermark import Watermark
from zeroscope.weights import LAMA

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from diffusers import DPMSolverMultistepScheduler
    from videokit.runtime import Device, Stages
    from videokit.video.frames import Frame
    from videokit.weights.store import WeightStore

VAE_PIXELS = 4 * 512 * 512  # that the VAE encodes or decodes at once: its peak memory
# The part of a device's memory that is spoken for in advance. A CPU's is shared with all that runs there; of a GPU's
# the rest is for its libraries, and for LaMa.
USABLE = {"cuda": 0.9, "mps": 0.5, "cpu": 0.5}


class Pipeline:
    """The models on a device."""

    def __init__(self, store: WeightStore, device: Device) -> None:
        """Load the default model, fetched where it is missing."""
        self.device = device
        self.models = Models(store, device, on_device=int(device.memory_total() * USABLE[device.device.type]))
        self.watermark = Watermark(store, device)
        default = self.models.get(Inputs.model)
        # the four have one architecture, so what it takes is known of all of them
        self._head_width = default.unet.config.attention_head_dim
        self._vae_channels = default.vae.config.block_out_channels[0]

    def most_frames(self, inputs: Inputs) -> int:
        """Return how many frames of the inputs' size this device has memory for beside the model; 0 if not even one."""
        free = self.models.on_device - self.models.each
        return free // self._unet_bytes(inputs, num_frames=1) if self._vae_bytes(inputs) <= free else 0

    def generate(self, inputs: Inputs, seed: int, stages: Stages) -> Iterator[Iterator[Frame]]:
        """Make the videos of seed, seed + 1, ...: for each its frames, decoded as they are drawn.

        One after the other, not in one batch: matrix products of another batch size differ in the last digits, and
        each video is to be that of its seed alone, byte for byte.
        """
        # 1. the video, if there is one: what is wrong with it is told before anything is loaded
        video = None
        if inputs.init_video is not None:
            size = {"num_frames": inputs.num_frames, "width": inputs.width, "height": inputs.height}
            video = decode(inputs.init_video, **size)
        # 2. the model, and the file that the last stage would lack
        if inputs.remove_watermark:
            self.models.store.get(LAMA)
        model = self.load(inputs, stages)
        # 3. the prompts, (1 or 2, L, D): without guidance there is nothing to steer away from
        prompts = [inputs.negative_prompt, inputs.prompt] if inputs.guidance_scale > 1 else [inputs.prompt]
        windows = token_windows(model.tokenizer, prompts)
        with stages("text", str(windows)), torch.inference_mode():
            prompt_embeds = encode_windows(model.text_encoder, windows)
        # 4. the video's latents, as the VAE's means and deviations
        posterior = None
        if video is not None and inputs.starts_from_video:
            with stages("init_video", f"{inputs.num_frames} frames through the VAE"), torch.inference_mode():
                posterior = self.encode(model, video)
        # 5. video by video: from noise, or from the video with noise, to latents, to pictures
        start = start_index(inputs.init_weight, inputs.num_inference_steps) if posterior is not None else 0
        steps = inputs.num_inference_steps - start
        shape = (1, model.unet.config.in_channels, inputs.num_frames, inputs.height // 8, inputs.width // 8)
        for index in range(inputs.batch_size):
            name = f"denoise, video {index + 1} of {inputs.batch_size}"
            what = f"{steps} steps, {len(prompts) * steps} UNet evaluations of {inputs.num_frames} frames"
            with stages("denoise", what), torch.inference_mode():
                scheduler = solver(model.scheduler, inputs.num_inference_steps)
                latents = self.start(model, scheduler, posterior, start, shape, seed + index)
                latents = denoise(model.unet, scheduler, latents, prompt_embeds, inputs.guidance_scale, start, name)
            frames = self.decode(model, latents)
            yield self.watermark.remove(frames) if inputs.remove_watermark else frames

    def load(self, inputs: Inputs, stages: Stages) -> Model:
        """Return the model of the inputs, with room on the device for what it is to do."""
        room = max(self._unet_bytes(inputs, inputs.num_frames), self._vae_bytes(inputs))
        if self.models.has(inputs.model):
            return self.models.get(inputs.model, room)
        with stages("load", inputs.model):
            return self.models.get(inputs.model, room)

    def encode(self, model: Model, frames: Iterable[Frame]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return means and deviations of a video's latents, each (1, C, F, h, w) float32, a few frames at a time."""
        means, deviations = [], []
        for chunk in _chunks(frames):
            pixels = torch.from_numpy(chunk).to(self.device.device).float().div(127.5).sub(1)  # (N, H, W, 3)
            found = model.vae.encode(rearrange(pixels, "n h w c -> n c h w").to(self.device.dtype)).latent_dist
            means.append(found.mean.float())
            deviations.append(found.std.float())
        mean, deviation = (rearrange(torch.cat(part), "f c h w -> 1 c f h w") for part in (means, deviations))
        return mean, deviation

    def start(
        self,
        model: Model,
        scheduler: DPMSolverMultistepScheduler,
        posterior: tuple[torch.Tensor, torch.Tensor] | None,
        index: int,
        shape: tuple[int, ...],
        seed: int,
    ) -> torch.Tensor:
        """Return the latents at step `index`: noise, or a sample of the video's posterior with noise added."""
        initial, sampling = noise((2, *shape), seed).to(self.device.device)
        if posterior is None:
            return initial
        mean, deviation = posterior
        return noised(scheduler, model.vae.config.scaling_factor * (mean + deviation * sampling), initial, index)

    def decode(self, model: Model, latents: torch.Tensor) -> Iterator[Frame]:
        """Decode latents (1, C, F, h, w) to F frames, a few at a time."""
        scaled = rearrange(latents, "1 c f h w -> f c h w") / model.vae.config.scaling_factor
        for chunk in scaled.to(self.device.dtype).split(_frames_at_once(8 * latents.shape[-2], 8 * latents.shape[-1])):
            with torch.inference_mode():
                pictures = frames_from_tensor(model.vae.decode(chunk).sample)
            yield from pictures

    def forget(self) -> None:
        """Let go of all networks; the next prediction loads its own."""
        self.models.forget()
        self.watermark.forget()

    @property
    def _itemsize(self) -> int:
        return self.device.dtype.itemsize

    def _unet_bytes(self, inputs: Inputs, num_frames: int) -> int:
        guided = inputs.guidance_scale > 1
        size = {"head_width": self._head_width, "itemsize": self._itemsize}
        return memory.unet_bytes(num_frames, inputs.width, inputs.height, guided=guided, **size)

    def _vae_bytes(self, inputs: Inputs) -> int:
        """Return what the VAE takes at its peak; LaMa, which fills single pictures after it, takes less."""
        at_once = min(inputs.num_frames, _frames_at_once(inputs.height, inputs.width))
        size = {"channels": self._vae_channels, "itemsize": self._itemsize}
        return memory.vae_bytes(max(1, at_once), inputs.width, inputs.height, **size)


def _frames_at_once(height: int, width: int) -> int:
    """Return how many frames go through the VAE at once; the size alone decides it, for it shows in the last digits."""
    return max(1, VAE_PIXELS // (height * width))


def _chunks(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Gather frames to arrays (N, H, W, 3) of as many as go through the VAE at once."""
    frames = iter(frames)
    while first := list(islice(frames, 1)):
        rest = islice(frames, _frames_at_once(*first[0].shape[:2]) - 1)
        yield np.stack([*first, *rest])
