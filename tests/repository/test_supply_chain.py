"""Specification of script/audit, with a fake pip-audit, and of script/sbom, which asks the package index."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tree import ROOT


@pytest.mark.parametrize(
    ("stream", "text", "status"),
    [
        ("stdout", "Found 1 known vulnerability in 1 package", 1),
        ("stderr", "ConnectionError: Max retries exceeded with url: /pypi/torch/json", 0),
        ("stderr", "InvalidVersion: another fault of the audit", 1),
    ],
)
def test_an_audit_fails_unless_only_the_index_cannot_be_reached(
    tmp_path: Path, stream: str, text: str, status: int
) -> None:
    (tmp_path / "pip_audit.py").write_text(f"import sys\nprint({text!r}, file=sys.{stream})\nsys.exit(1)\n")
    command = [sys.executable, str(ROOT / "script" / "audit")]
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert subprocess.run(command, env=environ, capture_output=True, check=False).returncode == status


def test_the_sbom_of_an_image_has_its_direct_and_indirect_packages(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "script" / "sbom"), "zeroscope", "--to", str(tmp_path)]
    subprocess.run(command, check=True)
    document = json.loads((tmp_path / "zeroscope.cdx.json").read_text())
    assert document["bomFormat"] == "CycloneDX"
    found = {component["purl"] for component in document["components"]}
    assert "pkg:pypi/torch@2.11.0" in found  # the image's, not that of the tests
    assert [purl for purl in found if purl.startswith("pkg:pypi/tokenizers@")]  # required by transformers
