"""Data URIs as browsers, forms and people write them: read as they were meant, or refused with the input's name."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import threading
import time
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from api_server import VERSIONS, ApiServer
from predictions_api.run import inputs
from predictions_api.store.data_uris import InvalidDataUri, decode_data_uri

CONTENT = bytes(range(251, 256)) + b"any bytes"  # its base64 has + and /
BASE64 = base64.b64encode(CONTENT).decode()


@pytest.mark.parametrize(
    ("head", "media_type"),
    [
        ("data:image/png;base64,", "image/png"),
        ("DATA:image/png;BASE64,", "image/png"),
        ("data:image/png; base64,", "image/png"),
        ("data:image/png ;base64 ,", "image/png"),
        ("data:;base64,", "application/octet-stream"),
        ("data:text/plain;charset=utf-8;base64,", "text/plain;charset=utf-8"),
        ("data:text/plain;base64;charset=utf-8,", "text/plain;charset=utf-8"),
        ("data:video/webm;codecs=vp8,opus;base64,", "video/webm"),  # Chrome's MediaRecorder
        ("data:video/x-matroska;codecs=avc1.64001f, opus;base64,", "video/x-matroska"),
        ('data:video/mp4; codecs="avc1.42E01E, mp4a.40.2";base64,', "video/mp4"),  # RFC 6381, section 3.2
        ('data:text/plain;a="x;base64,y";base64,', "text/plain"),
    ],
)
def test_the_head_may_be_written_in_several_ways(head: str, media_type: str) -> None:
    assert decode_data_uri(head + BASE64) == (media_type, CONTENT)


@pytest.mark.parametrize(
    "body",
    [
        BASE64.replace("+", "-").replace("/", "_"),  # RFC 4648, section 5
        BASE64.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
        BASE64.rstrip("="),
        f"\n  {BASE64[:8]}\r\n  {BASE64[8:]}\n",
    ],
)
def test_base64_may_be_written_in_several_ways(body: str) -> None:
    assert set("+/") <= set(BASE64)
    assert decode_data_uri(f"data:a/b;base64,{body}") == ("a/b", CONTENT)


@pytest.mark.parametrize(
    ("uri", "content"),
    [
        ("data:,a%20b", b"a b"),  # RFC 2397, section 2
        ("data:text/plain;charset=utf-8,a;base64,b", b"a;base64,b"),
        ("data:text/plain,a,b", b"a,b"),
    ],
)
def test_without_base64_the_data_is_percent_encoded_text(uri: str, content: bytes) -> None:
    assert decode_data_uri(uri)[1] == content


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("data:image/png;base64", "no comma"),
        ("data:", "no comma"),
        ("data:base64,AAAA", "'base64' is not a media type"),
        (f"data:a/b;base64,{BASE64.replace('+', ' ')}", r"write \+ as %2B"),
        ("data:a/b;base64,AAAAA", "5 letters"),
        ("data:a/b;base64,AAAA=", "4 letters and 1 '='"),
        ("data:a/b;base64,AA=", "2 letters and 1 '='"),
        ("data:a/b;base64,AA=A", "a letter that base64 does not have"),
        ("data:a/b;base64,%%%%", "a letter that base64 does not have"),
        ("data:a/b;base64,äöüÄ", "a letter that base64 does not have"),
    ],
)
def test_any_other_uri_is_refused_with_the_reason(uri: str, reason: str) -> None:
    with pytest.raises(InvalidDataUri, match=reason):
        decode_data_uri(uri)


@pytest.mark.parametrize(
    "head",
    ["data:" + " " * 10**6, "data:a/b" + ";a=b" * 10**6, "data:;codecs=" + "a," * 10**6, 'data:;a="' + "\\" * 10**6],
    ids=["blanks", "parameters", "codecs", "quoted"],
)
def test_the_time_for_a_hostile_head_grows_with_its_length_only(head: str) -> None:
    began = time.process_time()
    with contextlib.suppress(InvalidDataUri):
        decode_data_uri(head + ";base64")
    assert time.process_time() - began < 5, "CPU seconds; a quadratic search would take minutes"


@pytest.mark.parametrize("length", [10, 300_000])  # the latter is stored as a file
def test_the_model_gets_the_bytes_and_the_client_sees_what_it_sent(server: ApiServer, length: int) -> None:
    text = "ä" * length
    body = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
    uri = f"data:video/webm;codecs=vp8,opus; BASE64,{body}"
    prediction = server.create("text", wait=True, file=uri)
    assert (prediction["status"], prediction["output"]) == ("succeeded", text)
    if length == 10:
        assert prediction["input"]["file"] == uri


def test_an_invalid_uri_is_refused_when_the_prediction_is_created_and_names_its_input(server: ApiServer) -> None:
    body = {"version": VERSIONS["text"], "input": {"file": "data:image/png;base64,AAAAA"}}
    answer = server.http.post("/predictions", json=body)
    assert answer.status_code == 422
    assert answer.json()["invalid_fields"][0]["field"] == "input.file"


def test_the_event_loop_does_not_wait_for_the_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def decode(uri: str) -> tuple[str, bytes]:
        threads.append(threading.current_thread())
        return decode_data_uri(uri)

    monkeypatch.setattr(inputs, "decode_data_uri", decode)
    files, catalogue = Mock(own_urls=AsyncMock(return_value={})), Mock(file_inputs=AsyncMock(return_value={"image"}))
    catalogue.models = []
    prepare = inputs.Inputs(files, catalogue, Mock(), Mock(), Mock(), Mock()).prepare
    prediction: Any = SimpleNamespace(id="a", model="owner/name", input={"image": "data:text/plain,%61"})
    assert asyncio.run(prepare(prediction)) == {"image": "data:text/plain;base64,YQ=="}
    assert threads != [threading.main_thread()]
