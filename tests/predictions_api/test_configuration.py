"""The configuration of a server by file, flags and environment, and its errors."""

from __future__ import annotations

import re
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from api_server import VERSIONS, ApiServer
from predictions_api.configuration import BadConfiguration, parser, read_settings
from programs import needs

MODEL = f"""
[[models]]
name = "test/text"
versions = ["{VERSIONS["text"]}"]
urls = ["http://127.0.0.1:1"]
"""


def settings(tmp_path: Path, text: str, *flags: str, **environ: str) -> object:
    (tmp_path / "api.toml").write_text(text)
    return read_settings(parser().parse_args(["--config", str(tmp_path / "api.toml"), *flags]), environ)


def test_flags_override_the_file_and_paths_are_relative_to_it(tmp_path: Path) -> None:
    result = settings(tmp_path, f'keep = 60\nport = 1\ndata = "here"\n{MODEL}', "--port", "2")
    assert (result.keep, result.port, result.data) == (60, 2, tmp_path / "here")  # type: ignore[attr-defined]


def test_tokens_are_read_from_file_and_environment_and_are_not_in_repr(tmp_path: Path) -> None:
    result = settings(tmp_path, f'tokens = ["one"]\n{MODEL}', REPLICATE_API_TOKEN="two, three")
    assert result.tokens == ("one", "two", "three")  # type: ignore[attr-defined]
    assert "two" not in repr(result)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('host = "0.0.0.0"', "reachable from other machines and no token"),
        ("speed = 9", "unknown speed; known are"),
        ('certfile = "a.pem"', "certfile and keyfile belong together"),
        ("keep = 0", "more than 0"),
        ("= 3", "Invalid"),
        ('[[models]]\nname = "text"\nversions = ["1"]\nurls = ["x"]', "owner/name"),
        ('[[models]]\nname = "a/b"\nversions = ["1"]', "either a command"),
        (MODEL + MODEL, "two models have one name"),
        ("port = 70000", "port is 70000; give 0 to 65535"),
        ('tokens = "secret"', "tokens is 'secret'; give a list of texts"),
        ("tokens = [1]", "tokens is [1]; give a list of texts"),
        ('public_url = "example.com/ai"', "public_url is 'example.com/ai'; give an http:// or https:// URL"),
        ('internal_url = "http://[1/"', "internal_url is 'http://[1/'; give an http:// or https:// URL"),
        ('bucket = "https://minio/files"', "bucket is 'https://minio/files'; give s3://NAME or s3://NAME/PREFIX"),
        ("idle = true", "idle is True; give a number"),
        ("[models]\nname = 1", "models is {'name': 1}; give a table [[models]] for each model"),
        (MODEL.replace('"test/text"', "1"), "name is 1; give a text"),
        (MODEL.replace('["http://127.0.0.1:1"]', '"http://a"'), "urls is 'http://a'; give a list of texts"),
        (MODEL + "nonsense = 1", "model test/text: unknown nonsense; known are"),
    ],
)
def test_an_invalid_configuration_is_refused_with_the_reason(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadConfiguration, match=re.escape(message)):
        settings(tmp_path, text)


def test_help_lists_the_flags_and_a_missing_file_exits_with_status_2(tmp_path: Path) -> None:
    module = [sys.executable, "-m", "predictions_api"]
    help_text = subprocess.run([*module, "--help"], capture_output=True, text=True, check=True).stdout
    assert {"--database", "--keep", "--certfile", "REPLICATE_API_TOKEN"} <= set(help_text.replace(",", " ").split())
    missing = subprocess.run([*module, "--config", str(tmp_path / "none")], capture_output=True, text=True, check=False)
    assert missing.returncode == 2
    assert "none" in missing.stderr and "Traceback" not in missing.stderr


def test_with_a_certificate_the_server_and_output_urls_use_https(tmp_path: Path) -> None:
    command = [needs("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "cert")]
    subprocess.run(command, check=True, capture_output=True)
    with ApiServer(tmp_path, models=["file"], certfile="cert", keyfile="key") as server:
        trust = ssl.create_default_context(cafile=str(tmp_path / "cert"))
        headers = {"Authorization": f"Bearer {server.token}", "Prefer": "wait"}
        with httpx.Client(base_url=f"{server.url}/v1", verify=trust, headers=headers, timeout=60) as client:
            body = client.post("/predictions", json={"version": VERSIONS["file"], "input": {}}).json()
            assert body["output"].startswith(f"{server.url}/v1/delivery/")
            assert client.get(body["output"]).text == "abc"
