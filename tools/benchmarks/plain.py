"""The straightforward way of a prediction's parts, as the papers and the libraries describe them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import av
import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from diffusers import SchedulerMixin
    from torch import nn
    from transformers import CLIPTextModel, CLIPTokenizer


def encode_prompt(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, prompt: str) -> torch.Tensor:
    """Return the hidden states of the empty prompt and of a prompt, (2, 77, D)."""
    tokens = tokenizer(["", prompt], padding="max_length", truncation=True, return_tensors="pt")
    hidden_states: torch.Tensor = text_encoder(tokens["input_ids"].to(text_encoder.device)).last_hidden_state
    return hidden_states


def denoise(
    unet: nn.Module,
    scheduler: SchedulerMixin,
    timesteps: torch.Tensor,
    latents: torch.Tensor,
    embeds: torch.Tensor,
    guidance_scale: float,
) -> torch.Tensor:
    """Return the latents after a scheduler's steps with classifier-free guidance."""
    for t in timesteps:
        noise_pred = unet(torch.cat([latents, latents]).to(embeds.dtype), t, embeds).sample.float()
        noise_pred_uncond, noise_pred_text = noise_pred.chunk(2)
        noise_pred = noise_pred_uncond + guidance_scale * (noise_pred_text - noise_pred_uncond)
        latents = scheduler.step(noise_pred, t, latents).prev_sample
    return latents


def write_video(frames: Iterable[np.ndarray], path: Path, fps: int) -> None:
    """Write frames, (H, W, 3) uint8 each, as H.264 with PyAV."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", fps, options={"crf": "17"})
        for index, frame in enumerate(frames):
            if not index:
                stream.height, stream.width, stream.pix_fmt = *frame.shape[:2], "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame))))
        container.mux(stream.encode())
