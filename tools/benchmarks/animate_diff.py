"""animate-diff against the straightforward way: a switch of weights, and a prediction against a bare loop.

    script/bench animate-diff [--runs 5] [--full]

--full: also with weights of the real sizes (8 GB on disk), on a GPU if any

Switching: ours replaces parameters in place. The original (lucataco/cog-animatediff@59c88d9 predict.py:72-119) builds
the network again for every prediction, reads motion module and checkpoint from the disk and converts them.
A whole prediction: `Predictor.run` against a bare loop around the same modules.

It takes about 2 minutes on two idle cores.
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import torch
from animate_diff import weights
from animate_diff.inputs import CHECKPOINTS, FPS, MOTION_MODULES, NUM_FRAMES
from animate_diff.pipeline import Pipeline
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel, UNetMotionModel
from diffusers.loaders.single_file_utils import (
    convert_animatediff_checkpoint_to_diffusers,
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from random_weights.animate_diff import write_checkpoint, write_motion_module
from random_weights.stable_diffusion import FULL, SMALL, Size, write_base
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel
from tree import script_parser
from videokit.runtime import Device, Stages, pick_device
from videokit.weights.stable_diffusion import BASE
from videokit.weights.store import WeightStore

from benchmarks import plain
from benchmarks.measure import demo_predictor, machine_line, paired

CPU = Device(torch.device("cpu"), torch.float32)
COMBINATIONS = list(itertools.product(CHECKPOINTS[:2], MOTION_MODULES[:2]))


def rebuild(directory: Path, checkpoint: str, motion_module: str, device: Device) -> None:
    """Build text encoder, VAE and UNet, and read and convert the files with diffusers, in the original's order."""
    base = directory / BASE
    unet = UNetMotionModel.from_unet2d(
        UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(base / "unet")), load_weights=False
    )
    motion = torch.load(directory / "motion_modules" / f"{motion_module}.ckpt", weights_only=True)
    unet.load_state_dict(convert_animatediff_checkpoint_to_diffusers(motion), strict=False)
    tensors = load_file(directory / "checkpoints" / checkpoint)
    unet.load_state_dict(convert_ldm_unet_checkpoint(dict(tensors), unet.config), strict=False)
    vae = AutoencoderKL.from_config(AutoencoderKL.load_config(base / "vae"))
    vae.load_state_dict(convert_ldm_vae_checkpoint(dict(tensors), vae.config))
    text_encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(base / "text_encoder"))
    text_encoder.load_state_dict(
        {key.removeprefix("text_model."): t for key, t in convert_ldm_clip_checkpoint(dict(tensors)).items()}
    )
    for module in (unet, vae, text_encoder):
        nn.Module.to(module, device.device, device.dtype)


def switching(size: Size, device: Device, runs: int) -> None:
    """Print the time to switch to the next of four combinations."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        write_base(directory, size)
        for checkpoint in CHECKPOINTS[:2]:
            write_checkpoint(directory / "checkpoints" / checkpoint, size, checkpoint)
        for module in MOTION_MODULES[:2]:
            write_motion_module(directory / "motion_modules" / f"{module}.ckpt", size, module)
        pipeline = Pipeline(WeightStore(weights.FILES, directories=[directory], cache=None), device)
        ours_next, rebuilt_next = itertools.cycle(COMBINATIONS), itertools.cycle(COMBINATIONS)
        for combination in COMBINATIONS:
            pipeline.load(*combination, Stages(device))  # the first load maps the file, and is not measured
        ours, rebuilt, ratio = paired(
            lambda: pipeline.load(*next(ours_next), Stages(device)),
            lambda: rebuild(directory, *next(rebuilt_next), device),
            runs,
        )
        size_bytes = sum(p.nbytes for m in (pipeline.unet, pipeline.vae, pipeline.text_encoder) for p in m.parameters())
    print(
        f"switching on {device.device}, parameters of {size_bytes / 1e9:.2f} GB: in place {ours * 1000:.0f} ms, "
        f"rebuilt {rebuilt * 1000:.0f} ms, ratio {ratio:.1f}; modules built: 0 against 3"
    )


@torch.inference_mode()
def bare_loop(pipeline: Pipeline, prompt: str, steps: int, guidance: float, seed: int, target: Path) -> None:
    """Make one clip with the pipeline's modules, as the papers describe it."""
    device, dtype = pipeline.device.device, pipeline.device.dtype
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="linear", steps_offset=1, clip_sample=False
    )
    scheduler.set_timesteps(steps)
    embeds = plain.encode_prompt(pipeline.tokenizer, pipeline.text_encoder, prompt)
    embeds = embeds.repeat_interleave(NUM_FRAMES, dim=0)
    side, generator = pipeline.unet.config.sample_size, torch.Generator().manual_seed(seed)
    latents = torch.randn((1, 4, NUM_FRAMES, side, side), generator=generator).to(device)
    latents = plain.denoise(pipeline.unet, scheduler, scheduler.timesteps, latents, embeds, guidance)
    images = pipeline.vae.decode((latents[0].movedim(1, 0) / pipeline.vae.config.scaling_factor).to(dtype)).sample
    frames = ((images / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    plain.write_video(frames, target, FPS)


def whole_prediction(runs: int) -> None:
    """Compare `Predictor.run` with the bare loop, with the demo weights."""
    predictor = demo_predictor("animate-diff")
    prompt, steps, guidance, seed = "a red circle moving right", 25, 7.5, 3
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary) / "bare.mp4"
        ours, bare, ratio = paired(
            lambda: predictor.run("mm_sd_v14", CHECKPOINTS[0], prompt, "", steps, guidance, seed),
            lambda: bare_loop(predictor.pipeline, prompt, steps, guidance, seed, target),
            runs,
        )
    print(
        f"a whole prediction, {steps} steps, demo weights: Predictor.run {ours:.2f} s, bare loop {bare:.2f} s, "
        f"ratio {ratio:.3f} (below 1: the predictor is slower)"
    )


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    print(machine_line())
    switching(SMALL, CPU, arguments.runs)
    if arguments.full:
        switching(FULL, pick_device(), arguments.runs)
    whole_prediction(arguments.runs)
