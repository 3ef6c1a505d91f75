"""Web pages of other origins, in real Chromium: they may read what a secret URL gives access to, and nothing else."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from api_in_process import PIXEL, PIXEL_URI, TOKEN, ApiInProcess
from api_server import ApiServer
from chromium import report_of_chromium
from playwright.sync_api import Browser
from predictions_api.http.access import OPEN_PATHS, is_open, is_shared
from predictions_api.store.database import random_key
from predictions_api.store.predictions import Prediction

READ = """
async function read(url, options) {
    try {
        const answer = await fetch(url, {cache: "no-store", ...options});
        const range = answer.headers.get("content-range");
        return [answer.status, options?.method === "HEAD" ? "" : (await answer.text()).slice(0, 5), range];
    } catch { return "refused"; }
}
const entries = Object.entries(REQUESTS).map(async ([name, [url, options]]) => [name, await read(url, options)]);
Promise.all(entries).then(Object.fromEntries).then(report);
"""
IMAGE_THEN_FETCH = """
const image = new Image();
image.onload = () => fetch(URL).then(answer => answer.blob()).then(({size}) => report(size), () => report("refused"));
image.src = URL;
"""
EVENT_SOURCE = """
const source = new EventSource(URL, {withCredentials: true}), seen = [];
for (const kind of ["output", "done"]) source.addEventListener(kind, ({data}) => seen.push([kind, data]));
source.onerror = () => { if (source.readyState === EventSource.CLOSED) report(seen); };
"""


@pytest.fixture(scope="module")
def prediction(api: ApiInProcess) -> Prediction:
    added = api.add_prediction(stream_key=random_key(), status="processing")
    path = api.store_output("data:text/plain,abcde", added.id)
    api.update(added, output=["one", path], status="succeeded")
    return added


@pytest.fixture(scope="module")
def file_url(api: ApiInProcess, prediction: Prediction) -> str:
    url: str = api.http.get(f"/v1/predictions/{prediction.id}").json()["output"][1]
    return url


def test_a_page_reads_files_and_their_errors_and_nothing_that_needs_a_token(
    api: ApiInProcess, browser: Browser, prediction: Prediction, file_url: str
) -> None:
    authorized = {"headers": {"Authorization": f"Bearer {TOKEN}"}}
    create = {"method": "POST", "body": '{"input": {}}', "headers": {"Content-Type": "application/json"}}
    missing = f"{api.url}/v1/delivery/{'0' * 52}/clip.mp4"
    expected = {
        "file": ([file_url], [200, "abcde", None]),
        "file with a token": ([file_url, authorized], [200, "abcde", None]),
        "file with cookies": ([file_url, {"credentials": "include"}], [200, "abcde", None]),
        "head": ([file_url, {"method": "HEAD"}], [200, "", None]),
        "range": ([file_url, {"headers": {"Range": "bytes=1-2"}}], [206, "bc", "bytes 1-2/5"]),
        "two ranges": (
            [file_url, {"headers": {"Range": "bytes=0-0,4-4", "If-Range": '"other"'}}],
            [200, "abcde", None],
        ),
        "missing file": ([missing], [404, '{"det', None]),
        "range beyond the end": ([file_url, {"headers": {"Range": "bytes=99-"}}], [416, "", "bytes */5"]),
        "invalid signature": ([f"{api.url}/v1/files/x/download?expiry=a"], [422, '{"tit', None]),
        "missing stream": ([f"{api.url}/v1/streams/x"], [404, '{"det', None]),
        "post to a file": ([file_url, {"method": "POST"}], [405, '{"det', None]),
        "delete a file": ([file_url, {"method": "DELETE"}], "refused"),
        "prediction": ([f"{api.url}/v1/predictions/{prediction.id}", authorized], "refused"),
        "prediction without a token": ([f"{api.url}/v1/predictions/{prediction.id}"], "refused"),
        "create": ([f"{api.url}/v1/predictions", create], "refused"),
        "upload": ([f"{api.url}/v1/files", {"method": "POST", "body": "a"}], "refused"),
        "health": ([f"{api.url}/health"], "refused"),
        "document": ([f"{api.url}/openapi.json"], "refused"),
        "pages": ([f"{api.url}/docs"], "refused"),
    }
    requests = {name: request for name, (request, _) in expected.items()}
    report = report_of_chromium(browser, READ.replace("REQUESTS", json.dumps(requests)))
    assert report == {name: result for name, (_, result) in expected.items()}


def test_a_page_reads_an_image_that_the_browser_has_shown_and_stored_before(
    api: ApiInProcess, browser: Browser
) -> None:
    script = IMAGE_THEN_FETCH.replace("URL", json.dumps(api.url + api.store_output(PIXEL_URI)))
    assert report_of_chromium(browser, script) == len(PIXEL)


def test_an_event_source_with_credentials_reads_each_event_once_and_ends(
    api: ApiInProcess, browser: Browser, prediction: Prediction, file_url: str
) -> None:
    url = f"{api.url}/v1/streams/{prediction.stream_key}"
    seen = report_of_chromium(browser, EVENT_SOURCE.replace("URL", json.dumps(url)))
    assert seen == [["output", "one"], ["output", file_url], ["done", "{}"]]


def test_every_path_of_the_server_is_in_the_table_or_needs_a_token(api: ApiInProcess) -> None:
    document = api.anonymous_http.get("/openapi.json").json()
    for template, operations in document["paths"].items():
        path = re.sub(r"\{\w+\}", "x", template)
        for method in operations:
            status = api.anonymous_http.request(method, f"/v1{path}").status_code
            assert (status != 401) == is_open(path), f"{method} {path}"
    assert len(document["paths"]) > 15


def test_only_paths_with_a_key_or_a_signature_and_files_of_examples_are_shared() -> None:
    shared = {path for path, is_shared in OPEN_PATHS.items() if is_shared}
    keyed = {r"/delivery/.+", r"/streams/.+", r"/files/stream-[^/]+", r"/files/[^/]+/download"}
    assert shared == {*keyed, r"/models/[^/]+/[^/]+/examples/[^/]+"}
    assert not is_shared("/models/owner/name/examples")
    assert not is_shared("/predictions")
    assert not is_shared("/files/x")


def test_head_is_answered_wherever_get_is_and_has_no_body(
    api: ApiInProcess, prediction: Prediction, file_url: str
) -> None:
    file = api.http.post("/v1/files", files={"content": ("a.txt", b"abc")}).json()
    ids = {"prediction_id": prediction.id, "stream_key": str(prediction.stream_key), "file_id": file["id"], "name": "x"}
    document = api.http.get("/openapi.json").json()
    paths = [path for path, operations in document["paths"].items() if "get" in operations]
    assert len(paths) > 15
    for template in [*paths, "/", "/docs", "/openapi.json", urlsplit(file_url).path]:
        path = re.sub(r"\{(\w+)\}", lambda match: ids.get(match[1], "x"), template)
        head, get = api.http.head(f"/v1{path}"), api.http.get(f"/v1{path}")
        assert (head.status_code, head.content) == (get.status_code, b""), path
        assert head.headers["content-type"] == get.headers["content-type"], path


def test_head_of_a_running_stream_is_answered_immediately(api: ApiInProcess) -> None:
    running = api.add_prediction(stream_key=random_key(), status="processing")
    answer = api.anonymous_http.head(f"/v1/streams/{running.stream_key}", timeout=30)
    assert answer.headers["content-type"].startswith("text/event-stream")


@pytest.fixture(scope="module")
def server_without_token(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with ApiServer(tmp_path_factory.mktemp("open"), models=["text"], token=None) as server:
        yield server


@pytest.mark.parametrize("host", ["evil.example", "["])
def test_without_a_token_only_requests_to_localhost_are_answered(server_without_token: ApiServer, host: str) -> None:
    # DNS rebinding: another site's name resolves to 127.0.0.1.
    assert server_without_token.http.get("/predictions", headers={"Host": host}).status_code == 403


@pytest.mark.parametrize("origin", ["https://example.com", "null", "http://127.0.0.1.example.com", "http://["])
def test_without_a_token_a_page_of_another_origin_cannot_send_a_form(
    server_without_token: ApiServer, origin: str
) -> None:
    # Browsers send forms without asking the server first: Fetch standard, "CORS-safelisted request-header".
    url = f"{server_without_token.url}/v1/files"
    answer = httpx.post(url, files={"content": ("a", b"1")}, headers={"Origin": origin})
    assert answer.status_code == 403
    assert "other origins" in answer.json()["detail"]
    assert httpx.get(url).json()["results"] == []


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1:8000"])
def test_without_a_token_pages_of_this_machine_may_send_requests(server_without_token: ApiServer, origin: str) -> None:
    answer = httpx.get(f"{server_without_token.url}/v1/predictions", headers={"Origin": origin})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers
