"""Pictures between the frames of a clip: which of them FILM makes between which two, in what order, how many at once.

FILM was trained to make the picture half-way between two. So the clip is filled by halving: between two frames first
the picture nearest to the middle, then those between it and its neighbours. Where n is a power of two every call is
at time 1/2, else at 1/3 to 1/2. The network itself is in `film`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from videokit.video.frames import check_frames, frames_from_tensor

from sd_animation.film import MULTIPLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from videokit.video.frames import Frame

    from sd_animation.film import Film, Pyramid

PIXELS_AT_ONCE = 2**19  # that FILM makes in one call; a picture above that is made alone


@dataclass(frozen=True)
class _Span:
    """A piece of the clip, between whose ends steps - 1 pictures are still to be made."""

    start: Pyramid
    stop: Pyramid
    steps: int
    last: Frame  # the picture at `stop`


def in_betweens(film: Film, frames: Iterable[Frame], n: int) -> Iterator[Frame]:
    """Pass the frames on unchanged, with n - 1 pictures between each two: (N - 1) * n + 1 for N frames.

    Pictures come one by one: no frame is drawn before those between the last two are out, and what is kept does not
    grow with the clip. Between equal frames nothing moves, so that frame is repeated.
    """
    if n < 1:
        raise ValueError(f"n={n}; two neighbours are at least one step apart")
    before: Frame | None = None
    pyramid: Pyramid | None = None  # of the frame before, once a neighbour has needed it
    for frame in check_frames(frames):
        if before is None or n == 1:
            yield frame
        elif np.array_equal(before, frame):
            yield from itertools.repeat(frame, n)
        else:
            start = _pyramid(film, before) if pyramid is None else pyramid
            pyramid = _pyramid(film, frame)
            height, width = start[0].shape[-2:]
            at_once = max(1, PIXELS_AT_ONCE // (height * width))
            yield from _filled(film, [_Span(start, pyramid, n, frame)], at_once)
        before = frame


def _filled(film: Film, spans: Sequence[_Span], at_once: int) -> Iterator[Frame]:
    """Yield the pictures after the first span's start up to the last one's end.

    Each piece of `at_once` spans is filled before the next is begun, so no more than that many pyramids are kept
    for each halving.
    """
    for first in range(0, len(spans), at_once):
        piece = spans[first : first + at_once]
        if all(span.steps == 1 for span in piece):
            yield from (span.last for span in piece)
        else:
            yield from _filled(film, _halved(film, piece), at_once)


@torch.inference_mode()
def _halved(film: Film, spans: Sequence[_Span]) -> list[_Span]:
    """Make the picture nearest to the middle of each span that is longer than a step, all in one call."""
    long = [span for span in spans if span.steps > 1]
    start, stop = _batch([span.start for span in long]), _batch([span.stop for span in long])
    pictures = film.between(start, stop, torch.tensor([_middle(span) / span.steps for span in long]))
    height, width, _ = long[0].last.shape
    frames = iter(frames_from_tensor(2 * pictures[..., :height, :width].float() - 1))
    # a picture whose both neighbours are there needs no pyramid
    ends = [index for index, span in enumerate(long) if span.steps > 2]
    pyramid = film.features(pictures[ends]) if ends else []
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
    """Return a frame's pyramid, the frame continued by its border's pixels to sides that FILM can halve."""
    parameter = next(film.parameters())
    picture = torch.tensor(frame, device=parameter.device).permute(2, 0, 1)[None].float() / 255  # (1, 3, H, W)
    below, right = (-side % MULTIPLE for side in picture.shape[-2:])
    return film.features(F.pad(picture, (0, right, 0, below), mode="replicate").to(parameter.dtype))


def _batch(pyramids: Sequence[Pyramid]) -> Pyramid:
    if len(pyramids) == 1:
        return pyramids[0]  # a copy of a large picture's would be half a gigabyte
    return [torch.cat(level) for level in zip(*pyramids, strict=True)]
