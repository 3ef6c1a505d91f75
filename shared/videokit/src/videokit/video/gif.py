"""The two passes of a GIF: one palette chosen over all frames, then every frame drawn in it.

libav does the work (palettegen, paletteuse, its GIF encoder); the blocks that it cannot write are added at the end.
Made for `encode.encode_gif`, which says what the file promises.
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
# XMP specification part 3, 1.1.2: a reader that takes the packet's bytes for lengths of GIF's sub-blocks lands
# somewhere in these bytes, and they lead it to their end.
_XMP_TRAILER = bytes([1, *range(255, -1, -1), 0])


class GifWriter:
    """Take all frames in `count`, then the same ones again in `write`."""

    def __init__(self, height: int, width: int) -> None:
        self._height, self._width = height, width
        self._chooser = _graph()
        # median cut over the histogram of all frames; every colour opaque
        method = self._chooser.add("palettegen", stats_mode="full", max_colors="256", reserve_transparent="0")
        self._chooser.link_nodes(self._frames_into(self._chooser), method, self._chooser.add("buffersink")).configure()

    def count(self, frame: Frame) -> None:
        """Count the frame's colours for the palette."""
        self._chooser.vpush(av.VideoFrame.from_ndarray(frame))
        for _ in _ready(self._chooser):
            raise RuntimeError("libav chose a palette before the last frame")

    def write(self, path: Path, frames: Iterable[Frame], starts: Sequence[int], provenance: Provenance | None) -> None:
        """Write the file `path`: frame i is shown from tick starts[i] to starts[i + 1], and all of them for ever."""
        # by its name: libav would call a Python file's methods, and swallow a cancel that strikes in one
        with av.open(str(path), "w", format="gif", options={"loop": "0"}) as container:
            stream = container.add_stream("gif", 1 / TICK)
            stream.width, stream.height, stream.pix_fmt = self._width, self._height, "pal8"
            for index, picture in enumerate(self._in_palette(frames)):
                picture.pts, picture.time_base = starts[index], TICK
                for packet in stream.encode(picture):
                    packet.duration = starts[index + 1] - starts[index]  # the last frame's has no other source
                    container.mux(packet)
        if provenance is not None:
            # GIF89a section 24 wants a comment at the beginning or the end; the end has the trailer's one byte
            with path.open("r+b") as file:
                file.seek(-len(_TRAILER), os.SEEK_END)
                file.write(_comment(provenance.comment().encode("ascii")) + _xmp(provenance.xmp()) + _TRAILER)

    def _in_palette(self, frames: Iterable[Frame]) -> Iterator[av.VideoFrame]:
        """Yield each frame in the palette's colours (pal8), the error diffused over two rows (Sierra)."""
        self._chooser.vpush(None)
        palette = self._chooser.vpull()
        graph = _graph()
        drawer = graph.add("paletteuse", dither="sierra2")
        self._frames_into(graph).link_to(drawer, 0, 0)
        _input(graph, palette.height, palette.width, palette.format.name).link_to(drawer, 0, 1)
        drawer.link_to(graph.add("buffersink"))
        graph.configure()
        palette.pts, palette.time_base = 0, TICK
        graph.vpush(palette, at=1)
        graph.vpush(None, at=1)
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame)
            picture.pts, picture.time_base = index, TICK
            graph.vpush(picture, at=0)
            yield from _ready(graph)
        graph.vpush(None, at=0)
        yield from _ready(graph)

    def _frames_into(self, graph: Graph) -> FilterContext:
        return _input(graph, self._height, self._width, "rgb24")


def _graph() -> Graph:
    graph = Graph()
    graph.threads = 1
    return graph


def _input(graph: Graph, height: int, width: int, pixels: str) -> FilterContext:
    return graph.add_buffer(width=width, height=height, format=av.VideoFormat(pixels), time_base=TICK)


def _ready(graph: Graph) -> Iterator[av.VideoFrame]:
    """Yield what the graph has ready. It works only when it is asked: frames that are but pushed pile up in memory."""
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
