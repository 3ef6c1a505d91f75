"""The pipeline of sd-animation: it encodes prompts, denoises the latents of each keyframe, and decodes frames.

The steps that all keyframes share are computed once. Then every keyframe is denoised separately, from the shared
latents and with the shared multistep history. Keyframes are stored on disk when they are decoded, so memory does not
grow with their number.
"""

from __future__ import annotations

import copy
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from videokit.errors import InvalidInput
from videokit.inversion_names import TextualInversions
from videokit.latents import decode_batches, decode_latents, vae_batch_size
from videokit.progress import progress
from videokit.prompts import encode_prompts
from videokit.seeds import noise
from videokit.weights.keys import same_key, text_encoder_keys, vae_keys
from videokit.weights.kinds import TEXT_ENCODER_FILE, UNET, VAE_FILE
from videokit.weights.load import load_module
from videokit.weights.stable_diffusion import (
    BASE_TEXT_ENCODER,
    BASE_UNET,
    BASE_VAE,
    TEXT_ENCODER_CONFIG,
    UNET_CONFIG,
    VAE_CONFIG,
    base,
)
from videokit.weights.tensors import open_tensors
from videokit.words import counted

from sd_animation import weights
from sd_animation.film import load_film
from sd_animation.interpolation import interpolate
from sd_animation.ping_pong import ping_pong
from sd_animation.prompt_walk import embeddings_at, frame_positions, slerp
from sd_animation.safety import SafetyChecker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from videokit.runtime import Device, Stages
    from videokit.video.frame_store import FrameStore
    from videokit.video.frames import Frame
    from videokit.weights.keys import Keys
    from videokit.weights.kinds import Kind
    from videokit.weights.store import WeightStore

    from sd_animation.inputs import Inputs


# The UNet's peak memory without its parameters, in values for each value of its first feature map (320 channels of the
# latents' size). Measured in float32: 46 for one frame of 64x64, 55 for two of 32x32.
UNET_PEAK_VALUES = 60


class Pipeline:
    """Stable Diffusion 1.5, its safety checker and FILM on a device."""

    def __init__(self, store: WeightStore, device: Device) -> None:
        """Build the modules and load their weights, which are fetched if they are missing."""
        store.fetch(weights.SETUP)  # all at once, so that an error names all missing files
        folders = base(store)
        self.device = device
        self.tokenizer = CLIPTokenizer.from_pretrained(folders.tokenizer)
        text_config = CLIPTextConfig.from_pretrained(folders.text_encoder)
        unet_config = UNet2DConditionModel.load_config(folders.unet)
        vae_config = AutoencoderKL.load_config(folders.vae)

        def load(construct: Callable[[], Any], config: str, path: str, keys_of: Keys, kind: Kind) -> Any:
            store.refuse_mixture(config, path)
            file = store.get(path)
            return load_module(construct, device, open_tensors(file), keys_of, file, kind=kind)

        self.text_encoder = load(
            lambda: CLIPTextModel(text_config),
            TEXT_ENCODER_CONFIG,
            BASE_TEXT_ENCODER,
            text_encoder_keys,
            TEXT_ENCODER_FILE,
        )
        self.inversions = TextualInversions(store, text_config.hidden_size)
        self.unet = load(lambda: UNet2DConditionModel.from_config(unet_config), UNET_CONFIG, BASE_UNET, same_key, UNET)
        self.vae = load(lambda: AutoencoderKL.from_config(vae_config), VAE_CONFIG, BASE_VAE, vae_keys, VAE_FILE)
        self.safety_checker = SafetyChecker(store, device)
        self.film = load_film(store.get(weights.FILM), device)

    def animate(self, inputs: Inputs, seed: int, stages: Stages, keyframes: FrameStore) -> torch.Tensor:
        """Append the keyframes to `keyframes`, and return their latents, (N, C, h, w) float32.

        Raises InvalidInput, naming the frames, if the safety checker flags any, and NotFinite.
        """
        # 1. Encode every prompt once.
        prompt_embeds, negative_prompt_embeds = self.encode_prompt(inputs, stages)
        # 2. Denoise the shared steps, at the middle of the walk.
        scheduler = make_scheduler(inputs.num_inference_steps)
        timesteps = scheduler.timesteps.tolist()
        # PLMS evaluates its first step twice.
        shared = inputs.num_shared_steps and inputs.num_shared_steps + 1
        latents = self.prepare_latents(inputs, seed)
        middle = embeddings_at([(len(inputs.prompts) - 1) / 2], prompt_embeds)
        scale = inputs.guidance_scale
        description = f"{inputs.num_shared_steps} of {counted(inputs.num_inference_steps, 'step')}"
        with stages("shared", description), torch.inference_mode():
            latents = self.denoise(
                scheduler, latents, middle, negative_prompt_embeds, timesteps[:shared], scale, "shared steps"
            )
        # 3. Denoise the other steps of each keyframe, in batches that the memory allows.
        positions = frame_positions(len(inputs.prompts), inputs.num_keyframes)
        batch_size = self.batch_size(*latents.shape[-2:], guided=negative_prompt_embeds is not None)
        batches = [positions[start : start + batch_size] for start in range(0, len(positions), batch_size)]
        description = (
            f"{len(positions)} frames, {counted(len(timesteps) - shared, 'evaluation')} each, "
            f"{min(batch_size, len(positions))} in a batch"
        )
        results = []
        with stages("denoise", description), torch.inference_mode():
            for number, batch in enumerate(batches, start=1):
                text = embeddings_at(batch, prompt_embeds)
                start = latents.expand(len(batch), -1, -1, -1)
                history = copy.deepcopy(scheduler)
                name = f"denoise, batch {number} of {len(batches)}"
                results.append(
                    self.denoise(history, start, text, negative_prompt_embeds, timesteps[shared:], scale, name)
                )
        latents = torch.cat(results)
        # 4. Decode, and check every frame before any is shown.
        with stages("decode", f"{len(positions)} frames, and the safety checker"):
            self._decode_safely(latents, keyframes)
        return latents

    def encode_prompt(self, inputs: Inputs, stages: Stages) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the embeddings of the prompts, (P, L, D), and with guidance those of the empty prompt, (1, L, D)."""
        guided = inputs.guidance_scale > 1
        prompts = [*inputs.prompts, ""] if guided else inputs.prompts
        prompt_embeds = encode_prompts(self.text_encoder, self.tokenizer, prompts, stages, self.inversions)
        prompt_embeds = prompt_embeds.float()  # (P, L, D)
        return prompt_embeds[: len(inputs.prompts)], prompt_embeds[-1:] if guided else None

    def prepare_latents(self, inputs: Inputs, seed: int) -> torch.Tensor:
        """Return the initial noise, (1, C, h, w) float32."""
        shape = (1, self.unet.config.in_channels, inputs.height // 8, inputs.width // 8)
        return noise(shape, seed).to(self.device.device)

    def denoise(
        self,
        scheduler: PNDMScheduler,
        latents: torch.Tensor,
        prompt_embeds: torch.Tensor,
        negative_prompt_embeds: torch.Tensor | None,
        timesteps: Sequence[int],
        guidance_scale: float,
        description: str,
    ) -> torch.Tensor:
        """Return latents, (B, C, h, w) float32, after `timesteps`; `scheduler` holds the history of the steps before.

        `prompt_embeds` are (B, L, D), `negative_prompt_embeds` (1, L, D), or None for no guidance. A history of one
        frame applies to all. Source: Ho & Salimans, arXiv 2207.12598, eq. 6, whose 1 + w is `guidance_scale`.
        """
        text = prompt_embeds
        if negative_prompt_embeds is not None:
            text = torch.cat([negative_prompt_embeds.expand(len(prompt_embeds), -1, -1), prompt_embeds])
        text = text.to(self.device.dtype)
        for timestep in progress(timesteps, description):
            sample = latents.to(self.device.dtype).repeat(len(text) // len(latents), 1, 1, 1)
            noise_pred = self.unet(sample, timestep, text).sample.float()
            if negative_prompt_embeds is not None:
                noise_pred_uncond, noise_pred_text = noise_pred.chunk(2)
                noise_pred = noise_pred_uncond + guidance_scale * (noise_pred_text - noise_pred_uncond)
            latents = scheduler.step(noise_pred, timestep, latents).prev_sample
        return latents

    def interpolate(self, inputs: Inputs, latents: torch.Tensor, keyframes: FrameStore) -> Iterator[Frame]:
        """Return all frames, computed as they are consumed: the keyframes with n - 1 frames between each two."""
        n = inputs.num_interpolation_steps
        if inputs.film_interpolation:
            frames = interpolate(self.film, keyframes, n)
        else:
            frames = self._interpolate_latents(latents, keyframes, n)
        return ping_pong(frames, keyframes.directory) if inputs.ping_pong else frames

    def _interpolate_latents(self, latents: torch.Tensor, keyframes: FrameStore, n: int) -> Iterator[Frame]:
        """Yield the keyframes with n - 1 frames between them, decoded from latents by slerp."""
        gaps = range(len(keyframes) - 1)
        # Not the mean: it has less variance than the two latents, and decodes to a washed-out frame.
        between = (slerp(latents[gap], latents[gap + 1], step / n)[None] for gap in gaps for step in range(1, n))
        decoded = decode_batches(self.vae, between)
        for gap in gaps:
            yield keyframes[gap]
            yield from islice(decoded, n - 1)
        yield keyframes[len(keyframes) - 1]

    def decode(self, latents: torch.Tensor) -> Iterator[Frame]:
        """Decode latents, (B, C, h, w), to frames, a batch at a time."""
        return decode_latents(self.vae, latents, vae_batch_size(8 * latents.shape[2], 8 * latents.shape[3]))

    def batch_size(self, height: int, width: int, *, guided: bool) -> int:
        """Return how many frames of latents (height, width) fit into half of the device's memory.

        The whole memory counts, not the memory that is free now: the batch size changes the last digits, and one seed
        must give one clip.
        """
        values = (2 if guided else 1) * height * width * self.unet.config.block_out_channels[0]
        frame_bytes: int = UNET_PEAK_VALUES * values * self.device.dtype.itemsize
        return max(1, self.device.memory_total() // 2 // frame_bytes)

    def _decode_safely(self, latents: torch.Tensor, keyframes: FrameStore) -> None:
        """Append the frames of latents to `keyframes`; raise InvalidInput if the safety checker flags any."""
        flagged = []
        for index, frame in enumerate(self.decode(latents)):
            keyframes.append(frame)
            if self.safety_checker.flags([frame])[0]:
                flagged.append(str(index + 1))
        if flagged:
            frames = f"frame{'s' if len(flagged) > 1 else ''} {', '.join(flagged)} of {len(keyframes)}"
            raise InvalidInput(f"the safety checker flagged {frames}; try another prompt or another seed")


def make_scheduler(num_inference_steps: int) -> PNDMScheduler:
    """Return PLMS, configured as in Stable Diffusion 1.5's scheduler/scheduler_config.json, before its first step.

    Source: Liu et al., arXiv 2202.09778, eq. 9 and 12; the first step is of second order instead of Runge-Kutta's.
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
