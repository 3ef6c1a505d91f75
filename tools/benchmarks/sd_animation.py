"""sd-animation against the original's way: frames through each network, seconds, and peak memory by length.

    script/bench sd-animation [--size 512] [--runs 1] [--full]     --full: weights of the real size, on a GPU in float16

The original (andreasjansson/cog-stable-diffusion@7d0ab00 animate.py) denoises one frame at a time, each with its own
start of the multistep method. It makes two keyframes only for the safety checker, denoises the way back again, and
computes FILM's features of every frame for every call. `original` does the same with the pipeline's own modules.

It takes about 1 hour on two idle cores.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import logging
import math
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers import PNDMScheduler
from random_weights.sd_animation import write
from random_weights.stable_diffusion import FULL, SMALL
from sd_animation.inputs import Inputs
from sd_animation.pipeline import Pipeline
from sd_animation.prompt_walk import slerp
from sd_animation.weights import FILES
from videokit.prompts import encode_windows, token_windows
from videokit.runtime import Device, Stages, pick_device
from videokit.video.encode import encode_gif
from videokit.video.frame_store import FrameStore
from videokit.video.frames import frames_from_tensor
from videokit.weights.store import WeightStore

from benchmarks.measure import machine_line, paired

if TYPE_CHECKING:
    from collections.abc import Callable

    from videokit.video.frames import Frame

    Work = Callable[[Pipeline, Inputs, Path], None]

DEFAULTS = Inputs("a red circle", "a blue square", seed=3)
CPU = Device(torch.device("cpu"), torch.float32)


def ours(pipeline: Pipeline, inputs: Inputs, directory: Path) -> None:
    """Make one prediction as predict.py does."""
    with contextlib.redirect_stderr(io.StringIO()), FrameStore(directory) as keyframes:  # progress bars
        latents = pipeline.animate(inputs, 3, Stages(pipeline.device), keyframes)
        frames = pipeline.interpolate(inputs, latents, keyframes)
        encode_gif(frames, directory / "ours.gif", fps=inputs.fps)


@torch.inference_mode()
def original(pipeline: Pipeline, inputs: Inputs, directory: Path) -> None:
    """Make one prediction of two prompts with guidance as animate.py does."""
    device, dtype = pipeline.device.device, pipeline.device.dtype
    prompt_embeds = []
    for prompt in inputs.prompts:
        windows = token_windows(pipeline.tokenizer, ["", prompt])
        prompt_embeds.append(encode_windows(pipeline.text_encoder, windows).float())
    shared = int(inputs.num_inference_steps * (1 - inputs.prompt_strength))

    def make_scheduler() -> PNDMScheduler:
        scheduler = PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
        scheduler.set_timesteps(inputs.num_inference_steps)
        return scheduler

    def denoise(latents: torch.Tensor, embeds: torch.Tensor, first: int, last: int | None) -> torch.Tensor:
        scheduler = make_scheduler()
        for t in scheduler.timesteps[first:last]:
            sample = torch.cat([latents, latents]).to(dtype)
            noise_pred_uncond, noise_pred_text = pipeline.unet(sample, t, embeds.to(dtype)).sample.float().chunk(2)
            noise_pred = noise_pred_uncond + inputs.guidance_scale * (noise_pred_text - noise_pred_uncond)
            latents = scheduler.step(noise_pred, t, latents).prev_sample
        return latents

    def decode(latents: torch.Tensor) -> Frame:
        frame: Frame = frames_from_tensor(pipeline.vae.decode((latents / 0.18215).to(dtype)).sample)[0]
        return frame

    noise = torch.randn((1, 4, inputs.height // 8, inputs.width // 8), generator=torch.Generator().manual_seed(3))
    middle = denoise(noise.to(device), slerp(prompt_embeds[0], prompt_embeds[1], 0.5), 1, shared)
    for embeds in prompt_embeds:
        pipeline.safety_checker.flags([decode(denoise(middle, embeds, shared, None))])
    latents, ends = [], [*prompt_embeds, prompt_embeds[0]] if inputs.ping_pong else prompt_embeds
    for start, stop in itertools.pairwise(ends):
        for index in range(inputs.num_animation_frames):
            embeds = slerp(start, stop, index / inputs.num_animation_frames)
            latents.append(denoise(middle, embeds, shared, None))
    if inputs.ping_pong:
        latents.append(latents[0])
    keyframes = [decode(x) for x in latents]
    depth = max(math.ceil(math.log2(inputs.num_interpolation_steps)), 1)
    frames = [keyframes[0]]
    for first, last in itertools.pairwise(keyframes):
        frames += [*halve(pipeline, first, last, depth), last]
    encode_gif(frames, directory / "original.gif", fps=inputs.fps)


def halve(pipeline: Pipeline, start: Frame, stop: Frame, depth: int) -> list[Frame]:
    """Return the 2^depth - 1 frames between two, by repeated halving; each call computes both pyramids."""
    if depth == 0:
        return []
    device = pipeline.device
    first, last = (
        pipeline.film.features(torch.tensor(frame).movedim(2, 0)[None].to(device.device, device.dtype) / 255)
        for frame in (start, stop)
    )
    middle = frames_from_tensor(2 * pipeline.film.between(first, last, torch.tensor([0.5])).float() - 1)[0]
    return [*halve(pipeline, start, middle, depth - 1), middle, *halve(pipeline, middle, stop, depth - 1)]


def frame_counts(pipeline: Pipeline, work: Work, inputs: Inputs, directory: Path) -> str:
    """Run once and return the number of frames that went through each network."""
    counts: Counter[str] = Counter()
    film = pipeline.film
    networks = {"UNet": pipeline.unet, "VAE": pipeline.vae.decoder, "FILM features": film.extract}
    hooks = [
        module.register_forward_pre_hook(lambda _, args, name=name: counts.update({name: len(args[0])}))
        for name, module in networks.items()
    ]
    fusions = film.fuse.register_forward_pre_hook(lambda _, args: counts.update({"FILM": len(args[0][0])}))
    work(pipeline, inputs, directory)
    for hook in [*hooks, fusions]:
        hook.remove()
    return ", ".join(f"{name} {counts[name]}" for name in ("UNet", "VAE", "FILM", "FILM features"))


PEAK = """
import sys
from pathlib import Path
import numpy as np
from benchmarks.measure import peak_memory
from sd_animation.ping_pong import ping_pong
from videokit.video.encode import encode_gif
directory, num_frames, content = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
ramp = np.add.outer(np.arange(128), np.arange(128)).astype(np.uint8)
frame_at = {
    "a moving ramp": lambda index: np.stack([np.roll(ramp, step * index, axis=1) for step in (3, 5, 7)], 2),
    "noise": lambda index: np.random.default_rng(index).integers(0, 256, (128, 128, 3), np.uint8),
}[content]
with peak_memory() as peak:
    encode_gif(ping_pong(map(frame_at, range(num_frames)), directory), directory / "peak.gif", fps=20)
    print(peak() / 1e6)
"""


def memory_by_length() -> None:
    """Print the peak memory of encoding a GIF with ping-pong, measured in a new process for each length.

    Noise is the worst case: the palette's histogram has an entry for every distinct colour.
    """
    for content, num_frames in itertools.product(("a moving ramp", "noise"), (10, 500)):
        with tempfile.TemporaryDirectory() as directory:
            command = [sys.executable, "-c", PEAK, directory, str(num_frames), content]
            environ = {"PYTHONPATH": ":".join(sys.path)}
            peak = subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout
        print(f"peak memory of a GIF of {num_frames} frames 128x128 of {content}, ping-pong: {float(peak):.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="width and height (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--full", action="store_true", help="weights of the real size, on a GPU if there is one")
    parser.add_argument("--no-memory", action="store_true", help="skip peak memory by length")
    arguments = parser.parse_args()
    print(machine_line())
    logging.getLogger("videokit").setLevel(logging.WARNING)
    device = pick_device() if arguments.full else CPU
    inputs = replace(DEFAULTS, width=arguments.size, height=arguments.size)
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        write(directory, FULL if arguments.full else SMALL)
        pipeline = Pipeline(WeightStore(FILES, directories=[directory], cache=None), device)
        for case in (inputs, replace(inputs, ping_pong=True)):
            name = f"{arguments.size}x{arguments.size}{', ping-pong' if case.ping_pong else ''}"
            for who, work in (("ours", ours), ("original", original)):
                print(f"{name}, frames through each network, {who}: {frame_counts(pipeline, work, case, directory)}")
            seconds, plain, ratio = paired(
                partial(ours, pipeline, case, directory),
                partial(original, pipeline, case, directory),
                arguments.runs,
            )
            print(f"{name}: ours {seconds:.1f} s, the original's way {plain:.1f} s, ratio {ratio:.2f}")
        if device.device.type == "cuda":
            print(f"peak on the GPU: {torch.cuda.max_memory_allocated() / 1e9:.2f} GB")
    if not arguments.no_memory:
        memory_by_length()


if __name__ == "__main__":
    main()
