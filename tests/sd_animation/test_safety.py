"""The safety checker compared with diffusers', and its image processing compared with transformers'."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from pictures import natural
from sd_animation.pipeline import Pipeline
from sd_animation.safety import SafetyChecker, clip_picture
from transformers import CLIPImageProcessor


@pytest.fixture
def checker(pipeline: Pipeline) -> Iterator[SafetyChecker]:
    """Yield the shared pipeline's checker, and restore its thresholds at the end."""
    checker = pipeline.safety_checker
    thresholds = (checker.network.concept_embeds_weights, checker.network.special_care_embeds_weights)
    originals = [threshold.clone() for threshold in thresholds]
    yield checker
    for threshold, values in zip(thresholds, originals, strict=True):
        threshold.copy_(values)


@pytest.mark.parametrize(("height", "width"), [(128, 128), (512, 768), (768, 1024), (128, 1024), (768, 128)])
def test_a_frame_is_scaled_and_cropped_as_by_clips_processor(height: int, width: int) -> None:
    frame = next(natural(1, width, height))
    processor = CLIPImageProcessor(do_convert_rgb=False)  # its defaults are CLIP's: 224, bicubic, its mean
    expected = processor(frame, return_tensors="np")["pixel_values"][0]
    assert np.allclose(clip_picture(frame, 224).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("special", [-1.0, 1.0])
def test_the_flags_equal_those_of_diffusers(checker: SafetyChecker, special: float) -> None:
    """At thresholds around each cosine, with and without special care."""
    frames = [next(natural(1, 160 + 32 * index, 128)) for index in range(3)]
    frames.append(np.zeros((128, 128, 3), np.uint8))
    inputs = torch.stack([clip_picture(frame, 224) for frame in frames])
    network = checker.network
    with torch.inference_mode():
        embeds = network.visual_projection(network.vision_model(inputs).pooler_output)
        cosines = torch.cosine_similarity(embeds[:, None], network.concept_embeds[None], dim=-1)
    network.special_care_embeds_weights.fill_(special)
    flags = set()
    for threshold in (*cosines.amax(dim=1).tolist(), cosines.max() + 0.009, cosines.max() + 0.02, -1.0):
        for offset in (-0.004, 0.0, 0.004):
            network.concept_embeds_weights.fill_(threshold + offset)
            _, expected = network(inputs, np.zeros((4, 1)))
            assert checker.flags(frames) == expected
            flags.add(tuple(expected))
    assert {(False,) * 4, (True,) * 4} < flags


def test_the_random_weights_flag_nothing(checker: SafetyChecker) -> None:
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (128, 128, 3), dtype=np.uint8) for _ in range(8)]
    assert checker.flags(frames) == [False] * 8
