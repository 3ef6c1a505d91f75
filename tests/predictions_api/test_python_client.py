"""The official Python client, replicate 1.0.7, with every answer checked against Replicate's OpenAPI document."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import replicate
from api_server import TOKEN, VERSIONS, ApiServer, wait_until
from replicate.exceptions import ModelError, ReplicateError
from replicate.helpers import FileOutput
from replicate.webhook import InvalidSignatureError, Webhooks
from replicate_contract import check_answer, check_response, check_response_async
from webhook_receiver import WebhookReceiver

TEXT, WORDS, FILE, FILES = (f"test/{name}:{VERSIONS[name]}" for name in ("text", "words", "file", "files"))


@pytest.fixture(scope="module")
def client(server: ApiServer) -> Iterator[replicate.Client]:
    client = replicate.Client(api_token=TOKEN, base_url=server.url, event_hooks={"response": [check_response]})
    client.poll_interval = 0.05
    yield client
    client._client.close()


def wait_until_processing(prediction: replicate.prediction.Prediction) -> None:
    wait_until(lambda: prediction.reload() or prediction.status != "starting")
    assert prediction.status == "processing"


@pytest.fixture(scope="module")
def upload(client: replicate.Client) -> Iterator[replicate.file.File]:
    content = io.BytesIO(b"some bytes")
    file = client.files.create(content, filename="notes.txt", content_type="text/plain", metadata={"customer": 123})
    yield file
    assert client.files.delete(file.id) is True


@pytest.mark.parametrize("wait", [True, False])
def test_run_returns_the_output(client: replicate.Client, wait: bool) -> None:
    assert client.run(TEXT, input={"text": "out"}, wait=wait) == "out"


def test_run_without_a_version_uses_the_newest(client: replicate.Client) -> None:
    assert client.run("test/text", input={"text": "newest"}) == "newest"


def test_run_returns_the_output_of_a_prediction_that_takes_longer_than_the_wait(client: replicate.Client) -> None:
    # replicate-python#385: the client takes any status but `starting` for the end.
    assert client.run(TEXT, input={"text": "late", "sleep": 1.2}, wait=1) == "late"


def test_run_raises_the_error_of_the_model(client: replicate.Client) -> None:
    with pytest.raises(ModelError, match="failed on request") as caught:
        client.run(TEXT, input={"end": "fail", "text": "before"})
    assert caught.value.prediction.status == "failed"
    assert caught.value.prediction.logs == "text: before\n"


@pytest.mark.parametrize("wait", [True, False])
def test_run_of_an_iterator_returns_all_its_outputs(client: replicate.Client, wait: bool) -> None:
    output = client.run(WORDS, input={"text": "one two"}, wait=wait)
    assert list(output) == ["one ", "two "]


def test_run_returns_a_file_output_over_plain_http(client: replicate.Client) -> None:
    output = client.run(FILE, input={"content": "ab", "repeat": 50_000})
    assert isinstance(output, FileOutput)
    assert output.url.startswith("data:text/plain;base64,")
    assert output.read() == b"ab" * 50_000


def test_run_returns_a_list_of_file_outputs(client: replicate.Client) -> None:
    output = client.run(FILES, input={"count": 2})
    assert [file.read() for file in output] == [b"file 0", b"file 1"]


def test_run_returns_a_file_output_after_a_run_that_takes_longer_than_the_wait(client: replicate.Client) -> None:
    assert client.run(FILE, input={"content": "abc"}, wait=False).read() == b"abc"
    files = client.run(FILES, input={"count": 3, "sleep": 0.3}, wait=False)
    assert [file.read() for file in files] == [b"file 0", b"file 1", b"file 2"]


def test_a_prediction_is_created_reloaded_and_waited_for(client: replicate.Client, tmp_path: Path) -> None:
    go = tmp_path / "go"
    prediction = client.predictions.create(version=VERSIONS["text"], input={"text": "x", "hold": str(go)})
    assert (prediction.status, prediction.model, prediction.version) == ("starting", "test/text", VERSIONS["text"])
    wait_until_processing(prediction)
    assert (prediction.output, prediction.completed_at) == (None, None)
    go.touch()
    prediction.wait()
    assert (prediction.status, prediction.output, prediction.error) == ("succeeded", "x", None)
    assert prediction.metrics is not None
    assert 0 < prediction.metrics["predict_time"] <= prediction.metrics["total_time"]
    assert client.predictions.get(prediction.id).dict() == prediction.dict()


def test_progress_is_read_from_the_logs_of_a_running_prediction(client: replicate.Client) -> None:
    prediction = client.predictions.create(version=TEXT, input={"steps": 8, "sleep": 1.6})
    seen = set()
    while prediction.status in ("starting", "processing"):
        prediction.reload()
        if prediction.status == "processing" and prediction.progress is not None:
            seen.add(prediction.progress.current)
    assert len(seen & set(range(1, 8))) >= 2, prediction.logs  # Cog reports logs every half second
    assert prediction.progress == prediction.Progress(percentage=1.0, current=8, total=8)


@pytest.mark.parametrize("queued", [True, False], ids=["queued", "running"])
def test_cancel_returns_canceled_immediately(client: replicate.Client, tmp_path: Path, queued: bool) -> None:
    running = client.predictions.create(version=TEXT, input={"hold": str(tmp_path / "never")})
    prediction = client.predictions.create(version=TEXT, input={}) if queued else running
    wait_until_processing(running)
    prediction.cancel()
    assert prediction.status == "canceled"
    assert prediction.completed_at is not None
    again = client.predictions.cancel(prediction.id)
    assert again.dict() == client.predictions.get(prediction.id).dict()
    running.cancel()
    assert client.run(TEXT, input={"text": "the next"}) == "the next"


def test_stream_yields_every_word(client: replicate.Client) -> None:
    events = list(client.stream(WORDS, input={"text": "one two"}))
    assert "".join(str(event) for event in events) == "one two "
    assert [event.event.value for event in events if event.event.value != "logs"] == ["output", "output", "done"]


def test_a_stream_of_files_has_their_urls(client: replicate.Client) -> None:
    prediction = client.predictions.create(version=FILES, input={"count": 2})
    urls = [event.data for event in prediction.stream() if event.event.value == "output"]
    assert [httpx.get(url).content for url in urls] == [b"file 0", b"file 1"]


def test_a_stream_of_one_file_has_its_url_at_the_end(client: replicate.Client) -> None:
    events = [event for event in client.stream(FILE, input={"content": "abc"}) if event.event.value != "logs"]
    assert [event.event.value for event in events] == ["output", "done"]
    assert httpx.get(events[0].data).content == b"abc"


def test_a_stream_of_a_text_has_it_at_the_end(client: replicate.Client) -> None:
    assert "".join(str(event) for event in client.stream(TEXT, input={"text": "abc"})) == "abc"


def test_a_file_is_uploaded_read_listed_and_deleted(client: replicate.Client, upload: replicate.file.File) -> None:
    assert (upload.name, upload.content_type, upload.size) == ("notes.txt", "text/plain", 10)
    assert upload.metadata == {"customer": 123}
    assert upload.etag == hashlib.md5(b"some bytes").hexdigest()
    assert upload.checksums["sha256"] == "0d22cdcc10e6d049dbe1af5123d50873fdfc1a4f58306e58cb6241be9472014d"
    assert client.files.get(upload.id).dict() == upload.dict()
    other = client.files.create(io.BytesIO(b""), filename="empty")
    assert [file.id for file in client.files.list()[:2]] == [other.id, upload.id]
    assert client.files.delete(other.id) is True
    with pytest.raises(ReplicateError, match="File not found"):
        client.files.get(other.id)


@pytest.mark.parametrize("strategy", ["url", "base64"])
def test_a_file_input_reaches_the_model(client: replicate.Client, tmp_path: Path, strategy: str) -> None:
    path = tmp_path / "in.txt"
    path.write_text("from a file")
    assert client.run(TEXT, input={"file": path}, file_encoding_strategy=strategy) == "from a file"


def test_the_url_of_an_upload_is_a_file_input(client: replicate.Client, upload: replicate.file.File) -> None:
    assert client.run(TEXT, input={"file": upload.urls["get"]}) == "some bytes"


def test_models_and_versions_are_listed_searched_and_read(client: replicate.Client) -> None:
    model = client.models.get("test/text")
    assert (model.owner, model.name, model.description) == ("test", "text", "for tests: text")
    assert model.latest_version is not None
    assert model.latest_version.id == VERSIONS["text"]
    assert {f"{row.owner}/{row.name}" for row in client.models.list()} == {f"test/{name}" for name in VERSIONS}
    assert [row.name for row in client.models.search("words")] == ["words"]
    (version,) = model.versions.list()
    assert version.dict() == model.versions.get(VERSIONS["text"]).dict()
    inputs = version.openapi_schema["components"]["schemas"]["Input"]["properties"]
    assert (inputs["text"]["default"], inputs["steps"]["maximum"]) == ("hello", 1000)
    assert client.run(version, input={"text": "by its version"}) == "by its version"


def test_account_and_hardware_are_answered(client: replicate.Client) -> None:
    assert client.accounts.current().username
    assert client.hardware.list()


def test_webhooks_are_signed(client: replicate.Client) -> None:
    secret = client.webhooks.default.secret()
    with WebhookReceiver() as receiver:
        prediction = client.predictions.create(
            version=TEXT,
            input={"text": "signed"},
            webhook=f"{receiver.url}/hook?customer=123",
            webhook_events_filter=["start", "completed"],
        )
        calls = [receiver.next(), receiver.next()]
    bodies = [call.json for call in calls]
    assert [body["status"] for body in bodies] == ["processing", "succeeded"]
    assert bodies[-1]["output"] == "signed"
    assert {body["id"] for body in bodies} == {prediction.id}
    for call in calls:
        assert call.path == "/hook?customer=123"
        Webhooks.validate(headers=call.headers, body=call.body, secret=secret, tolerance=60)
        check_answer("GET", f"/v1/predictions/{prediction.id}", 200, "application/json", call.body.encode())
        with pytest.raises(InvalidSignatureError):
            Webhooks.validate(headers=call.headers, body=call.body + " ", secret=secret)


def test_the_asynchronous_client_runs_creates_and_streams(server: ApiServer) -> None:
    async def work() -> None:
        client = replicate.Client(
            api_token=TOKEN, base_url=server.url, event_hooks={"response": [check_response_async]}
        )
        client.poll_interval = 0.05
        outputs = await asyncio.gather(*(client.async_run(TEXT, input={"text": str(number)}) for number in range(5)))
        assert outputs == ["0", "1", "2", "3", "4"]
        file = await client.async_run(FILE, input={"content": "abc"})
        assert await file.aread() == b"abc"
        prediction = await client.predictions.async_create(version=TEXT, input={"text": "y"})
        await prediction.async_wait()
        assert prediction.output == "y"
        words = [str(event) async for event in await client.async_stream(WORDS, input={"text": "one two"})]
        assert "".join(words) == "one two "
        await client._async_client.aclose()

    asyncio.run(work())


@pytest.mark.parametrize(
    ("version", "inputs", "status", "title"),
    [
        ("0" * 64, {}, 422, "Invalid version or not permitted"),
        (VERSIONS["text"], {"steps": -1}, 422, "Input validation failed"),
        (VERSIONS["text"], {"text": 1}, 422, "Input validation failed"),
    ],
)
def test_an_invalid_prediction_is_refused_with_replicates_error(
    client: replicate.Client, version: str, inputs: dict[str, object], status: int, title: str
) -> None:
    with pytest.raises(ReplicateError) as caught:
        client.predictions.create(version=version, input=inputs)
    assert (caught.value.status, caught.value.title) == (status, title)


def test_a_wrong_token_is_refused_with_replicates_error(server: ApiServer) -> None:
    client = replicate.Client(api_token="wrong", base_url=server.url, event_hooks={"response": [check_response]})
    with pytest.raises(ReplicateError) as caught:
        client.run(TEXT, input={})
    client._client.close()
    # replicate-python@0110c2c, tests/cassettes/run__invalid-token.yaml
    assert (caught.value.status, caught.value.title) == (401, "Unauthenticated")
    assert caught.value.detail == "You did not pass a valid authentication token"
