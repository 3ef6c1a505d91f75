"""The two passes of `encode.encode_gif`: a palette of the colours of all frames, then every frame in this palette.

libav does both (palettegen, paletteuse, its GIF encoder). The blocks that it cannot write are appended.
"""

from __future__ import annotations

import os
from fractions import Fraction
from typing import TYPE_CHECKING

import av
from av.filter import Graph

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from av.filter.context import FilterContext

    from videokit.video.frames import Frame
    from videokit.video.provenance import Provenance

TICK = Fraction(1, 100)  # seconds; GIF's own unit
_TRAILER = b";"  # section 27 of GIF89a
_SUB_BLOCK = 255  # bytes at most, section 15
# XMP specification part 3, 1.1.2: a reader without XMP support reads bytes of the packet as lengths of sub-blocks. It
# arrives at one of these bytes, each of which skips to their end.
_XMP_TRAILER = bytes([1, *range(255, -1, -1), 0])


class GifWriter:
    """Writes a GIF: `count` takes each frame, then `write` takes all of them again."""

    def __init__(self, height: int, width: int) -> None:
        self._height, self._width = height, width
        self._palettegen = graph = _graph()
        # Median cut of the histogram of all frames, without a transparent colour.
        palettegen = graph.add("palettegen", stats_mode="full", max_colors="256", reserve_transparent="0")
        graph.link_nodes(self._frame_input(graph), palettegen, graph.add("buffersink")).configure()

    def count(self, frame: Frame) -> None:
        """Count the frame's colours for the palette."""
        self._palettegen.vpush(av.VideoFrame.from_ndarray(frame))
        for _ in _pull(self._palettegen):
            raise RuntimeError("libav chose a palette before the last frame")

    def write(self, path: Path, frames: Iterable[Frame], starts: Sequence[int], provenance: Provenance | None) -> None:
        """Write the file `path`, which loops forever; frame i is on screen from tick starts[i] to starts[i + 1]."""
        # By its name, because libav swallows a cancel that is raised in a method of a Python file object.
        with av.open(str(path), "w", format="gif", options={"loop": "0"}) as container:
            stream = container.add_stream("gif", 1 / TICK)
            stream.width, stream.height, stream.pix_fmt = self._width, self._height, "pal8"
            for index, picture in enumerate(self._in_palette(frames)):
                picture.pts, picture.time_base = starts[index], TICK
                for packet in stream.encode(picture):
                    packet.duration = starts[index + 1] - starts[index]  # libav cannot know the last frame's
                    container.mux(packet)
        if provenance is not None:
            # GIF89a section 24 recommends a comment at the beginning or the end, before the trailer.
            with path.open("r+b") as file:
                file.seek(-len(_TRAILER), os.SEEK_END)
                file.write(_comment(provenance.comment().encode("ascii")) + _xmp(provenance.xmp()) + _TRAILER)

    def _in_palette(self, frames: Iterable[Frame]) -> Iterator[av.VideoFrame]:
        """Yield each frame as pal8, with error diffusion over two rows (Sierra)."""
        self._palettegen.vpush(None)
        palette = self._palettegen.vpull()
        graph = _graph()
        dither = graph.add("paletteuse", dither="sierra2")
        self._frame_input(graph).link_to(dither, 0, 0)
        _input(graph, palette.height, palette.width, palette.format.name).link_to(dither, 0, 1)
        dither.link_to(graph.add("buffersink"))
        graph.configure()
        palette.pts, palette.time_base = 0, TICK
        graph.vpush(palette, at=1)
        graph.vpush(None, at=1)
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame)
            picture.pts, picture.time_base = index, TICK
            graph.vpush(picture, at=0)
            yield from _pull(graph)
        graph.vpush(None, at=0)
        yield from _pull(graph)

    def _frame_input(self, graph: Graph) -> FilterContext:
        return _input(graph, self._height, self._width, "rgb24")


def _graph() -> Graph:
    graph = Graph()
    graph.threads = 1
    return graph


def _input(graph: Graph, height: int, width: int, pixels: str) -> FilterContext:
    return graph.add_buffer(width=width, height=height, format=av.VideoFormat(pixels), time_base=TICK)


def _pull(graph: Graph) -> Iterator[av.VideoFrame]:
    """Yield the pictures that are ready; the graph only works when pulled, and pushed frames would fill the memory."""
    while True:
        try:
            yield graph.vpull()
        except (BlockingIOError, EOFError):
            return


def _comment(text: bytes) -> bytes:
    """Return a Comment Extension (GIF89a section 24)."""
    parts = (text[at : at + _SUB_BLOCK] for at in range(0, len(text), _SUB_BLOCK))
    return b"!\xfe" + b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def _xmp(packet: bytes) -> bytes:
    """Return the Application Extension that holds an XMP packet."""
    return b"!\xff\x0bXMP DataXMP" + packet + _XMP_TRAILER
