"""A model in Cog's server whose environment has a certificate."""

from __future__ import annotations

import io
from pathlib import Path

import c2pa
import pytest
from certificates import Authority, pem
from cog_local.server import CogServer, ServerError
from cryptography.hazmat.primitives.asymmetric import ec
from served import files
from tree import ROOT

INPUTS = {"prompt_start": "a red circle", "prompt_end": "a blue square", "width": 128, "height": 128, "seed": 3}
COUNTS = {"num_animation_frames": 2, "num_interpolation_steps": 2, "num_inference_steps": 2}


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    paths = {name: tmp_path / f"{name}.pem" for name in ("C2PA_CERTIFICATE", "C2PA_PRIVATE_KEY")}
    for path, content in zip(paths.values(), (Authority().issue(key), pem(key)), strict=True):
        path.write_bytes(content)
    return {"OMP_NUM_THREADS": "1", **{name: str(path) for name, path in paths.items()}}


def test_every_file_of_a_prediction_is_signed(environ: dict[str, str]) -> None:
    with CogServer(ROOT / "sd-animation", env=environ) as server:
        outputs = files(server.predict({**INPUTS, **COUNTS, "intermediate_output": True}))
    assert [media_type for media_type, _ in outputs] == ["image/png", "image/png", "image/gif"]
    for media_type, content in outputs:
        with c2pa.Reader(media_type, io.BytesIO(content)) as reader:
            assert reader.get_validation_state() == "Valid"


def test_a_server_does_not_start_with_a_key_of_another_certificate(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "C2PA_PRIVATE_KEY.pem").write_bytes(pem(ec.generate_private_key(ec.SECP256R1())))
    with (
        pytest.raises(ServerError, match=r"set-up failed: SigningError: C2PA_PRIVATE_KEY=.* does not belong to"),
        CogServer(ROOT / "sd-animation", env=environ),
    ):
        pass
