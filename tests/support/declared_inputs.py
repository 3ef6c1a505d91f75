"""The inputs that a predict.py declares, and the names that `Inputs` gives them."""

from __future__ import annotations

import importlib
from dataclasses import fields

from cog_local.schema import openapi_schema
from tree import ROOT, package_of

# documented names that a model's `Inputs` renames
RENAMED = {
    "path": "checkpoint",
    "n_prompt": "negative_prompt",
    "steps": "num_inference_steps",
    "gif_frames_per_second": "fps",
    "gif_ping_pong": "ping_pong",
}


def missing_field(model: str) -> str | None:
    """Return which input of a model's predict.py its inputs.py lacks, or None."""
    package = package_of(model)
    inputs = importlib.import_module(f"{package}.inputs").Inputs
    declared = openapi_schema(ROOT / model / "predict.py")["components"]["schemas"]["Input"]["properties"]
    names = {field.name for field in fields(inputs)}
    missing = [name for name in declared if RENAMED.get(name, name) not in names]
    return f"{model}/{package}/inputs.py: class Inputs lacks {', '.join(missing)} of predict.py" if missing else None
