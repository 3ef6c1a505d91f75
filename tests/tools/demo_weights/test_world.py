"""The world as it is drawn and as the oracle sees it: each checks the other, and both are held to plain geometry."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from demo_weights.captions import plain_caption, random_caption
from demo_weights.detector import hues, look_at, look_name
from demo_weights.world import COLOURS, LOOKS, MOTIONS, SHAPES, TRAVEL, Scene, draw_clip, is_held_out, random_scene
from videokit.video.frames import frames_from_tensor


def scenes(count: int) -> list[Scene]:
    draw = random.Random(5)
    return [random_scene(draw, held_out=index % 4 == 0) for index in range(count)]


@pytest.mark.parametrize("side", [64, 128])
@pytest.mark.parametrize("look", LOOKS)
def test_the_oracle_sees_what_was_drawn(look: str, side: int) -> None:
    for scene in scenes(40):
        seen = look_at(frames_from_tensor(draw_clip(scene, 4, side, look)))
        assert (seen.colour, seen.shape, seen.motion) == (scene.colour, scene.shape, scene.motion)


@pytest.mark.parametrize("side", [128, 256])
@pytest.mark.parametrize("look", LOOKS)
def test_the_oracle_sees_the_look(look: str, side: int) -> None:
    wrong = [scene for scene in scenes(40) if look_name(frames_from_tensor(draw_clip(scene, 2, side, look))) != look]
    assert not wrong


def test_hues_go_on_over_red() -> None:
    # hues by the definition of HSV: yellow is 1/6 of a turn, red 0, purple (128, 0, 255) three quarters
    frames = np.full((3, 64, 64, 3), 60, np.uint8)
    for frame, colour in zip(frames, [(255, 255, 0), (255, 0, 0), (128, 0, 255)], strict=True):
        frame[20:40, 20:40] = colour
    assert hues(frames) == pytest.approx([1 / 6, 0, -0.25], abs=0.01)


def test_a_shape_goes_as_far_as_the_world_says() -> None:
    for scene in scenes(20):
        seen = look_at(frames_from_tensor(draw_clip(scene, 16, 128)))
        dx, dy = MOTIONS[scene.motion]
        assert seen.drift == pytest.approx((dx * TRAVEL * 128, dy * TRAVEL * 128), abs=1)


def test_all_shapes_of_a_size_have_one_area() -> None:
    for size, radius in (("small", 0.17), ("large", 0.24)):
        for shape in SHAPES:
            scene = Scene("white", shape, "still", size, "dark", (0.5, 0.5), (0.5, 0.5))
            covered = (draw_clip(scene, 1, 256)[0, 0] + 1 - 60 / 127.5) / (195 / 127.5)
            assert covered.mean().item() == pytest.approx(torch.pi * radius**2, rel=0.02)


def test_no_shape_is_cut_by_the_border() -> None:
    for scene in scenes(60):
        clip = draw_clip(scene, 5, 64)
        border = torch.cat([clip[..., 0, :], clip[..., -1, :], clip[..., 0], clip[..., -1]], dim=-1)
        assert border.max(dim=-1).values.sub(border.min(dim=-1).values).max() < 1e-3


def test_one_draw_gives_one_scene_and_one_caption() -> None:
    first, second = random.Random(3), random.Random(3)
    for _ in range(20):
        ours, theirs = random_scene(first), random_scene(second)
        assert ours == theirs
        assert random_caption(ours, first) == random_caption(theirs, second)


def test_twenty_combinations_are_held_out_and_never_drawn() -> None:
    every = [(c, s, m) for c in COLOURS for s in SHAPES for m in MOTIONS]
    held_out = {combination for combination in every if is_held_out(*combination)}
    assert len(held_out) == 20
    draw = random.Random(1)
    drawn = {(s.colour, s.shape, s.motion) for s in (random_scene(draw) for _ in range(3000))}
    assert drawn == set(every) - held_out


@pytest.mark.parametrize("look", LOOKS)
def test_a_frame_on_another_background_is_seen(look: str) -> None:
    scene = Scene("red", "circle", "right", "small", "dark", (0.4, 0.5), (0.6, 0.5))
    clip, other = (
        frames_from_tensor(draw_clip(replace(scene, background=name), 4, 64, look)) for name in ("dark", "light")
    )
    assert look_at(clip).steady
    clip[2] = other[2]
    assert not look_at(clip).steady


def test_an_empty_clip_shows_nothing() -> None:
    seen = look_at(np.full((3, 64, 64, 3), 60, np.uint8))
    assert (seen.colour, seen.shape, seen.motion) == (None, None, None)


def test_the_plain_caption_reads_as_in_the_readme() -> None:
    assert plain_caption("red", "circle", "right") == "a red circle moving right"
