"""What a server is told by its file, flags and environment, and what it refuses to be told."""

from __future__ import annotations

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


def test_flags_win_over_the_file_and_paths_are_relative_to_it(tmp_path: Path) -> None:
    found = settings(tmp_path, f'keep = 60\nport = 1\ndata = "here"\n{MODEL}', "--port", "2")
    assert (found.keep, found.port, found.data) == (60, 2, tmp_path / "here")  # type: ignore[attr-defined]


def test_tokens_come_from_the_file_and_the_environment_and_are_never_shown(tmp_path: Path) -> None:
    found = settings(tmp_path, f'tokens = ["one"]\n{MODEL}', REPLICATE_API_TOKEN="two, three")
    assert found.tokens == ("one", "two", "three")  # type: ignore[attr-defined]
    assert "two" not in repr(found)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('host = "0.0.0.0"', "reachable from other machines and no token"),
        ("speed = 9", "unknown speed; known are"),
        ('certfile = "a.pem"', "certfile and keyfile belong together"),
        ("keep = 0", "more than 0"),
        ("= 3", "Invalid"),
        ('[[models]]\nname = "text"\nversions = ["1"]\nurls = ["x"]', "owner/name"),
        ('[[models]]\nname = "a/b"\nversions = ["1"]', "either a command"),
        (MODEL + MODEL, "two models have one name"),
    ],
)
def test_what_cannot_work_is_refused_with_what_to_do(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadConfiguration, match=said):
        settings(tmp_path, text)


def test_help_tells_everything_and_a_bad_file_ends_with_status_2(tmp_path: Path) -> None:
    module = [sys.executable, "-m", "predictions_api"]
    told = subprocess.run([*module, "--help"], capture_output=True, text=True, check=True).stdout
    assert {"--database", "--keep", "--certfile", "REPLICATE_API_TOKEN"} <= set(told.replace(",", " ").split())
    absent = subprocess.run([*module, "--config", str(tmp_path / "none")], capture_output=True, text=True, check=False)
    assert absent.returncode == 2
    assert "none" in absent.stderr and "Traceback" not in absent.stderr


def test_without_a_token_only_who_asks_for_localhost_is_answered(tmp_path: Path) -> None:
    with ApiServer(tmp_path, models=["text"], token=None) as server:
        assert server.create("text", wait=True)["status"] == "succeeded"
        # A page of someone else's whose name was made to point at 127.0.0.1 (DNS rebinding).
        answer = server.http.get("/predictions", headers={"Host": "evil.example"})
        assert (answer.status_code, answer.json()["status"]) == (403, 403)
        assert server.http.get("/predictions", headers={"Host": "["}).status_code == 403


def test_tls_is_served_and_outputs_are_https_urls(tmp_path: Path) -> None:
    made = [needs("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    made += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "cert")]
    subprocess.run(made, check=True, capture_output=True)
    with ApiServer(tmp_path, models=["file"], certfile="cert", keyfile="key") as server:
        trust = ssl.create_default_context(cafile=str(tmp_path / "cert"))
        headers = {"Authorization": f"Bearer {server.token}", "Prefer": "wait"}
        with httpx.Client(base_url=f"{server.url}/v1", verify=trust, headers=headers, timeout=60) as client:
            body = client.post("/predictions", json={"version": VERSIONS["file"], "input": {}}).json()
            assert body["output"].startswith(f"{server.url}/v1/delivery/")
            assert client.get(body["output"]).text == "abc"
