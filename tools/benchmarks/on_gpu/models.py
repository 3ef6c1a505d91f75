"""The three models: their networks, inputs and choices, and diffusers' own pipelines around their modules."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import animate_diff.inputs
import sd_animation.inputs
import torch
import zeroscope.inputs
from animate_diff.inputs import CHECKPOINTS, MOTION_MODULES, NUM_FRAMES
from animate_diff.motion_module import scope_norms, set_norm_scope
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    TextToVideoSDPipeline,
    UNet3DConditionModel,
    UNetMotionModel,
)
from random_weights import film, lama
from random_weights import stable_diffusion as sd
from random_weights import zeroscope as zeroscope_recipe
from sd_animation.film import Film
from sd_animation.pipeline import UNET_PEAK_VALUES, make_scheduler
from sd_animation.prompt_walk import embeddings_at, frame_positions
from videokit.runtime import Stages
from videokit.video.frame_store import FrameStore
from zeroscope.attention import split_temporal_attention
from zeroscope.lama import Lama
from zeroscope.memory import unet_bytes, vae_bytes
from zeroscope.sampler import make_scheduler as make_video_scheduler
from zeroscope.weights import MODELS as VIDEO_MODELS

from benchmarks.on_gpu.subject import Network, Subject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import nn
    from videokit.video.frames import Frame


def evaluate(unet: nn.Module, latents: torch.Tensor, text: torch.Tensor) -> object:
    return unet(latents, 999, text)


def decoder(config: dict[str, object], frames: int, width: int, height: int, calls: int, peak: int | None) -> Network:
    name = f"VAE's decoder, {frames} frame{'s' * (frames > 1)} {width}x{height}"
    construct, shapes = partial(AutoencoderKL.from_config, config), [(frames, 4, height // 8, width // 8)]
    return Network(name, construct, lambda vae, latents: vae.decode(latents), shapes, calls, peak)


class AnimateDiff(Subject):
    name = "animate-diff"
    default = animate_diff.inputs.Inputs("a red circle", seed=3)
    small_inputs: ClassVar[dict[str, Any]] = {"num_inference_steps": 2}
    short_inputs = ({"num_inference_steps": 5},)
    largest_guidance = 10

    @staticmethod
    def networks(*, small: bool) -> list[Network]:
        size = sd.SMALL if small else sd.FULL
        side, steps = size.sample_size, AnimateDiff.default.num_inference_steps
        shapes = [(2, 4, NUM_FRAMES, side, side), (2 * NUM_FRAMES, 77, size.text_width)]

        def unet(norm_frames: int) -> UNetMotionModel:
            network = UNetMotionModel.from_unet2d(sd.unet(size), load_weights=False)
            scope_norms(network)
            set_norm_scope(network, norm_frames)
            return network

        name = f"guided, {NUM_FRAMES} frames {8 * side}x{8 * side}"
        return [
            Network(f"UNet with mm_sd_v14, {name}", partial(unet, NUM_FRAMES), evaluate, shapes, steps),
            Network(f"UNet with mm_sd_v15_v2, {name}", partial(unet, 1), evaluate, shapes),
            decoder(sd.vae_config(size), NUM_FRAMES, 8 * side, 8 * side, 1, None),
        ]

    def combinations(self) -> list[Any]:
        pairs = itertools.product(CHECKPOINTS, MOTION_MODULES)
        return [replace(self.inputs, checkpoint=checkpoint, motion_module=motion) for checkpoint, motion in pairs]

    def switch(self, index: int) -> None:
        self.pipeline.unload()  # the cache, so that the files are read
        self.pipeline.load(CHECKPOINTS[index % 2], MOTION_MODULES[index % 2], Stages(self.device))

    def by_diffusers(self) -> tuple[dict[str, int], Callable[[], object]]:
        ours, inputs = self.pipeline, self.inputs
        scheduler = DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="linear", steps_offset=1, clip_sample=False
        )
        theirs = AnimateDiffPipeline(ours.vae, ours.text_encoder, ours.tokenizer, ours.unet, None, scheduler)
        steps = inputs.num_inference_steps
        return {}, lambda: theirs(inputs.prompt, NUM_FRAMES, num_inference_steps=steps, output_type="np")


class SDAnimation(Subject):
    name = "sd-animation"
    default = sd_animation.inputs.Inputs("a red circle", "a blue square", seed=3)
    small_inputs: ClassVar[dict[str, Any]] = {
        "width": 128,
        "height": 128,
        "num_animation_frames": 2,
        "num_inference_steps": 4,
    }
    short_inputs = ({"num_inference_steps": 20}, {"num_inference_steps": 20, "width": 128, "height": 128})
    largest_guidance = 20
    suffix = ".gif"

    @staticmethod
    def networks(*, small: bool) -> list[Network]:
        size, sides = (sd.SMALL, (128,)) if small else (sd.FULL, (512, 768))
        default, side, widths = SDAnimation.default, sides[0], film.SMALL if small else film.FULL
        keyframes, shared = default.num_keyframes, default.num_shared_steps + 1  # PLMS evaluates its first step twice
        evaluations = shared + (default.num_inference_steps - default.num_shared_steps) * keyframes

        def unet(frames: int, side: int, calls: int = 0) -> Network:
            values = 2 * frames * (side // 8) ** 2 * size.unet_channels[0]
            return Network(
                f"UNet, guided, {frames} frame{'s' * (frames > 1)} {side}x{side}", partial(sd.unet, size), evaluate,
                [(2 * frames, 4, side // 8, side // 8), (2 * frames, 77, size.text_width)],
                calls, UNET_PEAK_VALUES * values * 2,
            )  # fmt: skip

        def between(network: Film, start: torch.Tensor, stop: torch.Tensor) -> torch.Tensor:
            return network.between(network.features(start), network.features(stop), torch.tensor([0.5]))

        return [
            unet(1, side, calls=evaluations),
            *(unet(keyframes, side) for side in sides),
            decoder(sd.vae_config(size), keyframes, side, side, 1, None),
            Network(
                f"FILM, 1 frame {side}x{side} and both pyramids", partial(Film, widths),
                between, [(1, 3, side, side)] * 2, calls=(keyframes - 1) * (default.num_interpolation_steps - 1),
            ),
        ]  # fmt: skip

    def combinations(self) -> list[Any]:
        return [self.inputs, replace(self.inputs, film_interpolation=False)]

    def frames(self, pipeline: Any, inputs: Any, stages: Stages, directory: Path) -> Iterator[Frame]:
        with FrameStore(directory) as keyframes:
            latents = pipeline.animate(inputs, inputs.seed, stages, keyframes)
            yield from pipeline.interpolate(inputs, latents, keyframes)

    def by_diffusers(self) -> tuple[dict[str, int], Callable[[], object]]:
        ours, inputs = self.pipeline, self.inputs
        theirs = StableDiffusionPipeline(
            ours.vae, ours.text_encoder, ours.tokenizer, ours.unet, make_scheduler(inputs.num_inference_steps),
            None, None, requires_safety_checker=False,
        )  # fmt: skip
        positions = frame_positions(len(inputs.prompts), inputs.num_keyframes)
        sizes = {"width": inputs.width, "height": inputs.height, "num_inference_steps": inputs.num_inference_steps}

        def keyframes() -> object:
            prompt_embeds, negative = ours.encode_prompt(inputs, Stages(self.device))
            embeds = embeddings_at(positions, prompt_embeds).to(self.device.dtype)
            negative = negative.to(embeds).expand_as(embeds)
            return theirs(prompt_embeds=embeds, negative_prompt_embeds=negative, output_type="np", **sizes)

        return {"num_interpolation_steps": 1}, keyframes


class Zeroscope(Subject):
    name = "zeroscope"
    default = zeroscope.inputs.Inputs("a red circle", seed=3)
    small_inputs: ClassVar[dict[str, Any]] = {"num_frames": 2, "num_inference_steps": 2, "width": 256, "height": 256}
    short_inputs = ({"num_inference_steps": 5},)
    largest_guidance = 100

    @staticmethod
    def networks(*, small: bool) -> list[Network]:
        size = zeroscope_recipe.SMALL if small else zeroscope_recipe.FULL
        default = replace(Zeroscope.default, **Zeroscope.small_inputs) if small else Zeroscope.default
        frames, width, height = default.num_frames, default.width, default.height

        def construct() -> UNet3DConditionModel:
            network = UNet3DConditionModel.from_config(zeroscope_recipe.unet_config(size))
            split_temporal_attention(network)
            return network

        def unet(videos: int, width: int, height: int, calls: int = 0) -> Network:
            peak = unet_bytes(videos * frames, width, height, guided=True, head_width=size.head_width, itemsize=2)
            return Network(
                f"UNet, guided, {'2 videos of ' * (videos - 1)}{frames} frames {width}x{height}", construct, evaluate,
                [(2 * videos, 4, frames, height // 8, width // 8), (2 * videos, 77, size.text_width)],
                calls, peak,
            )  # fmt: skip

        vae_peak = vae_bytes(1, width, height, channels=size.vae_channels[0], itemsize=2)
        return [
            unet(1, width, height, calls=Zeroscope.default.num_inference_steps),
            unet(2, width, height),
            unet(1, *((320, 256) if small else (1024, 576))),
            decoder(sd.vae_config(size), 1, width, height, frames, vae_peak),
            Network(
                f"LaMa, 1 frame {width}x{height}", partial(Lama, lama.SIZES["small" if small else "full"]),
                lambda network, *tensors: network(*tensors), [(1, 3, height, width), (1, 1, height, width)],
                float32=True,
            ),
        ]  # fmt: skip

    def combinations(self) -> list[Any]:
        return [replace(self.inputs, model=model) for model in VIDEO_MODELS]

    def switch(self, index: int) -> None:
        self.pipeline.models.get(VIDEO_MODELS[index % 2])

    def parts(self, pipeline: Any) -> Any:
        return pipeline.models.get(self.inputs.model)

    def frames(self, pipeline: Any, inputs: Any, stages: Stages, directory: Path) -> Iterator[Frame]:
        for video in pipeline.generate(inputs, inputs.seed, stages):
            yield from video

    def by_diffusers(self) -> tuple[dict[str, int], Callable[[], object]]:
        ours, inputs = self.parts(self.pipeline), self.inputs
        scheduler = make_video_scheduler(ours.scheduler, inputs.num_inference_steps)
        theirs = TextToVideoSDPipeline(ours.vae, ours.text_encoder, ours.tokenizer, ours.unet, scheduler)
        sizes = (inputs.height, inputs.width, inputs.num_frames, inputs.num_inference_steps)
        return {}, lambda: theirs(inputs.prompt, *sizes, output_type="np")


MODELS = {subject.name: subject for subject in (AnimateDiff, SDAnimation, Zeroscope)}
