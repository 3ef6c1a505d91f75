"""Fills the band of a clip's frames where models trained on ModelScope's data write a watermark.

The watermark is that of WebVid's previews, in which its letters lie at 0.577 to 0.726 of the height (measured in
RyannDaGreat/remove_watermark@9b4ace0 watermark_extraction); cropped to a square it spans the whole width. LaMa fills
frame by frame, so the band may flicker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from videokit.video.frames import frames_from_tensor

from zeroscope.lama import Lama, load_lama

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from videokit.runtime import Device
    from videokit.video.frames import Frame
    from videokit.weights.store import WeightStore

TOP, BOTTOM = 55, 76  # hundredths of the height: the letters and 0.025 around them, over which the VAE smears them


class Watermark:
    """LaMa on a device, loaded when it is first needed."""

    def __init__(self, store: WeightStore, device: Device) -> None:
        self.store = store
        self.device = device
        self._lama: Lama | None = None

    def remove(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Yield frames with their band filled, all else as it was, one by one as they are drawn.

        One at a time, for several at once differ in the last digit, and so would a frame by its place in the clip.
        """
        for frame in frames:
            yield self._filled(frame)

    def forget(self) -> None:
        """Let go of LaMa's memory; the next frames load it again."""
        self._lama = None

    def _filled(self, frame: Frame) -> Frame:
        top, bottom = band(frame.shape[0])
        lama, device = self._loaded(), self.device.device
        with torch.inference_mode():
            picture = torch.tensor(frame, device=device).permute(2, 0, 1)[None].float().div(255)  # (1, 3, H, W)
            mask = torch.zeros_like(picture[:, :1])
            mask[:, :, top:bottom] = 1
            filled = lama(picture, mask)[:, :, top:bottom]
        result = frame.copy()
        result[top:bottom] = frames_from_tensor(filled.mul(2).sub(1))[0]
        return result

    def _loaded(self) -> Lama:
        if self._lama is None:
            self._lama = load_lama(self.store, self.device.device)
        return self._lama


def band(height: int) -> tuple[int, int]:
    """Return the first row of the band and the first below it."""
    return TOP * height // 100, -(-BOTTOM * height // 100)
