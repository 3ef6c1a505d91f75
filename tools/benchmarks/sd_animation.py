"""sd-animation against the original's way: frames through each network, seconds, and peak memory by length.

    script/bench sd-animation [--size 512] [--runs 1] [--full]     --full: weights of the real size, on a GPU in float16

The original (andreasjansson/cog-stable-diffusion@7d0ab00 animate.py) denoises one frame at a time, each with its own
start of the multistep method. It makes two keyframes only for the safety checker, denoises the way back again, and
computes FILM's features of every frame for every call. `original` does the same with the pipeline's own modules.

It takes about 1 hour on two idle cores.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
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
from tree import script_parser
from videokit.runtime import Device, Stages, pick_device
from videokit.video.encode import encode_gif
from videokit.video.frame_store import FrameStore
from videokit.video.frames import frames_from_tensor
from videokit.weights.store import WeightStore

from benchmarks import gif_memory, plain
from benchmarks.measure import in_new_process, machine_line, paired

if TYPE_CHECKING:
    from collections.abc import Callable

    from videokit.video.frames import Frame

DEFAULTS = Inputs("a red circle", "a blue square", seed=3)
CPU = Device(torch.device("cpu"), torch.float32)


def ours(pipeline: Pipeline, inputs: Inputs, directory: Path) -> None:
    """Make one prediction as predict.py does."""
    with FrameStore(directory) as keyframes:
        latents = pipeline.animate(inputs, 3, Stages(pipeline.device), keyframes)
        frames = pipeline.interpolate(inputs, latents, keyframes)
        encode_gif(frames, directory / "ours.gif", fps=inputs.fps)


@torch.inference_mode()
def original(pipeline: Pipeline, inputs: Inputs, directory: Path) -> None:
    """Make one prediction of two prompts with guidance as animate.py does."""
    device, dtype = pipeline.device.device, pipeline.device.dtype
    prompt_embeds = [
        plain.encode_prompt(pipeline.tokenizer, pipeline.text_encoder, prompt).float() for prompt in inputs.prompts
    ]
    shared = int(inputs.num_inference_steps * (1 - inputs.prompt_strength))

    def denoise(latents: torch.Tensor, embeds: torch.Tensor, first: int, last: int | None) -> torch.Tensor:
        scheduler = PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
        scheduler.set_timesteps(inputs.num_inference_steps)
        timesteps = scheduler.timesteps[first:last]
        return plain.denoise(pipeline.unet, scheduler, timesteps, latents, embeds.to(dtype), inputs.guidance_scale)

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


def frame_counts(pipeline: Pipeline, work: Callable[[], None]) -> str:
    """Run once and return the number of frames that went through each network."""
    counts: Counter[str] = Counter()
    film = pipeline.film
    networks = {"UNet": pipeline.unet, "VAE": pipeline.vae.decoder, "FILM features": film.extract}
    hooks = [
        module.register_forward_pre_hook(lambda _, args, name=name: counts.update({name: len(args[0])}))
        for name, module in networks.items()
    ]
    fusions = film.fuse.register_forward_pre_hook(lambda _, args: counts.update({"FILM": len(args[0][0])}))
    work()
    for hook in [*hooks, fusions]:
        hook.remove()
    return ", ".join(f"{name} {counts[name]}" for name in ("UNet", "VAE", "FILM", "FILM features"))


def memory_by_length() -> None:
    """Print the peak memory of encoding a GIF with ping-pong, measured in a new process for each length."""
    for content, num_frames in itertools.product(gif_memory.FRAME_AT, (10, 500)):
        with tempfile.TemporaryDirectory() as directory:
            (peak,) = in_new_process(gif_memory.print_peak, content, num_frames, directory)
        print(f"peak memory of a GIF of {num_frames} frames 128x128 of {content}, ping-pong: {peak / 1e6:.0f} MB")


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--full", action="store_true")
    arguments = parser.parse_args()
    print(machine_line())
    device = pick_device() if arguments.full else CPU
    inputs = replace(DEFAULTS, width=arguments.size, height=arguments.size)
    with tempfile.TemporaryDirectory() as temporary, contextlib.redirect_stderr(io.StringIO()):  # progress bars
        directory = Path(temporary)
        write(directory, FULL if arguments.full else SMALL)
        pipeline = Pipeline(WeightStore(FILES, directories=[directory], cache=None), device)
        for case in (inputs, replace(inputs, ping_pong=True)):
            name = f"{arguments.size}x{arguments.size}{', ping-pong' if case.ping_pong else ''}"
            by_ours, by_original = (partial(work, pipeline, case, directory) for work in (ours, original))
            for who, work in (("ours", by_ours), ("original", by_original)):
                print(f"{name}, frames through each network, {who}: {frame_counts(pipeline, work)}")
            seconds, plain_seconds, ratio = paired(by_ours, by_original, arguments.runs)
            print(f"{name}: ours {seconds:.1f} s, the original's way {plain_seconds:.1f} s, ratio {ratio:.2f}")
    memory_by_length()
