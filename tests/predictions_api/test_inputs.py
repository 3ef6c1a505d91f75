"""Inputs by URL: fetched by the API within limits, before a Cog server is lent; and their removal."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_in_process import ApiInProcess
from api_names import resolve
from api_server import ApiServer
from file_host import FileHost
from predictions_api.errors import Problem
from predictions_api.run.addresses import AddressRules
from predictions_api.store.predictions import Prediction


@pytest.fixture
def host() -> Iterator[FileHost]:
    with FileHost(together=2) as running:
        yield running


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiInProcess]:
    """Return a server whose limits are small and whose model has two files among its inputs."""
    with ApiInProcess(
        tmp_path_factory.mktemp("api"), allow_private_inputs=True, input_limit=1000, input_timeout=5.0
    ) as running:

        async def file_inputs(_model: str) -> set[str]:
            return {"image", "video"}

        running.service.catalogue.file_inputs = file_inputs  # type: ignore[method-assign]
        yield running


def prepare(api: ApiInProcess, **inputs: Any) -> tuple[Prediction, dict[str, Any]]:
    """Return a prediction with these inputs, and the inputs that its Cog server gets."""
    prediction = api.add_prediction(input=inputs)
    return prediction, api.run(api.service.inputs.prepare(prediction))


def error_of(api: ApiInProcess, url: str) -> str:
    with pytest.raises(Problem) as caught:
        prepare(api, image=url)
    assert parts(api.settings.files) == []
    return caught.value.detail


def parts(files: Path) -> list[Path]:
    """Return the incomplete files."""
    return list((files / "aside").glob("*"))


# Through the whole server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with ApiServer(tmp_path_factory.mktemp("server"), models=["text"], allow_private_inputs=True) as running:
        yield running


def test_the_model_gets_the_file_and_the_client_sees_the_url_it_sent(server: ApiServer, host: FileHost) -> None:
    url = f"{host.url}/text/from%20afar?signature=x"
    body = server.create("text", wait=True, file=url)
    assert (body["status"], body["output"]) == ("succeeded", "from afar")
    assert body["input"]["file"] == url
    assert [request["path"] for request in host.requests] == ["/text/from%20afar?signature=x"]


def test_a_slow_host_delays_no_other_prediction_and_a_cancel_ends_its_fetch(server: ApiServer, host: FileHost) -> None:
    slow = server.create("text", file=f"{host.url}/drip")["id"]
    host.wait_until(open_count=1)
    assert server.create("text", wait=True, text="next")["output"] == "next"
    assert server.get(slow)["status"] == "starting"
    server.http.post(f"/predictions/{slow}/cancel").raise_for_status()
    host.wait_until(open_count=0)
    assert server.get(slow)["status"] == "canceled"
    assert parts(server.directory / "data" / "files") == []


def test_a_failed_fetch_fails_the_prediction_and_its_model_is_not_started(tmp_path: Path, host: FileHost) -> None:
    with ApiServer(tmp_path, models=["text"], allow_private_inputs=True) as server:
        body = server.create("text", wait=True, file=f"http://user:secret@127.0.0.1:{host.port}/404/a.png?key=secret")
        assert "is ready at" not in server.log.read_text()
    assert body["status"] == "failed"
    assert body["error"] == (
        f"file: {host.url}/404/a.png cannot be fetched: 127.0.0.1 answered 404; "
        "a file has at most 2000000000 bytes and arrives within 60 s"
    )


def test_an_input_is_fetched_again_after_a_kill(tmp_path: Path, host: FileHost) -> None:
    with ApiServer(tmp_path, models=["text"], allow_private_inputs=True) as server:
        slow = server.create("text", file=f"{host.url}/drip")["id"]
        host.wait_until(open_count=1)
        server.kill()
        host.wait_until(open_count=0)
        host.release.set()
        server.start()
        assert server.wait_for(slow)["output"] == "dripped"


@pytest.mark.parametrize("settings", [{}, {"token": None}], ids=["with a token", "without"])
def test_a_url_of_a_cog_server_is_never_fetched(tmp_path: Path, settings: dict[str, Any]) -> None:
    with ApiServer(tmp_path, models=["text"], **settings) as server:
        body = server.create("text", wait=True, file=f"{server.url}/health")
    assert body["status"] == "failed"
    reason = "belongs to this server" if settings else "if the server was started with --allow-private-inputs"
    assert reason in body["error"]


def test_a_text_that_is_a_url_is_not_fetched(server: ApiServer, host: FileHost) -> None:
    url = f"{host.url}/text/a"
    assert server.create("text", wait=True, text=url)["output"] == url
    assert host.requests == []


# Limits


def test_the_inputs_of_a_prediction_are_fetched_at_the_same_time_and_once_each(
    api: ApiInProcess, host: FileHost
) -> None:
    first, second = f"{host.url}/together/a.png", f"{host.url}/together/b.mp4"  # answered once both are requested
    _, inputs = prepare(api, image=[first, first], video=second)
    assert [api.anonymous_http.get(url).text for url in (*inputs["image"], inputs["video"])] == ["ok"] * 3
    # Cog names a file after the last part of its URL.
    assert [url.rpartition("/")[2] for url in (*inputs["image"], inputs["video"])] == ["a.png", "a.png", "b.mp4"]
    assert sorted(request["path"] for request in host.requests) == ["/together/a.png", "/together/b.mp4"]


def test_a_second_preparation_fetches_nothing_again(api: ApiInProcess, host: FileHost) -> None:
    prediction, inputs = prepare(api, image=f"{host.url}/text/once")
    assert api.run(api.service.inputs.prepare(prediction)) == inputs
    assert len(host.requests) == 1


def test_one_failed_fetch_ends_the_others(api: ApiInProcess, host: FileHost) -> None:
    with pytest.raises(Problem, match=r"video: .*404"):
        prepare(api, image=f"{host.url}/drip", video=f"{host.url}/404")
    host.wait_until(open_count=0)
    assert parts(api.settings.files) == []


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("endless", "it has more than 1000 bytes"),
        ("text/" + "x" * 1001, "it has more than 1000 bytes"),
        ("short", "peer closed connection"),
        ("gzip", "compressed it"),
        ("500", "answered 500"),
        ("redirect?to=file:///etc/passwd", "file:// is not http"),
        ("redirect?to=/redirect%3Fto%3D/text/a", None),
    ],
)
def test_a_file_that_cannot_be_fetched_is_an_error_with_the_reason(
    api: ApiInProcess, host: FileHost, path: str, reason: str | None
) -> None:
    if reason is None:
        _, inputs = prepare(api, image=f"{host.url}/{path}")
        assert api.anonymous_http.get(inputs["image"]).text == "a"
    else:
        assert reason in error_of(api, f"{host.url}/{path}")


def test_an_endless_chain_of_redirects_is_an_error(api: ApiInProcess, host: FileHost) -> None:
    target = f"{host.url}/text/a"
    for _ in range(11):
        target = f"{host.url}/redirect?to={target.replace('%', '%25').replace('?', '%3F').replace('=', '%3D')}"
    assert "more than 10 redirects" in error_of(api, target)


def test_the_total_time_of_a_fetch_is_bounded(
    api: ApiInProcess, host: FileHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.service.fetcher, "_seconds", 0.3)  # a byte every 20 ms never exceeds a read timeout
    assert "image: " in (error := error_of(api, f"{host.url}/drip"))
    assert "did not arrive within 0.3 s" in error


# Addresses


@pytest.mark.parametrize(
    "target",
    ["http://10.0.0.1/", "http://169.254.169.254/latest/meta-data/", "http://[fd00::1]/", "http://here.test:1/"],
)
def test_every_redirect_is_checked(
    api: ApiInProcess, host: FileHost, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    resolve(monkeypatch, {"here.test": ["127.0.0.1"]})
    forbid_private(api, monkeypatch)
    assert "not a public address; inputs are fetched from there only" in error_of(
        api, f"{host.url}/redirect?to={target}"
    )


def test_the_connection_goes_to_the_checked_address(
    api: ApiInProcess, host: FileHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookups = resolve(monkeypatch, {"here.test": ["127.0.0.1"]})
    _, inputs = prepare(api, image=f"http://here.test:{host.port}/text/a")
    assert api.anonymous_http.get(inputs["image"]).text == "a"
    assert host.requests[0]["host"] == f"here.test:{host.port}"
    assert lookups == ["here.test"], "a second look-up could give another address"


def test_a_name_that_cannot_be_resolved_is_an_error(api: ApiInProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, {})
    assert "the name nowhere.test cannot be resolved" in error_of(api, "https://nowhere.test/")


class PublicHost(AddressRules):
    """Rules for which the host at 127.0.0.1 is public if its URL has this number."""

    async def fault(self, url: httpx.URL, addresses: list[str]) -> str | None:
        return None if url.host == "127.0.0.1" else await super().fault(url, addresses)


def forbid_private(api: ApiInProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    transport: Any = api.service.fetcher._http._transport
    rules = PublicHost("inputs are fetched from there", "--allow-private-inputs", transport.rules.resolver)
    monkeypatch.setattr(transport, "rules", rules)


# Removal


def test_nothing_of_a_fetched_input_is_left_after_the_end_of_its_prediction(api: ApiInProcess, host: FileHost) -> None:
    prediction, inputs = prepare(api, image=f"{host.url}/text/temporary")
    digest = hashlib.sha256(b"temporary").hexdigest()
    content = api.settings.files / digest[:2] / digest
    api.run(api.service.files.sweep())
    assert api.anonymous_http.get(inputs["image"]).text == "temporary"
    api.update(prediction, status="succeeded")
    assert api.anonymous_http.get(inputs["image"]).status_code == 404
    api.run(api.service.files.sweep())
    assert not content.exists()


def test_an_output_equal_to_a_fetched_input_is_kept(api: ApiInProcess, host: FileHost) -> None:
    prediction, _ = prepare(api, image=f"{host.url}/text/same")
    path = api.store_output("data:text/plain,same", prediction.id)
    api.update(prediction, status="succeeded", output=path)
    api.run(api.service.files.sweep())
    assert api.anonymous_http.get(api.url + path).text == "same"
