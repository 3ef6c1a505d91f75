"""Files: uploads as the clients send them, outputs by content, bytes with ranges, and what goes away when."""

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
import replicate
import sqlalchemy as sa
from api_in_process import TOKEN, ApiInProcess
from predictions_api.errors import Problem
from predictions_api.run.upkeep import remove_data
from predictions_api.store.content import ABANDONED_AFTER, ContentStore
from predictions_api.store.database import files as table
from predictions_api.store.file_urls import safe_name, with_absolute_urls
from predictions_api.store.files import INLINE_LIMIT, UPLOAD_LIMIT, too_large_problem

PIXEL = base64.b64decode(  # a PNG of one pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiInProcess]:
    with ApiInProcess(tmp_path_factory.mktemp("files")) as running:
        yield running


def upload(api: ApiInProcess, content: bytes, name: str = "a.txt", content_type: str = "text/plain") -> dict[str, Any]:
    answer = api.http.post("/v1/files", files={"content": (name, content, content_type)})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def stored(api: ApiInProcess, content: bytes) -> Path:
    return api.settings.files / hashlib.sha256(content).hexdigest()[:2] / hashlib.sha256(content).hexdigest()


# Uploads


def test_the_official_python_client_uploads_reads_lists_and_deletes_a_file(api: ApiInProcess) -> None:
    client = replicate.Client(api_token=TOKEN, base_url=api.url)
    file = io.BytesIO(b"hello, file")
    file.name = "hello.txt"
    made = client.files.create(file, content_type="text/plain", metadata={"customer_reference_id": 123})
    assert (made.name, made.content_type, made.size) == ("hello.txt", "text/plain", 11)
    assert made.etag == hashlib.md5(b"hello, file").hexdigest()
    assert made.checksums["sha256"] == hashlib.sha256(b"hello, file").hexdigest()
    assert made.metadata == {"customer_reference_id": 123}
    assert client.files.get(made.id).id == made.id
    assert client.files.list()[0].id == made.id
    assert client.files.delete(made.id)
    client._client.close()
    answer = api.http.get(f"/v1/files/{made.id}")
    assert answer.status_code == 404
    assert answer.json()["detail"] == "File not found"  # Replicate's OpenAPI, files.get
    assert answer.headers["content-type"] == "application/problem+json"


def test_metadata_may_be_a_file_part_as_the_javascript_client_sends_it(api: ApiInProcess) -> None:
    # As replicate-javascript 1.4.0 was seen to send it: notes, 5.2.
    parts = {"content": ("in.bin", b"123", "application/zip"), "metadata": ("blob", b'{"a": [1]}', "application/json")}
    made = api.http.post("/v1/files", files=parts).json()
    assert made["metadata"] == {"a": [1]}
    assert made["content_type"] == "application/zip"


def test_name_and_type_may_be_parts_of_their_own(api: ApiInProcess) -> None:
    fields = {"filename": "clip.mp4", "type": "video/mp4"}
    made = api.http.post("/v1/files", data=fields, files={"content": ("blob", b"123")}).json()
    assert (made["name"], made["content_type"]) == ("clip.mp4", "video/mp4")


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ({"files": {"other": ("a", b"1")}}, 400),
        ({"files": {"content": ("a", b"1")}, "data": {"metadata": "[1]"}}, 400),
        ({"files": {"content": ("a", b"1")}, "data": {"metadata": "{"}}, 400),
        ({"files": [("content", ("a", b"1"))] * 9}, 400),
        ({"json": {"content": "1"}}, 415),
        ({"content": b"--x", "headers": {"content-type": "multipart/form-data"}}, 400),
        ({"content": b"nonsense", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400),
    ],
)
def test_what_is_no_upload_is_told_so(api: ApiInProcess, parts: dict[str, Any], status: int) -> None:
    answer = api.http.post("/v1/files", **parts)
    assert answer.status_code == status, answer.text
    assert answer.json()["status"] == status


def chunks(size: int) -> Iterator[bytes]:
    """A multipart body with a file of `size` bytes, in pieces of 1 MiB."""
    yield b'--x\r\nContent-Disposition: form-data; name="content"; filename="big"\r\n\r\n'
    piece = bytes(2**20)
    for _ in range(size // len(piece)):
        yield piece
    yield bytes(size % len(piece))
    yield b"\r\n--x--\r\n"


MULTIPART = {"content-type": "multipart/form-data; boundary=x"}


def test_memory_does_not_grow_with_an_upload(api: ApiInProcess) -> None:
    tracemalloc.start()
    try:
        answer = api.http.post("/v1/files", content=chunks(48 * 2**20), headers=MULTIPART)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.json()["size"] == 48 * 2**20
    assert peak < 12 * 2**20


@pytest.mark.parametrize("declared", [True, False])
def test_more_than_100_mb_is_refused_and_leaves_nothing(api: ApiInProcess, declared: bool) -> None:
    size = UPLOAD_LIMIT + 2**20 + 1
    body = sum(len(chunk) for chunk in chunks(0)) + size
    headers = {**MULTIPART, **({"content-length": str(body)} if declared else {})}
    answer = api.http.post("/v1/files", content=chunks(size), headers=headers)
    assert answer.status_code == 413
    assert answer.json()["detail"] == "Files must be less than 100MB in size"  # Replicate's OpenAPI, files.create
    assert not list((api.settings.files / "aside").glob("*"))


def begin(api: ApiInProcess, path: str, content_type: str, length: str, *parts: bytes) -> socket.socket:
    """Begin a request and do not go on."""
    connection = socket.create_connection(("127.0.0.1", api.settings.port), timeout=60)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n{length}\r\n"
    for part in (f"{head}Content-Type: {content_type}\r\n\r\n".encode(), *parts):
        connection.sendall(part)
    return connection


def send_half(api: ApiInProcess) -> socket.socket:
    """Begin an upload and do not go on."""
    return begin(api, "/v1/files", MULTIPART["content-type"], "Content-Length: 9999", next(chunks(0)))


def test_an_upload_that_stands_still_is_ended(api: ApiInProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("predictions_api.http.file_routes.STALL_TIMEOUT", 0.1)
    with send_half(api) as connection:
        assert connection.recv(20).startswith(b"HTTP/1.1 408 ")


def test_a_json_body_that_stands_still_is_ended(api: ApiInProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("predictions_api.http.requests.BODY_TIMEOUT", 0.1)
    with begin(api, "/v1/predictions", "application/json", "Content-Length: 99", b"{") as connection:
        assert connection.recv(20).startswith(b"HTTP/1.1 408 ")


def test_a_json_body_of_no_declared_length_is_read_up_to_the_limit_only(api: ApiInProcess) -> None:
    pieces = [b"100000\r\n" + bytes(2**20) + b"\r\n"] * 32 + [b"1\r\n \r\n"]  # one byte more, and no end
    with begin(api, "/v1/predictions", "application/json", "Transfer-Encoding: chunked", *pieces) as connection:
        assert connection.recv(20).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_leaves_during_an_upload_is_no_failure(
    api: ApiInProcess, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="predictions_api.requests"):
        send_half(api).close()
        until = time.monotonic() + 30
        while "POST /files" not in caplog.text:
            assert time.monotonic() < until
            time.sleep(0.02)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_file_just_over_the_limit_is_refused_though_its_request_is_within(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="100MB"):
        ContentStore(tmp_path).write(io.BytesIO(b"12345"), at_most=4, too_large=too_large_problem())
    assert not list((tmp_path / "aside").iterdir())


def test_a_full_disk_is_503_and_leaves_nothing(tmp_path: Path) -> None:
    store = ContentStore(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # the kernel refuses to write more, as on a full disk
    try:
        with pytest.raises(Problem) as caught:
            store.write(io.BytesIO(bytes(2000)), at_most=10**6, too_large=too_large_problem())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.status == 503
    assert "Retry-After" in caught.value.headers
    assert not list((tmp_path / "aside").iterdir())


def test_uploads_need_a_token_and_their_signed_urls_need_none(api: ApiInProcess) -> None:
    made = upload(api, b"secret bytes")
    assert api.anyone.get(made["urls"]["get"]).status_code == 401
    assert api.anyone.get("/v1/files").status_code == 401
    assert api.anyone.delete(made["urls"]["get"]).status_code == 401
    assert api.anyone.get(made["urls"]["download"]).content == b"secret bytes"


@pytest.mark.parametrize("change", [("owner", "other"), ("expiry", "99999999999"), ("signature", "AAAA")])
def test_a_signature_covers_owner_id_and_expiry(api: ApiInProcess, change: tuple[str, str]) -> None:
    one, other = upload(api, b"1"), upload(api, b"2")
    url = httpx.URL(one["urls"]["download"])
    assert api.anyone.get(url.copy_set_param(*change)).status_code == 404
    assert api.anyone.get(str(url).replace(one["id"], other["id"])).status_code == 404


def test_a_signed_url_that_has_expired_is_404(api: ApiInProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    made = upload(api, b"1")
    then = time.time() + 25 * 3600
    monkeypatch.setattr(time, "time", lambda: then)
    assert api.anyone.get(made["urls"]["download"]).status_code == 404


def test_uploads_are_listed_newest_first_in_pages_that_do_not_shift(api: ApiInProcess) -> None:
    made = [upload(api, b"page")["id"] for _ in range(101)]
    first = api.http.get("/v1/files").json()
    assert [file["id"] for file in first["results"]] == made[:0:-1]
    upload(api, b"page")
    second = api.http.get(first["next"]).json()
    assert second["results"][0]["id"] == made[0]


def test_a_cursor_of_someone_elses_making_is_400(api: ApiInProcess) -> None:
    with_nul = base64.urlsafe_b64encode(b"p=1.%00").decode()  # which PostgreSQL would refuse
    for cursor in ("%", with_nul):
        assert api.http.get("/v1/files", params={"cursor": cursor}).status_code == 400


# Hostile names, types and paths


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("..", "file"),
        ("", "file"),
        ("a\r\nX-Evil: 1", "aX-Evil: 1"),
        ("a\0b\u202egnp.exe", "abgnp.exe"),  # U+202E turns what follows around
        ("ü" * 200, "ü" * 127),  # 255 bytes hold 127 of two
    ],
)
def test_a_name_loses_what_headers_and_file_systems_take_amiss(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_neither_name_nor_type_reaches_a_path_or_adds_a_header(api: ApiInProcess) -> None:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="content"; filename="../../%0d%0aX-Evil: 1;\\".html"\r\n'
        b"Content-Type: text/html;a=\xff\tb\r\n\r\nhostile\r\n--x--\r\n"
    )
    made = api.http.post("/v1/files", content=body, headers=MULTIPART).json()
    answer = api.anyone.get(made["urls"]["download"])
    assert answer.content == b"hostile"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert "x-evil" not in answer.headers
    assert stored(api, b"hostile").is_file()
    outside = [path for path in api.settings.data.rglob("*") if "evil" in path.name.lower()]
    assert not outside


@pytest.mark.parametrize("content_type", ["text/html", "image/svg+xml", "application/xhtml+xml"])
def test_a_page_that_someone_uploaded_does_not_run_as_one_of_ours(api: ApiInProcess, content_type: str) -> None:
    made = upload(api, b"<script>1</script>", "page", content_type)
    headers = api.anyone.get(made["urls"]["download"]).headers
    assert headers["content-disposition"].startswith("attachment")
    assert headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in headers["content-security-policy"]


@pytest.mark.parametrize(
    "path", ["../../predictions.sqlite", "..%2f..%2fpredictions.sqlite", "%2e%2e/%2e%2e/predictions.sqlite", "0" * 52]
)
def test_no_path_leads_to_a_file_that_has_no_row(api: ApiInProcess, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", api.settings.port)  # sends the path as it is
    connection.request("GET", f"/v1/delivery/{path}/x")
    assert connection.getresponse().status == 404
    connection.close()


# Bytes


@pytest.fixture(scope="module")
def pixel(api: ApiInProcess) -> str:
    uri = "data:image/png;base64," + base64.b64encode(PIXEL).decode()
    path: str = api.do(api.service.files.store_output("p" * 26, uri))
    return api.url + path


def test_an_output_has_its_type_length_tag_and_name(api: ApiInProcess, pixel: str) -> None:
    answer = api.anyone.get(pixel)
    assert answer.content == PIXEL
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-length"] == str(len(PIXEL))
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-disposition"] == 'inline; filename="output.png"'
    assert answer.headers["access-control-allow-origin"] == "*"  # as replicate.delivery: notes, 5.3
    head = api.anyone.head(pixel)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(PIXEL))


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("bytes=0-0", 0, 1), ("bytes=10-", 10, None), ("bytes=-5", -5, None), ("bytes=3-9999", 3, None)],
)
def test_ranges_are_answered_as_rfc_9110_says(
    api: ApiInProcess, pixel: str, asked: str, start: int, end: int | None
) -> None:
    answer = api.anyone.get(pixel, headers={"range": asked})
    expected = PIXEL[start:end]
    first = start % len(PIXEL)
    assert answer.status_code == 206
    assert answer.content == expected
    assert answer.headers["content-range"] == f"bytes {first}-{first + len(expected) - 1}/{len(PIXEL)}"


def test_a_range_beyond_the_end_is_416_and_a_stale_if_range_gets_all(api: ApiInProcess, pixel: str) -> None:
    beyond = api.anyone.get(pixel, headers={"range": "bytes=9999-"})
    assert beyond.status_code == 416
    assert beyond.headers["content-range"] == f"bytes */{len(PIXEL)}"
    tag = api.anyone.head(pixel).headers["etag"]
    assert api.anyone.get(pixel, headers={"range": "bytes=0-0", "if-range": tag}).status_code == 206
    assert api.anyone.get(pixel, headers={"range": "bytes=0-0", "if-range": '"other"'}).status_code == 200


def test_content_that_a_client_has_is_not_sent_again(api: ApiInProcess, pixel: str) -> None:
    tag = api.anyone.head(pixel).headers["etag"]
    answer = api.anyone.get(pixel, headers={"if-none-match": tag})
    assert (answer.status_code, answer.content) == (304, b"")


# Outputs


def test_the_same_output_told_twice_is_one_file(api: ApiInProcess) -> None:
    uri = "data:text/plain;base64," + base64.b64encode(b"twice").decode()
    first = api.do(api.service.files.store_output("a" * 26, {"frames": [uri, "text", 7, None]}))
    second = api.do(api.service.files.store_output("a" * 26, {"frames": [uri, "text", 7, None]}))
    assert first == second
    assert first["frames"][1:] == ["text", 7, None]
    assert api.anyone.get(api.url + first["frames"][0]).content == b"twice"


def test_an_output_whose_content_was_not_stored_is_stored_when_it_is_told_again(
    api: ApiInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_part: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(api.service.files.content, "commit", full)
        api.do(api.service.files.store_output("k" * 26, "data:,again"))
    path = api.do(api.service.files.store_output("k" * 26, "data:,again"))
    assert api.anyone.get(api.url + path).content == b"again"
    for part in (api.settings.files / "aside").iterdir():  # what a sweep removes after an hour
        part.unlink()


def test_equal_outputs_of_two_predictions_share_their_bytes_and_not_their_urls(api: ApiInProcess) -> None:
    uri = "data:application/octet-stream;base64," + base64.b64encode(b"shared").decode()
    one, two = (api.do(api.service.files.store_output(name * 26, uri)) for name in "bc")
    assert one != two
    assert len(list(api.settings.files.rglob(hashlib.sha256(b"shared").hexdigest()))) == 1


@pytest.mark.parametrize("text", ["data:", "data:text/plain", "data:x;base64,%%%", "no uri", "data:x;base64,A"])
def test_text_that_is_no_data_uri_stays_as_it_is(api: ApiInProcess, text: str) -> None:
    assert api.do(api.service.files.store_output("d" * 26, text)) == text


def test_a_data_uri_may_be_percent_encoded(api: ApiInProcess) -> None:
    path = api.do(api.service.files.store_output("e" * 26, "data:text/plain,a%20b"))  # RFC 2397, section 2
    assert api.anyone.get(api.url + path).content == b"a b"


def test_outputs_come_inline_up_to_ten_megabytes_together(api: ApiInProcess) -> None:
    files = api.service.files
    pixel_uri = "data:image/png;base64," + base64.b64encode(PIXEL).decode()
    paths = api.do(files.store_output("f" * 26, [pixel_uri, "text"]))
    assert api.do(files.inline(paths)) == [pixel_uri, "text"]
    large = "data:video/mp4;base64," + base64.b64encode(bytes(INLINE_LIMIT - len(PIXEL) + 1)).decode()
    paths = api.do(files.store_output("g" * 26, [pixel_uri, large]))
    assert api.do(files.inline(paths)) == paths


def test_urls_of_outputs_begin_as_the_caller_knows_the_server(api: ApiInProcess) -> None:
    path = api.do(api.service.files.store_output("h" * 26, "data:,1"))
    assert with_absolute_urls({"a": [path, "/v1/delivery/x"]}, "https://here") == {
        "a": ["https://here" + path, "/v1/delivery/x"]
    }


# Inputs


@pytest.mark.parametrize("base", ["http://localhost:1", "https://api.example/replicate", "http://h"])
@pytest.mark.parametrize("prefix", ["/v1", ""])
def test_our_own_urls_in_inputs_reach_cog_as_bytes(api: ApiInProcess, base: str, prefix: str) -> None:
    made = upload(api, b"input bytes", "in put.mp4", "video/mp4")
    given = {"video": f"{base}{prefix}/files/{made['id']}", "prompt": "a", "n": 1}
    resolved = api.do(api.service.files.resolve(given))
    assert (resolved["prompt"], resolved["n"]) == ("a", 1)
    assert resolved["video"].endswith("/in%20put.mp4")  # Cog takes the name of the file from the URL's end
    assert api.anyone.get(resolved["video"]).content == b"input bytes"


def test_an_output_may_be_another_predictions_input_and_foreign_urls_stay(api: ApiInProcess, pixel: str) -> None:
    foreign = [
        "https://example.com/v1/files/" + "a" * 26,
        "https://example.com/delivery/" + "0" * 52 + "/a.png",
        "http://[",
    ]
    resolved = api.do(api.service.files.resolve({"image": pixel.replace("127.0.0.1", "localhost"), "more": foreign}))
    assert api.anyone.get(resolved["image"]).content == PIXEL
    assert resolved["more"] == foreign


def test_an_upload_that_is_gone_is_told_before_cog_is_asked(api: ApiInProcess) -> None:
    made = upload(api, b"gone")
    api.http.delete(made["urls"]["get"])
    with pytest.raises(Problem, match="upload it again"):
        api.do(api.service.files.resolve({"image": made["urls"]["get"]}))


# What goes away when


def test_content_goes_with_the_last_file_that_has_it(api: ApiInProcess) -> None:
    one, two = upload(api, b"both"), upload(api, b"both")
    api.http.delete(one["urls"]["get"])
    assert api.anyone.get(two["urls"]["download"]).content == b"both"
    api.http.delete(two["urls"]["get"])
    assert not stored(api, b"both").exists()


def expire(api: ApiInProcess, content: bytes) -> None:
    """Let the files with this content have expired."""
    change = sa.update(table).where(table.c.sha256 == hashlib.sha256(content).hexdigest()).values(expires_at=1)
    api.do(api.service.database.run(lambda connection: connection.execute(change)))


def test_an_expired_upload_is_gone_at_once_and_its_bytes_with_the_next_sweep(api: ApiInProcess) -> None:
    made = upload(api, b"old")
    expire(api, b"old")
    assert api.http.get(made["urls"]["get"]).status_code == 404
    assert api.anyone.get(made["urls"]["download"]).status_code == 404
    assert made["id"] not in [file["id"] for file in api.http.get("/v1/files").json()["results"]]
    api.do(api.service.files.sweep())
    assert not stored(api, b"old").exists()


def test_outputs_live_as_long_as_their_prediction_has_its_data(api: ApiInProcess) -> None:
    prediction = api.prediction()
    path = api.do(api.service.files.store_output(prediction.id, "data:,output"))
    api.update(prediction, status="succeeded", output=path)
    expire(api, b"output")
    api.do(api.service.files.sweep())
    assert api.anyone.get(api.url + path).content == b"output"
    api.do(remove_data(api.service.database, [prediction.id]))
    assert api.anyone.get(api.url + path).status_code == 404, "else its bytes might go while they are sent"
    api.do(api.service.files.sweep())
    assert not stored(api, b"output").exists()


def test_what_a_dead_server_left_is_cleaned_up_and_what_is_wanted_put_back(
    api: ApiInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = upload(api, b"wanted")
    store = api.service.files.content
    aside = store.put_aside(hashlib.sha256(b"wanted").hexdigest())
    part = store.write(io.BytesIO(b"half"), at_most=10, too_large=too_large_problem())
    assert aside is not None
    assert aside.exists()
    api.do(api.service.files.sweep())
    assert part.path.exists(), "it may be another server's, which lives"
    later = time.time() + 2 * ABANDONED_AFTER
    monkeypatch.setattr("predictions_api.store.content.time.time", lambda: later)
    api.do(api.service.files.sweep())
    assert not part.path.exists()
    assert stored(api, b"wanted").read_bytes() == b"wanted"
    monkeypatch.undo()
    assert api.anyone.get(made["urls"]["download"]).content == b"wanted"


def test_a_file_stored_while_its_equal_is_removed_is_not_lost(api: ApiInProcess) -> None:
    async def both(old: str) -> str:
        new, _ = await asyncio.gather(
            api.service.files.upload(io.BytesIO(b"race"), name="a", content_type="text/plain", metadata={}),
            api.service.files.delete_upload(old),
        )
        return new.id

    last = upload(api, b"race")["id"]
    for _ in range(20):
        last = api.do(both(last))
        assert stored(api, b"race").read_bytes() == b"race"
    assert not list((api.settings.files / "aside").iterdir())
