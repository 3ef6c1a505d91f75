"""The world as it is drawn and as the detector reads it, each checked by the other and by geometry."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from demo_weights.captions import plain_caption, random_caption
from demo_weights.detector import detect, detect_style, hues
from demo_weights.world import COLOURS, MOTIONS, SHAPES, STYLES, TRAVEL, Scene, draw_clip, is_held_out, random_scene
from videokit.video.frames import frames_from_tensor


def scenes(count: int) -> list[Scene]:
    rng = random.Random(5)
    return [random_scene(rng, held_out=index % 4 == 0) for index in range(count)]


@pytest.mark.parametrize("side", [64, 128])
@pytest.mark.parametrize("style", STYLES)
def test_the_detector_finds_colour_shape_and_motion_as_drawn(style: str, side: int) -> None:
    for scene in scenes(40):
        detection = detect(frames_from_tensor(draw_clip(scene, 4, side, style)))
        assert (detection.colour, detection.shape, detection.motion) == (scene.colour, scene.shape, scene.motion)


@pytest.mark.parametrize("side", [128, 256])
@pytest.mark.parametrize("style", STYLES)
def test_the_detector_finds_the_style(style: str, side: int) -> None:
    wrong = [
        scene for scene in scenes(40) if detect_style(frames_from_tensor(draw_clip(scene, 2, side, style))) != style
    ]
    assert not wrong


def test_hues_are_unwrapped_across_red() -> None:
    # HSV hues: yellow is 1/6 of a turn, red 0, purple (128, 0, 255) three quarters
    frames = np.full((3, 64, 64, 3), 60, np.uint8)
    for frame, colour in zip(frames, [(255, 255, 0), (255, 0, 0), (128, 0, 255)], strict=True):
        frame[20:40, 20:40] = colour
    assert hues(frames) == pytest.approx([1 / 6, 0, -0.25], abs=0.01)


def test_a_shape_travels_by_a_quarter_of_the_side() -> None:
    for scene in scenes(20):
        detection = detect(frames_from_tensor(draw_clip(scene, 16, 128)))
        dx, dy = MOTIONS[scene.motion]
        assert detection.drift == pytest.approx((dx * TRAVEL * 128, dy * TRAVEL * 128), abs=1)


def test_all_shapes_of_a_size_have_the_same_area() -> None:
    for size, radius in (("small", 0.17), ("large", 0.24)):
        for shape in SHAPES:
            scene = Scene("white", shape, "still", size, "dark", (0.5, 0.5), (0.5, 0.5))
            covered = (draw_clip(scene, 1, 256)[0, 0] + 1 - 60 / 127.5) / (195 / 127.5)
            assert covered.mean().item() == pytest.approx(torch.pi * radius**2, rel=0.02)


def test_no_shape_crosses_the_border() -> None:
    for scene in scenes(60):
        clip = draw_clip(scene, 5, 64)
        border = torch.cat([clip[..., 0, :], clip[..., -1, :], clip[..., 0], clip[..., -1]], dim=-1)
        assert border.max(dim=-1).values.sub(border.min(dim=-1).values).max() < 1e-3


def test_equal_seeds_give_equal_scenes_and_captions() -> None:
    first, second = random.Random(3), random.Random(3)
    for _ in range(20):
        scene, other = random_scene(first), random_scene(second)
        assert scene == other
        assert random_caption(scene, first) == random_caption(other, second)


def test_training_scenes_never_have_one_of_the_20_held_out_combinations() -> None:
    combinations = [(c, s, m) for c in COLOURS for s in SHAPES for m in MOTIONS]
    held_out = {combination for combination in combinations if is_held_out(*combination)}
    assert len(held_out) == 20
    rng = random.Random(1)
    drawn = {(s.colour, s.shape, s.motion) for s in (random_scene(rng) for _ in range(3000))}
    assert drawn == set(combinations) - held_out


@pytest.mark.parametrize("style", STYLES)
def test_a_frame_with_another_background_is_detected(style: str) -> None:
    scene = Scene("red", "circle", "right", "small", "dark", (0.4, 0.5), (0.6, 0.5))
    clip, other = (
        frames_from_tensor(draw_clip(replace(scene, background=name), 4, 64, style)) for name in ("dark", "light")
    )
    assert detect(clip).steady
    clip[2] = other[2]
    assert not detect(clip).steady


def test_an_empty_clip_shows_nothing() -> None:
    detection = detect(np.full((3, 64, 64, 3), 60, np.uint8))
    assert (detection.colour, detection.shape, detection.motion) == (None, None, None)


def test_the_plain_caption_is_that_of_the_readme() -> None:
    assert plain_caption("red", "circle", "right") == "a red circle moving right"
