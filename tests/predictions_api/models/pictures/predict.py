"""A model with a field of each kind, whose outputs are pictures, and whose logs are like those of the real models."""

# ruff: noqa: B008, UP045 - Cog reads these declarations only

from __future__ import annotations

import hashlib
import struct
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path as LocalPath
from typing import Optional

from cog import BaseRunner, Input, Path


class InvalidInput(Exception):
    """Has the name of videokit's class."""


def png(size: int, shade: int) -> bytes:
    """Return a grey picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0))
    rows = zlib.compress((b"\0" + bytes([shade]) * size) * size)
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def letters_in(path: str) -> int:
    file = LocalPath(path)
    return file.stat().st_size if file.exists() else 0


class Predictor(BaseRunner):
    def run(
        self,
        prompt: str = Input(description="What it shows"),
        size: int = Input(description="Width and height", choices=[8, 16, 32], default=16),
        steps: int = Input(description="Number of pictures", ge=1, le=100, default=3),
        strength: float = Input(description="Any number", default=0.5),
        mirrored: bool = Input(description="Whether left is right", default=False),
        init_video: Optional[Path] = Input(description="A file, whose SHA-256 is in the logs"),
        sleep: float = Input(description="Seconds for each step", ge=0, le=10, default=0),
        seed: Optional[int] = Input(description="Seed"),
        hold: Optional[str] = Input(
            description="A local file with a letter for each picture that may follow the first"
        ),
    ) -> Iterator[Path]:
        if strength < 0:
            raise InvalidInput(f"strength={strength} is out of range (0 to 1); try 0\nsize={size} is only a test")
        seed = 7 if seed is None else seed
        if init_video:
            print(f"init_video: {hashlib.sha256(init_video.read_bytes()).hexdigest()}")
        print(f"prompt: {prompt}")
        directory = LocalPath(tempfile.mkdtemp())
        for step in range(steps + 1):
            bar = "#" * (20 * step // steps)
            line = f"{100 * step // steps}%|{bar:20}| {step}/{steps} denoise [00:00<00:{steps - step:02}]"
            print(line, flush=True)
            if step < steps:
                time.sleep(sleep)
                while hold and letters_in(hold) < step:
                    print(line, flush=True)  # again, as Cog reports logs when there is another line
                    time.sleep(0.1)
                path = directory / f"{step}.png"
                path.write_bytes(png(size, (seed + step) % 256))
                yield Path(path)
        print(f"denoise: {steps} steps in 0.1 s")
        self.record_metric("seed", seed)
