"""zeroscope against the original's way: resident models, a long init_video, and the overhead of a prediction.

    script/bench zeroscope [--runs 3]

The original (anotherjesse/cog-text2video@14013b6 predict.py, inference.py) starts a process for every prediction,
which reads all weights again, the UNet twice. It reads the whole init_video as float32, scales it in time and space at
once, and encodes all frames together. `original` does the same without the start of the process.

It takes about 5 minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import itertools
import json
import logging
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import av
import imageio.v3 as iio
import numpy as np
import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet3DConditionModel
from random_weights import zeroscope as recipe
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from videokit.runtime import GB, Device, Stages
from videokit.video.encode import encode_mp4
from videokit.weights.keys import same_key, text_encoder_keys, vae_keys
from videokit.weights.store import WeightStore
from zeroscope.inputs import Inputs
from zeroscope.pipeline import Pipeline

from benchmarks.measure import demo_predictor, machine_line, paired, peak_memory, processor_seconds
from zeroscope import weights

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from videokit.weights.keys import Keys

CPU = Device(torch.device("cpu"), torch.float32)
SMALL = Inputs("a red circle", num_frames=4, num_inference_steps=4, width=256, height=256, seed=3)
# init_weight 1 uses the video alone and skips the UNet, which is the same in both
FROM_VIDEO = replace(SMALL, init_weight=1.0, num_frames=24, width=576, height=320)
VIDEO_FPS = 24  # of the long video


class Parts(NamedTuple):
    """The modules of a model."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    unet: UNet3DConditionModel
    vae: AutoencoderKL
    betas: dict[str, Any]


def ours(pipeline: Pipeline, inputs: Inputs, target: Path) -> Stages:
    """Make one prediction as predict.py does."""
    stages = Stages(pipeline.device)
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        for frames in pipeline.generate(inputs, inputs.seed or 0, stages):
            encode_mp4(frames, target, fps=inputs.fps)
    return stages


def original(directory: Path, inputs: Inputs, target: Path, device: Device = CPU) -> None:
    """Make one prediction as inference.py does: read all weights, then run the plain loop."""
    folder = directory / inputs.model

    def load(module: nn.Module, file: str, keys_of: Keys = same_key) -> Any:
        tensors = torch.load(folder / file, weights_only=True)
        module.load_state_dict({name: tensors[keys_of(name)[0]] for name, _ in module.named_parameters()}, assign=True)
        return nn.Module.to(
            module, device.device, device.dtype
        ).eval()  # diffusers' own `to` logs a warning without cause

    for _ in range(2):
        with init_empty_weights():
            unet = UNet3DConditionModel.from_config(UNet3DConditionModel.load_config(folder / "unet"))
            vae = AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae"))
            text_encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder"))
        unet = load(unet, weights.UNET)
    parts = Parts(
        CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        load(text_encoder, weights.TEXT_ENCODER, text_encoder_keys),
        unet,
        load(vae, weights.VAE, vae_keys),
        json.loads((folder / "scheduler" / "scheduler_config.json").read_text()),
    )
    plain_loop(parts, inputs, target, device)


@torch.inference_mode()
def plain_loop(parts: Parts, inputs: Inputs, target: Path, device: Device) -> None:
    """Make one video with a model's modules, as the papers describe it, with all frames in memory."""
    tokens = parts.tokenizer(["", inputs.prompt], padding="max_length", truncation=True, return_tensors="pt")
    embeds = parts.text_encoder(tokens["input_ids"].to(device.device)).last_hidden_state
    betas = {name: parts.betas[name] for name in ("beta_start", "beta_end", "beta_schedule")}
    scheduler = DPMSolverMultistepScheduler(**betas, final_sigmas_type="sigma_min")
    scheduler.set_timesteps(inputs.num_inference_steps)
    start = 0
    generator = torch.Generator().manual_seed(inputs.seed or 0)
    shape = (1, 4, inputs.num_frames, inputs.height // 8, inputs.width // 8)
    latents = torch.randn(shape, generator=generator).to(device.device)
    if inputs.init_video is not None:
        start = round(inputs.init_weight * inputs.num_inference_steps)
        video = whole_video(Path(inputs.init_video), inputs).to(device.device, device.dtype)
        encoded = parts.vae.encode(video).latent_dist.mean.float() * parts.vae.config.scaling_factor
        alpha_bar = scheduler.alphas_cumprod[scheduler.timesteps[start]] if start < inputs.num_inference_steps else 1
        latents = alpha_bar**0.5 * encoded.movedim(0, 1)[None] + (1 - alpha_bar) ** 0.5 * latents
        scheduler.set_begin_index(start)
    for t in scheduler.timesteps[start:]:
        noise_pred = parts.unet(torch.cat([latents, latents]).to(device.dtype), t, embeds).sample.float()
        noise_pred_uncond, noise_pred_text = noise_pred.chunk(2)
        noise_pred = noise_pred_uncond + inputs.guidance_scale * (noise_pred_text - noise_pred_uncond)
        latents = scheduler.step(noise_pred, t, latents).prev_sample
    latents = (latents[0].movedim(1, 0) / parts.vae.config.scaling_factor).to(device.dtype)
    images = torch.cat([parts.vae.decode(latent[None]).sample.float() for latent in latents])
    frames = images.clamp(-1, 1).add(1).mul(127.5).byte().permute(0, 2, 3, 1).cpu().numpy()
    write_video(np.ascontiguousarray(frames), target, inputs.fps)


def whole_video(path: Path, inputs: Inputs) -> torch.Tensor:
    """Return all frames of a video, scaled in time and space at once: (F, 3, H, W) in -1 to 1."""
    video = torch.from_numpy(iio.imread(path, plugin="FFMPEG")).permute(3, 0, 1, 2)[None] / 127.5 - 1
    size = (inputs.num_frames, inputs.height, inputs.width)
    return F.interpolate(video, size=size, mode="trilinear")[0].movedim(0, 1)


def write_video(frames: Iterable[np.ndarray], path: Path, fps: int, preset: str = "medium") -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", fps, options={"crf": "17", "preset": preset})
        for index, frame in enumerate(frames):
            if not index:
                stream.height, stream.width, stream.pix_fmt = *frame.shape[:2], "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())


def long_video(path: Path, seconds: int = 10) -> None:
    """Write a moving 1080p video."""
    ramp = np.add.outer(np.arange(1080), np.arange(1920)).astype(np.uint8)
    frames = (
        np.stack([np.roll(ramp, step * index, axis=1) for step in (3, 5, 7)], 2) for index in range(seconds * VIDEO_FPS)
    )
    write_video(frames, path, VIDEO_FPS)


def pipeline_of(directory: Path, device: Device) -> Pipeline:
    return Pipeline(WeightStore(weights.FILES, directories=[directory], cache=None), device)


def resident(directory: Path, runs: int) -> None:
    """Compare predictions after the first: of one model, and of two models alternately."""
    pipeline, target = pipeline_of(directory, CPU), directory / "ours.mp4"
    for models in (("xl",), ("xl", "576w")):
        our_models, plain_models = itertools.cycle(models), itertools.cycle(models)

        def predict(our_models: Iterator[str] = our_models) -> None:
            ours(pipeline, replace(SMALL, model=next(our_models)), target)

        def predict_plainly(plain_models: Iterator[str] = plain_models) -> None:
            original(directory, replace(SMALL, model=next(plain_models)), target)

        for _ in models:
            predict()  # the first prediction reads the files
        seconds, plain, ratio = paired(predict, predict_plainly, runs)
        case = "two models alternately" if len(models) > 1 else "a second prediction"
        print(f"{case}, 4 frames 256x256, 4 steps: ours {seconds:.2f} s, original {plain:.2f} s, ratio {ratio:.2f}")


def alone(who: str, directory: Path, video: Path) -> None:
    """Make a video from the long one; print seconds, and processor seconds and peak memory with child processes."""
    logging.getLogger("videokit").setLevel(logging.WARNING)
    inputs, target = replace(FROM_VIDEO, init_video=video), directory / f"{who}.mp4"
    pipeline = pipeline_of(directory, CPU) if who == "ours" else None
    start, processor_start = time.perf_counter(), processor_seconds()
    with peak_memory() as peak:
        if pipeline:
            ours(pipeline, inputs, target)
        else:
            original(directory, inputs, target)
        print(time.perf_counter() - start, processor_seconds() - processor_start, peak())


def long_init_video(directory: Path) -> None:
    """Compare time and peak memory with an init_video of ten seconds in 1080p."""
    video = directory / "long.mp4"
    long_video(video)
    seconds, processor, peak = {}, {}, {}
    for who in ("ours", "original"):
        command = [sys.executable, "-P", __file__, "--alone", who, str(directory), str(video)]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        seconds[who], processor[who], peak[who] = map(float, output.split())
    print(
        f"init_video of 10 s 1920x1080 at {VIDEO_FPS} fps, to 24 frames 576x320, init_weight 1: "
        f"ours {seconds['ours']:.1f} s, original {seconds['original']:.1f} s, "
        f"ratio {seconds['original'] / seconds['ours']:.2f}; processor time {processor['ours']:.1f} s and "
        f"{processor['original']:.1f} s, ratio {processor['original'] / processor['ours']:.2f}; "
        f"peak ours {peak['ours'] / GB:.2f} GB, original {peak['original'] / GB:.2f} GB, "
        f"ratio {peak['original'] / peak['ours']:.1f}"
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
    logging.getLogger("videokit").setLevel(logging.WARNING)
    model = predictor.pipeline.models.get("xl")
    if predictor.pipeline.device.device.type == "cpu":
        frame_convolutions(model.unet, runs)
    parts = Parts(model.tokenizer, model.text_encoder, model.unet, model.vae, dict(model.scheduler))
    inputs = replace(SMALL, num_inference_steps=10)
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary) / "bare.mp4"

        def run() -> None:
            with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                predictor.run(
                    prompt=inputs.prompt, negative_prompt=None, init_video=None, init_weight=0.5,
                    num_frames=inputs.num_frames, num_inference_steps=inputs.num_inference_steps,
                    width=inputs.width, height=inputs.height, guidance_scale=7.5, fps=8, model="xl", batch_size=1,
                    remove_watermark=False, seed=3,
                )  # fmt: skip

        seconds, plain, ratio = paired(run, lambda: plain_loop(parts, inputs, target, CPU), runs)
    print(
        f"a whole prediction, 4 frames 256x256, 10 steps: Predictor.run {seconds:.2f} s, bare loop {plain:.2f} s, "
        f"ratio {ratio:.3f} (below 1: the predictor is slower)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--alone", nargs=3, metavar=("WHO", "DIRECTORY", "VIDEO"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        who, directory, video = arguments.alone
        return alone(who, Path(directory), Path(video))
    print(machine_line(), flush=True)
    logging.getLogger("videokit").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        recipe.write(directory, recipe.SMALL)
        resident(directory, arguments.runs)
        long_init_video(directory)
    return whole_prediction(arguments.runs)


if __name__ == "__main__":
    main()
