"""The parts of the demo weights: what each part trains, and the files that it writes."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch
from animate_diff.inputs import CHECKPOINTS
from random_weights.stable_diffusion import write_config
from random_weights.tokenizer import write_tokenizer
from sd_animation.film import film_keys
from sd_animation.weights import FILM
from transformers import CLIPTokenizer
from videokit.weights.keys import safety_checker_keys, same_key
from videokit.weights.stable_diffusion import BASE_UNET, SAFETY_CHECKER, SAFETY_CHECKER_CONFIG
from zeroscope.weights import LAMA, MODELS

from demo_weights.pipelines import STYLE_OF
from demo_weights.train import (
    animate_diff,
    autoencoder,
    files,
    film,
    lama,
    safety_checker,
    sd_animation,
    text_encoder,
    textual_inversion,
    zeroscope,
)
from demo_weights.train.posterior import Posterior
from demo_weights.train.teacher import Teacher
from demo_weights.train.unet import alphas_cumprod
from demo_weights.world import STYLES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from diffusers import AutoencoderKL, UNet2DConditionModel, UNetMotionModel
    from transformers import CLIPTextModel

PARTS = ("base", "inversion", "styles", "video", "film", "safety", "lama")  # methods of Recipe
SCHEDULES = ("linear", "scaled_linear")  # of animate-diff; of sd-animation and zeroscope


class Recipe:
    """Trains and writes the parts; what several parts need is trained once."""

    def __init__(self, state: Path, to: Path) -> None:
        """`state` is the folder of finished and interrupted stages; the files go to `to`/MODEL/demo-weights."""
        self.state = state
        names = ("animate-diff", "sd-animation", "zeroscope")
        self.animate_diff, self.sd_animation, self.zeroscope = (to / name / "demo-weights" for name in names)

    def base(self) -> None:
        """VAE, text encoder, UNet and motion modules: animate-diff's first checkpoint, and sd-animation's base."""
        unet, motion_unet = self.flat_unets
        sides = {self.animate_diff: animate_diff.SIDE, self.sd_animation: sd_animation.SIDE}
        for directory, side in sides.items():
            files.write_base(directory, side // 8, self.vae, self.text_encoder)
        larger = sd_animation.train(unet, self.teacher(STYLES[0], sd_animation.SIDE), self.state)
        files.write_network(self.sd_animation / BASE_UNET, larger, same_key)
        files.write_checkpoint(self.animate_diff, CHECKPOINTS[0], unet)
        files.write_motion_module(self.animate_diff, animate_diff.DEFAULT_MODULE, motion_unet)
        for name in animate_diff.OTHER_MODULES:
            other = animate_diff.train_other_module(motion_unet, name, self.teacher(STYLES[0]), self.state)
            files.write_motion_module(self.animate_diff, name, other)

    def inversion(self) -> None:
        """animate-diff's textual inversion."""
        unet, _ = self.flat_unets
        vectors = textual_inversion.train(unet, self.tokenizer, self.text_encoder, self.teacher(STYLES[0]), self.state)
        files.write_textual_inversion(self.animate_diff, textual_inversion.NAME, vectors)

    def styles(self) -> None:
        """animate-diff's other checkpoints."""
        _, motion_unet = self.flat_unets
        for checkpoint in CHECKPOINTS[1:]:
            style = STYLE_OF[checkpoint]
            unet = animate_diff.train_style(style, motion_unet, self.teacher(style), self.state)
            files.write_checkpoint(self.animate_diff, checkpoint, unet)

    def video(self) -> None:
        """zeroscope's models."""
        flat = zeroscope.build()
        zeroscope.train(flat, self.teacher(STYLES[0], zeroscope.SIDE, SCHEDULES[1:]), self.state)
        for name in MODELS:
            teacher = self.teacher(STYLE_OF[name], zeroscope.SIDE, SCHEDULES[1:])
            unet = zeroscope.train_style(STYLE_OF[name], flat, teacher, self.state)
            files.write_zeroscope_model(self.zeroscope, name, unet, self.vae, self.text_encoder)

    def film(self) -> None:
        """sd-animation's frame interpolation."""
        files.write_network(self.sd_animation / FILM, film.train(self.state), film_keys)

    def safety(self) -> None:
        """sd-animation's safety checker."""
        checker = safety_checker.train(self.state)
        files.write_network(self.sd_animation / SAFETY_CHECKER, checker, safety_checker_keys)
        write_config(self.sd_animation / SAFETY_CHECKER_CONFIG, safety_checker.CONFIG)

    def lama(self) -> None:
        """zeroscope's inpainting of watermarks."""
        lama.write(lama.train(self.state), (self.zeroscope / LAMA).with_suffix(".safetensors"))

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        """The tokenizer of all models."""
        write_tokenizer(self.state / "tokenizer")
        return CLIPTokenizer.from_pretrained(self.state / "tokenizer")

    @cached_property
    def vae(self) -> AutoencoderKL:
        """The VAE of all models."""
        return autoencoder.train(self.state)

    @cached_property
    def text_encoder(self) -> CLIPTextModel:
        """The text encoder of all models."""
        return text_encoder.train(self.state, self.tokenizer)

    @cached_property
    def flat_unets(self) -> tuple[UNet2DConditionModel, UNetMotionModel]:
        """animate-diff's base in the flat style, alone and with its first motion module."""
        unet, motion_unet = animate_diff.build(animate_diff.SIDE // 8)
        animate_diff.train(unet, motion_unet, self.teacher(STYLES[0]), self.state)
        return unet, motion_unet

    def teacher(self, style: str, side: int = animate_diff.SIDE, schedules: Sequence[str] = SCHEDULES) -> Teacher:
        """Return the teacher of a style and size under these noise schedules."""
        posterior = Posterior.load_or_encode(self.vae, side, style, self.state / f"posterior-{side}-{style}.pt")
        levels = torch.stack([alphas_cumprod(schedule) for schedule in schedules])
        return Teacher(posterior, levels, self.tokenizer, self.text_encoder)
