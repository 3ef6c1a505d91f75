"""Frame interpolation with FILM: the order of the frames, and how many are computed in one call.

FILM was trained to compute the frame half-way between two frames. So each gap is halved repeatedly: first the frame
nearest to the middle, then those between it and its neighbours. If n is a power of two every call is at time 1/2,
otherwise at 1/3 to 1/2. The network is in `film`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from videokit.finite import require_finite
from videokit.video.frames import check_frames, frames_with_flags

from sd_animation.film import MULTIPLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from videokit.video.frames import Frame

    from sd_animation.film import Film, Pyramid

BATCH_PIXELS = 2**19  # that FILM computes in one call; a larger frame is a batch of one


@dataclass(frozen=True)
class _Span:
    """A part of the clip, with steps - 1 frames missing between its ends."""

    start: Pyramid
    stop: Pyramid
    steps: int
    last: Frame  # the frame at `stop`


def interpolate(film: Film, frames: Iterable[Frame], n: int) -> Iterator[Frame]:
    """Yield the frames unchanged, with n - 1 frames between each two: (N - 1) * n + 1 for N frames.

    A frame is consumed when all frames before it have been yielded, so memory does not grow with the clip. Equal frames
    are repeated without a call of FILM. Raises NotFinite if FILM computes NaN or infinity.
    """
    if n < 1:
        raise ValueError(f"n={n}; n is at least 1")
    before: Frame | None = None
    pyramid: Pyramid | None = None  # of the frame before, once it has been computed
    for frame in check_frames(frames):
        if before is None or n == 1:
            yield frame
        elif np.array_equal(before, frame):
            yield from itertools.repeat(frame, n)
        else:
            start = _pyramid(film, before) if pyramid is None else pyramid
            pyramid = _pyramid(film, frame)
            height, width = start[0].shape[-2:]
            batch_size = max(1, BATCH_PIXELS // (height * width))
            yield from _fill(film, [_Span(start, pyramid, n, frame)], batch_size)
        before = frame


def _fill(film: Film, spans: Sequence[_Span], batch_size: int) -> Iterator[Frame]:
    """Yield the frames after the first span's start up to the last span's end.

    Each batch of `batch_size` spans is filled before the next starts, so each halving holds at most that many pyramids.
    """
    for first in range(0, len(spans), batch_size):
        batch = spans[first : first + batch_size]
        if all(span.steps == 1 for span in batch):
            yield from (span.last for span in batch)
        else:
            yield from _fill(film, _halve(film, batch), batch_size)


@torch.inference_mode()
def _halve(film: Film, spans: Sequence[_Span]) -> list[_Span]:
    """Return the halves of each span that is longer than a step; one call computes all middle frames."""
    long = [span for span in spans if span.steps > 1]
    start, stop = _batch([span.start for span in long]), _batch([span.stop for span in long])
    images = film.between(start, stop, torch.tensor([_middle(span) / span.steps for span in long]))
    height, width, _ = long[0].last.shape
    cropped = images[..., :height, :width]
    levels, (finite,) = frames_with_flags(2 * cropped.float() - 1, cropped)
    require_finite(finite, "interpolate", "FILM's frames", images.dtype)
    frames = iter(levels)
    # A frame between two finished neighbours needs no pyramid.
    ends = [index for index, span in enumerate(long) if span.steps > 2]
    pyramid = film.features(images[ends]) if ends else []
    pyramids = iter([[level[index : index + 1] for level in pyramid] for index in range(len(ends))])
    halves = []
    for span in spans:
        if span.steps == 1:
            halves.append(span)
            continue
        middle = next(pyramids) if span.steps > 2 else []
        halves.append(_Span(span.start, middle, _middle(span), next(frames)))
        halves.append(_Span(middle, span.stop, span.steps - _middle(span), span.last))
    return halves


def _middle(span: _Span) -> int:
    return span.steps // 2


@torch.inference_mode()
def _pyramid(film: Film, frame: Frame) -> Pyramid:
    """Return a frame's pyramid; the frame is padded with its border pixels to sides that FILM can halve."""
    parameter = next(film.parameters())
    image = torch.tensor(frame, device=parameter.device).permute(2, 0, 1)[None].float() / 255  # (1, 3, H, W)
    below, right = (-side % MULTIPLE for side in image.shape[-2:])
    return film.features(F.pad(image, (0, right, 0, below), mode="replicate").to(parameter.dtype))


def _batch(pyramids: Sequence[Pyramid]) -> Pyramid:
    if len(pyramids) == 1:
        return pyramids[0]  # a copy of a large frame's pyramid would take half a gigabyte
    return [torch.cat(level) for level in zip(*pyramids, strict=True)]
