"""What every prediction needs: a directory, a log line, stages, provenance, out-of-memory advice and metrics.

A model's predict.py makes one `PredictionRunner` in setup and enters `PredictionRunner.start` for each prediction.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import os
import secrets
import shutil
import weakref
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from videokit.checks import whole_number
from videokit.prompt_syntax import unread_syntax
from videokit.runtime import Stages, out_of_memory
from videokit.video.encode import encode_gif, encode_mp4
from videokit.video.ffmpeg import program
from videokit.video.provenance import Provenance, software
from videokit.video.signing import Signer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from videokit.runtime import Processor
    from videokit.video.encode import Clip
    from videokit.video.frames import Frame

logger = logging.getLogger("videokit")

ENCODERS = {".gif": encode_gif, ".mp4": encode_mp4}


def documented_inputs(run: Callable[..., object], values: Mapping[str, object]) -> dict[str, Any]:
    """Return the values of `run`'s parameters, with 4.0 as 4 for an integer; `values` are the locals of `run`.

    JSON has one kind of number, so Cog's server passes 4.0 on for an integer. Floats that are not whole are unchanged,
    for the checks to report.
    """
    types = get_type_hints(run)
    return {
        name: whole_number(values[name]) if int in (types[name], *get_args(types[name])) else values[name]
        for name in inspect.signature(run).parameters
    }


@dataclass
class Prediction:
    """One prediction while it runs."""

    model: str
    software: str  # names and versions for the provenance
    inputs: Mapping[str, object]  # the documented inputs in types that JSON has
    seed: int
    directory: Path  # for the prediction's files; removed when the next prediction starts, or at once after a failure
    stages: Stages
    signer: Signer | None = None
    clips: list[Clip] = field(default_factory=list)  # written so far

    def provenance(self, **changes: object) -> Provenance:
        """Return the provenance of a file; `changes` are the inputs that repeat this file alone, such as its seed.

        An input named `seed` is the resolved one, so that the same inputs give the same bytes.
        """
        seed = changes.get("seed", self.seed)
        assert isinstance(seed, int)
        resolved = {"seed": seed} if "seed" in self.inputs else {}
        inversions = tuple(inversion.describe() for inversion in self.stages.textual_inversions)
        return Provenance(self.model, {**self.inputs, **changes, **resolved}, seed, self.software, inversions)

    def encode(self, frames: Iterable[Frame], name: str, *, fps: int, stage: str = "decode", **changes: object) -> Path:
        """Write frames to the file `name`, .mp4 or .gif, and return its path.

        Frames are computed while the encoder draws them, so `stage` counts the time of both.
        """
        path, provenance = self.directory / name, self.provenance(**changes)
        with self.stages(stage, f"frames computed and encoded to {name}"):
            clip = ENCODERS[path.suffix](frames, path, fps=fps, provenance=provenance)
        self._sign(path, provenance)
        self.clips.append(clip)
        return clip.path

    def write(self, frame: Frame, name: str, write_picture: Callable[[Frame, Path, Provenance], object]) -> Path:
        """Write one frame to the file `name` by `write_picture`, and return its path."""
        path, provenance = self.directory / name, self.provenance()
        write_picture(frame, path, provenance)
        self._sign(path, provenance)
        return path

    def _sign(self, path: Path, provenance: Provenance) -> None:
        if self.signer is not None:
            self.signer.sign(path, provenance)

    @property
    def metrics(self) -> dict[str, object]:
        """The metrics; frames and duration (seconds) are those of one file, as all files of a prediction are alike."""
        clip = self.clips[-1]
        return {
            "seed": self.seed,
            "frames": clip.num_frames,
            "duration": clip.duration,
            "seconds": self.stages.seconds,
        }


class PredictionRunner:
    """Runs the predictions of one model on one device, one at a time.

    `advice` says what to lower when the device runs out of memory. `record_metric` is the method of Cog's BaseRunner.
    `unload` drops what the model can load again; it is called when the device has run out of memory.
    Raises SigningError if the environment has a certificate that cannot sign.
    """

    def __init__(
        self,
        model: str,
        version: str,
        device: Processor,
        *,
        advice: str,
        record_metric: Callable[[str, object], object],
        unload: Callable[[], None] = lambda: None,
    ) -> None:
        self.model = model
        self.software = software(model, version)
        self.device = device
        self.advice = advice
        self.unload = unload
        self.record_metric = record_metric
        self._signer = Signer.from_environment()
        self._directories: list[Path] = []  # that of the last prediction, and any that a cancel kept from its removal
        weakref.finalize(self, _remove, self._directories)  # at exit
        logger.info("ffmpeg: %s, %s", program().version, program().path)  # raises here, before any clip is computed

    @contextmanager
    def start(self, inputs: Mapping[str, object], seed: int, summary: str) -> Iterator[Prediction]:
        """Yield a new prediction, and record its metrics at the end.

        Cog reads the files after the prediction has ended. They are removed when the next prediction starts, at exit,
        and at once after an error or a cancel. `summary` is logged after the seed.
        """
        _remove(self._directories)
        directory = Path(gettempdir(), f"{self.model}-{secrets.token_hex(8)}")
        self._directories.append(directory)  # first, as a cancel may come right after it is made
        try:
            directory.mkdir(mode=0o700)
            logger.info("seed: %d, %s", seed, summary)
            for line in unread_syntax(_prompts(inputs)):
                logger.warning("%s", line)
            described = {name: _described(value) for name, value in inputs.items()}
            prediction = Prediction(
                self.model, self.software, described, seed, directory, Stages(self.device), self._signer
            )
            with out_of_memory(self.device, self.advice, self.unload):
                yield prediction
            for name, value in prediction.metrics.items():
                self.record_metric(name, value)
        except BaseException:  # a cancel too
            _remove(self._directories)
            raise


def _remove(directories: list[Path]) -> None:
    """Remove directories, and then their names from the list."""
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)
    directories.clear()


def _prompts(inputs: Mapping[str, object]) -> dict[str, str]:
    """Return the inputs that are prompts, which the documented schemas show by their names, such as `n_prompt`."""
    return {name: value for name, value in inputs.items() if "prompt" in name and isinstance(value, str)}


def _described(value: object) -> object:
    """Return an input as provenance states it: a file by its SHA-256, because its name differs every time."""
    if not isinstance(value, os.PathLike):
        return value
    with Path(value).open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
