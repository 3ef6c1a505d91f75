"""The pipeline of zeroscope: it encodes prompts, denoises latents of noise or of a video, and decodes frames.

Videos are computed one after the other, and frames in batches if the networks allow it. So memory does not grow with
the batch size, and frames are decoded as the encoder consumes them.
"""

from __future__ import annotations

from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange
from videokit.errors import InvalidInput
from videokit.finite import require_finite
from videokit.inversion_names import TextualInversions
from videokit.latents import decode_latents, float32_copy, vae_batch_size
from videokit.prompts import encode_prompts
from videokit.seeds import noise
from videokit.video.decode import decode
from videokit.words import counted

from zeroscope import memory
from zeroscope.inputs import Inputs
from zeroscope.models import Model, Models
from zeroscope.sampler import add_noise, denoise, make_scheduler, start_index
from zeroscope.watermark import Watermark
from zeroscope.weights import LAMA

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from diffusers import AutoencoderKL, DPMSolverMultistepScheduler
    from videokit.runtime import Device, Stages
    from videokit.video.frames import Frame
    from videokit.weights.store import WeightStore

# The memory budget, as a share of the device's memory. The rest of a GPU's is for its libraries and LaMa, the rest of a
# CPU's for other programs.
MEMORY_BUDGET = {"cuda": 0.9, "mps": 0.5, "cpu": 0.5}


class Pipeline:
    """The models on a device."""

    def __init__(self, store: WeightStore, device: Device) -> None:
        """Load the default model, which is fetched if it is missing."""
        self.device = device
        self.models = Models(store, device, on_device=int(device.memory_total() * MEMORY_BUDGET[device.device.type]))
        self.watermark = Watermark(store, device)
        self.inversions = TextualInversions(store, None)  # the text encoder is OpenCLIP's, 1024 wide
        default = self.models.get(Inputs.model)
        # The four models have the same architecture, so these sizes apply to all.
        self._head_width = default.unet.config.attention_head_dim
        self._vae_channels = default.vae.config.block_out_channels[0]

    def max_frames(self, inputs: Inputs) -> int:
        """Return how many frames of the inputs' size fit into memory next to the model; 0 if not even one does."""
        free = self.models.on_device - self.models.model_nbytes
        return free // self._unet_bytes(inputs, num_frames=1) if self._vae_bytes(inputs) <= free else 0

    def generate(self, inputs: Inputs, seed: int, stages: Stages) -> Iterator[Iterator[Frame]]:
        """Yield the videos of seed, seed + 1, ..., each as an iterator of frames that are decoded as they are consumed.

        The videos are not one batch: the batch size changes the last digits of matrix products, and each video must be
        byte for byte that of its seed alone.
        """
        # 1. Open the video, so that an invalid one raises before anything is loaded.
        video = _open_video(inputs)
        # 2. Load the model, and fetch the file for the last stage.
        if inputs.remove_watermark:
            self.models.store.get(LAMA)
        model = self.load(inputs, stages)
        # 3. Encode the prompts.
        prompt_embeds = self.encode_prompt(model, inputs, stages)
        # 4. Encode the video.
        posterior = None
        if video is not None and inputs.starts_from_video:
            with stages("init_video", f"{counted(inputs.num_frames, 'frame')} through the VAE"), torch.inference_mode():
                posterior = self.encode_video(model.vae, inputs, video)
        # 5. Denoise and decode each video.
        start = start_index(inputs.init_weight, inputs.num_inference_steps) if posterior is not None else 0
        steps = inputs.num_inference_steps - start
        for index in range(inputs.batch_size):
            name = f"denoise, video {index + 1} of {inputs.batch_size}"
            evaluations = counted(len(prompt_embeds) * steps, "UNet evaluation")
            description = f"{counted(steps, 'step')}, {evaluations} of {counted(inputs.num_frames, 'frame')}"
            with stages("denoise", description), torch.inference_mode():
                scheduler = make_scheduler(model.scheduler, inputs.num_inference_steps)
                latents = self.prepare_latents(model, scheduler, posterior, start, inputs, seed + index)
                latents = denoise(model.unet, scheduler, latents, prompt_embeds, inputs.guidance_scale, start, name)
            batch_size = vae_batch_size(inputs.height, inputs.width)
            frames = decode_latents(model.vae, rearrange(latents, "1 c f h w -> f c h w"), batch_size)
            yield self.watermark.remove(frames) if inputs.remove_watermark else frames

    def load(self, inputs: Inputs, stages: Stages) -> Model:
        """Return the model of the inputs, with room on the device for the prediction."""
        room = max(self._unet_bytes(inputs, inputs.num_frames), self._vae_bytes(inputs))
        if self.models.has(inputs.model):
            return self.models.get(inputs.model, room)
        with stages("load", inputs.model):
            return self.models.get(inputs.model, room)

    def encode_prompt(self, model: Model, inputs: Inputs, stages: Stages) -> torch.Tensor:
        """Return the prompt embeddings, (2, L, D) with the negative prompt first, or (1, L, D) without guidance."""
        prompts = [inputs.negative_prompt, inputs.prompt] if inputs.guidance_scale > 1 else [inputs.prompt]
        return encode_prompts(model.text_encoder, model.tokenizer, prompts, stages, self.inversions)

    def encode_video(
        self, vae: AutoencoderKL, inputs: Inputs, frames: Iterable[Frame]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the means and standard deviations of a video's latents, each (1, C, F, h, w) float32.

        A VAE that overflows in float16 encodes again in float32. Raises NotFinite.
        """
        mean, deviation, finite = self._posterior(vae, frames)
        # The stage ends by waiting for the device anyway.
        if not finite and vae.dtype == torch.float16:
            vae = float32_copy(vae, "init_video")
            mean, deviation, finite = self._posterior(vae, _open_video(inputs) or ())
        require_finite(bool(finite), "init_video", "the VAE's latents", vae.dtype)
        return mean, deviation

    def _posterior(
        self, vae: AutoencoderKL, frames: Iterable[Frame]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the means and standard deviations of latents, (1, C, F, h, w), and whether they are finite."""
        means, deviations, flags = [], [], []
        for batch in _batches(frames):
            pixels = torch.from_numpy(batch).to(self.device.device).float().div(127.5).sub(1)  # (N, H, W, 3)
            distribution = vae.encode(rearrange(pixels, "n h w c -> n c h w").to(vae.dtype)).latent_dist
            means.append(distribution.mean.float())
            deviations.append(distribution.std.float())
            flags.append(distribution.parameters.isfinite().all())  # the deviation hides an infinity
        mean, deviation = (rearrange(torch.cat(part), "f c h w -> 1 c f h w") for part in (means, deviations))
        return mean, deviation, torch.stack(flags).all()

    def prepare_latents(
        self,
        model: Model,
        scheduler: DPMSolverMultistepScheduler,
        posterior: tuple[torch.Tensor, torch.Tensor] | None,
        index: int,
        inputs: Inputs,
        seed: int,
    ) -> torch.Tensor:
        """Return the latents at step `index`, (1, C, F, h, w) float32: noise, or a sample of the video's with noise."""
        shape = (1, model.unet.config.in_channels, inputs.num_frames, inputs.height // 8, inputs.width // 8)
        initial, sampling = noise((2, *shape), seed).to(self.device.device).unbind()
        if posterior is None:
            return initial
        mean, deviation = posterior
        return add_noise(scheduler, model.vae.config.scaling_factor * (mean + deviation * sampling), initial, index)

    def unload(self) -> None:
        """Unload all networks; the next prediction loads those that it needs."""
        self.models.unload()
        self.watermark.unload()

    @property
    def _itemsize(self) -> int:
        return self.device.dtype.itemsize

    def _unet_bytes(self, inputs: Inputs, num_frames: int) -> int:
        guided = inputs.guidance_scale > 1
        size = {"head_width": self._head_width, "itemsize": self._itemsize}
        return memory.unet_bytes(num_frames, inputs.width, inputs.height, guided=guided, **size)

    def _vae_bytes(self, inputs: Inputs) -> int:
        """Return the VAE's peak bytes; LaMa, which fills single frames after it, needs less."""
        batch_size = min(inputs.num_frames, vae_batch_size(inputs.height, inputs.width))
        size = {"channels": self._vae_channels, "itemsize": self._itemsize}
        return memory.vae_bytes(max(1, batch_size), inputs.width, inputs.height, **size)


def _open_video(inputs: Inputs) -> Iterator[Frame] | None:
    """Return the frames of `init_video`, or None. Raises InvalidInput for a file that is not a video."""
    if inputs.init_video is None:
        return None
    size = {"num_frames": inputs.num_frames, "width": inputs.width, "height": inputs.height}
    with _faults_of("init_video"):
        frames = decode(Path(inputs.init_video), **size)
    return _read(frames)


def _read(frames: Iterator[Frame]) -> Iterator[Frame]:
    with _faults_of("init_video"):
        yield from frames


@contextmanager
def _faults_of(name: str) -> Iterator[None]:
    """Start the faults of a file with the name of its input. Cog gives the file a temporary name."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(*(f"{name}={fault}" for fault in error.faults)) from None


def _batches(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Yield frames as arrays (N, H, W, 3), each a batch for the VAE."""
    frames = iter(frames)
    while first := list(islice(frames, 1)):
        rest = islice(frames, vae_batch_size(*first[0].shape[:2]) - 1)
        yield np.stack([*first, *rest])
