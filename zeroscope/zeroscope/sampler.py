"""DPM-Solver++ (2M) with a UNet over frames: the scheduler, the start from a video, and the denoising loop.

Source: Lu et al., arXiv 2211.01095, algorithm 2; the steps of anotherjesse/cog-text2video@14013b6 inference.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffusers import DPMSolverMultistepScheduler
from videokit.progress import progress

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from diffusers import UNet3DConditionModel

# The keys of a model's scheduler_config.json that apply. The others configure another solver, and its timestep_spacing
# would change every noise level.
CONFIG_KEYS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")


def make_scheduler(config: Mapping[str, object], num_inference_steps: int) -> DPMSolverMultistepScheduler:
    """Return the scheduler with a model's betas, before its first step."""
    betas = {name: config[name] for name in CONFIG_KEYS if name in config}
    # The original's diffusers 0.17 ended at "sigma_min"; the default is "zero" today.
    scheduler = DPMSolverMultistepScheduler(**betas, timestep_spacing="linspace", final_sigmas_type="sigma_min")
    scheduler.set_timesteps(num_inference_steps)
    return scheduler


def start_index(init_weight: float, num_inference_steps: int) -> int:
    """Return how many steps a video replaces, round(w N); a half rounds to even, as in the original."""
    return round(init_weight * num_inference_steps)


def add_noise(
    scheduler: DPMSolverMultistepScheduler, latents: torch.Tensor, noise: torch.Tensor, index: int
) -> torch.Tensor:
    """Return latents with the noise level of step `index`; after the last step they are unchanged.

    The scheduler's own add_noise uses another level for most timesteps.
    """
    if index == len(scheduler.timesteps):
        return latents
    alpha_bar: torch.Tensor = scheduler.alphas_cumprod[scheduler.timesteps[index]]
    return alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise


def denoise(
    unet: UNet3DConditionModel,
    scheduler: DPMSolverMultistepScheduler,
    latents: torch.Tensor,
    prompt_embeds: torch.Tensor,
    guidance_scale: float,
    start: int,
    description: str,
) -> torch.Tensor:
    """Return latents, (1, C, F, h, w) float32, after the steps from `start` to the end.

    `prompt_embeds` are (2, L, D), unconditional first, or (1, L, D) for no guidance. The multistep history begins at
    `start`. Source of guidance: Ho & Salimans, arXiv 2207.12598, eq. 6, whose 1 + w is `guidance_scale`.
    """
    scheduler.set_begin_index(start)
    for timestep in progress(scheduler.timesteps[start:].tolist(), description):
        sample = latents.to(unet.dtype).expand(len(prompt_embeds), -1, -1, -1, -1)  # (B, C, F, h, w)
        noise_pred = unet(sample, timestep, prompt_embeds).sample.float()
        if len(prompt_embeds) == 2:
            noise_pred_uncond, noise_pred_text = noise_pred.chunk(2)
            noise_pred = noise_pred_uncond + guidance_scale * (noise_pred_text - noise_pred_uncond)
        latents = scheduler.step(noise_pred, timestep, latents).prev_sample
    return latents
