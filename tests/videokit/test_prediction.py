"""One prediction after another: their directories, log lines, provenance, metrics and errors. The encoders are real."""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pictures
import pytest
import torch
import videokit
from cancels import cancelled_at_every_moment
from videokit.errors import OutOfMemory
from videokit.prediction import Prediction, PredictionRunner, documented_inputs
from videokit.runtime import Device
from videokit.video.encode import Clip

CPU = Device(torch.device("cpu"), torch.float32)
FRAMES = list(pictures.gradient(3, 32, 16))


class Model:
    """A runner, and what it calls: the metrics that it records and the times that it unloads."""

    def __init__(self) -> None:
        self.metrics: dict[str, object] = {}
        self.unloads = 0
        self.runner = PredictionRunner(
            "some-model",
            "1.2.3",
            CPU,
            advice="lower num_frames",
            record_metric=self.metrics.__setitem__,
            unload=self.unload,
        )

    def unload(self) -> None:
        self.unloads += 1

    def predict(self, name: str = "clip.mp4", seed: int = 7) -> Path:
        with self.runner.start({"prompt": "a cat"}, seed, "3 frames") as prediction:
            return prediction.encode(FRAMES, name, fps=8)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of temporary files during a test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def model(temporary: Path) -> Model:
    return Model()


def directories(temporary: Path) -> list[Path]:
    return list(temporary.iterdir())


def test_the_directory_is_kept_until_the_next_prediction_starts(model: Model, temporary: Path) -> None:
    first = model.predict()
    assert first.exists()
    assert directories(temporary) == [first.parent]
    with model.runner.start({}, 8, "") as second:
        assert directories(temporary) == [second.directory]
        assert second.directory != first.parent
        second.encode(FRAMES, "clip.gif", fps=8)
    assert [path.name for path in second.directory.iterdir()] == ["clip.gif"]


def test_syntax_of_other_programs_in_any_prompt_is_logged_once(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "videokit")
    inputs = {
        "prompt": "(a cat:1.2)",
        "n_prompt": "(dog:1.3)",
        "prompt_end": "[cat]",
        "path": "[x]",
        "prompt_strength": 1,
    }
    with model.runner.start(inputs, 7, "3 frames") as prediction:
        prediction.encode(FRAMES, "clip.mp4", fps=8)
    lines = [message for message in caplog.messages if "is read as plain words" in message]
    assert [line.partition(" is read")[0] for line in lines] == [
        "prompt and n_prompt: (a cat:1.2)",
        "prompt_end: [cat]",
    ]


def test_the_directory_is_removed_at_exit_without_a_warning(tmp_path: Path) -> None:
    program = (
        "import sys, test_prediction\n"
        "path = test_prediction.Model().predict()\n"
        "assert path.exists() and str(path).startswith(sys.argv[1])"
    )
    environ = {"TMPDIR": str(tmp_path), "PYTHONPATH": ":".join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-W", "error", "-c", program, str(tmp_path)]
    assert subprocess.run(command, check=True, env=environ, stderr=subprocess.PIPE).stderr == b""
    assert directories(tmp_path) == []


def fail_in_the_block(error: BaseException) -> Callable[[Prediction], None]:
    def body(prediction: Prediction) -> None:
        prediction.encode(FRAMES, "clip.mp4", fps=8)
        raise error

    return body


def fail_while_encoding(error: BaseException) -> Callable[[Prediction], None]:
    def frames() -> Iterator[np.ndarray]:
        yield from FRAMES
        raise error

    return lambda prediction: prediction.encode(frames(), "clip.gif", fps=8)  # type: ignore[return-value]


@pytest.mark.parametrize("fail", [fail_in_the_block, fail_while_encoding])
@pytest.mark.parametrize("error", [ValueError("bad latents"), KeyboardInterrupt(), SystemExit()], ids=repr)
def test_a_failure_or_cancel_removes_the_directory_at_once_and_records_no_metrics(
    model: Model,
    temporary: Path,
    fail: Callable[[BaseException], Callable[[Prediction], None]],
    error: BaseException,
) -> None:
    with pytest.raises(type(error)), model.runner.start({}, 7, "") as prediction:
        fail(error)(prediction)
    assert directories(temporary) == []
    assert model.metrics == {}
    assert model.predict().exists()  # the next prediction works
    assert model.metrics["frames"] == 3


def test_a_cancel_at_any_bytecode_leaves_no_directory_but_that_of_the_last_prediction(
    model: Model, temporary: Path
) -> None:
    def predict() -> None:
        with model.runner.start({"prompt": "a cat", "seed": 7}, 7, "") as prediction:
            (prediction.directory / "clip.mp4").touch()
            prediction.clips.append(Clip(prediction.directory / "clip.mp4", 1, 2, 2, Fraction(1), 0))

    predict()
    for number in cancelled_at_every_moment(predict, ("videokit/prediction.py", "/contextlib.py", "/tempfile.py")):
        assert len(directories(temporary)) <= 1, number
    assert number > 30


def test_closing_a_generator_that_predicts_removes_the_directory_at_once(model: Model, temporary: Path) -> None:
    def predict() -> Iterator[Path]:
        with model.runner.start({}, 7, "") as prediction:
            yield prediction.encode(FRAMES, "1.mp4", fps=8)
            yield prediction.encode(FRAMES, "2.mp4", fps=8)

    outputs = predict()
    assert next(outputs).exists()
    outputs.close()
    assert directories(temporary) == []
    assert model.metrics == {}


def test_the_log_line_starts_with_the_seed(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="videokit"):
        model.predict(seed=1234)
    assert caplog.messages[0] == "seed: 1234, 3 frames"


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif"])
def test_the_metrics_describe_the_written_file(model: Model, name: str) -> None:
    model.predict(name, seed=1234)
    seconds = model.metrics.pop("seconds")
    assert isinstance(seconds, dict)
    assert list(seconds) == ["decode"]
    assert model.metrics == {"seed": 1234, "frames": 3, "duration": 3 / 8}


def test_a_file_states_its_inputs_seed_and_software(model: Model) -> None:
    with model.runner.start({"prompt": "a cat", "seed": None, "fps": 8}, 7, "") as prediction:
        path = prediction.encode(FRAMES, "clip.mp4", fps=8)
    provenance = prediction.provenance()
    assert provenance.inputs == {"prompt": "a cat", "seed": 7, "fps": 8}  # the resolved seed, which gives this file
    assert provenance.model == "some-model"
    assert provenance.seed == 7
    assert provenance.software == f"some-model 1.2.3, videokit {videokit.__version__}"
    assert provenance.comment().encode() in path.read_bytes()


def test_provenance_states_a_file_input_by_its_sha256(model: Model, tmp_path: Path) -> None:
    upload = tmp_path / "upload-83d1.mp4"
    upload.write_bytes(b"any content")
    with model.runner.start({"init_video": upload, "prompt": "a cat"}, 7, "") as prediction:
        prediction.encode(FRAMES, "clip.mp4", fps=8)
    digest = hashlib.sha256(b"any content").hexdigest()
    assert prediction.provenance().inputs == {"init_video": f"sha256:{digest}", "prompt": "a cat"}


def test_changes_replace_inputs_in_the_provenance_of_one_file(model: Model) -> None:
    with model.runner.start({"prompt": "a cat", "seed": None, "batch_size": 2}, 7, "") as prediction:
        path = prediction.encode(FRAMES, "clip.mp4", fps=8, seed=8, batch_size=1)
    provenance = prediction.provenance(seed=8, batch_size=1)
    assert provenance.inputs == {"prompt": "a cat", "seed": 8, "batch_size": 1}
    assert provenance.seed == 8
    assert provenance.comment().encode() in path.read_bytes()
    assert prediction.provenance().seed == 7


def test_out_of_memory_unloads_and_advises_and_the_next_prediction_works(model: Model, temporary: Path) -> None:
    with pytest.raises(OutOfMemory, match=r"lower num_frames$"), model.runner.start({}, 7, ""):
        torch.empty(2**50)
    assert model.unloads == 1
    assert directories(temporary) == []
    assert model.metrics == {}
    assert model.predict().exists()
    assert model.unloads == 1


class Documented:
    def run(self, steps: int, scale: float, seed: Optional[int] = None, flag: bool = False) -> dict[str, Any]:  # noqa: UP045
        return documented_inputs(self.run, locals())


def test_the_documented_inputs_are_those_of_run_with_whole_floats_as_integers() -> None:
    # Cog's server passes 4.0 on as a float, also for an integer
    inputs = Documented().run(4.0, 7.0, seed=3.0)  # type: ignore[arg-type]
    assert list(inputs.items()) == [("steps", 4), ("scale", 7.0), ("seed", 3), ("flag", False)]
    assert [type(value) for value in inputs.values()] == [int, float, int, bool]
    assert Documented().run(4.5, 7, seed=-0.0)["seed"] is not None  # type: ignore[arg-type]
    assert Documented().run(4.5, 7)["steps"] == 4.5  # type: ignore[arg-type]
