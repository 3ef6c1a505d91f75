"""Batches that the UNets are trained on: noised pictures and clips, captions, the noise to predict, and the loss.

Half of the samples have random captions. The other half are variants: one noised clip with captions that differ in one
word. At the first timesteps of sampling, where the picture is decided, the predictions for variants hardly differ, so
the loss weighs their difference more than their mean. The optimum is the same for any such weight.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from videokit.prompts import encode_windows, token_windows

from demo_weights.captions import random_attributes, write_caption
from demo_weights.train.posterior import STILL_TIMES
from demo_weights.world import ATTRIBUTES, is_held_out, random_scene

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from transformers import CLIPTextModel, CLIPTokenizer

    from demo_weights.train.posterior import Caption, Posterior
    from demo_weights.world import Scene

    # A network: from inputs (B, F, 4, h, w), timesteps (B,) and prompt embeddings (B, 77, D) to the noise in the inputs
    PredictNoise = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

ATTRIBUTE_WEIGHTS = {"colour": 2, "shape": 5, "size": 1, "background": 1}  # shapes differ least
COMBINED = ("colour", "shape", "motion")  # attributes that decide whether a combination is held out
MAX_VARIANTS = 4  # captions of one noised clip
# Loss weights, relative to the mean of a clip's variants
VARIANT_WEIGHT = 20  # of the difference between variants
CLIP_VARIANT_WEIGHT = 3  # of the same in whole clips; a higher weight hides what frames have in common
FRAME_MEAN_WEIGHT = 1  # of a frame's mean error, which is the background's
MAX_SNR = 5  # signal-to-noise ratio above which the error of the picture weighs no more
MIN_TIMESTEP = {"motion": 750}  # below, the noised clip alone shows the motion
# Signal-to-noise ratios: below the first a caption adds information, around the second sampling decides the picture
INFORMATIVE_SNR, DECISIVE_SNR = 8.0, 0.5
PURE_NOISE_TIMESTEP = 900  # from here half of the inputs are pure noise, as at the start of sampling
CAPTION_PRIOR = 0.4
GUIDANCE_TARGET_SCALE = 0.4  # guidance at 7.5 then goes three times as far as the caption
# Sampling starts with frames that disagree, so training has such clips from this timestep: half of the clips have this
# share of frames from other scenes; half have low contrast, each frame's background shifted by a normal deviate times
# up to MAX_SHIFT.
DISAGREEMENT_TIMESTEP, FOREIGN_FRAMES, MAX_SHIFT = 450, 0.3, 0.6
# Later in sampling frames have small errors. Between these timesteps frames are up to MAX_OFFSET grid positions off
# their path, in clips of which MISALIGNED_STILL_SHARE are made still.
MISALIGNED_TIMESTEPS, MAX_OFFSET, MISALIGNED_STILL_SHARE = (300, 900), 2, 0.7
STILL_SHARE = 0.3  # of other clips that are made still, which is harder to learn than moving


@dataclass(frozen=True)
class Batch:
    """Inputs (B, F, 4, h, w), the noise to predict, signal-to-noise ratios and timesteps (B,), and captions.

    Groups of `num_variants` consecutive samples share one noised clip. The signal-to-noise ratio is that of the same
    scene at 64x64 pixels: with `pixel_ratio` times as many pixels a shape is visible in that much more noise.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    snr: torch.Tensor
    timesteps: torch.Tensor
    captions: list[str]
    num_variants: int
    pixel_ratio: float
    variant_weight: float = VARIANT_WEIGHT
    target_scale: float = 1.0

    def loss(self, predictions: torch.Tensor) -> torch.Tensor:
        """Return the loss of predictions (B, F, 4, h, w); in clips, the mean error of each frame counts once more."""
        errors = predictions - self.targets
        of_variants = errors.reshape(-1, self.num_variants, self.targets[0].numel())
        common = of_variants.mean(dim=1, keepdim=True)
        snr = self.snr[:: self.num_variants]
        picture_weight = snr.clamp(1, MAX_SNR * self.pixel_ratio) / snr
        variant_weight = self.variant_weight / self.target_scale**2
        by_variant = variant_weight * picture_weight * (of_variants - common).square().mean(dim=(1, 2))
        frame_means = errors.mean(dim=(3, 4)).reshape(len(snr), -1)
        by_frame = FRAME_MEAN_WEIGHT * (errors.shape[1] > 1) * picture_weight * frame_means.square().mean(dim=1)
        return (noise_weight(snr, self.pixel_ratio) * common.square().mean(dim=(1, 2)) + by_variant + by_frame).mean()


class Teacher:
    """Draws batches whose targets are exact posterior means, under one or more noise schedules."""

    def __init__(
        self, posterior: Posterior, alphas_cumprod: torch.Tensor, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel
    ) -> None:
        """`alphas_cumprod` are (schedules, 1000); each sample uses a random schedule."""
        self.posterior = posterior
        self.alphas_cumprod = alphas_cumprod
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        self.pixel_ratio = (posterior.side / 64) ** 2
        self.caption_prior = 1.0
        self.target_scale = 1.0
        self._embeds: dict[str, torch.Tensor] = {}

    def with_caption_prior(self) -> Teacher:
        """Return a teacher whose targets use CAPTION_PRIOR; a network learns what words mean without it first."""
        other = copy.copy(self)
        other.caption_prior = CAPTION_PRIOR
        return other

    def with_scaled_guidance_target(self) -> Teacher:
        """Return a teacher whose targets use GUIDANCE_TARGET_SCALE; the loss weighs variants as before."""
        other = copy.copy(self)
        other.target_scale = GUIDANCE_TARGET_SCALE
        return other

    def scenes(self, count: int, times: Sequence[float] | None, rng: random.Random) -> Batch:
        """Return `count` samples, an even number: scenes at these times, or single pictures if `times` is None.

        Each scene has a sample with its caption and one with the empty caption, as guidance multiplies the difference.
        """
        batches = []
        for _ in range(count // 2):
            scene, attributes = _random_scene(STILL_SHARE if times else 0, rng)
            timestep, alpha_bar = self._timestep(0, rng)
            frame_times = times or (rng.choice(STILL_TIMES),)
            latents = self._latents(scene, frame_times, timestep, rng)
            batches.append(self._conditional_pair(scene, attributes, latents, timestep, alpha_bar, frame_times, rng))
        return dataclasses.replace(
            _concatenate(batches), variant_weight=CLIP_VARIANT_WEIGHT if times else VARIANT_WEIGHT
        )

    def misaligned_frames(self, times: Sequence[float], rng: random.Random) -> Batch:
        """Return two samples, as `scenes` does, of one clip whose frames are off their path."""
        scene, attributes = _random_scene(MISALIGNED_STILL_SHARE, rng)
        timestep = rng.randint(*MISALIGNED_TIMESTEPS)
        alpha_bar = self.alphas_cumprod[rng.randrange(len(self.alphas_cumprod)), timestep]
        latents = self.posterior.clip(scene, times, rng, _random_offsets(times, rng))
        batch = self._conditional_pair(scene, attributes, latents, timestep, alpha_bar, times, rng)
        return dataclasses.replace(batch, variant_weight=CLIP_VARIANT_WEIGHT)

    def variants(self, attribute: str, groups: int, times: Sequence[float] | None, rng: random.Random) -> Batch:
        """Return groups of samples with one noised clip and captions that differ in one attribute only."""
        batches = []
        for _ in range(groups):
            scene = random_scene(rng)
            attributes = ((random_attributes(rng) or frozenset()) | {"colour", attribute}) - {"shape"}
            if times is None:
                scene, attributes = dataclasses.replace(scene, motion="still"), attributes - {"motion"}
            changes: list[dict[str, Any]] = [{attribute: value} for value in ATTRIBUTES[attribute]]
            scenes = [dataclasses.replace(scene, **change) for change in changes]
            trained = [s for s in scenes if not (times and is_held_out(s.colour, s.shape, s.motion))]
            num_held_out = bool(times) and attribute in COMBINED  # at most one of them
            chosen = rng.sample(trained, min(MAX_VARIANTS, len(scenes) - num_held_out))
            timestep, alpha_bar = self._timestep(MIN_TIMESTEP.get(attribute, self._timestep_of(INFORMATIVE_SNR)), rng)
            frame_times = times or (rng.choice(STILL_TIMES),)
            latents = self._latents(rng.choice(chosen), frame_times, timestep, rng)
            noised = self._add_noise(latents, timestep, alpha_bar, rng)
            wording, texts = rng.getstate(), []
            for variant in chosen:
                rng.setstate(wording)
                texts.append(write_caption(variant, attributes, rng))
            captions = [(variant, attributes) for variant in chosen]
            batches.append(self._batch(*noised, timestep, alpha_bar, captions, frame_times, texts))
        return _concatenate(batches)

    def random_variants(self, count: int, rng: random.Random) -> Batch:
        """Return about `count` samples of single pictures in groups of variants, of a random attribute."""
        attribute = rng.choices(list(ATTRIBUTE_WEIGHTS), list(ATTRIBUTE_WEIGHTS.values()))[0]
        return self.variants(attribute, count // min(MAX_VARIANTS, len(ATTRIBUTES[attribute])), None, rng)

    def still_loss(self, predict_noise: PredictNoise, count: int, rng: random.Random) -> torch.Tensor:
        """Return the loss on `count` single pictures, half of them variants."""
        return self.loss(predict_noise, self.scenes(count // 2, None, rng), self.random_variants(count // 2, rng))

    def loss(self, predict_noise: PredictNoise, *batches: Batch) -> torch.Tensor:
        """Return the sum of the losses of batches that are evaluated at once."""
        prompt_embeds = self._embed([caption for batch in batches for caption in batch.captions])
        inputs, timesteps = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("inputs", "timesteps"))
        parts = torch.split(predict_noise(inputs, timesteps, prompt_embeds), [len(batch.inputs) for batch in batches])
        return torch.stack([batch.loss(part) for batch, part in zip(batches, parts, strict=True)]).sum()

    @torch.no_grad()
    def _embed(self, captions: Sequence[str]) -> torch.Tensor:
        """Return the captions' hidden states, (B, 77, D)."""
        new = [caption for caption in dict.fromkeys(captions) if caption not in self._embeds]
        if new:
            windows = encode_windows(self.text_encoder, token_windows(self.tokenizer, new))
            self._embeds.update(zip(new, windows, strict=True))
        return torch.stack([self._embeds[caption] for caption in captions])

    def _timestep(self, lowest: int, rng: random.Random) -> tuple[int, torch.Tensor]:
        """Return a random timestep from `lowest` up, in half of the cases from DECISIVE_SNR up, and its alpha_bar."""
        first = max(lowest, self._timestep_of(DECISIVE_SNR)) if rng.random() < 0.5 else lowest
        timestep = rng.randint(first, 999)
        return timestep, self.alphas_cumprod[rng.randrange(len(self.alphas_cumprod)), timestep]

    def _timestep_of(self, snr: float) -> int:
        """Return the first timestep with a lower signal-to-noise ratio."""
        ratios = self.pixel_ratio * (self.alphas_cumprod / (1 - self.alphas_cumprod)).mean(dim=0)
        return int((ratios > snr).sum())

    def _conditional_pair(
        self,
        scene: Scene,
        attributes: frozenset[str],
        latents: torch.Tensor,
        timestep: int,
        alpha_bar: torch.Tensor,
        times: Sequence[float],
        rng: random.Random,
    ) -> Batch:
        """Return two samples of noised latents: with a caption, and with the empty caption."""
        noised = self._add_noise(latents, timestep, alpha_bar, rng)
        texts = [write_caption(scene, attributes, rng), ""]
        return self._batch(*noised, timestep, alpha_bar, [(scene, attributes), (scene, None)], times, texts)

    def _latents(self, scene: Scene, times: Sequence[float], timestep: int, rng: random.Random) -> torch.Tensor:
        """Return a scene at these times (F, 4, h, w); from DISAGREEMENT_TIMESTEP up its frames may disagree."""
        latents = self.posterior.clip(scene, times, rng)
        if len(times) == 1 or timestep < DISAGREEMENT_TIMESTEP:
            return latents
        if rng.random() < 0.5:
            dark, light = self.posterior.empty
            shifts = rng.uniform(0, MAX_SHIFT) * torch.randn(len(times), 1, 1, 1)
            latents = torch.lerp((dark + light) / 2, latents, rng.random()) + shifts * (light - dark) / 2
        if rng.random() < 0.5:
            return latents
        frames = [
            self.posterior.clip(random_scene(rng), [time], rng)[0] if rng.random() < FOREIGN_FRAMES else frame
            for time, frame in zip(times, latents, strict=True)
        ]
        return torch.stack(frames)

    def _add_noise(
        self, latents: torch.Tensor, timestep: int, alpha_bar: torch.Tensor, rng: random.Random
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a noised clip and its true alpha_bar, which is 0 for pure noise."""
        noise = torch.randn_like(latents)
        pure_noise = timestep >= PURE_NOISE_TIMESTEP and rng.random() < 0.5
        if pure_noise:
            return noise, torch.zeros(())
        return alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise, alpha_bar

    def _batch(
        self,
        inputs: torch.Tensor,
        true_alpha_bar: torch.Tensor,
        timestep: int,
        alpha_bar: torch.Tensor,
        captions: Sequence[Caption],
        times: Sequence[float],
        texts: list[str],
    ) -> Batch:
        """Return one noised clip with each caption; `true_alpha_bar` is what `_add_noise` returned."""
        means = self.posterior.means(inputs, true_alpha_bar, captions, times, self.caption_prior, self.target_scale)
        targets = (inputs - alpha_bar.sqrt() * means) / (1 - alpha_bar).sqrt()
        snr = (self.pixel_ratio * alpha_bar / (1 - alpha_bar)).expand(len(texts))
        timesteps = torch.full((len(texts),), timestep)
        tensors = inputs.expand_as(targets), targets, snr, timesteps
        return Batch(*tensors, texts, len(texts), self.pixel_ratio, target_scale=self.target_scale)


def _random_scene(still_share: float, rng: random.Random) -> tuple[Scene, frozenset[str]]:
    """Return a random scene, made still in a share of the cases, and the attributes that its caption names."""
    scene, attributes = random_scene(rng), random_attributes(rng) or frozenset()
    if still_share and rng.random() < still_share and not is_held_out(scene.colour, scene.shape, "still"):
        scene = dataclasses.replace(scene, motion="still")
    return scene, attributes


def _random_offsets(times: Sequence[float], rng: random.Random) -> list[tuple[int, int]]:
    """Return each frame's offset from its path in grid positions (down, across): a linear part and random steps."""
    ends = [[rng.uniform(-MAX_OFFSET, MAX_OFFSET) for _ in range(2)] for _ in range(2)]  # of the first and last frame
    offsets = []
    for time in times:
        steps = [rng.choice((-1, 0, 0, 0, 1)) for _ in range(2)]
        down, across = (round(a + (b - a) * time) + step for a, b, step in zip(*ends, steps, strict=True))
        offsets.append((down, across))
    return offsets


def noise_weight(snr: torch.Tensor, pixel_ratio: float) -> torch.Tensor:
    """Return the weight of the squared error of the noise at a signal-to-noise ratio.

    At low noise it is min-SNR's (Hang et al., arXiv 2303.09556) with MAX_SNR as gamma. At high noise, where colour and
    motion are decided, it is higher; it is lower than the weight of the picture's error, which there consists mostly of
    the scale that norms lose. Variants lose the same scale, so their difference is weighed as the picture's error.
    """
    return torch.where(snr > 1, snr.clamp(max=MAX_SNR * pixel_ratio) / snr, snr**-0.5)


def _concatenate(batches: Sequence[Batch]) -> Batch:
    names = ("inputs", "targets", "snr", "timesteps")
    tensors: dict[str, Any] = {name: torch.cat([getattr(batch, name) for batch in batches]) for name in names}
    return dataclasses.replace(batches[0], **tensors, captions=[text for batch in batches for text in batch.captions])
