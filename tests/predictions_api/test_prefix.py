"""The whole API below a path of a reverse proxy: every URL that it returns works for clients."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import replicate
from api_server import TOKEN, VERSIONS, ApiServer
from ports import free_port
from prefix_proxy import PrefixProxy
from webhook_receiver import WebhookReceiver


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the public URL of a server behind a proxy."""
    port = free_port()
    with (
        PrefixProxy("/ai", port) as proxy,
        ApiServer(tmp_path_factory.mktemp("server"), port=port, public_url=proxy.url),
    ):
        yield proxy.url


@pytest.fixture
def client(public: str) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=f"{public}/v1", headers=headers, timeout=90) as running:
        yield running


def create(client: httpx.Client, name: str, prefer: str = "wait", **inputs: Any) -> Any:
    body = {"version": VERSIONS[name], "input": inputs}
    answer = client.post("/predictions", json=body, headers={"Prefer": prefer})
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_the_url_of_an_upload_is_an_input(client: httpx.Client, public: str) -> None:
    urls = client.post("/files", files={"content": ("a.txt", b"uploaded")}).json()["urls"]
    assert urls["get"].startswith(f"{public}/v1/files/")
    assert httpx.get(urls["download"], timeout=60).content == b"uploaded"
    assert client.get(urls["get"]).status_code == 200
    for url in urls.values():
        body = create(client, "text", file=url)
        assert (body["output"], body["error"]) == ("uploaded", None)


def test_a_large_data_uri_and_an_output_are_inputs(client: httpx.Client, public: str) -> None:
    body = create(client, "text", file="data:text/plain," + "x" * 300_000)
    assert body["output"] == "x" * 300_000
    assert body["input"]["file"].startswith(f"{public}/v1/delivery/")
    assert httpx.get(body["input"]["file"], timeout=60).text == "x" * 300_000
    output = client.get(create(client, "file")["urls"]["get"]).json()["output"]
    assert output.startswith(f"{public}/v1/delivery/")
    assert httpx.get(output, timeout=60).text == "abc"
    assert create(client, "text", file=output)["output"] == "abc"


def test_the_urls_of_a_prediction_work(client: httpx.Client, public: str) -> None:
    body = create(client, "words", prefer="", text="a b", sleep=0.1)
    assert all(url.startswith(f"{public}/v1/") for url in body["urls"].values())
    events = httpx.get(body["urls"]["stream"], headers={"Accept": "text/event-stream"}, timeout=60).text
    assert "event: output" in events
    assert "event: done" in events
    assert client.get(body["urls"]["get"]).json()["status"] == "succeeded"
    running = create(client, "words", prefer="", sleep=60)
    assert client.post(running["urls"]["cancel"]).json()["status"] == "canceled"


@pytest.mark.parametrize("path", ["/files", "/predictions"])
def test_the_links_between_pages_work(client: httpx.Client, public: str, path: str, tmp_path: Path) -> None:
    for number in range(101):
        if path == "/files":
            client.post("/files", files={"content": (str(number), b"x")}).raise_for_status()
        else:
            create(client, "text", prefer="", hold=str(tmp_path / "never"))
    first = client.get(path).json()
    assert first["next"].startswith(f"{public}/v1{path}?")
    second = client.get(first["next"]).json()
    seen = [item["id"] for item in first["results"] + second["results"]]
    assert len(seen) == len(set(seen)) > 100
    for item in first["results"] + second["results"]:
        if item.get("status") in ("starting", "processing"):
            client.post(item["urls"]["cancel"]).raise_for_status()


def test_a_webhook_has_public_urls(client: httpx.Client, public: str) -> None:
    with WebhookReceiver() as receiver:
        body = {"version": VERSIONS["file"], "input": {}, "webhook": receiver.url + "/200/x"}
        client.post("/predictions", json=body).raise_for_status()
        call = receiver.wait_for("/200/x", lambda calls: bool(calls) and calls[-1].json["status"] == "succeeded")[-1]
    assert call.json["output"].startswith(f"{public}/v1/delivery/")
    assert httpx.get(call.json["output"], timeout=60).text == "abc"
    assert client.get(call.json["urls"]["get"]).json()["id"] == call.json["id"]


def test_the_python_client_works(public: str) -> None:
    client = replicate.Client(api_token=TOKEN, base_url=public)
    output = client.run(f"test/text:{VERSIONS['text']}", input={"file": io.BytesIO(b"from the client")})
    assert output == "from the client"


def test_the_documents_name_the_public_url(public: str) -> None:
    document = httpx.get(f"{public}/openapi.json", timeout=60).json()
    assert document["servers"] == [{"url": f"{public}/v1"}]
    assert f'href="{public}/v1/openapi.json"' in httpx.get(f"{public}/docs", timeout=60).text
