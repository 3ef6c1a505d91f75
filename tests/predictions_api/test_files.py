"""Files: uploads, names and types, ranges, outputs, inputs, and removal."""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import http.client
import io
import resource
import socket
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from api_in_process import PIXEL, PIXEL_URI, TOKEN, ApiInProcess
from api_server import post_raw, wait_until
from predictions_api.errors import Problem, unavailable
from predictions_api.http.file_routes import UPLOAD_LIMIT
from predictions_api.run.upkeep import remove_data
from predictions_api.store.content import ABANDONED_AFTER
from predictions_api.store.database import files as table
from predictions_api.store.file_urls import safe_name, with_absolute_urls
from predictions_api.store.files import INLINE_LIMIT


def content_path(api: ApiInProcess, content: bytes) -> Path:
    digest = hashlib.sha256(content).hexdigest()
    return api.settings.files / digest[:2] / digest


# Uploads


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata[a]": "1", "metadata[a][b]": "2"},
        {"metadata[a][b]": "1", "metadata[a]": "2"},
        {"metadata[a]": "1", "metadata[a][]": "2"},
        {"metadata[a]": ["1", "2"]},
        {"metadata": '{"a": 1}', "metadata[a]": "2"},
        {"metadata[]": "1"},
        {"metadata[a][][b]": "1"},
        {"metadata" + "[a]" * 17: "1"},
        {"metadata[a]": "x" * 40_000, "metadata[b]": "x" * 40_000},
        {f"metadata[{number}]": "1" for number in range(200)},
    ],
    ids=lambda fields: next(iter(fields))[:20],
)
def test_metadata_in_brackets_that_contradicts_itself_or_is_too_large_is_refused(
    api: ApiInProcess, fields: dict[str, Any]
) -> None:
    answer = api.http.post("/v1/files", data=fields, files={"content": ("a", b"1")})
    assert answer.status_code == 400
    assert answer.json()["detail"]


def test_filename_and_type_may_be_separate_parts(api: ApiInProcess) -> None:
    fields = {"filename": "clip.mp4", "type": "video/mp4"}
    file = api.http.post("/v1/files", data=fields, files={"content": ("blob", b"123")}).json()
    assert (file["name"], file["content_type"]) == ("clip.mp4", "video/mp4")


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ({"files": {"other": ("a", b"1")}}, 400),
        ({"files": {"content": ("a", b"1")}, "data": {"metadata": "[1]"}}, 400),
        ({"files": {"content": ("a", b"1")}, "data": {"metadata": '{"a": NaN}'}}, 400),
        ({"files": {"content": ("a", b"1"), "metadata": ("blob", b"\xff")}}, 400),
        ({"files": [("content", ("a", b"1"))] * 9}, 400),
        ({"json": {"content": "1"}}, 415),
        ({"content": b"--x", "headers": {"content-type": "multipart/form-data"}}, 400),
        ({"content": b"nonsense", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400),
    ],
)
def test_an_invalid_upload_is_refused(api: ApiInProcess, parts: dict[str, Any], status: int) -> None:
    answer = api.http.post("/v1/files", **parts)
    assert answer.status_code == status, answer.text
    assert answer.json()["status"] == status


def test_half_a_character_in_a_form_of_another_encoding_is_not_stored(api: ApiInProcess) -> None:
    headers = {"content-type": "multipart/form-data; charset=utf-7; boundary=x"}  # +2AA- is U+D800
    parts = {"filename": "a+2AA-b", "metadata": '{"a": "+2AA-"}', "type": "text/+2AA-"}
    head = "".join(f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{parts[name]}\r\n' for name in parts)
    body = head + '--x\r\nContent-Disposition: form-data; name="content"; filename="+2AA-"\r\n\r\n1\r\n--x--\r\n'
    file = api.http.post("/v1/files", content=body.encode(), headers=headers).json()
    assert file["metadata"] == {"a": "?"}
    assert api.http.get("/v1/files").json()["results"][0] == file


def chunks(size: int) -> Iterator[bytes]:
    """Yield a multipart body with a file of `size` bytes, in pieces of 1 MiB."""
    yield b'--x\r\nContent-Disposition: form-data; name="content"; filename="big"\r\n\r\n'
    piece = bytes(2**20)
    for _ in range(size // len(piece)):
        yield piece
    yield bytes(size % len(piece))
    yield b"\r\n--x--\r\n"


MULTIPART = {"content-type": "multipart/form-data; boundary=x"}


def test_an_upload_of_48_mib_needs_less_than_12_mib_of_memory(api: ApiInProcess) -> None:
    tracemalloc.start()
    try:
        answer = api.http.post("/v1/files", content=chunks(48 * 2**20), headers=MULTIPART)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.json()["size"] == 48 * 2**20
    assert peak < 12 * 2**20


@pytest.mark.parametrize("declared", [True, False])
def test_an_upload_over_100_mb_is_refused_and_its_bytes_are_removed(api: ApiInProcess, declared: bool) -> None:
    size = UPLOAD_LIMIT + 2**20 + 1
    body = sum(len(chunk) for chunk in chunks(0)) + size
    headers = {**MULTIPART, **({"content-length": str(body)} if declared else {})}
    answer = api.http.post("/v1/files", content=chunks(size), headers=headers)
    assert answer.status_code == 413
    assert answer.json()["detail"] == "Files must be less than 100MB in size"  # Replicate's OpenAPI, files.create
    assert not list((api.settings.files / "aside").glob("*"))


def send_half(api: ApiInProcess) -> socket.socket:
    """Send the first half of an upload."""
    return post_raw(f"{api.url}/v1/files", TOKEN, next(chunks(0)), **MULTIPART, content_length="9999")


def test_an_upload_without_progress_is_408(api: ApiInProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("predictions_api.http.file_routes.STALL_TIMEOUT", 0.1)
    with send_half(api) as connection:
        assert connection.recv(20).startswith(b"HTTP/1.1 408 ")


def test_a_json_body_without_progress_is_408(api: ApiInProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("predictions_api.http.requests.BODY_TIMEOUT", 0.1)
    with post_raw(f"{api.url}/v1/predictions", TOKEN, b"{", content_length="99") as connection:
        assert connection.recv(20).startswith(b"HTTP/1.1 408 ")


def test_a_json_body_without_a_content_length_is_413_at_the_limit(api: ApiInProcess) -> None:
    pieces = [b"100000\r\n" + bytes(2**20) + b"\r\n"] * 32 + [b"1\r\n \r\n"]  # one byte over, no last chunk
    with post_raw(f"{api.url}/v1/predictions", TOKEN, *pieces, transfer_encoding="chunked") as connection:
        assert connection.recv(20).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_disconnects_during_an_upload_logs_no_error(
    api: ApiInProcess, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="predictions_api.requests"):
        send_half(api).close()
        wait_until(lambda: "POST /files" in caplog.text)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_file_one_byte_over_the_limit_is_refused(api: ApiInProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("predictions_api.http.file_routes.UPLOAD_LIMIT", 4)
    assert api.upload(b"1234")["size"] == 4
    assert api.http.post("/v1/files", files={"content": ("a", b"12345")}).status_code == 413
    assert not list(api.settings.files.rglob("part.*"))


def test_a_full_disk_is_503_and_the_part_is_removed(api: ApiInProcess) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # writing more fails, as on a full disk
    try:
        with pytest.raises(Problem) as caught:
            api.service.files.content.write(io.BytesIO(bytes(2000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.status == 503
    assert "Retry-After" in caught.value.headers
    assert not list((api.settings.files / "aside").iterdir())


def test_an_upload_needs_a_token_and_its_signed_url_needs_none(api: ApiInProcess) -> None:
    file = api.upload(b"secret bytes")
    assert api.anonymous_http.get(file["urls"]["get"]).status_code == 401
    assert api.anonymous_http.get("/v1/files").status_code == 401
    assert api.anonymous_http.delete(file["urls"]["get"]).status_code == 401
    assert api.anonymous_http.get(file["urls"]["download"]).content == b"secret bytes"


@pytest.mark.parametrize("change", [("owner", "other"), ("expiry", "99999999999"), ("signature", "AAAA")])
def test_a_signature_covers_owner_id_and_expiry(api: ApiInProcess, change: tuple[str, str]) -> None:
    first, second = api.upload(b"1"), api.upload(b"2")
    url = httpx.URL(first["urls"]["download"])
    assert api.anonymous_http.get(url.copy_set_param(*change)).status_code == 404
    assert api.anonymous_http.get(str(url).replace(first["id"], second["id"])).status_code == 404


def test_an_expired_signed_url_is_404(api: ApiInProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    file = api.upload(b"1")
    tomorrow = time.time() + 25 * 3600
    monkeypatch.setattr(time, "time", lambda: tomorrow)
    assert api.anonymous_http.get(file["urls"]["download"]).status_code == 404


def test_uploads_are_listed_newest_first_in_pages_that_do_not_shift(api: ApiInProcess) -> None:
    ids = [api.upload(b"page")["id"] for _ in range(101)]
    first = api.http.get("/v1/files").json()
    assert [file["id"] for file in first["results"]] == ids[:0:-1]
    api.upload(b"page")
    second = api.http.get(first["next"]).json()
    assert second["results"][0]["id"] == ids[0]


# Hostile names, types and paths


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("..", "file"),
        ("", "file"),
        ("a\r\nX-Evil: 1", "aX-Evil: 1"),
        ("a\0b\u202egnp.exe", "abgnp.exe"),  # U+202E reverses the text after it
        ("ü" * 200, "ü" * 127),  # 255 bytes hold 127 of two
    ],
)
def test_a_name_loses_characters_that_are_unsafe_in_headers_and_file_systems(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_a_hostile_name_or_type_changes_no_path_and_adds_no_header(api: ApiInProcess) -> None:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="content"; filename="../../%0d%0aX-Evil: 1;\\".html"\r\n'
        b"Content-Type: text/html;a=\xff\tb\r\n\r\nhostile\r\n--x--\r\n"
    )
    file = api.http.post("/v1/files", content=body, headers=MULTIPART).json()
    answer = api.anonymous_http.get(file["urls"]["download"])
    assert answer.content == b"hostile"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert "x-evil" not in answer.headers
    assert content_path(api, b"hostile").is_file()
    outside = [path for path in api.settings.data.rglob("*") if "evil" in path.name.lower()]
    assert not outside


@pytest.mark.parametrize("content_type", ["text/html", "image/svg+xml", "application/xhtml+xml"])
def test_an_uploaded_page_is_served_as_a_sandboxed_attachment(api: ApiInProcess, content_type: str) -> None:
    file = api.upload(b"<script>1</script>", "page", content_type)
    headers = api.anonymous_http.get(file["urls"]["download"]).headers
    assert headers["content-disposition"].startswith("attachment")
    assert headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in headers["content-security-policy"]


@pytest.mark.parametrize(
    "path", ["../../predictions.sqlite", "..%2f..%2fpredictions.sqlite", "%2e%2e/%2e%2e/predictions.sqlite", "0" * 52]
)
def test_a_delivery_path_outside_the_table_is_404(api: ApiInProcess, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", api.settings.port)  # sends the path unchanged
    connection.request("GET", f"/v1/delivery/{path}/x")
    assert connection.getresponse().status == 404
    connection.close()


# Bytes


@pytest.fixture(scope="module")
def pixel(api: ApiInProcess) -> str:
    return f"{api.url}{api.store_output(PIXEL_URI)}"


def test_an_output_has_its_type_length_and_name(api: ApiInProcess, pixel: str) -> None:
    answer = api.anonymous_http.get(pixel)
    assert answer.content == PIXEL
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-length"] == str(len(PIXEL))
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-disposition"] == 'inline; filename="output.png"'
    assert answer.headers["access-control-allow-origin"] == "*"  # like replicate.delivery: notes, 5.3
    head = api.anonymous_http.head(pixel)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(PIXEL))


@pytest.mark.parametrize(
    ("requested", "start", "end"),
    [("bytes=0-0", 0, 1), ("bytes=10-", 10, None), ("bytes=-5", -5, None), ("bytes=3-9999", 3, None)],
)
def test_a_range_is_answered_as_in_rfc_9110(
    api: ApiInProcess, pixel: str, requested: str, start: int, end: int | None
) -> None:
    answer = api.anonymous_http.get(pixel, headers={"range": requested})
    expected = PIXEL[start:end]
    first = start % len(PIXEL)
    assert answer.status_code == 206
    assert answer.content == expected
    assert answer.headers["content-range"] == f"bytes {first}-{first + len(expected) - 1}/{len(PIXEL)}"


def test_a_range_beyond_the_end_is_416_and_a_stale_if_range_gets_the_whole_file(api: ApiInProcess, pixel: str) -> None:
    beyond = api.anonymous_http.get(pixel, headers={"range": "bytes=9999-"})
    assert beyond.status_code == 416
    assert beyond.headers["content-range"] == f"bytes */{len(PIXEL)}"
    tag = api.anonymous_http.head(pixel).headers["etag"]
    assert api.anonymous_http.get(pixel, headers={"range": "bytes=0-0", "if-range": tag}).status_code == 206
    assert api.anonymous_http.get(pixel, headers={"range": "bytes=0-0", "if-range": '"other"'}).status_code == 200


def test_if_none_match_with_the_current_etag_is_304(api: ApiInProcess, pixel: str) -> None:
    tag = api.anonymous_http.head(pixel).headers["etag"]
    answer = api.anonymous_http.get(pixel, headers={"if-none-match": tag})
    assert (answer.status_code, answer.content) == (304, b"")


# Outputs


def test_the_same_output_reported_twice_is_stored_once(api: ApiInProcess) -> None:
    uri = "data:text/plain;base64," + base64.b64encode(b"twice").decode()
    first = api.store_output({"frames": [uri, "text", 7, None]}, "a" * 26)
    second = api.store_output({"frames": [uri, "text", 7, None]}, "a" * 26)
    assert first == second
    assert first["frames"][1:] == ["text", 7, None]
    assert api.anonymous_http.get(api.url + first["frames"][0]).content == b"twice"


def test_an_output_is_stored_at_the_second_report_if_the_first_failed(
    api: ApiInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_part: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(api.service.files.content, "commit", fail)
        api.store_output("data:,again", "k" * 26)
    path = api.store_output("data:,again", "k" * 26)
    assert api.anonymous_http.get(api.url + path).content == b"again"
    for part in (api.settings.files / "aside").iterdir():  # a sweep would remove it after an hour
        part.unlink()


def test_equal_outputs_of_two_predictions_are_stored_once_and_have_two_urls(api: ApiInProcess) -> None:
    uri = "data:application/octet-stream;base64," + base64.b64encode(b"shared").decode()
    first, second = (api.store_output(uri, name * 26) for name in "bc")
    assert first != second
    assert len(list(api.settings.files.rglob(hashlib.sha256(b"shared").hexdigest()))) == 1


@pytest.mark.parametrize("text", ["data:", "data:text/plain", "data:x;base64,%%%", "no uri", "data:x;base64,A"])
def test_a_text_that_is_not_a_valid_data_uri_is_unchanged(api: ApiInProcess, text: str) -> None:
    assert api.store_output(text, "d" * 26) == text


def test_outputs_are_inline_up_to_10_mb_in_total(api: ApiInProcess) -> None:
    files = api.service.files
    paths = api.store_output([PIXEL_URI, "text"], "f" * 26)
    assert api.run(files.inline(paths)) == [PIXEL_URI, "text"]
    large = "data:video/mp4;base64," + base64.b64encode(bytes(INLINE_LIMIT - len(PIXEL) + 1)).decode()
    paths = api.store_output([PIXEL_URI, large], "g" * 26)
    assert api.run(files.inline(paths)) == paths


def test_output_urls_start_with_the_base_url_of_the_request(api: ApiInProcess) -> None:
    path = api.store_output("data:,1", "h" * 26)
    assert with_absolute_urls({"a": [path, "/v1/delivery/x"]}, "https://here") == {
        "a": ["https://here" + path, "/v1/delivery/x"]
    }


# Inputs


@pytest.mark.parametrize("base", ["http://localhost:1", "https://api.example/replicate", "http://h", "http://h/a/b"])
@pytest.mark.parametrize("prefix", ["/v1", ""])
def test_an_upload_url_in_the_inputs_becomes_a_url_that_cog_can_read(api: ApiInProcess, base: str, prefix: str) -> None:
    file = api.upload(b"input bytes", "in put.mp4", "video/mp4")
    inputs = {"video": f"{base}{prefix}/files/{file['id']}", "prompt": "a", "n": 1}
    ((given, resolved),) = api.run(api.service.input_files.own_urls(inputs)).items()
    assert given == inputs["video"]
    assert resolved.endswith("/in%20put.mp4")  # Cog names the file after the last part of the URL
    assert api.anonymous_http.get(resolved).content == b"input bytes"


def test_an_output_url_may_be_an_input_and_other_urls_are_unchanged(api: ApiInProcess, pixel: str) -> None:
    foreign = [
        "https://example.com/v1/files/" + "a" * 26,
        "https://example.com/delivery/" + "0" * 52 + "/a.png",
        "http://[",
    ]
    own = pixel.replace("127.0.0.1", "localhost")
    resolved = api.run(api.service.input_files.own_urls({"image": own, "more": foreign}))
    assert list(resolved) == [own]
    assert api.anonymous_http.get(resolved[own]).content == PIXEL


def test_an_input_with_the_url_of_a_deleted_upload_is_refused(api: ApiInProcess) -> None:
    file = api.upload(b"gone")
    api.http.delete(file["urls"]["get"])
    with pytest.raises(Problem, match="upload it again"):
        api.run(api.service.input_files.own_urls({"image": file["urls"]["get"]}))


# Removal


def test_content_is_removed_with_the_last_file_that_has_it(api: ApiInProcess) -> None:
    first, second = api.upload(b"both"), api.upload(b"both")
    api.http.delete(first["urls"]["get"])
    assert api.anonymous_http.get(second["urls"]["download"]).content == b"both"
    api.http.delete(second["urls"]["get"])
    assert not content_path(api, b"both").exists()


def expire(api: ApiInProcess, content: bytes) -> None:
    """Set the expiry of the files with this content to the past."""
    change = sa.update(table).where(table.c.sha256 == hashlib.sha256(content).hexdigest()).values(expires_at=1)
    api.run(api.service.database.run(lambda connection: connection.execute(change)))


def test_an_expired_upload_is_404_and_the_next_sweep_removes_its_content(api: ApiInProcess) -> None:
    file = api.upload(b"old")
    expire(api, b"old")
    assert api.http.get(file["urls"]["get"]).status_code == 404
    assert api.anonymous_http.get(file["urls"]["download"]).status_code == 404
    assert file["id"] not in [file["id"] for file in api.http.get("/v1/files").json()["results"]]
    api.run(api.service.files.sweep())
    assert not content_path(api, b"old").exists()


def test_an_output_is_kept_until_the_data_of_its_prediction_is_removed(api: ApiInProcess) -> None:
    prediction = api.add_prediction()
    path = api.store_output("data:,output", prediction.id)
    api.update(prediction, status="succeeded", output=path)
    expire(api, b"output")
    api.run(api.service.files.sweep())
    assert api.anonymous_http.get(api.url + path).content == b"output"
    api.run(remove_data(api.service.database, [prediction.id]))
    assert api.anonymous_http.get(api.url + path).status_code == 404, (
        "404 before the sweep, so that no content is removed while it is sent"
    )
    api.run(api.service.files.sweep())
    assert not content_path(api, b"output").exists()


def test_a_sweep_removes_abandoned_parts_and_restores_content_that_has_a_file(
    api: ApiInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = api.upload(b"wanted")
    store = api.service.files.content
    aside = store.put_aside(hashlib.sha256(b"wanted").hexdigest())
    part = store.write(io.BytesIO(b"half"))
    assert aside is not None
    assert aside.exists()
    api.run(api.service.files.sweep())
    assert part.path.exists(), "it may belong to another running server"
    later = time.time() + 2 * ABANDONED_AFTER
    monkeypatch.setattr("predictions_api.store.content.time.time", lambda: later)
    api.run(api.service.files.sweep())
    assert not part.path.exists()
    assert content_path(api, b"wanted").read_bytes() == b"wanted"
    monkeypatch.undo()
    assert api.anonymous_http.get(file["urls"]["download"]).content == b"wanted"


@pytest.mark.parametrize("commits", [False, True], ids=["before the rows are deleted", "after it"])
def test_a_crash_during_a_deletion_leaves_no_content(
    api: ApiInProcess, monkeypatch: pytest.MonkeyPatch, commits: bool
) -> None:
    api.upload(b"crash")
    expire(api, b"crash")
    run = api.service.database.run

    async def crash(work: Any) -> None:
        if commits:
            await run(work)
        raise KeyError("no code runs after a crash")

    with monkeypatch.context() as crashing, pytest.raises(KeyError):
        crashing.setattr(api.service.database, "run", crash)
        api.run(api.service.files.sweep())
    later = time.time() + 2 * ABANDONED_AFTER
    monkeypatch.setattr("predictions_api.store.content.time.time", lambda: later)
    api.run(api.service.files.sweep())
    assert list(api.settings.files.rglob(f"{hashlib.sha256(b'crash').hexdigest()}*")) == []


def test_a_file_whose_deletion_fails_keeps_its_content(api: ApiInProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    file = api.upload(b"kept")

    async def fail(work: Any) -> None:
        raise unavailable("The database cannot be used now")

    with monkeypatch.context() as failing:
        failing.setattr(api.service.database, "run", fail)
        assert api.http.delete(file["urls"]["get"]).status_code == 503
    assert api.anonymous_http.get(file["urls"]["download"]).content == b"kept"


def test_a_file_uploaded_while_an_equal_one_is_deleted_is_kept(api: ApiInProcess) -> None:
    async def upload_and_delete(old: str) -> str:
        new, _ = await asyncio.gather(
            api.service.files.upload(io.BytesIO(b"race"), name="a", content_type="text/plain", metadata={}),
            api.service.files.delete_upload(old),
        )
        return new.id

    last = api.upload(b"race")["id"]
    for _ in range(20):
        last = api.run(upload_and_delete(last))
        assert content_path(api, b"race").read_bytes() == b"race"
    assert not list((api.settings.files / "aside").iterdir())
