"""Specification of script/predict, with Cog's real server and two models without weights."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from called_scripts import predict
from cog_local.inputs import InvalidInputs, read_inputs
from cog_local.log_printer import LogPrinter
from cog_local.predict import match_format
from cog_local.schema import read_schema
from processes import processes_with
from pseudo_terminal import CTRL_C, terminal
from terminal import MovingLine
from tree import ROOT


def test_a_clip_is_written_here_and_reported_with_its_facts(repository: Path, tmp_path: Path) -> None:
    done = predict(repository, tmp_path, "one-file", "--json", "-", stdin='{"seed": 5}')
    assert done.stdout == f"{tmp_path}/one-file.mp4: 0 KB, 16 frames, 2.00 s, seed 5\n"
    assert [path.name for path in tmp_path.iterdir()] == ["one-file.mp4"]


def test_the_log_is_shown_if_it_is_asked_for(repository: Path, tmp_path: Path) -> None:
    done = predict(repository, tmp_path, "one-file", "-i", "steps=2", "-v")
    advice, *lines = done.stderr.splitlines()
    assert "--server http://127.0.0.1:8000" in advice
    assert lines[:2] == ["loading", "warning: it is cold"]
    assert [line.split()[0].split("%")[0] for line in lines[2:5]] == ["0", "50", "100"]
    assert predict(repository, tmp_path, "one-file", "-i", "steps=2").stderr == f"{advice}\nwarning: it is cold\n"


def test_a_terminal_shows_progress_and_keeps_only_the_result(repository: Path, tmp_path: Path) -> None:
    go = tmp_path / "go"
    arguments = ["one-file", "-i", f"hold={go}"]
    with terminal(repository / "script" / "predict", *arguments, cwd=tmp_path, NO_COLOR="1") as shown:
        for text in ("starting one-file", "%|"):
            shown.wait_for(text)
        go.touch()
        assert shown.status() == 0
    _, *lines = shown.lines()
    assert lines == ["warning: it is cold", f"{tmp_path}/one-file.mp4: 0 KB, 16 frames, 2.00 s, seed 7", ""]


def test_the_moving_line_has_the_stage_or_its_bar() -> None:
    line = MovingLine("starting")
    log = LogPrinter(line)
    for text, shown in [
        ("device: cpu", "loading"),
        ("weights: a.safetensors:  12%|#    | 5.20M/43.0M [00:01<00:07]", None),
        ("ffmpeg: 9.0", "loading"),
        (" 50%|#####     | 1/2 denoise [00:01<00:01]", None),
        ("100%|##########| 2/2 denoise [00:02<00:00]", "encoding"),
        ("denoise: 2 steps in 2.0 s", "encoding"),
    ]:
        log(text)
        assert line.text == (shown or text.strip())


def test_a_file_is_sent_and_the_output_path_is_chosen(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(b"a picture")
    (tmp_path / "there").mkdir()
    for path, written in [("out.mov", "out.mov"), ("out", "out.mp4"), ("there", "there/one-file.mp4")]:
        predict(repository, tmp_path, "one-file", "-i", "image=@in.png", "-o", path)
        assert (tmp_path / written).read_bytes() == b"from a picture"


def test_several_outputs_get_an_index(repository: Path, tmp_path: Path) -> None:
    predict(repository, tmp_path, "several-files", "-i", "words=a", "-i", "words=b", "-o", "clip.gif")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"clip.0.gif": "a", "clip.1.gif": "b"}


def test_invalid_input_of_a_model_that_yields_files_exits_2(repository: Path, tmp_path: Path) -> None:
    done = predict(repository, tmp_path, "several-files", "-i", "words=a", "-i", "words=", status=2)
    assert done.stderr.splitlines()[-1] == "a word is empty"
    assert list(tmp_path.iterdir()) == []


def test_a_directory_with_the_models_name_does_not_hide_the_clip(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "one-file").mkdir()
    predict(repository, tmp_path, "one-file")
    assert (tmp_path / "one-file.mp4").exists()


@pytest.mark.parametrize(
    ("arguments", "starts"),
    [
        (["-i", "steps=101", "-i", "mood=x"], ["mood is not an input; did you mean mode?", "steps=101 is greater"]),
        (["-i", "image=@nowhere"], ["image: nowhere cannot be read"]),
        (["--json", "{"], ["--json: not JSON"]),
        (["-o", "nowhere/clip.mp4"], ["-o nowhere/clip.mp4: there is no directory nowhere"]),
        (["--weights", "nowhere"], ["--weights nowhere: it is demo, full, or a directory"]),
        (["-i", "mode=refuse"], ["width=3 is odd; try 4", "seed=-1 is out of range"]),  # from the model
        # from the server, which answers 400 with a text
        (["-i", f"seed={'9' * 400}"], ["Failed to parse the request body as JSON: "]),
    ],
)
def test_invalid_inputs_are_one_line_each(
    repository: Path, tmp_path: Path, arguments: list[str], starts: list[str]
) -> None:
    done = predict(repository, tmp_path, "one-file", *arguments, status=2)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    shown = [line for line in lines if not line.startswith(("warning: ", "starting "))]
    for line, start in zip(sorted(shown), sorted(starts), strict=True):
        assert line.startswith(start)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_ones_own_is_refused_with_its_place(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.safetensors").touch()
    done = predict(repository, tmp_path, "one-file", "--weights", "mine.safetensors", status=2)
    assert "one-file/README.md, Your own weights, says under which name a directory has a file" in done.stderr
    with pytest.raises(InvalidInputs, match=r"one of these names in DIR/checkpoints/, and give --weights DIR$"):
        read_inputs(read_schema(ROOT / "animate-diff"), ["path=mine.safetensors"], None)


def test_an_output_that_cannot_be_written_is_refused_before_the_model_starts(repository: Path) -> None:
    done = predict(repository, repository, "one-file", "-o", "/proc/clip.mp4", status=2)  # not writable, even by root
    assert done.stderr.startswith("-o /proc/clip.mp4: no file can be written there: ")
    assert done.stderr.count("\n") == 1


def test_weights_are_those_of_the_environment_or_the_demo_weights_which_are_named(
    changed_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (changed_repository / "one-file" / "demo-weights").mkdir()
    monkeypatch.delenv("WEIGHTS", raising=False)
    assert "demo weights draw only coloured shapes" in predict(changed_repository, tmp_path, "one-file").stderr
    monkeypatch.setenv("WEIGHTS", "nowhere")
    done = predict(changed_repository, tmp_path, "one-file", status=2)
    assert done.stderr.startswith("--weights nowhere: it is demo, full, or a directory")
    assert "demo weights" in predict(changed_repository, tmp_path, "one-file", "--weights", "demo").stderr


@pytest.mark.skipif(sys.platform == "darwin" or shutil.which("nvidia-smi") is not None, reason="there may be a GPU")
def test_real_weights_without_a_gpu_are_announced_with_the_time_that_a_cpu_takes(
    repository: Path, tmp_path: Path
) -> None:
    assert "a CPU of 0.2 TFLOP/s takes" in predict(repository, tmp_path, "one-file", "--weights", str(tmp_path)).stderr
    assert "a CPU of 0.2" not in predict(repository, tmp_path, "one-file").stderr


def test_the_suffix_of_the_output_chooses_the_format_where_the_model_has_one() -> None:
    inputs: dict[str, Any] = {}
    match_format(ROOT / "sd-animation", Path("red.mp4"), inputs)
    assert inputs == {"output_format": "mp4"}
    with pytest.raises(InvalidInputs, match=r"^-o red.gif: output_format is mp4; give -i output_format=gif"):
        match_format(ROOT / "sd-animation", Path("red.gif"), inputs)
    with pytest.raises(InvalidInputs, match=r"^-o red.gif: animate-diff writes mp4 files$"):
        match_format(ROOT / "animate-diff", Path("red.gif"), {})


def test_the_error_of_a_failed_prediction_has_no_prefix_of_cog(repository: Path, tmp_path: Path) -> None:
    done = predict(repository, tmp_path, "one-file", "-i", "mode=fail", status=1)
    assert done.stderr.splitlines()[-1] == "ValueError: an error of the model"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("when", ["starting", "loading", "%|"])
def test_ctrl_c_leaves_nothing(repository: Path, tmp_path: Path, when: str) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = [repository / "script" / "predict", "one-file", "-v", "steps=100", "seconds=0.5"]
    with terminal(*command, cwd=tmp_path, TMPDIR=str(temporary)) as shown:
        shown.wait_for(when)
        shown.press(CTRL_C)
        assert shown.status() == 130
    assert shown.lines()[-2:] == ["stopped", ""]
    assert processes_with(f"TMPDIR={temporary}") == []
    assert list(temporary.iterdir()) == []
    assert list(tmp_path.iterdir()) == [temporary]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["one-fil"], "'one-fil' is not a model; did you mean one-file?"),
        (["one-file", "--step", "3"], "unrecognized arguments: --step 3; did you mean --steps?"),
    ],
)
def test_a_misspelt_word_is_refused_before_anything_is_installed(
    changed_repository: Path, arguments: list[str], message: str
) -> None:
    (changed_repository / ".venv" / "made-from").unlink()  # the next script would make the environment
    assert message in predict(changed_repository, changed_repository, *arguments, status=2).stderr


def test_inputs_are_understood_in_three_forms(repository: Path, tmp_path: Path) -> None:
    done = predict(repository, tmp_path, "one-file", "-i", "mode=clip", "--seed", "5", "steps=101", status=2)
    assert done.stderr == "steps=101 is greater than the maximum of 100\n"


def test_the_help_of_a_model_has_its_inputs_and_its_examples(changed_repository: Path) -> None:
    (changed_repository / ".venv" / "made-from").unlink()
    examples = changed_repository / "one-file" / "examples"
    examples.mkdir()
    (examples / "a-clip.json").write_text('{"input": {"mode": "clip", "steps": 3}}')
    shown = " ".join(predict(changed_repository, changed_repository, "one-file", "--help").stdout.split())
    assert "--steps VALUE Steps. whole number from 1 to 100; default: 4" in shown
    assert '--mode VALUE What to do. clip, fail, refuse; default: "clip"' in shown
    assert "script/predict one-file -i mode=clip -i steps=3" in shown


def test_a_missing_schema_names_the_command_that_writes_it(changed_repository: Path, tmp_path: Path) -> None:
    (changed_repository / "one-file" / "openapi.json").unlink()
    done = predict(changed_repository, tmp_path, "one-file", status=1)
    assert done.stderr.endswith("one-file/openapi.json is missing; run: script/schema one-file\n")
