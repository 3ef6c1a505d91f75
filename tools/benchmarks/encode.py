"""Frames per second of encode_mp4 against the ffmpeg program, fed raw frames over a pipe with the same settings.

python benchmarks/encode.py
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pictures
from videokit.video.encode import X264, X264_THREADS, encode_mp4

from benchmarks.measure import machine_line, paired

FRAMES = np.stack(list(pictures.natural(120)))


def by_ffmpeg(target: Path) -> None:
    """Encode as one does without this package."""
    _, height, width, _ = FRAMES.shape
    convert = "scale=out_color_matrix=bt709:out_range=tv:flags=bicubic+full_chroma_inp+accurate_rnd+bitexact"
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-y",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        f"{width}x{height}",
        "-r",
        "8",
    ]
    command += ["-i", "-", "-vf", convert, "-pix_fmt", "yuv420p", "-c:v", "libx264", "-threads", str(X264_THREADS)]
    command += [word for name, value in X264.items() for word in (f"-{name}", value)]
    command += ["-color_primaries", "bt709", "-color_trc", "bt709", "-colorspace", "bt709", "-color_range", "tv"]
    with subprocess.Popen([*command, "-movflags", "+faststart", str(target)], stdin=subprocess.PIPE) as ffmpeg:
        for frame in FRAMES:
            ffmpeg.stdin.write(frame.data)
    if ffmpeg.returncode:
        raise SystemExit(f"ffmpeg ended with {ffmpeg.returncode}")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        ours, plain = Path(folder, "ours.mp4"), Path(folder, "plain.mp4")
        ours_seconds, plain_seconds, ratio = paired(lambda: encode_mp4(FRAMES, ours, fps=8), lambda: by_ffmpeg(plain))
        print(machine_line())
        print(f"encode: {len(FRAMES)} natural frames of {FRAMES.shape[2]}x{FRAMES.shape[1]}, medians of 5")
        for name, seconds, file in (("encode_mp4", ours_seconds, ours), ("ffmpeg", plain_seconds, plain)):
            print(f"  {name:11}{len(FRAMES) / seconds:7.1f} frames/s {file.stat().st_size / 1000:8.0f} KB")
        print(f"  ratio {ratio:.2f} (above 1: encode_mp4 is faster)")


if __name__ == "__main__":
    main()
