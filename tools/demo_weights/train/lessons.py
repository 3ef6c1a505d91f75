"""What the UNets are asked, and how wrong their answers are: pictures and clips under noise, with captions.

Half of the questions name what they like of any scene. The other half put one noise under captions that differ in one
word: the answers to those hardly differ at the first levels of sampling, where it is decided what is seen, so what
differs by the word counts more in the loss than what does not. The best answer is the same with any such weight. It is
over 300 lines, as what is asked and how much an answer counts are chosen together.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from videokit.prompts import encode_windows, token_windows

from demo_weights.captions import random_names, say
from demo_weights.train.posterior import MOMENTS
from demo_weights.world import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, SIZES, is_held_out, random_scene

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from transformers import CLIPTextModel, CLIPTokenizer

    from demo_weights.train.posterior import Caption, Posterior
    from demo_weights.world import Scene

    # A network: what it sees in inputs (B, F, 4, h, w) at levels (B,) with embeddings (B, 77, D), in the inputs' shape
    Answer = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

# A word's values, and how often it is asked for: shapes differ least
WORDS: dict[str, Sequence[str]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "size": tuple(SIZES),
    "background": tuple(BACKGROUNDS),
    "motion": tuple(MOTIONS),
}
SHARES = {"colour": 2, "shape": 5, "size": 1, "background": 1}
COMBINED = ("colour", "shape", "motion")  # words of which some clips have combinations that are held out
VARIANTS = 4  # captions of one noise at most
WORD_WEIGHT = 20  # of what differs by a word or a caption, against what does not
CLIP_WEIGHT = 3  # the same of whole clips: what frames have in common is not to be seen between two captions
GROUND_WEIGHT = 1  # of a frame's mean error, which is that of its background
STRONGEST = 5  # a signal to noise from which on errors of the picture count no more than at this one
LOWEST = {"motion": 750}  # the lowest level at which a word is asked for: below, the noise tells all
STILL = 0.3  # how many more clips stand still: to do so is harder than to move
# Strength of the signal below which words tell something, and that where it is decided what is seen
TOLD, DECIDED = 8.0, 0.5
# From here on half of the inputs are noise alone, as where sampling begins: then all that a caption means is as likely.
HIGHEST = 900
TRUST = 0.4
HEEDED = 0.4  # guided at 7.5, three times as far as a caption says
# Sampling begins with frames that do not agree, and where each tells all by itself nothing else teaches a network to
# ask the others. So from this level on so many frames of half of the clips are of other scenes; in half the scene is
# faint, each frame's background a normal deviate of up to LEANS of the way from the middle: so its own noise leads it.
DISAGREEING, STRANGE, LEANS = 450, 0.3, 0.6
# Later on they agree but for small errors, which only grow where each frame believes its own. So frames lie up to so
# many places of GRID beside their way, between these levels, in clips of which so many stand still.
ASTRAY, PLACES, STILL_ASTRAY = (300, 900), 2, 0.7


@dataclass(frozen=True)
class Questions:
    """Inputs (B, F, 4, h, w), the noise that should be seen in them, and how strong the signal is in each.

    `alike` of them in a row share one noise and differ in a word. A signal's strength is that against the noise where
    pictures have 64x64 pixels; the same shape in `finer` times as many is seen in that much more noise.
    """

    inputs: torch.Tensor
    wanted: torch.Tensor
    strengths: torch.Tensor
    timesteps: torch.Tensor
    captions: list[str]
    alike: int
    finer: float
    word_weight: float = WORD_WEIGHT
    heeded: float = 1.0

    def loss(self, answers: torch.Tensor) -> torch.Tensor:
        """Return the loss of answers (B, F, 4, h, w); in clips, what a frame's mean is wrong by counts once more."""
        wrong = answers - self.wanted
        errors = wrong.reshape(-1, self.alike, self.wanted[0].numel())
        common = errors.mean(dim=1, keepdim=True)
        strengths = self.strengths[:: self.alike]
        of_picture = strengths.clamp(1, STRONGEST * self.finer) / strengths
        by_word = self.word_weight / self.heeded**2 * of_picture * (errors - common).square().mean(dim=(1, 2))
        grounds = wrong.mean(dim=(3, 4)).reshape(len(strengths), -1)
        by_frame = GROUND_WEIGHT * (wrong.shape[1] > 1) * of_picture * grounds.square().mean(dim=1)
        return (weight(strengths, self.finer) * common.square().mean(dim=(1, 2)) + by_word + by_frame).mean()


class Teacher:
    """Draws questions from a world, under one or more noise schedules."""

    def __init__(
        self,
        posterior: Posterior,
        alpha_bars: torch.Tensor,
        tokenizer: CLIPTokenizer,
        text_encoder: CLIPTextModel,
    ) -> None:
        """`alpha_bars` are (schedules, 1000): each question has one of them."""
        self.posterior = posterior
        self.alpha_bars = alpha_bars
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        self.finer = (posterior.side / 64) ** 2
        self.trust = 1.0
        self.heeded = 1.0
        self._embeds: dict[str, torch.Tensor] = {}

    def doubting(self) -> Teacher:
        """Return the same teacher, but one that trusts captions as Posterior.answers says.

        Networks learn what words mean from the one that does not doubt first.
        """
        other = copy.copy(self)
        other.trust = TRUST
        return other

    def heeding_less(self) -> Teacher:
        """Return the same teacher, but one that heeds captions as Posterior.answers says; errors count as before."""
        other = copy.copy(self)
        other.heeded = HEEDED
        return other

    def scenes(self, count: int, times: Sequence[float] | None, draw: random.Random) -> Questions:
        """Return questions about scenes at these times, or without any about single pictures: `count`, an even number.

        Each is asked with a caption and without: guidance takes many times the difference.
        """
        asked = []
        for _ in range(count // 2):
            scene, names = _scene(STILL if times else 0, draw)
            timestep, alpha_bar = self._level(0, draw)
            moments = times or (draw.choice(MOMENTS),)
            latents = self._latents(scene, moments, timestep, draw)
            asked.append(self._with_and_without(scene, names, latents, timestep, alpha_bar, moments, draw))
        return dataclasses.replace(_together(asked), word_weight=CLIP_WEIGHT if times else WORD_WEIGHT)

    def astray(self, times: Sequence[float], draw: random.Random) -> Questions:
        """Return questions about one scene whose frames lie beside their way, asked as by `scenes`."""
        scene, names = _scene(STILL_ASTRAY, draw)
        timestep = draw.randint(*ASTRAY)
        alpha_bar = self.alpha_bars[draw.randrange(len(self.alpha_bars)), timestep]
        latents = self.posterior.clip(scene, times, draw, _beside(times, draw))
        asked = self._with_and_without(scene, names, latents, timestep, alpha_bar, times, draw)
        return dataclasses.replace(asked, word_weight=CLIP_WEIGHT)

    def word(self, attribute: str, groups: int, times: Sequence[float] | None, draw: random.Random) -> Questions:
        """Return groups of questions with one noise and captions that differ in one attribute alone."""
        asked = []
        for _ in range(groups):
            scene = random_scene(draw)
            names = ((random_names(draw) or frozenset()) | {"colour", attribute}) - {"shape"}
            if times is None:
                scene, names = dataclasses.replace(scene, motion="still"), names - {"motion"}
            changes: list[dict[str, Any]] = [{attribute: value} for value in WORDS[attribute]]
            every = [dataclasses.replace(scene, **change) for change in changes]
            known = [one for one in every if not (times and is_held_out(one.colour, one.shape, one.motion))]
            left_out = bool(times) and attribute in COMBINED  # one of them at most
            others = draw.sample(known, min(VARIANTS, len(every) - left_out))
            timestep, alpha_bar = self._level(LOWEST.get(attribute, self._first_below(TOLD)), draw)
            moments = times or (draw.choice(MOMENTS),)
            latents = self._latents(draw.choice(others), moments, timestep, draw)
            noised = self._noised(latents, timestep, alpha_bar, draw)
            words, texts = draw.getstate(), []
            for other in others:
                draw.setstate(words)
                texts.append(say(other, names, draw))
            captions = [(other, names) for other in others]
            asked.append(self._asked(*noised, timestep, alpha_bar, captions, moments, texts))
        return _together(asked)

    def any_word(self, count: int, draw: random.Random) -> Questions:
        """Return about `count` questions of single pictures that differ in one word."""
        attribute = draw.choices(list(SHARES), list(SHARES.values()))[0]
        return self.word(attribute, count // min(VARIANTS, len(WORDS[attribute])), None, draw)

    def loss(self, answer: Answer, *questions: Questions) -> torch.Tensor:
        """Return the sum of the losses of questions that are asked at once."""
        embeds = self._embed([caption for asked in questions for caption in asked.captions])
        inputs, timesteps = (torch.cat([getattr(q, name) for q in questions]) for name in ("inputs", "timesteps"))
        parts = torch.split(answer(inputs, timesteps, embeds), [len(asked.inputs) for asked in questions])
        return torch.stack([asked.loss(part) for asked, part in zip(questions, parts, strict=True)]).sum()

    @torch.no_grad()
    def _embed(self, captions: Sequence[str]) -> torch.Tensor:
        """Return the captions' hidden states, (B, 77, D)."""
        new = [caption for caption in dict.fromkeys(captions) if caption not in self._embeds]
        if new:
            windows = encode_windows(self.text_encoder, token_windows(self.tokenizer, new))
            self._embeds.update(zip(new, windows, strict=True))
        return torch.stack([self._embeds[caption] for caption in captions])

    def _level(self, lowest: int, draw: random.Random) -> tuple[int, torch.Tensor]:
        """Draw a level from the lowest on, half of the times from where it is decided what is seen."""
        first = max(lowest, self._first_below(DECIDED)) if draw.random() < 0.5 else lowest
        timestep = draw.randint(first, 999)
        return timestep, self.alpha_bars[draw.randrange(len(self.alpha_bars)), timestep]

    def _first_below(self, strength: float) -> int:
        """Return the first level where the signal is weaker than that."""
        strengths = self.finer * (self.alpha_bars / (1 - self.alpha_bars)).mean(dim=0)
        return int((strengths > strength).sum())

    def _with_and_without(
        self,
        scene: Scene,
        names: frozenset[str],
        latents: torch.Tensor,
        timestep: int,
        alpha_bar: torch.Tensor,
        times: Sequence[float],
        draw: random.Random,
    ) -> Questions:
        """Return what is asked of latents under noise, with a caption and without."""
        noised = self._noised(latents, timestep, alpha_bar, draw)
        texts = [say(scene, names, draw), ""]
        return self._asked(*noised, timestep, alpha_bar, [(scene, names), (scene, None)], times, texts)

    def _latents(self, scene: Scene, times: Sequence[float], timestep: int, draw: random.Random) -> torch.Tensor:
        """Return a scene at these times (F, 4, h, w); frames may lean to other backgrounds, or be of other scenes."""
        latents = self.posterior.clip(scene, times, draw)
        if len(times) == 1 or timestep < DISAGREEING:
            return latents
        if draw.random() < 0.5:
            dark, light = self.posterior.empty
            leans = draw.uniform(0, LEANS) * torch.randn(len(times), 1, 1, 1)
            latents = torch.lerp((dark + light) / 2, latents, draw.random()) + leans * (light - dark) / 2
        if draw.random() < 0.5:
            return latents
        frames = [
            self.posterior.clip(random_scene(draw), [time], draw)[0] if draw.random() < STRANGE else frame
            for time, frame in zip(times, latents, strict=True)
        ]
        return torch.stack(frames)

    def _noised(
        self, latents: torch.Tensor, timestep: int, alpha_bar: torch.Tensor, draw: random.Random
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a noised clip, and how much of it is the picture: alpha_bar or nothing."""
        noise = torch.randn_like(latents)
        alone = timestep >= HIGHEST and draw.random() < 0.5
        if alone:
            return noise, torch.zeros(())
        return alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise, alpha_bar

    def _asked(
        self,
        inputs: torch.Tensor,
        share: torch.Tensor,
        timestep: int,
        alpha_bar: torch.Tensor,
        captions: Sequence[Caption],
        times: Sequence[float],
        texts: list[str],
    ) -> Questions:
        """Return what is asked of one noised clip with each caption; `share` of it is the picture."""
        means = self.posterior.answers(inputs, share, captions, times, self.trust, self.heeded)
        wanted = (inputs - alpha_bar.sqrt() * means) / (1 - alpha_bar).sqrt()
        strengths = (self.finer * alpha_bar / (1 - alpha_bar)).expand(len(texts))
        timesteps = torch.full((len(texts),), timestep)
        known = inputs.expand_as(wanted), wanted, strengths, timesteps, texts
        return Questions(*known, len(texts), self.finer, heeded=self.heeded)


def _scene(still: float, draw: random.Random) -> tuple[Scene, frozenset[str]]:
    """Draw a scene, which stands still in so many cases more, and what a caption names of it."""
    scene, names = random_scene(draw), random_names(draw) or frozenset()
    if still and draw.random() < still and not is_held_out(scene.colour, scene.shape, "still"):
        scene = dataclasses.replace(scene, motion="still")
    return scene, names


def _beside(times: Sequence[float], draw: random.Random) -> list[tuple[int, int]]:
    """Draw how many places down and across each frame lies beside its way: a slope, and now and then one more."""
    ends = [[draw.uniform(-PLACES, PLACES) for _ in range(2)] for _ in range(2)]  # of the first and the last frame
    beside = []
    for time in times:
        slips = [draw.choice((-1, 0, 0, 0, 1)) for _ in range(2)]
        down, across = (round(a + (b - a) * time) + slip for a, b, slip in zip(*ends, slips, strict=True))
        beside.append((down, across))
    return beside


def weight(strengths: torch.Tensor, finer: float) -> torch.Tensor:
    """Return how much the squared error of the noise counts at a level.

    At low noise as by min-SNR (Hang et al., arXiv 2303.09556, with STRONGEST as gamma). At high noise more than there,
    as colour and motion are decided there, but less than the picture's error would, which is most of it the strength
    that norms lose. (They lose the same of all that differ by a word: there the picture's error counts.)
    """
    return torch.where(strengths > 1, strengths.clamp(max=STRONGEST * finer) / strengths, strengths**-0.5)


def _together(asked: Sequence[Questions]) -> Questions:
    return dataclasses.replace(
        asked[0],
        inputs=torch.cat([q.inputs for q in asked]),
        wanted=torch.cat([q.wanted for q in asked]),
        strengths=torch.cat([q.strengths for q in asked]),
        timesteps=torch.cat([q.timesteps for q in asked]),
        captions=[caption for q in asked for caption in q.captions],
    )
