"""What the demo weights show: clips of the models' own pipelines, read by the detector.

The thresholds are below the figures that `script/bench demo-weights` measures, as the prompts here are few.
script/mutations shows that the tests fail with swapped prompts and without guidance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from demo_weights.detector import detect, detect_style, hues
from demo_weights.metrics import MAX_STILL_DRIFT, accuracy, drift, monotone_share, prompts
from demo_weights.pipelines import Pipelines

if TYPE_CHECKING:
    from videokit.video.frames import Frame


STEPS = 10  # fewer than by default, which are enough for these figures


@pytest.fixture(scope="module")
def pipelines() -> Pipelines:
    return Pipelines()


def animate_diff(pipelines: Pipelines, prompt: str, **inputs: Any) -> Frame:
    return pipelines.animate_diff(prompt, num_inference_steps=STEPS, **inputs)


def zeroscope(pipelines: Pipelines, prompt: str, **inputs: Any) -> Frame:
    return pipelines.zeroscope(prompt, num_inference_steps=STEPS, **inputs)


class TestAnimateDiff:
    PROMPTS = prompts(8)  # three of them held out

    @pytest.fixture(scope="class")
    @classmethod
    def clips(cls, pipelines: Pipelines) -> list[Frame]:
        """A clip of each prompt."""
        return [animate_diff(pipelines, prompt.text, seed=prompt.seed) for prompt in cls.PROMPTS]

    def test_clips_have_the_colour_shape_and_direction_of_the_prompt(self, clips: list[Frame]) -> None:
        measured = accuracy(self.PROMPTS, map(detect, clips))
        assert measured.colour >= 6 / 8
        assert measured.shape >= 5 / 8
        assert measured.motion >= 5 / 8

    def test_the_background_is_the_same_in_all_frames(self, clips: list[Frame]) -> None:
        assert accuracy(self.PROMPTS, map(detect, clips)).steady >= 6 / 8

    def test_without_guidance_clips_follow_the_prompt_less(self, pipelines: Pipelines, clips: list[Frame]) -> None:
        few = self.PROMPTS[:3]
        without = [animate_diff(pipelines, prompt.text, seed=prompt.seed, guidance_scale=1) for prompt in few]
        assert accuracy(few, map(detect, clips[:3])).mean > accuracy(few, map(detect, without)).mean

    def test_a_negative_prompt_removes_its_colour(self, pipelines: Pipelines) -> None:
        first = animate_diff(pipelines, "a circle", seed=1)
        colour = detect(first).colour
        assert colour is not None
        assert detect(animate_diff(pipelines, "a circle", seed=1, negative_prompt=colour)).colour != colour

    def test_the_textual_inversion_draws_a_red_circle(self, pipelines: Pipelines) -> None:
        shown = [detect(animate_diff(pipelines, "a red_circle", seed=seed)) for seed in (1, 2)]
        assert [(each.colour, each.shape) for each in shown] == [("red", "circle")] * 2

    def test_the_textual_inversion_as_negative_prompt_removes_red_circles(self, pipelines: Pipelines) -> None:
        def red_circles(**inputs: str) -> int:
            clips = [animate_diff(pipelines, "a red", seed=seed, **inputs) for seed in (1, 2, 3)]
            return [(each.colour, each.shape) for each in map(detect, clips)].count(("red", "circle"))

        assert red_circles() >= 2
        assert red_circles(negative_prompt="red_circle") <= 1


class TestSdAnimation:
    @pytest.fixture(scope="class")
    @classmethod
    def walk(cls, pipelines: Pipelines) -> Frame:
        """Four frames from a red circle to a blue square, each followed by three of FILM's."""
        return pipelines.sd_animation(
            "a red circle", "a blue square", seed=1, num_animation_frames=4, num_interpolation_steps=4
        )

    def test_a_walk_starts_and_ends_with_its_prompts(self, walk: Frame) -> None:
        first, last = detect(walk[:1]), detect(walk[-1:])
        assert (first.colour, first.shape) == ("red", "circle")
        assert (last.colour, last.shape) == ("blue", "square")

    def test_the_hue_changes_in_one_direction(self, walk: Frame) -> None:
        assert monotone_share(hues(walk)) >= 0.85

    def test_without_guidance_clips_follow_the_prompt_less(self, pipelines: Pipelines, walk: Frame) -> None:
        quick = {"num_animation_frames": 2, "num_interpolation_steps": 1, "guidance_scale": 1}
        without = pipelines.sd_animation("a red circle", "a blue square", seed=1, **quick)
        ends = [[detect(frames) for frames in (clip[:1], clip[-1:])] for clip in (walk, without)]
        guided, unguided = ([(end.colour, end.shape) for end in pair] for pair in ends)
        assert guided != unguided


class TestZeroscope:
    PROMPTS = prompts(2)

    @pytest.fixture(scope="class")
    @classmethod
    def clips(cls, pipelines: Pipelines) -> list[Frame]:
        """A clip of each prompt with the default model."""
        return [zeroscope(pipelines, prompt.text, seed=prompt.seed) for prompt in cls.PROMPTS]

    def test_clips_have_the_colour_shape_and_direction_of_the_prompt(self, clips: list[Frame]) -> None:
        measured = accuracy(self.PROMPTS, map(detect, clips))
        assert (measured.colour, measured.shape, measured.motion, measured.steady) == (1, 1, 1, 1)

    def test_without_guidance_clips_follow_the_prompt_less(self, pipelines: Pipelines, clips: list[Frame]) -> None:
        without = [zeroscope(pipelines, prompt.text, seed=prompt.seed, guidance_scale=1) for prompt in self.PROMPTS]
        guided, unguided = (accuracy(self.PROMPTS, map(detect, some)) for some in (clips, without))
        assert guided.mean > unguided.mean

    def test_a_still_shape_does_not_drift(self, pipelines: Pipelines) -> None:
        clip = zeroscope(pipelines, "a red circle standing still", seed=1, num_frames=8)
        assert drift(detect(clip)) < 2 * MAX_STILL_DRIFT

    def test_models_have_their_own_styles(self, pipelines: Pipelines, clips: list[Frame]) -> None:
        prompt = self.PROMPTS[0]
        other = zeroscope(pipelines, prompt.text, seed=prompt.seed, model="potat1", num_frames=8)
        assert detect_style(other) != detect_style(clips[0])
