"""From inputs to frames: prompts into a path, noise into a latent for each place on it, latents into pictures.

The steps that all frames share are done once; then every frame goes on by itself, from that latent and with that
multistep history. Frames lie on the disk as soon as they are decoded, so memory does not grow with their number.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from videokit.errors import InvalidInput
from videokit.prompts import encode_windows, token_windows
from videokit.runtime import progress
from videokit.seeds import noise
from videokit.video.frames import frames_from_tensor
from videokit.weights.stable_diffusion import (
    BASE_TEXT_ENCODER,
    BASE_UNET,
    BASE_VAE,
    base,
    base_text_encoder_key,
    base_vae_key,
    empty_module,
)
from videokit.weights.tensors import fill, open_tensors, tensors_for

from sd_animation import weights
from sd_animation.film import load_film
from sd_animation.in_betweens import in_betweens
from sd_animation.prompt_walk import embeddings_at, positions, slerp
from sd_animation.safety import SafetyChecker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from videokit.runtime import Device, Stages
    from videokit.video.frame_store import FrameStore
    from videokit.video.frames import Frame
    from videokit.weights.store import WeightStore

    from sd_animation.inputs import Inputs


DECODE_PIXELS = 4 * 512 * 512  # that the VAE decodes at once: its peak memory
# What an evaluation of the UNet takes at its peak beside its parameters, for each value of its first feature map (320
# channels of the latents' size), in values: 46 for one frame of 64x64, 55 for two of 32x32, measured in float32.
UNET_VALUES = 60


class Pipeline:
    """Stable Diffusion 1.5, its safety checker and FILM on a device."""

    def __init__(self, store: WeightStore, device: Device) -> None:
        """Build the modules and load their weights, fetched where they are missing."""
        store.fetch(file.path for file in weights.FILES)  # all at once, so that all that is missing is named
        folders = base(store)
        self.device = device
        self.tokenizer = CLIPTokenizer.from_pretrained(folders.tokenizer)
        text_config = CLIPTextConfig.from_pretrained(folders.text_encoder)
        unet_config = UNet2DConditionModel.load_config(folders.unet)
        vae_config = AutoencoderKL.load_config(folders.vae)
        self.text_encoder = self._loaded(
            lambda: CLIPTextModel(text_config), store, BASE_TEXT_ENCODER, base_text_encoder_key
        )
        self.unet = self._loaded(lambda: UNet2DConditionModel.from_config(unet_config), store, BASE_UNET, str)
        self.vae = self._loaded(lambda: AutoencoderKL.from_config(vae_config), store, BASE_VAE, base_vae_key)
        self.safety_checker = SafetyChecker(store, device)
        self.film = load_film(store.get(weights.FILM), device)

    def animate(self, inputs: Inputs, seed: int, stages: Stages, pictures: FrameStore) -> torch.Tensor:
        """Make the path's frames: append their pictures to `pictures`, return their latents, (N, C, h, w) float32.

        Raises InvalidInput, naming the frames, where the safety checker finds fault with any.
        """
        # 1. every prompt once, and the empty one where there is something to steer away from it
        guided = inputs.guidance_scale > 1
        prompts = [*inputs.prompts, ""] if guided else inputs.prompts
        windows = token_windows(self.tokenizer, prompts)
        with stages("text", str(windows)), torch.inference_mode():
            prompt_embeds = encode_windows(self.text_encoder, windows).float()  # (P, L, D)
        unconditional = prompt_embeds[-1:] if guided else None
        prompt_embeds = prompt_embeds[: len(inputs.prompts)]
        # 2. the steps that all frames share, on the path's middle
        scheduler = pndm(inputs.num_inference_steps)
        timesteps = scheduler.timesteps.tolist()
        # PLMS evaluates its first step twice
        shared = inputs.num_shared_steps and inputs.num_shared_steps + 1
        height, width = inputs.height // 8, inputs.width // 8
        latents = noise((1, self.unet.config.in_channels, height, width), seed).to(self.device.device)
        middle = embeddings_at([(len(inputs.prompts) - 1) / 2], prompt_embeds)
        scale = inputs.guidance_scale
        what = f"{inputs.num_shared_steps} of {inputs.num_inference_steps} steps"
        with stages("shared", what), torch.inference_mode():
            latents = self.denoise(scheduler, latents, middle, unconditional, timesteps[:shared], scale, "shared steps")
        # 3. the other steps of each frame, as many frames at once as there is memory for
        places = positions(len(inputs.prompts), inputs.num_path_frames)
        batch = self.batch_size(height, width, guided=guided)
        batches = [places[start : start + batch] for start in range(0, len(places), batch)]
        what = f"{len(places)} frames, {len(timesteps) - shared} evaluations each, {min(batch, len(places))} at once"
        ends = []
        with stages("denoise", what), torch.inference_mode():
            for number, part in enumerate(batches, start=1):
                text = embeddings_at(part, prompt_embeds)
                start = latents.expand(len(part), -1, -1, -1)
                history = copy.deepcopy(scheduler)
                name = f"denoise, batch {number} of {len(batches)}"
                ends.append(self.denoise(history, start, text, unconditional, timesteps[shared:], scale, name))
        latents = torch.cat(ends)
        # 4. the pictures, each looked at before any is shown
        with stages("decode", f"{len(places)} frames, and the safety checker"):
            self._decode_safely(latents, pictures)
        return latents

    def denoise(
        self,
        scheduler: PNDMScheduler,
        latents: torch.Tensor,
        prompt_embeds: torch.Tensor,
        unconditional: torch.Tensor | None,
        timesteps: Sequence[int],
        guidance_scale: float,
        what: str,
    ) -> torch.Tensor:
        """Take latents (B, C, h, w) float32 through `timesteps`, from where `scheduler` stands, and return them.

        `prompt_embeds` are (B, L, D), `unconditional` (1, L, D), or None for no guidance. A history of one frame
        serves all. Source: Ho & Salimans, arXiv 2207.12598, eq. 6, whose 1 + w is `guidance_scale`.
        """
        text = prompt_embeds
        if unconditional is not None:
            text = torch.cat([unconditional.expand(len(prompt_embeds), -1, -1), prompt_embeds])
        text = text.to(self.device.dtype)
        for timestep in progress(timesteps, what):
            sample = latents.to(self.device.dtype).repeat(len(text) // len(latents), 1, 1, 1)
            predicted = self.unet(sample, timestep, text).sample.float()
            if unconditional is not None:
                away, towards = predicted.chunk(2)
                predicted = away + guidance_scale * (towards - away)
            latents = scheduler.step(predicted, timestep, latents).prev_sample
        return latents

    def fill_in(self, inputs: Inputs, latents: torch.Tensor, pictures: FrameStore) -> Iterator[Frame]:
        """Yield the path's frames with n - 1 in-betweens after each but the last, made as they are drawn."""
        n = inputs.num_interpolation_steps
        if inputs.film_interpolation:
            yield from in_betweens(self.film, pictures, n)
            return
        for index in range(len(pictures) - 1):
            yield pictures[index]
            # slerp, for the mean of two latents has less variance than they, and decodes to a washed-out picture
            between = [slerp(latents[index], latents[index + 1], step / n) for step in range(1, n)]
            for latent in between:
                yield from self.decode(latent[None])
        yield pictures[len(pictures) - 1]

    def decode(self, latents: torch.Tensor) -> Iterator[Frame]:
        """Decode latents (B, C, h, w) to frames, a few at a time."""
        scaled = (latents / self.vae.config.scaling_factor).to(self.device.dtype)
        pixels = 64 * latents.shape[2] * latents.shape[3]
        for chunk in scaled.split(max(1, DECODE_PIXELS // pixels)):
            with torch.inference_mode():
                pictures = frames_from_tensor(self.vae.decode(chunk).sample)
            yield from pictures

    def batch_size(self, height: int, width: int, *, guided: bool) -> int:
        """Return how many frames of latents (height, width) are denoised at once: half of the device's memory full.

        Of its whole memory, not of what is free now: a batch's size shows in the last digits, and one seed is to be
        one clip.
        """
        values = (2 if guided else 1) * height * width * self.unet.config.block_out_channels[0]
        each = UNET_VALUES * values * self.device.dtype.itemsize
        return max(1, self.device.memory_total() // 2 // each)

    def _decode_safely(self, latents: torch.Tensor, pictures: FrameStore) -> None:
        """Append the frames' pictures to `pictures`; raise InvalidInput where the safety checker stops any."""
        stopped = []
        for index, frame in enumerate(self.decode(latents)):
            pictures.append(frame)
            if self.safety_checker.flags([frame])[0]:
                stopped.append(str(index + 1))
        if stopped:
            which = f"frame{'s' if len(stopped) > 1 else ''} {', '.join(stopped)} of {len(pictures)}"
            raise InvalidInput(f"the safety checker stopped {which}; try another prompt, or another seed")

    def _loaded(self, construct: Callable[[], Any], store: WeightStore, path: str, key_of: Callable[[str], str]) -> Any:
        """Construct a module and fill it with a weight file of the base."""
        module = empty_module(construct, self.device)
        parameters, file = dict(module.named_parameters()), store.get(path)
        fill(parameters, tensors_for(parameters, open_tensors(file), key_of, file))
        return module


def pndm(num_inference_steps: int) -> PNDMScheduler:
    """Return PLMS as Stable Diffusion 1.5's own scheduler/scheduler_config.json has it, ready for its first step.

    Source: Liu et al., arXiv 2202.09778, eq. 9 and 12, started by a step of second order instead of Runge-Kutta's.
    """
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    scheduler.set_timesteps(num_inference_steps)
    return scheduler
