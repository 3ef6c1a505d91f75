"""Files in an S3 bucket: redirects to presigned URLs, removal, faults at the start and later, and two servers."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import postgres
import pytest
import replicate
import sqlalchemy as sa
from api_in_process import PIXEL, PIXEL_URI, TOKEN, ApiInProcess
from api_server import ApiServer, wait_until
from file_host import FileHost
from playwright.sync_api import Browser
from predictions_api.errors import Problem, StartFault
from predictions_api.store.bucket import Bucket
from predictions_api.store.database import files as table
from replicate.helpers import FileOutput
from s3_server import S3Server

BUCKET = "s3://files/of/tests"
ADVICE = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server() as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.environ.items():
            patch.setenv(name, value)
        running.make_bucket("files")
        yield running


@pytest.fixture(scope="module")
def database(postgresql: str) -> str:
    return postgres.new_database(postgresql)


@pytest.fixture(scope="module")
def api(s3: S3Server, database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiInProcess]:
    directory = tmp_path_factory.mktemp("api")
    with ApiInProcess(directory, bucket=BUCKET, database=database, allow_private_inputs=True) as running:
        yield running
    assert not list((directory / "files").rglob("part.*"))


@pytest.fixture(autouse=True)
def every_object_has_a_row(request: pytest.FixtureRequest, s3: S3Server) -> Iterator[None]:
    yield
    if "api" in request.fixturenames:
        api: ApiInProcess = request.getfixturevalue("api")
        rows = api.run(api.service.files.rows(sa.select(table)))
        assert set(s3.keys("files")) <= {f"of/tests/{row.id}" for row in rows}


def follow(url: str, method: str = "GET", **headers: str) -> httpx.Response:
    return httpx.request(method, url, headers=headers, follow_redirects=True)


def test_an_upload_is_listed_downloaded_and_deleted(api: ApiInProcess, s3: S3Server) -> None:
    file = api.upload(b"in the bucket", "notes ü.txt")
    assert f"of/tests/{file['id']}" in s3.keys("files")
    assert file["id"] in [item["id"] for item in api.http.get("/v1/files").json()["results"]]
    answer = follow(file["urls"]["download"])
    assert (answer.content, answer.headers["content-type"]) == (b"in the bucket", "text/plain")
    assert answer.headers["content-disposition"] == "inline; filename*=utf-8''notes%20%C3%BC.txt"
    assert api.http.delete(file["urls"]["get"]).status_code == 204
    assert f"of/tests/{file['id']}" not in s3.keys("files")
    assert follow(file["urls"]["download"]).status_code == api.http.get(file["urls"]["get"]).status_code == 404
    assert api.http.delete(file["urls"]["get"]).status_code == 404


def test_an_upload_in_several_parts_has_the_same_bytes(api: ApiInProcess) -> None:
    content = bytes(range(256)) * 50_000  # 12.8 MB, in three parts of at most 5 MiB
    assert follow(api.upload(content)["urls"]["download"]).content == content


def test_an_output_is_a_redirect_to_a_url_that_is_valid_longer_than_the_redirect(
    api: ApiInProcess, s3: S3Server
) -> None:
    url = api.url + api.store_output(PIXEL_URI, "a" * 26)
    redirect = httpx.get(url)
    assert (redirect.status_code, redirect.content) == (307, b"")
    assert redirect.headers["location"].startswith(f"{s3.url}/files/of/tests/")
    (lifetime,) = parse_qs(urlsplit(redirect.headers["location"]).query)["X-Amz-Expires"]
    assert redirect.headers["cache-control"] == "public, max-age=300"
    assert 300 < int(lifetime) <= 3600
    answer = follow(url)
    assert (answer.content, answer.headers["content-type"]) == (PIXEL, "image/png")
    assert answer.headers["content-disposition"] == 'inline; filename="output.png"'
    assert answer.headers["cache-control"] == "no-store"  # S3's answer to an image may not be used for a fetch
    head = follow(url, "HEAD")
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(PIXEL)))
    part = follow(url, range="bytes=1-3")
    assert (part.status_code, part.content) == (206, PIXEL[1:4])


@pytest.mark.parametrize("content_type", ["text/html", "image/svg+xml"])
def test_an_uploaded_page_is_saved_and_does_not_run_with_the_origin_of_the_bucket(
    api: ApiInProcess, content_type: str
) -> None:
    answer = follow(api.upload(b"<script>1</script>", "page", content_type)["urls"]["download"])
    assert answer.headers["content-disposition"] == 'attachment; filename="page"'


def test_the_python_client_1_reads_a_file_although_it_follows_no_redirect(api: ApiInProcess) -> None:
    url = api.url + api.store_output(PIXEL_URI, "b" * 26)
    client = replicate.Client(api_token=TOKEN, base_url=api.url)
    assert FileOutput(url, client).read() == PIXEL
    client._client.close()


def test_equal_outputs_are_stored_once_in_a_prediction_and_removed_with_their_own_prediction(
    api: ApiInProcess, s3: S3Server
) -> None:
    before = len(s3.keys("files"))
    first, again, other = (api.store_output(PIXEL_URI, name * 26) for name in "ccd")
    assert first == again
    assert len(s3.keys("files")) == before + 2
    change = sa.update(table).where(table.c.prediction_id == "c" * 26).values(expires_at=1)
    api.run(api.service.database.run(lambda connection: connection.execute(change)))
    api.run(api.service.files.sweep())
    assert len(s3.keys("files")) == before + 1
    assert follow(api.url + first).status_code == 404
    assert follow(api.url + other).content == PIXEL


def test_outputs_are_inline_over_plain_http(api: ApiInProcess) -> None:
    path = api.store_output(PIXEL_URI, "e" * 26)
    assert api.run(api.service.files.inline({"image": path})) == {"image": PIXEL_URI}


def test_a_file_that_was_fetched_for_an_input_is_in_the_bucket_until_its_prediction_ends(
    api: ApiInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def file_inputs(_model: str) -> set[str]:
        return {"image"}

    monkeypatch.setattr(api.service.catalogue, "file_inputs", file_inputs)
    with FileHost() as host:
        prediction = api.add_prediction(input={"image": f"{host.url}/text/afar"})
        for _ in range(2):
            inputs = api.run(api.service.inputs.prepare(prediction))
            assert follow(inputs["image"]).text == "afar"
        assert len(host.requests) == 1
    api.update(prediction, status="succeeded")
    api.run(api.service.files.sweep())
    assert follow(inputs["image"]).status_code == 404


def test_while_the_bucket_is_unavailable_requests_are_503_and_leave_nothing(api: ApiInProcess, s3: S3Server) -> None:
    files = api.service.files
    kept = api.upload(b"before")
    output = api.store_output(PIXEL_URI, "f" * 26)
    keys = s3.keys("files")
    s3.stop()
    answer = api.http.post("/v1/files", files={"content": ("a.txt", b"lost")}, timeout=60)
    assert (answer.status_code, answer.json()["detail"]) == (503, "The files cannot be used now")
    assert "Retry-After" in answer.headers
    assert api.http.get("/v1/files").json()["results"][0]["id"] == kept["id"]
    assert api.http.delete(kept["urls"]["get"], timeout=60).status_code == 503
    # A URL, as an answer must not fail for a prediction that is recorded.
    assert api.run(files.inline(output)) == output
    with pytest.raises(Problem, match="files cannot be used"):  # so Cog is answered 503, and reports again
        api.store_output(PIXEL_URI, "g" * 26)
    s3.start()
    assert follow(api.url + api.store_output(PIXEL_URI, "g" * 26)).content == PIXEL
    assert follow(api.upload(b"after")["urls"]["download"]).content == b"after"
    assert follow(kept["urls"]["download"]).content == b"before"
    api.run(files.sweep())
    assert len(s3.keys("files")) == len(keys) + 2


def test_the_playground_may_load_files_from_the_bucket_and_from_nowhere_else(
    api: ApiInProcess, s3: S3Server, browser: Browser
) -> None:
    url = api.url + api.store_output(PIXEL_URI, "h" * 26)
    policy = httpx.get(api.url).headers["content-security-policy"]
    sources = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    bucket = f"{s3.url}/files/of/tests/"
    assert sources["connect-src"] == f"'self' {bucket}"
    assert sources["img-src"] == sources["media-src"] == f"'self' blob: data: {bucket}"
    assert s3.url not in sources["script-src"]
    with browser.new_page() as page:
        page.goto(api.url)
        load = "src => new Promise((end, onerror) => Object.assign(new Image(), {onload: () => end(1), onerror, src}))"
        fetch = "url => fetch(url).then(async answer => (await answer.blob()).size, () => 'refused')"
        assert page.evaluate(load, url) == 1
        assert page.evaluate(fetch, url) == len(PIXEL)  # the browser may have stored the image
        assert page.evaluate(fetch, f"{s3.url}/other/file") == "refused"


@pytest.mark.parametrize(
    ("bucket", "environ", "reason"),
    [
        ("s3://missing", {}, "NoSuchBucket: The specified bucket does not exist"),
        ("s3://files", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "Connection refused"),
        # The last place in which it looks, an address within AWS.
        ("s3://files", {"AWS_METADATA_ENDPOINT": "http://127.0.0.1:9"}, "no credentials"),
    ],
    ids=["missing bucket", "nothing listens", "no credentials"],
)
def test_a_bucket_that_cannot_be_used_is_a_fault_at_the_start(
    api: ApiInProcess,
    s3: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bucket: str,
    environ: dict[str, str],
    reason: str,
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    if reason == "no credentials":
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StartFault) as caught:
        api.run(Bucket(bucket, tmp_path).open())
    fault = str(caught.value)
    assert fault.startswith(f"{bucket} at {environ.get('AWS_ENDPOINT_URL', s3.url)} cannot be used: ")
    assert reason in fault
    assert fault.endswith("; make the bucket, or set " + ADVICE)


def test_an_invalid_endpoint_is_a_fault_at_the_start(
    api: ApiInProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "minio:9000")
    with pytest.raises(StartFault, match="AWS_ENDPOINT_URL is 'minio:9000'; give an http:// or https:// URL"):
        api.run(Bucket("s3://files", tmp_path).open())


@pytest.fixture(scope="module")
def second(s3: S3Server, database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Another server than `api`, with the same database and bucket, and with models."""
    directory = tmp_path_factory.mktemp("second")
    with ApiServer(directory, models=["text", "file"], bucket=BUCKET, database=database) as running:
        yield running
    assert running.logged_errors() == []
    assert not list((directory / "data").rglob("*.*"))  # neither a database nor a part


def test_two_servers_share_a_bucket_and_their_workers_download_from_it(
    api: ApiInProcess, second: ApiServer, s3: S3Server
) -> None:
    before = len(s3.keys("files"))
    uploaded = api.upload(b"from the bucket")
    given = second.http.get(f"/files/{uploaded['id']}").json()["urls"]["get"]
    assert second.create("text", wait=True, file=given)["output"] == "from the bucket"
    long = "data:text/plain," + "x" * 300_000  # so long that it is stored
    assert second.create("text", wait=True, file=long)["output"] == "x" * 300_000
    made = second.create("file", wait=True, content="a clip")
    assert made["output"] == "data:text/plain;base64," + base64.b64encode(b"a clip").decode()
    assert follow(api.http.get(f"/v1/predictions/{made['id']}").json()["output"]).text == "a clip"
    assert second.http.delete(f"/files/{uploaded['id']}").status_code == 204
    assert api.http.get(uploaded["urls"]["get"]).status_code == 404
    assert len(s3.keys("files")) == before + 2  # the long input and the output


def test_an_output_that_could_not_be_stored_is_stored_when_cog_reports_it_again(
    second: ApiServer, s3: S3Server
) -> None:
    s3.stop()
    prediction = second.create("file", content="late")
    wait_until(lambda: "callbacks/{prediction_id}/{key} 503" in second.log.read_text())
    assert second.get(prediction["id"])["status"] in ("starting", "processing")
    s3.start()
    assert follow(second.wait_for(prediction["id"])["output"]).text == "late"
