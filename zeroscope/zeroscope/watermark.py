"""Fills the band of a frame where models trained on ModelScope's data draw a watermark.

The watermark comes from WebVid's previews. Its letters are at 0.577 to 0.726 of the height (measured in
RyannDaGreat/remove_watermark@9b4ace0 watermark_extraction), and it spans the whole width of a square crop. LaMa fills
each frame separately, so the band may flicker.
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

TOP, BOTTOM = 55, 76  # percent of the height: the letters and a margin of 2.5, into which the VAE blurs them


class Watermark:
    """LaMa on a device, loaded at the first use."""

    def __init__(self, store: WeightStore, device: Device) -> None:
        self.store = store
        self.device = device
        self._lama: Lama | None = None

    def remove(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Yield the frames with their band filled and all other pixels unchanged, as they are consumed.

        Each frame is a batch of its own, because the batch size changes the last digits. Raises NotFinite if LaMa
        computes NaN or infinity.
        """
        for frame in frames:
            yield self._fill_band(frame)

    def unload(self) -> None:
        """Unload LaMa; the next frames load it again."""
        self._lama = None

    def _fill_band(self, frame: Frame) -> Frame:
        top, bottom = band(frame.shape[0])
        lama, device = self._load(), self.device.device
        with torch.inference_mode():
            image = torch.tensor(frame, device=device).permute(2, 0, 1)[None].float().div(255)  # (1, 3, H, W)
            mask = torch.zeros_like(image[:, :1])
            mask[:, :, top:bottom] = 1
            filled = lama(image, mask)[:, :, top:bottom]
        result = frame.copy()
        result[top:bottom] = frames_from_tensor(filled.mul(2).sub(1), "remove_watermark", "LaMa's pictures")[0]
        return result

    def _load(self) -> Lama:
        if self._lama is None:
            self._lama = load_lama(self.store, self.device.device)
        return self._lama


def band(height: int) -> tuple[int, int]:
    """Return the first row of the band and the first row after it."""
    return TOP * height // 100, -(-BOTTOM * height // 100)
