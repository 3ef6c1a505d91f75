"""zeroscope against the original's way: resident models, a long init_video, and the overhead of a prediction.

    script/bench zeroscope [--runs 3]

The original (anotherjesse/cog-text2video@14013b6 predict.py, inference.py) starts a process for every prediction,
which reads all weights again, the UNet twice. It reads the whole init_video as float32, scales it in time and space at
once, and encodes all frames together. `original` does the same without the start of the process.

It takes about 5 minutes on two idle cores.
"""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import json
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imageio.v3 as iio
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet3DConditionModel
from random_weights import zeroscope as recipe
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from tree import script_parser
from videokit.runtime import GB, Device, Stages
from videokit.video.encode import encode_mp4
from videokit.weights.keys import same_key, text_encoder_keys, vae_keys
from videokit.weights.load import load_module
from videokit.weights.store import WeightStore
from zeroscope.inputs import Inputs
from zeroscope.models import Model
from zeroscope.pipeline import Pipeline

from benchmarks import plain
from benchmarks.measure import demo_predictor, in_new_process, machine_line, paired, peak_memory, processor_seconds
from zeroscope import weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from videokit.weights.keys import Keys

CPU = Device(torch.device("cpu"), torch.float32)
SMALL = Inputs("a red circle", num_frames=4, num_inference_steps=4, width=256, height=256, seed=3)
# init_weight 1 uses the video alone and skips the UNet, which is the same in both
FROM_VIDEO = replace(SMALL, init_weight=1.0, num_frames=24, width=576, height=320)
VIDEO_FPS = 24  # of the long video


def ours(pipeline: Pipeline, inputs: Inputs, target: Path) -> None:
    """Make one prediction as predict.py does."""
    for frames in pipeline.generate(inputs, inputs.seed or 0, Stages(pipeline.device)):
        encode_mp4(frames, target, fps=inputs.fps)


def original(directory: Path, inputs: Inputs, target: Path) -> None:
    """Make one prediction as inference.py does: read all weights, then run the plain loop."""
    folder = directory / inputs.model

    def load(construct: Callable[[], Any], file: str, keys_of: Keys = same_key) -> Any:
        return load_module(construct, CPU, torch.load(folder / file, weights_only=True), keys_of, folder / file)

    unet_config, vae_config = (UNet3DConditionModel.load_config(folder / name) for name in ("unet", "vae"))
    text_config = CLIPTextConfig.from_pretrained(folder / "text_encoder")
    for _ in range(2):
        unet = load(partial(UNet3DConditionModel.from_config, unet_config), weights.UNET)
    model = Model(
        CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        load(partial(CLIPTextModel, text_config), weights.TEXT_ENCODER, text_encoder_keys),
        unet,
        load(partial(AutoencoderKL.from_config, vae_config), weights.VAE, vae_keys),
        json.loads((folder / "scheduler" / "scheduler_config.json").read_text()),
    )
    plain_loop(model, inputs, target)


@torch.inference_mode()
def plain_loop(model: Model, inputs: Inputs, target: Path) -> None:
    """Make one video with a model's modules, as the papers describe it, with all frames in memory."""
    embeds = plain.encode_prompt(model.tokenizer, model.text_encoder, inputs.prompt)
    betas = {name: model.scheduler[name] for name in ("beta_start", "beta_end", "beta_schedule")}
    scheduler = DPMSolverMultistepScheduler(**betas, final_sigmas_type="sigma_min")
    scheduler.set_timesteps(inputs.num_inference_steps)
    start, device, dtype = 0, model.unet.device, model.unet.dtype
    shape = (1, 4, inputs.num_frames, inputs.height // 8, inputs.width // 8)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(inputs.seed or 0)).to(device)
    if inputs.init_video is not None:
        start = round(inputs.init_weight * inputs.num_inference_steps)
        video = whole_video(Path(inputs.init_video), inputs).to(device, dtype)
        encoded = model.vae.encode(video).latent_dist.mean.float() * model.vae.config.scaling_factor
        alpha_bar = scheduler.alphas_cumprod[scheduler.timesteps[start]] if start < inputs.num_inference_steps else 1
        latents = alpha_bar**0.5 * encoded.movedim(0, 1)[None] + (1 - alpha_bar) ** 0.5 * latents
        scheduler.set_begin_index(start)
    timesteps = scheduler.timesteps[start:]
    latents = plain.denoise(model.unet, scheduler, timesteps, latents, embeds, inputs.guidance_scale)
    latents = (latents[0].movedim(1, 0) / model.vae.config.scaling_factor).to(dtype)
    images = torch.cat([model.vae.decode(latent[None]).sample.float() for latent in latents])
    frames = images.clamp(-1, 1).add(1).mul(127.5).byte().permute(0, 2, 3, 1).cpu().numpy()
    plain.write_video(frames, target, inputs.fps)


def whole_video(path: Path, inputs: Inputs) -> torch.Tensor:
    """Return all frames of a video, scaled in time and space at once: (F, 3, H, W) in -1 to 1."""
    video = torch.from_numpy(iio.imread(path, plugin="FFMPEG")).permute(3, 0, 1, 2)[None] / 127.5 - 1
    size = (inputs.num_frames, inputs.height, inputs.width)
    return F.interpolate(video, size=size, mode="trilinear")[0].movedim(0, 1)


def long_video(path: Path, seconds: int = 10) -> None:
    """Write a moving 1080p video."""
    ramp = np.add.outer(np.arange(1080), np.arange(1920)).astype(np.uint8)
    frames = (
        np.stack([np.roll(ramp, step * index, axis=1) for step in (3, 5, 7)], 2) for index in range(seconds * VIDEO_FPS)
    )
    plain.write_video(frames, path, VIDEO_FPS)


def pipeline_of(directory: Path) -> Pipeline:
    return Pipeline(WeightStore(weights.FILES, directories=[directory], cache=None), CPU)


def resident(directory: Path, runs: int) -> None:
    """Compare predictions after the first: of one model, and of two models alternately."""
    pipeline, target = pipeline_of(directory), directory / "ours.mp4"
    for case, models in (("a second prediction", ["xl"]), ("two models alternately", ["xl", "576w"])):
        our_inputs, plain_inputs = (itertools.cycle(replace(SMALL, model=name) for name in models) for _ in range(2))
        predict = partial(lambda inputs: ours(pipeline, next(inputs), target), our_inputs)
        predict_plainly = partial(lambda inputs: original(directory, next(inputs), target), plain_inputs)
        for _ in models:
            predict()  # the first prediction reads the files
        seconds, plain_seconds, ratio = paired(predict, predict_plainly, runs)
        print(
            f"{case}, 4 frames 256x256, 4 steps: "
            f"ours {seconds:.2f} s, original {plain_seconds:.2f} s, ratio {ratio:.2f}"
        )


def print_alone(who: str, directory: str, video: str) -> None:
    """Make a video from the long one; print seconds, and processor seconds and peak memory with child processes."""
    inputs, target = replace(FROM_VIDEO, init_video=Path(video)), Path(directory, f"{who}.mp4")
    predict = partial(ours, pipeline_of(Path(directory))) if who == "ours" else partial(original, Path(directory))
    start, processor_start = time.perf_counter(), processor_seconds()
    with peak_memory() as peak:
        predict(inputs, target)
        print(time.perf_counter() - start, processor_seconds() - processor_start, peak())


def long_init_video(directory: Path) -> None:
    """Compare time and peak memory with an init_video of ten seconds in 1080p."""
    video = directory / "long.mp4"
    long_video(video)
    measured = np.array([in_new_process(print_alone, who, directory, video) for who in ("ours", "original")])
    (seconds, processor, peak), (plain_seconds, plain_processor, plain_peak) = measured
    ratios = measured[1] / measured[0]
    print(
        f"init_video of 10 s 1920x1080 at {VIDEO_FPS} fps, to 24 frames 576x320, init_weight 1: "
        f"ours {seconds:.1f} s, original {plain_seconds:.1f} s, ratio {ratios[0]:.2f}; "
        f"processor time {processor:.1f} s and {plain_processor:.1f} s, ratio {ratios[1]:.2f}; "
        f"peak ours {peak / GB:.2f} GB, original {plain_peak / GB:.2f} GB, ratio {ratios[2]:.1f}"
    )


def frame_convolutions(unet: UNet3DConditionModel, runs: int) -> None:
    """Compare an evaluation of the demo UNet on the CPU with one that has PyTorch's convolutions over frames."""
    own = copy.deepcopy(unet)
    for module in own.modules():
        vars(module).pop("forward", None)
    latents, text = torch.zeros(2, 4, 16, 32, 32), torch.zeros(2, 77, unet.config.cross_attention_dim)
    with torch.inference_mode():
        seconds, plain, ratio = paired(lambda: unet(latents, 999, text), lambda: own(latents, 999, text), runs)
    print(
        f"an evaluation of the UNet, 16 frames 256x256 with guidance, {torch.get_num_threads()} threads: "
        f"ours {seconds:.2f} s, PyTorch's convolutions over frames {plain:.2f} s, ratio {ratio:.2f}"
    )


def whole_prediction(runs: int) -> None:
    """Compare `Predictor.run` with the plain loop around its own modules, with the demo weights."""
    predictor = demo_predictor("zeroscope")
    model = predictor.pipeline.models.get("xl")
    if predictor.pipeline.device.device.type == "cpu":
        frame_convolutions(model.unet, runs)
    inputs = replace(SMALL, num_inference_steps=10)
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary) / "bare.mp4"

        def run() -> None:
            predictor.run(
                prompt=inputs.prompt, negative_prompt=None, init_video=None, init_weight=0.5,
                num_frames=inputs.num_frames, num_inference_steps=inputs.num_inference_steps,
                width=inputs.width, height=inputs.height, guidance_scale=7.5, fps=8, model="xl", batch_size=1,
                remove_watermark=False, seed=3,
            )  # fmt: skip

        seconds, plain_seconds, ratio = paired(run, lambda: plain_loop(model, inputs, target), runs)
    print(
        f"a whole prediction, 4 frames 256x256, 10 steps: Predictor.run {seconds:.2f} s, "
        f"bare loop {plain_seconds:.2f} s, ratio {ratio:.3f} (below 1: the predictor is slower)"
    )


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    print(machine_line(), flush=True)
    with tempfile.TemporaryDirectory() as temporary, contextlib.redirect_stderr(io.StringIO()):  # progress bars
        directory = Path(temporary)
        recipe.write(directory, recipe.SMALL)
        resident(directory, runs)
        long_init_video(directory)
        whole_prediction(runs)
