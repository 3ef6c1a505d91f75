"""DPM-Solver++ (2M) around a UNet over frames: its noise levels, where a video enters among them, and the loop.

Source: Lu et al., arXiv 2211.01095, algorithm 2; the steps as in anotherjesse/cog-text2video@14013b6 inference.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffusers import DPMSolverMultistepScheduler
from videokit.runtime import progress

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from diffusers import UNet3DConditionModel

# What is taken from a model's scheduler_config.json. The rest of it is another solver's, and a timestep_spacing there
# would move every noise level.
TAKEN = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")


def solver(config: Mapping[str, object], num_inference_steps: int) -> DPMSolverMultistepScheduler:
    """Return the scheduler with a model's own betas, ready for its first step."""
    betas = {name: config[name] for name in TAKEN if name in config}
    # "sigma_min" is where the original's diffusers 0.17 ended; the default has since become "zero"
    scheduler = DPMSolverMultistepScheduler(**betas, timestep_spacing="linspace", final_sigmas_type="sigma_min")
    scheduler.set_timesteps(num_inference_steps)
    return scheduler


def start_index(init_weight: float, num_inference_steps: int) -> int:
    """Return how many steps a video takes away, round(w N); a half goes to the even neighbour, as in the original."""
    return round(init_weight * num_inference_steps)


def noised(
    scheduler: DPMSolverMultistepScheduler, latents: torch.Tensor, noise: torch.Tensor, index: int
) -> torch.Tensor:
    """Return latents at the noise level of step `index`; at the end of the steps, where there is none, as they are.

    The scheduler's own add_noise has another level for most timesteps.
    """
    if index == len(scheduler.timesteps):
        return latents
    alpha_bar = scheduler.alphas_cumprod[scheduler.timesteps[index]]
    return alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise


def denoise(
    unet: UNet3DConditionModel,
    scheduler: DPMSolverMultistepScheduler,
    latents: torch.Tensor,
    prompt_embeds: torch.Tensor,
    guidance_scale: float,
    start: int,
    what: str,
) -> torch.Tensor:
    """Take latents (1, C, F, h, w) float32 from step `start` to the end, and return them.

    `prompt_embeds` are (2, L, D), unconditional first, or (1, L, D) for no guidance. The multistep history begins at
    `start`. Source of guidance: Ho & Salimans, arXiv 2207.12598, eq. 6, whose 1 + w is `guidance_scale`.
    """
    scheduler.set_begin_index(start)
    for timestep in progress(scheduler.timesteps[start:].tolist(), what):
        sample = latents.to(unet.dtype).expand(len(prompt_embeds), -1, -1, -1, -1)  # (B, C, F, h, w)
        predicted = unet(sample, timestep, prompt_embeds).sample.float()
        if len(prompt_embeds) == 2:
            away, towards = predicted.chunk(2)
            predicted = away + guidance_scale * (towards - away)
        latents = scheduler.step(predicted, timestep, latents).prev_sample
    return latents
