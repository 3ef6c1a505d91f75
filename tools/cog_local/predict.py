"""One prediction through Cog's own server: starts the server, shows the model's log, writes the outputs to files."""

from __future__ import annotations

import mimetypes
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from terminal import STDOUT, MovingLine, colour, write
from videokit.files import atomic_write
from videokit.words import counted

from cog_local.api_client import ApiClient
from cog_local.inputs import InvalidInputs, decode_data_uri, read_inputs
from cog_local.log_printer import LogPrinter
from cog_local.schema import SchemaError, read_schema
from cog_local.server import CogServer, ServerError
from cog_local.source import read_source, report_textual_inversions, report_versions
from cog_local.usage import declared_inputs, example_outputs

if TYPE_CHECKING:
    from videokit.video.provenance import Provenance

_STARTING = "starting the model; --server http://127.0.0.1:8000 uses a running script/serve instead\n"
_DEMO = "the demo weights draw only coloured shapes; --weights full selects the real weights\n"
_NO_GPU = (
    "no NVIDIA driver: with the real weights, a CPU of 0.2 TFLOP/s takes 1 to 3 hours for a clip of the default "
    "inputs, by the operations in tools/benchmarks/README.md\n"
)


class PredictionFailed(Exception):
    """The model raised an error, whose text this is."""


class PredictionCancelled(Exception):
    """The prediction was cancelled before it succeeded."""


def predict(
    model_dir: Path,
    pairs: list[str],
    json_argument: str | None,
    target: Path | None,
    weights: str | None,
    source: Path | None = None,
    url: str | None = None,
    *,
    verbose: bool = False,
) -> int:
    """Run one prediction, write its outputs to `target` and return the exit status of script/predict.

    `pairs` and `json_argument` are those of `cog_local.inputs.read_inputs`. `source` is a file to make again. `url` is
    the address of a predictions API; without one, a Cog server is started. The model's log is written to stderr.
    If `target` is a directory or None, files are named after the model, and `source` is not replaced.
    A Cog server gets the weights that the variable WEIGHTS selects if `weights` is None, or else the demo weights.
    """
    kept = None
    if target is None or target.is_dir():
        target, kept = (target or Path()) / model_dir.name, source
    if url is None:
        weights = weights or os.environ.get("WEIGHTS") or "demo"
    try:
        faults = _path_faults(model_dir.name, target, weights)
        if url is not None and weights is not None:
            faults.append(
                f"--weights {weights}: the server has its own; start it with script/serve --weights {weights}"
            )
        if url is not None and not url.startswith(("http://", "https://")):
            faults.append(f"--server {url}: write http:// or https:// first")
        inputs, provenance = _read_inputs(model_dir, pairs, json_argument, source, faults)
        match_format(model_dir, target, inputs)
        if url is None:
            write(_STARTING)
            if weights == "demo" and (model_dir / "demo-weights").is_dir():
                write(_DEMO)
            if weights != "demo" and sys.platform != "darwin" and not shutil.which("nvidia-smi"):
                write(colour(_NO_GPU, "yellow"))
        with MovingLine(f"starting {model_dir.name}") as line:
            log = LogPrinter(line, verbose=verbose)
            server: CogServer | ApiClient
            if url is None:
                server = CogServer(model_dir, weights=weights or "demo", on_log=log)
            else:
                server = ApiClient(url, model_dir, log)
            with server:
                prediction = server.predict(inputs)
        check_status(prediction)
        paths = write_outputs(prediction.get("output"), target, kept)
        if provenance is not None:
            report_textual_inversions(source, provenance, paths)
        _report(paths, prediction.get("metrics", {}))
    except InvalidInputs as error:
        write(colour(str(error), "red") + "\n")
        return 2
    except (SchemaError, ServerError, PredictionFailed, OSError) as error:
        write(colour(str(error), "red") + "\n")
        return 1
    except PredictionCancelled:
        write("the prediction was cancelled\n")
        return 130
    return 0


def _read_inputs(
    model_dir: Path, pairs: list[str], json_argument: str | None, source: Path | None, faults: list[str]
) -> tuple[dict[str, Any], Provenance | None]:
    """Return the inputs for the server, and the provenance of `source`; raise InvalidInputs with all faults."""
    provenance, inputs = None, {}
    if source is not None:
        try:
            provenance = read_source(source, model_dir.name)
        except InvalidInputs as error:
            faults = [*faults, *error.faults]
    stored = {} if provenance is None else {**provenance.inputs, "seed": provenance.seed}
    try:
        inputs = read_inputs(read_schema(model_dir), pairs, json_argument, stored)
    except InvalidInputs as error:
        missing = source is not None and provenance is None  # then the file may have what is required
        faults = [*faults, *(fault for fault in error.faults if not (missing and fault.endswith(" is required")))]
    if faults:
        raise InvalidInputs(*faults)
    if provenance is not None:
        report_versions(source, provenance, model_dir)
    return inputs, provenance


def _path_faults(model: str, target: Path, weights: str | None) -> list[str]:
    faults = []
    if not target.parent.is_dir():
        faults.append(f"-o {target}: there is no directory {target.parent}")
    else:
        try:
            tempfile.TemporaryFile(dir=target.parent).close()
        except OSError as error:
            faults.append(f"-o {target}: no file can be written there: {(error.strerror or str(error)).lower()}")
    if weights not in (None, "demo", "full") and not Path(weights).is_dir():
        advice = f"; {model}/README.md, Your own weights, says under which name a directory has a file of yours"
        faults.append(f"--weights {weights}: it is demo, full, or a directory{advice * Path(weights).is_file()}")
    return faults


def match_format(model_dir: Path, target: Path, inputs: dict[str, Any]) -> None:
    """Set the input that chooses the output's format, if there is one, to the suffix of `target`.

    Raises InvalidInputs for a suffix that is not the format of the input, or of one of the model's examples.
    """
    suffix = target.suffix.removeprefix(".").lower()
    for name, field in declared_inputs(read_schema(model_dir)).items():
        if suffix in field.get("enum", []):
            if inputs.setdefault(name, suffix) != suffix:
                raise InvalidInputs(f"-o {target}: {name} is {inputs[name]}; give -i {name}={suffix}, or another name")
            return
    written = {path.suffix.removeprefix(".") for path in example_outputs(model_dir)}
    if suffix and written and suffix not in written:
        raise InvalidInputs(f"-o {target}: {model_dir.name} writes {' and '.join(sorted(written))} files")


def check_status(prediction: dict[str, Any]) -> None:
    """Raise InvalidInputs, PredictionFailed or PredictionCancelled, with the error's text without Cog's prefixes."""
    if "status" not in prediction:
        detail = prediction.get("detail", prediction)
        if not isinstance(detail, list):  # of a predictions API: one line for each fault
            lines = str(detail).splitlines()
            raise InvalidInputs(*(line.removeprefix("- ").replace("input.", "", 1) for line in lines))
        raise InvalidInputs(*(f"{fault['loc'][-1]}: {fault['msg']}" for fault in detail))
    if prediction["status"] == "canceled":
        raise PredictionCancelled
    if prediction["status"] == "failed":
        error = prediction.get("error") or "failed without an error message"
        for prefix in ("Prediction failed: ", "Generator iteration error: "):
            while error.startswith(prefix):
                error = error.removeprefix(prefix)
        if error.startswith("InvalidInput: "):
            raise InvalidInputs(*error.removeprefix("InvalidInput: ").splitlines())
        raise PredictionFailed(error)


def write_outputs(output: Any, target: Path, kept: Path | None) -> list[Path]:
    """Write data URIs to files and return their paths; `kept` is not replaced. Other outputs are printed."""
    paths = []
    for index, uri in enumerate(output if isinstance(output, list) else [output]):
        if not isinstance(uri, str) or not uri.startswith("data:"):
            print(uri)
            continue
        kind, content = decode_data_uri(uri)
        suffix = target.suffix or mimetypes.guess_extension(kind) or ".bin"
        number = f".{index}" if isinstance(output, list) else ""
        path = target.with_name(f"{target.stem}{number}{suffix}").absolute()
        if kept is not None and path.exists() and path.samefile(kept):
            path = path.with_stem(f"{path.stem}-again")
        try:
            with atomic_write(path) as part:
                part.write_bytes(content)
        except OSError as error:
            raise OSError(f"{path} cannot be written: {error.strerror or error}") from None
        paths.append(path)
    return paths


def _report(paths: list[Path], metrics: dict[str, Any]) -> None:
    facts = []
    if "frames" in metrics:
        facts.append(counted(metrics["frames"], "frame"))
    if "duration" in metrics:
        facts.append(f"{metrics['duration']:.2f} s")
    if "seed" in metrics:
        facts.append(f"seed {metrics['seed']}")
    for path in paths:
        print(", ".join([f"{colour(str(path), 'green', STDOUT)}: {path.stat().st_size / 1000:.0f} KB", *facts]))
