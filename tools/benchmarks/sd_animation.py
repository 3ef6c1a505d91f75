"""sd-animation against the original's way: default inputs and ping-pong, counted and timed; peak memory by length.

    script/bench sd-animation [--size 512] [--runs 1] [--full]     --full: weights of the real size, on a GPU in float16

The original (andreasjansson/cog-stable-diffusion@7d0ab00 animate.py) denoises one frame at a time, each with its own
start of the multistep method, makes two keyframes only to look at them, denoises the way back anew, and computes
FILM's features of every frame for every call. It is written plainly below, around the pipeline's own modules.
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
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers import PNDMScheduler
from random_weights import sd_animation as recipe
from sd_animation.inputs import Inputs
from sd_animation.pipeline import Pipeline
from sd_animation.prompt_walk import slerp
from sd_animation.weights import FILES
from videokit.prompts import encode_windows, token_windows
from videokit.runtime import Device, Stages, pick_device
from videokit.video.encode import encode_gif
from videokit.video.frame_store import FrameStore, ping_pong
from videokit.video.frames import frames_from_tensor
from videokit.weights.store import WeightStore

from benchmarks.measure import machine_line, paired

if TYPE_CHECKING:
    from videokit.video.frames import Frame

DEFAULTS = Inputs("a red circle", "a blue square", seed=3)
CPU = Device(torch.device("cpu"), torch.float32)


def ours(pipeline: Pipeline, inputs: Inputs, directory: Path) -> None:
    """One prediction, as predict.py makes it."""
    with contextlib.redirect_stderr(io.StringIO()), FrameStore(directory) as pictures:  # progress bars
        latents = pipeline.animate(inputs, 3, Stages(pipeline.device), pictures)
        frames = pipeline.fill_in(inputs, latents, pictures)
        if inputs.ping_pong:
            frames = ping_pong(frames, directory)
        encode_gif(frames, directory / "ours.gif", fps=inputs.fps)


@torch.inference_mode()
def original(pipeline: Pipeline, inputs: Inputs, directory: Path) -> None:
    """One prediction of two prompts with guidance, as animate.py makes it."""
    device, dtype = pipeline.device.device, pipeline.device.dtype
    texts = []
    for prompt in inputs.prompts:
        windows = token_windows(pipeline.tokenizer, ["", prompt])
        texts.append(encode_windows(pipeline.text_encoder, windows).float())
    shared = int(inputs.num_inference_steps * (1 - inputs.prompt_strength))

    def scheduler() -> PNDMScheduler:
        made = PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
        made.set_timesteps(inputs.num_inference_steps)
        return made

    def denoise(x: torch.Tensor, text: torch.Tensor, first: int, last: int | None) -> torch.Tensor:
        steps = scheduler()
        for t in steps.timesteps[first:last]:
            sample = torch.cat([x, x]).to(dtype)
            away, towards = pipeline.unet(sample, t, text.to(dtype)).sample.float().chunk(2)
            x = steps.step(away + inputs.guidance_scale * (towards - away), t, x).prev_sample
        return x

    def decode(x: torch.Tensor) -> Frame:
        return frames_from_tensor(pipeline.vae.decode((x / 0.18215).to(dtype)).sample)[0]

    noise = torch.randn((1, 4, inputs.height // 8, inputs.width // 8), generator=torch.Generator().manual_seed(3))
    middle = denoise(noise.to(device), slerp(texts[0], texts[1], 0.5), 1, shared)
    for text in texts:
        pipeline.safety_checker.flags([decode(denoise(middle, text, shared, None))])
    latents, ends = [], [*texts, texts[0]] if inputs.ping_pong else texts
    for start, stop in itertools.pairwise(ends):
        for index in range(inputs.num_animation_frames):
            text = slerp(start, stop, index / inputs.num_animation_frames)
            latents.append(denoise(middle, text, shared, None))
    if inputs.ping_pong:
        latents.append(latents[0])
    frames = [decode(x) for x in latents]
    depth = max(math.ceil(math.log2(inputs.num_interpolation_steps)), 1)
    filled = [frames[0]]
    for start, stop in itertools.pairwise(frames):
        filled += [*between(pipeline, start, stop, depth), stop]
    encode_gif(filled, directory / "original.gif", fps=inputs.fps)


def between(pipeline: Pipeline, start: Frame, stop: Frame, depth: int) -> list[Frame]:
    """The 2^depth - 1 pictures between two, by halving, each call from the two pictures alone."""
    if depth == 0:
        return []
    device = pipeline.device
    pyramids = [
        pipeline.film.features(torch.tensor(frame).movedim(2, 0)[None].to(device.device, device.dtype) / 255)
        for frame in (start, stop)
    ]
    middle = frames_from_tensor(2 * pipeline.film.between(*pyramids, torch.tensor([0.5])).float() - 1)[0]
    return [*between(pipeline, start, middle, depth - 1), middle, *between(pipeline, middle, stop, depth - 1)]


def counts(pipeline: Pipeline, work: object, inputs: Inputs, directory: Path) -> str:
    """Run once and return how many frames each network has worked on."""
    seen: Counter[str] = Counter()
    film = pipeline.film
    networks = {"UNet": pipeline.unet, "VAE": pipeline.vae.decoder, "FILM features": film.extract}
    hooks = [
        module.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: len(args[0])}))
        for name, module in networks.items()
    ]
    fusions = film.fuse.register_forward_pre_hook(lambda _, args: seen.update({"FILM": len(args[0][0])}))
    work(pipeline, inputs, directory)  # type: ignore[operator]
    for hook in [*hooks, fusions]:
        hook.remove()
    return ", ".join(f"{name} {seen[name]}" for name in ("UNet", "VAE", "FILM", "FILM features"))


PEAK = """
import sys
from pathlib import Path
import numpy as np
from benchmarks.measure import peak_memory
from videokit.video.frame_store import FrameStore, ping_pong
from videokit.video.encode import encode_gif
directory, frames, what = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
ramp = np.add.outer(np.arange(128), np.arange(128)).astype(np.uint8)
made = {
    "a moving ramp": lambda index: np.stack([np.roll(ramp, step * index, axis=1) for step in (3, 5, 7)], 2),
    "noise": lambda index: np.random.default_rng(index).integers(0, 256, (128, 128, 3), np.uint8),
}[what]
encode_gif(ping_pong(map(made, range(frames)), directory), directory / "peak.gif", fps=20)
print(peak_memory() / 1e6)
"""


def memory_by_length() -> None:
    """Peak memory from pictures to a file with ping-pong, in a process of its own for each length.

    Noise is the worst case: the palette's histogram has an entry for every distinct colour.
    """
    for what, frames in itertools.product(("a moving ramp", "noise"), (10, 500)):
        with tempfile.TemporaryDirectory() as directory:
            command = [sys.executable, "-c", PEAK, directory, str(frames), what]
            environ = {"PYTHONPATH": ":".join(sys.path)}
            peak = subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout
        print(f"peak memory of {frames} pictures 128x128 of {what} and the way back, to a GIF: {float(peak):.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="width and height (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--full", action="store_true", help="weights of the real size, on a GPU if there is one")
    parser.add_argument("--no-memory", action="store_true", help="without the peaks by length")
    arguments = parser.parse_args()
    print(machine_line())
    logging.getLogger("videokit").setLevel(logging.WARNING)
    device = pick_device() if arguments.full else CPU
    inputs = replace(DEFAULTS, width=arguments.size, height=arguments.size)
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        recipe.write(directory, recipe.FULL if arguments.full else recipe.SMALL)
        pipeline = Pipeline(WeightStore(FILES, directories=[directory], cache=None), device)
        for asked in (inputs, replace(inputs, ping_pong=True)):
            name = f"{arguments.size}x{arguments.size}{', ping-pong' if asked.ping_pong else ''}"
            for who, work in (("ours", ours), ("original", original)):
                print(f"{name}, pictures through each network, {who}: {counts(pipeline, work, asked, directory)}")
            seconds, plain, ratio = paired(
                lambda asked=asked: ours(pipeline, asked, directory),
                lambda asked=asked: original(pipeline, asked, directory),
                arguments.runs,
            )
            print(f"{name}: ours {seconds:.1f} s, the original's way {plain:.1f} s, ratio {ratio:.2f}")
        if device.device.type == "cuda":
            print(f"peak on the GPU: {torch.cuda.max_memory_allocated() / 1e9:.2f} GB")
    if not arguments.no_memory:
        memory_by_length()


if __name__ == "__main__":
    main()
