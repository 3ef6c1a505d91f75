"""The whole API below a path of a reverse proxy: every URL that it returns works for clients."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import replicate
from api_server import TOKEN, VERSIONS, ApiServer, free_port
from prefix_proxy import PrefixProxy
from webhook_receiver import WebhookReceiver


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Return a server behind a proxy, to which its `http` connects. `url` is the public URL."""
    port = free_port()
    with (
        PrefixProxy("/ai", port) as proxy,
        ApiServer(tmp_path_factory.mktemp("server"), port=port, public_url=proxy.url) as running,
    ):
        headers = {"Authorization": f"Bearer {TOKEN}"}
        running.http = httpx.Client(base_url=f"{proxy.url}/v1", headers=headers, timeout=90)
        yield running


def test_the_url_of_an_upload_is_an_input(server: ApiServer) -> None:
    urls = server.http.post("/files", files={"content": ("a.txt", b"uploaded")}).json()["urls"]
    assert urls["get"].startswith(f"{server.url}/v1/files/")
    assert httpx.get(urls["download"]).content == b"uploaded"
    assert server.http.get(urls["get"]).status_code == 200
    for url in urls.values():
        body = server.create("text", wait=True, file=url)
        assert (body["output"], body["error"]) == ("uploaded", None)


def test_a_large_data_uri_and_an_output_are_inputs(server: ApiServer) -> None:
    body = server.create("text", wait=True, file="data:text/plain," + "x" * 300_000)
    assert body["output"] == "x" * 300_000
    assert body["input"]["file"].startswith(f"{server.url}/v1/delivery/")
    assert httpx.get(body["input"]["file"]).text == "x" * 300_000
    output = server.http.get(server.create("file", wait=True)["urls"]["get"]).json()["output"]
    assert output.startswith(f"{server.url}/v1/delivery/")
    assert httpx.get(output).text == "abc"
    assert server.create("text", wait=True, file=output)["output"] == "abc"


def test_the_urls_of_a_prediction_work(server: ApiServer) -> None:
    body = server.create("words", text="a b", sleep=0.1)
    assert all(url.startswith(f"{server.url}/v1/") for url in body["urls"].values())
    events = httpx.get(body["urls"]["stream"], headers={"Accept": "text/event-stream"}, timeout=60).text
    assert "event: output" in events
    assert "event: done" in events
    assert server.http.get(body["urls"]["get"]).json()["status"] == "succeeded"
    running = server.create("words", sleep=60)
    assert server.http.post(running["urls"]["cancel"]).json()["status"] == "canceled"


@pytest.mark.parametrize("path", ["/files", "/predictions"])
def test_the_links_between_pages_work(server: ApiServer, path: str, tmp_path: Path) -> None:
    for number in range(101):
        if path == "/files":
            server.http.post("/files", files={"content": (str(number), b"x")}).raise_for_status()
        else:
            server.create("text", hold=str(tmp_path / "never"))
    first = server.http.get(path).json()
    assert first["next"].startswith(f"{server.url}/v1{path}?")
    second = server.http.get(first["next"]).json()
    seen = [item["id"] for item in first["results"] + second["results"]]
    assert len(seen) == len(set(seen)) > 100
    for item in first["results"] + second["results"]:
        if item.get("status") in ("starting", "processing"):
            server.http.post(item["urls"]["cancel"]).raise_for_status()


def test_a_webhook_has_public_urls(server: ApiServer) -> None:
    with WebhookReceiver() as receiver:
        body = {"version": VERSIONS["file"], "input": {}, "webhook": receiver.url + "/200/x"}
        server.http.post("/predictions", json=body).raise_for_status()
        call = receiver.wait_for("/200/x", lambda calls: bool(calls) and calls[-1].json["status"] == "succeeded")[-1]
    assert call.json["output"].startswith(f"{server.url}/v1/delivery/")
    assert httpx.get(call.json["output"]).text == "abc"
    assert server.http.get(call.json["urls"]["get"]).json()["id"] == call.json["id"]


def test_the_python_client_works(server: ApiServer) -> None:
    client = replicate.Client(api_token=TOKEN, base_url=server.url)
    output = client.run(f"test/text:{VERSIONS['text']}", input={"file": io.BytesIO(b"from the client")})
    assert output == "from the client"


def test_the_documents_name_the_public_url(server: ApiServer) -> None:
    document = httpx.get(f"{server.url}/openapi.json").json()
    assert document["servers"] == [{"url": f"{server.url}/v1"}]
    assert f'href="{server.url}/v1/openapi.json"' in httpx.get(f"{server.url}/docs").text
