"""Uses Replicate's Python client 2.x as its documentation does.

Writes JSON to stdout: the result of each use and every answer of the server. test_python_client_2.py checks both.
"""

import io
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import httpx
import replicate

VERSIONS = json.loads(os.environ["VERSIONS"])
TEXT, WORDS, FILE, FILES = (f"test/{name}:{VERSIONS[name]}" for name in ("text", "words", "file", "files"))
EXAMPLES = {"model_owner": "test", "model_name": "file"}
answers: list[dict[str, Any]] = []


def record(response: httpx.Response) -> None:
    answer = {"method": response.request.method, "url": str(response.url), "status": response.status_code}
    kind = response.headers.get("content-type", "")
    body = "" if kind.startswith("text/event-stream") else response.read().decode()
    answers.append({**answer, "type": kind, "body": body, "agent": response.request.headers["user-agent"]})


client = replicate.Replicate(
    bearer_token=os.environ["TOKEN"],
    base_url=os.environ["BASE_URL"] + "/v1",
    http_client=httpx.Client(event_hooks={"response": [record]}, timeout=60),
    max_retries=0,
)


def message(call: Callable[[], object]) -> str:
    try:
        return f"returned {call()}"
    except replicate.ReplicateError as error:
        return f"{type(error).__name__}: {error}"


def model_of_a_function() -> object:
    os.environ["REPLICATE_API_TOKEN"], os.environ["REPLICATE_BASE_URL"] = client.bearer_token, str(client.base_url)
    return replicate.use(TEXT)(text="by use")


def upload() -> dict[str, Any]:
    file = client.files.create(
        content=("notes.txt", b"some bytes", "text/plain"),
        filename="notes.txt",
        metadata={"customer": "123", "tags": ["a", "b"], "of": {"kind": "notes"}},
    )
    result = {
        "metadata": file.metadata,
        "size": file.size,
        "kind": file.content_type,
        "same": client.files.get(file_id=file.id).id == client.files.list().results[0].id,
        "input": client.run(TEXT, input={"file": file.urls.get}),
    }
    client.files.delete(file_id=file.id)
    return {**result, "after": message(lambda: client.files.get(file_id=file.id))}


def cancel() -> list[str]:
    prediction = client.predictions.create(version=VERSIONS["text"], input={"sleep": 60})
    canceled = client.predictions.cancel(prediction_id=prediction.id)
    return [prediction.status, canceled.status, client.predictions.get(prediction_id=prediction.id).status]


def listed() -> bool:
    prediction = client.predictions.create(version=VERSIONS["text"], input={}, prefer="wait")
    return next(iter(client.predictions.list())).id == prediction.id


def examples() -> dict[str, Any]:
    (example,) = client.models.examples.list(**EXAMPLES).results
    return {
        "id": example.id,
        "content": httpx.get(example.output, timeout=60).text,
        "readme": client.models.readme.get(**EXAMPLES),
    }


USES: dict[str, Callable[[], object]] = {
    "run": lambda: client.run(TEXT, input={"text": "out"}),
    "run without waiting": lambda: client.run(TEXT, input={"text": "out"}, wait=False),
    "run without a version": lambda: client.run("test/text", input={"text": "newest"}),
    "run that fails": lambda: message(lambda: client.run(TEXT, input={"end": "fail"})),
    "run of words": lambda: list(client.run(WORDS, input={"text": "one two"})),
    "run of a file": lambda: client.run(FILE, input={"content": "abc"}).read().decode(),
    "run of files": lambda: [file.read().decode() for file in client.run(FILES, input={"count": 2})],
    "file as input": lambda: client.run(TEXT, input={"file": io.BytesIO(b"from a file")}),
    "use": model_of_a_function,
    "upload": upload,
    "cancel": cancel,
    "list": listed,
    "examples": examples,
    "models": lambda: sorted(model.name for model in client.models.list()),
    "search": lambda: [model.name for model in client.models.search(body="words")],
    "latest version": lambda: client.models.get(model_owner="test", model_name="text").latest_version.id,
    "versions": lambda: len(client.models.versions.list(model_owner="test", model_name="text").results),
    "account": lambda: client.account.get().type,
    "hardware": lambda: [hardware.sku for hardware in client.hardware.list()],
    "secret": lambda: client.webhooks.default.secret.get().key[:6],
    "collections": lambda: list(client.collections.list()),
    "deployments": lambda: list(client.deployments.list()),
    "trainings": lambda: list(client.trainings.list()),
    "unknown version": lambda: message(lambda: client.predictions.create(version="0" * 64, input={})),
    "wrong token": lambda: message(lambda: client.with_options(bearer_token="wrong").account.get()),
}

results: dict[str, object] = {}
for name, use in USES.items():
    try:
        results[name] = use()
    except Exception as error:
        results[name] = f"raised {error!r}"
json.dump({"results": results, "answers": answers, "version": replicate.__version__}, sys.stdout)
