"""Tokens in a file that changes while the server runs, by each of the ways in which the files of deploy/ change it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor as Threads
from pathlib import Path

import pytest
from api_server import ApiServer, wait_for_runs
from predictions_api.configuration import BadConfiguration
from predictions_api.http.tokens import Tokens
from predictions_api.settings import Settings


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A server with a file of tokens, and a token in REPLICATE_API_TOKEN too."""
    directory = tmp_path_factory.mktemp("tokens")
    (directory / "tokens").write_text("old\n")
    with ApiServer(directory, models=["text"], tokens_file="tokens") as running:
        yield running


@pytest.fixture
def tokens(server: ApiServer) -> Path:
    """Return the file, which has the token `old` again."""
    path = server.directory / "tokens"
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    path.write_text("old\n")
    assert status(server, "old") == 200
    return path


def status(server: ApiServer, token: str | None) -> int:
    """Return how a request with a token is answered."""
    headers = {"Authorization": f"Bearer {token}" if token else ""}
    return server.http.get("/predictions", headers=headers).status_code


def test_a_change_refuses_the_old_token_and_disturbs_no_prediction_request_or_stream(
    server: ApiServer, tokens: Path, tmp_path: Path
) -> None:
    runs, go = tmp_path / "runs", tmp_path / "go"
    old = {"Authorization": "Bearer old"}
    with Threads() as threads:
        # These requests were accepted with the old token.
        answer = threads.submit(server.create, "text", wait=True, headers=old, mark=str(runs), hold=str(go))
        wait_for_runs(runs)
        running = server.http.get("/predictions", headers=old).json()["results"][0]
        with server.http.stream("GET", running["urls"]["stream"]) as stream:
            tokens.write_text("new\n")
            assert [status(server, token) for token in ("old", "new", server.token)] == [401, 200, 200]
            go.touch()
            lines = list(stream.iter_lines())
        assert answer.result()["status"] == "succeeded"
    assert (answer.result()["id"], answer.result()["output"]) == (running["id"], "hello")
    assert "data: hello" in lines and lines.index("event: done") > lines.index("data: hello")


def test_several_tokens_are_valid_at_the_same_time(server: ApiServer, tokens: Path) -> None:
    tokens.write_text("old\r\nnew, other\n\n")
    assert [status(server, token) for token in ("old", "new", "other")] == [200] * 3
    assert [status(server, token) for token in (None, ",", "old new", "ol")] == [401] * 4
    assert "other" not in server.log.read_text()


def replace(path: Path) -> None:
    """Replace a file as editors and install do."""
    path.with_name("next").write_text("new")
    path.with_name("next").rename(path)


def swap_links(path: Path) -> None:
    """Replace a file as Kubernetes does in a volume of a Secret, where the file is a link into a directory."""
    path.unlink()
    for name in ("first", "second"):
        shutil.rmtree(path.with_name(name), ignore_errors=True)
        path.with_name(name).mkdir()
        (path.with_name(name) / "tokens").write_text({"first": "old", "second": "new"}[name])
    data = path.with_name("..data")
    data.unlink(missing_ok=True)
    data.symlink_to("first")
    path.symlink_to("..data/tokens")
    path.with_name("..next").symlink_to("second")
    path.with_name("..next").rename(data)


@pytest.mark.parametrize("change", [replace, swap_links])
def test_a_replaced_file_is_read_again(server: ApiServer, tokens: Path, change: Callable[[Path], None]) -> None:
    change(tokens)
    assert [status(server, token) for token in ("old", "new")] == [401, 200]


@pytest.mark.parametrize("content", [None, b"", b" \n,\n", b"\xff\n", "directory"])
def test_a_file_without_tokens_leaves_the_old_ones_and_is_an_error_in_the_log(
    server: ApiServer, tokens: Path, content: bytes | str | None
) -> None:
    before = len(server.logged_errors())
    tokens.unlink()
    if isinstance(content, bytes):
        tokens.write_bytes(content)
    elif content is not None:
        tokens.mkdir()
    assert [status(server, token) for token in (None, "", "new", "old")] == [401, 401, 401, 200]
    (error,) = server.logged_errors()[before:]  # one line, also for several requests
    assert error["message"].startswith("the tokens are not changed: ")


@pytest.mark.parametrize(("content", "fault"), [(None, "No such file"), ("\n", "has no token")])
def test_a_server_does_not_start_with_a_file_without_tokens(tmp_path: Path, content: str | None, fault: str) -> None:
    path = tmp_path / "tokens"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BadConfiguration, match=rf"tokens_file: .*{fault}.*; give a file with one token a line"):
        Tokens(Settings(models=(), host="0.0.0.0", tokens_file=path))
