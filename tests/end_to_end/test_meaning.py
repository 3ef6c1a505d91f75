"""What the small weights show: clips by the models' own pipelines, read by an oracle that knows the world alone.

The shares asked for here are lower than those that `script/bench demo-weights` measures on many prompts, for these are
few; script/mutations shows that swapped prompts and lost guidance bring them down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from demo_weights.detector import hues, look_at, look_name
from demo_weights.metrics import STILL, drift, monotone_share, prompts, shares
from demo_weights.pipelines import Pipelines

if TYPE_CHECKING:
    from videokit.video.frames import Frame


@pytest.fixture(scope="module")
def pipelines() -> Pipelines:
    return Pipelines()


class TestAnimateDiff:
    ASKED = prompts(8)  # three of them of combinations that were never trained on

    @pytest.fixture(scope="class")
    @classmethod
    def clips(cls, pipelines: Pipelines) -> list[Frame]:
        """A clip of each prompt, with default inputs."""
        return [pipelines.animate_diff(asked.prompt, seed=asked.seed) for asked in cls.ASKED]

    def test_colour_shape_and_direction_are_those_asked_for(self, clips: list[Frame]) -> None:
        found = shares(self.ASKED, map(look_at, clips))
        assert found.colour >= 6 / 8
        assert found.shape >= 5 / 8
        assert found.motion >= 5 / 8

    def test_the_background_is_the_same_in_all_frames(self, clips: list[Frame]) -> None:
        assert shares(self.ASKED, map(look_at, clips)).steady >= 6 / 8

    def test_guidance_is_what_makes_it_so(self, pipelines: Pipelines, clips: list[Frame]) -> None:
        few = self.ASKED[:3]
        guided = shares(few, map(look_at, clips[:3]))
        plain = [pipelines.animate_diff(asked.prompt, seed=asked.seed, guidance_scale=1) for asked in few]
        unguided = shares(few, map(look_at, plain))
        assert guided.mean > unguided.mean

    def test_a_negative_prompt_takes_its_colour_away(self, pipelines: Pipelines) -> None:
        first = pipelines.animate_diff("a circle", seed=1)
        colour = look_at(first).colour
        assert colour is not None
        assert look_at(pipelines.animate_diff("a circle", seed=1, negative_prompt=colour)).colour != colour


class TestSdAnimation:
    @pytest.fixture(scope="class")
    @classmethod
    def walk(cls, pipelines: Pipelines) -> Frame:
        """Four pictures on the way from a red circle to a blue square, and three of FILM's after each."""
        return pipelines.sd_animation(
            "a red circle", "a blue square", seed=1, num_animation_frames=4, num_interpolation_steps=4
        )

    def test_a_walk_begins_and_ends_as_asked(self, walk: Frame) -> None:
        first, last = look_at(walk[:1]), look_at(walk[-1:])
        assert (first.colour, first.shape) == ("red", "circle")
        assert (last.colour, last.shape) == ("blue", "square")

    def test_the_hue_goes_one_way(self, walk: Frame) -> None:
        assert monotone_share(hues(walk)) >= 0.85

    def test_guidance_is_what_makes_it_so(self, pipelines: Pipelines, walk: Frame) -> None:
        quick = {"num_animation_frames": 2, "num_interpolation_steps": 1, "guidance_scale": 1}
        plain = pipelines.sd_animation("a red circle", "a blue square", seed=1, **quick)
        guided, unguided = (
            [(seen.colour, seen.shape) for seen in (look_at(clip[:1]), look_at(clip[-1:]))] for clip in (walk, plain)
        )
        assert guided != unguided


class TestZeroscope:
    ASKED = prompts(2)
    STEPS = 20

    @pytest.fixture(scope="class")
    @classmethod
    def clips(cls, pipelines: Pipelines) -> list[Frame]:
        """A clip of each prompt with the default model, in fewer steps than are usual."""
        return [
            pipelines.zeroscope(asked.prompt, seed=asked.seed, num_inference_steps=cls.STEPS) for asked in cls.ASKED
        ]

    def test_colour_shape_and_direction_are_those_asked_for(self, clips: list[Frame]) -> None:
        found = shares(self.ASKED, map(look_at, clips))
        assert (found.colour, found.shape, found.motion, found.steady) == (1, 1, 1, 1)

    def test_guidance_is_what_makes_it_so(self, pipelines: Pipelines, clips: list[Frame]) -> None:
        plain = [
            pipelines.zeroscope(asked.prompt, seed=asked.seed, num_inference_steps=self.STEPS, guidance_scale=1)
            for asked in self.ASKED
        ]
        guided, unguided = (shares(self.ASKED, map(look_at, some)) for some in (clips, plain))
        assert guided.mean > unguided.mean

    def test_what_is_to_stand_still_does(self, pipelines: Pipelines) -> None:
        clip = pipelines.zeroscope("a red circle standing still", seed=1, num_inference_steps=self.STEPS)
        assert drift(look_at(clip)) < 2 * STILL

    def test_the_models_have_looks_of_their_own(self, pipelines: Pipelines, clips: list[Frame]) -> None:
        asked = self.ASKED[0]
        other = pipelines.zeroscope(asked.prompt, seed=asked.seed, model="potat1", num_inference_steps=self.STEPS)
        assert look_name(other) != look_name(clips[0])
