"""The weight store and its downloads, with a real HTTP server that misbehaves (tests/support/weight_server.py)."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import huggingface_hub
import pytest
import weight_server
from ports import free_port
from videokit.errors import DownloadFailed, WeightsError, WeightsMissing
from videokit.weights import transfer
from videokit.weights.store import WeightStore
from videokit.weights.table import HubFile, Url, WeightFile
from weight_server import Hold, WeightServer, serve_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAME = "checkpoints/model.safetensors"
HEADER = b'{"t":{"dtype":"U8","shape":[399929],"data_offsets":[0,399929]}}'
CONTENT = struct.pack("<Q", len(HEADER)) + HEADER + random.Random(1).randbytes(399_929)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
REVISION = "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(transfer, "BACK_OFF", (0.01, 0.01))
    yield
    huggingface_hub.close_session()


@pytest.fixture
def server() -> Iterator[WeightServer]:
    with serve_files({f"/{NAME}": CONTENT}) as running:
        yield running


@pytest.fixture
def store(server: WeightServer, tmp_path: Path) -> WeightStore:
    return WeightStore([entry(server)], directories=[], cache=tmp_path / "cache")


def entry(server: WeightServer, size: int | None = len(CONTENT), sha256: str | None = SHA256) -> WeightFile:
    return WeightFile(NAME, Url(f"{server.url}/{NAME}"), "any", size, sha256)


def files_in(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def write_file(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def part_path(store: WeightStore) -> Path:
    assert store.cache is not None
    return store.cache / f"{NAME}.part"


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "timed out after 60 s"
        time.sleep(0.01)


class TestTable:
    @pytest.mark.parametrize("revision", ["main", "v1.0", "451f4fe", REVISION.upper(), f"{REVISION}0"])
    def test_a_revision_that_is_not_a_commit_raises(self, revision: str) -> None:
        with pytest.raises(ValueError, match="40 hex digits"):
            HubFile("someone/model", revision, "model.safetensors")

    @pytest.mark.parametrize("url", ["http://example.com/a", "ftp://example.com/a", "https:///a", "/a", ""])
    def test_an_address_that_is_not_https_raises(self, url: str) -> None:
        with pytest.raises(ValueError, match="https://"):
            Url(url)

    @pytest.mark.parametrize("path", ["", "/etc/passwd", "../a", "a/../../b", "a\\b"])
    def test_a_path_outside_the_weights_directory_raises(self, path: str, store: WeightStore) -> None:
        with pytest.raises(ValueError, match="relative path"):
            WeightFile(path, None, "any")
        with pytest.raises(ValueError, match="relative path"):
            store.find(path)

    def test_a_hash_that_is_not_a_sha256_raises(self) -> None:
        with pytest.raises(ValueError, match="64 lower-case hex digits"):
            WeightFile("a", None, "any", sha256=SHA256.upper())

    def test_a_path_that_is_in_the_table_twice_raises(self) -> None:
        with pytest.raises(ValueError, match="twice"):
            WeightStore([WeightFile("a", None, "x"), WeightFile("a", None, "y")], directories=[], cache=None)


class TestLocations:
    def test_the_users_directory_has_priority_over_baked_files_the_cache_and_download(
        self, server: WeightServer, tmp_path: Path
    ) -> None:
        model, own, cache = (tmp_path / name for name in ("model", "own", "cache"))
        in_own, in_baked = write_file(own / NAME, b"own"), write_file(model / "weights" / NAME, b"baked")
        in_cache = write_file(cache / NAME, CONTENT)
        environ = {"WEIGHTS": str(own), "WEIGHTS_CACHE": str(cache)}
        store = WeightStore.from_environment([entry(server)], "some-model", model, environ)
        for location in (in_own, in_baked, in_cache):
            assert store.get(NAME) == location
            location.unlink()
        assert server.requests == []
        assert store.find(NAME) is None
        assert store.get(NAME) == in_cache
        assert in_cache.read_bytes() == CONTENT
        assert len(server.requests) == 1

    @pytest.mark.parametrize("weights", [{}, {"WEIGHTS": ""}, {"WEIGHTS": "full"}])
    def test_full_weights_are_the_baked_ones_and_the_users_cache(self, weights: dict[str, str], tmp_path: Path) -> None:
        store = WeightStore.from_environment(
            [], "some-model", tmp_path / "model", {"XDG_CACHE_HOME": "/somewhere", **weights}
        )
        assert store.directories == (tmp_path / "model" / "weights",)
        assert store.cache == Path("/somewhere/videokit")
        assert (
            WeightStore.from_environment([], "some-model", tmp_path, weights).cache
            == Path.home() / ".cache" / "videokit"
        )

    def test_demo_weights_come_from_their_directory_alone_and_the_error_names_the_command(
        self, server: WeightServer, tmp_path: Path
    ) -> None:
        model, cache = tmp_path / "some-model", tmp_path / "cache"
        write_file(cache / NAME, CONTENT)
        write_file(model / "weights" / NAME, CONTENT)
        environ = {"WEIGHTS": "demo", "WEIGHTS_CACHE": str(cache), "WEIGHTS_MIRROR": server.url}
        store = WeightStore.from_environment([entry(server)], "some-model", model, environ)
        with pytest.raises(WeightsMissing, match=r"git restore some-model/demo-weights$"):
            store.get(NAME)
        demo = write_file(model / "demo-weights" / NAME, b"demo")
        assert store.get(NAME) == demo
        assert server.requests == []

    def test_a_missing_weights_directory_raises(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match="WEIGHTS=/no/such is not a directory"):
            WeightStore.from_environment([], "some-model", tmp_path, {"WEIGHTS": "/no/such"})

    def test_a_mirror_without_tls_raises(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"WEIGHTS_MIRROR.*https://"):
            WeightStore.from_environment([], "some-model", tmp_path, {"WEIGHTS_MIRROR": "http://example.com"})

    @pytest.mark.parametrize("pickle", ["unet/model.bin", "lama.ckpt"])
    def test_safetensors_have_priority_over_a_pickle_in_the_same_directory(self, pickle: str, tmp_path: Path) -> None:
        first, second = tmp_path / "first", tmp_path / "second"
        store = WeightStore([WeightFile(pickle, None, "any")], directories=[first, second], cache=None)
        assert store.find(pickle) is None
        in_second = write_file(second / pickle, b"pickle")
        assert store.find(pickle) == in_second
        safetensors = write_file((first / pickle).with_suffix(".safetensors"), b"tensors")
        assert store.find(pickle) == safetensors
        write_file(first / pickle, b"pickle")
        assert store.find(pickle) == safetensors

    def test_a_users_own_file_or_folder_is_found_in_a_directory_but_not_in_the_cache(self, tmp_path: Path) -> None:
        store = WeightStore([], directories=[tmp_path / "own"], cache=tmp_path / "cache")
        write_file(tmp_path / "cache" / "mine" / "config.json", b"{}")
        assert store.find("mine") is None
        write_file(tmp_path / "own" / "mine" / "config.json", b"{}")
        assert store.find("mine") == tmp_path / "own" / "mine"

    def test_a_cached_file_of_another_size_is_fetched_again(self, store: WeightStore, tmp_path: Path) -> None:
        cached = write_file(tmp_path / "cache" / NAME, b"from an older table")
        assert store.find(NAME) is None
        assert store.get(NAME).read_bytes() == CONTENT == cached.read_bytes()

    def test_only_verify_reports_that_a_users_file_differs(self, server: WeightServer, tmp_path: Path) -> None:
        # SHA-256 of "abc": FIPS 180-4's first example.
        abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        store = WeightStore([entry(server, 3, abc)], directories=[tmp_path], cache=None)
        own = write_file(tmp_path / NAME, b"abc")
        assert store.verify(NAME).fault is None
        own.write_bytes(b"abd")
        assert store.get(NAME) == own
        assert f"expected {abc}" in str(store.verify(NAME).fault)
        own.write_bytes(b"abcd")
        assert store.verify(NAME).fault == "it has 4 bytes; expected 3"


class TestSources:
    def test_a_hub_file_comes_from_its_commit_with_the_token_of_the_environment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = f"/someone/model/resolve/{REVISION}/sub/model.safetensors"
        with serve_files({url: CONTENT}) as hub:
            monkeypatch.setenv("HF_ENDPOINT", hub.url)
            monkeypatch.setenv("HF_TOKEN", "hf_test")
            file = WeightFile(NAME, HubFile("someone/model", REVISION, "sub/model.safetensors"), "any", None, SHA256)
            location = WeightStore([file], directories=[], cache=tmp_path).get(NAME)
        assert location.read_bytes() == CONTENT
        assert [(request.path, request.authorization) for request in hub.requests] == [(url, "Bearer hf_test")]

    def test_a_file_of_a_dataset_comes_from_the_datasets_of_the_hub(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # the form of https://huggingface.co/datasets/gsdf/EasyNegative/resolve/main/EasyNegative.safetensors
        url = f"/datasets/someone/words/resolve/{REVISION}/model.safetensors"
        with serve_files({url: CONTENT}) as hub:
            monkeypatch.setenv("HF_ENDPOINT", hub.url)
            file = WeightFile(NAME, HubFile("someone/words", REVISION, "model.safetensors", "dataset"), "any")
            location = WeightStore([file], directories=[], cache=tmp_path).get(NAME)
        assert location.read_bytes() == CONTENT

    def test_the_token_does_not_follow_a_redirect_to_another_host(
        self, server: WeightServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The Hub answers 302 for every large file, with an address of a content network.
        url = f"/someone/model/resolve/{REVISION}/model.safetensors"
        server.plan(url, f"{server.url.replace('127.0.0.1', 'localhost')}/{NAME}")
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        file = WeightFile(NAME, HubFile("someone/model", REVISION, "model.safetensors"), "any", None, SHA256)
        WeightStore([file], directories=[], cache=tmp_path).get(NAME)
        assert [request.authorization for request in server.requests] == ["Bearer hf_test", None]

    def test_a_mirror_has_each_file_at_its_path_and_receives_no_token(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        files = [
            WeightFile("a b.json", None, "any"),
            WeightFile("hub/c.json", HubFile("someone/model", REVISION, "d"), "any"),
            WeightFile("url/e.json", Url("https://example.invalid/f"), "any"),
        ]
        with serve_files(
            {"/prefix/a%20b.json": b"1", "/prefix/hub/c.json": b"2", "/prefix/url/e.json": b"3"}
        ) as mirror:
            environ = {"WEIGHTS_MIRROR": f"{mirror.url}/prefix/", "WEIGHTS_CACHE": str(tmp_path / "cache")}
            locations = WeightStore.from_environment(files, "some-model", tmp_path, environ).fetch(
                [file.path for file in files]
            )
        assert [location.read_bytes() for location in locations.values()] == [b"1", b"2", b"3"]
        assert {request.authorization for request in mirror.requests} == {None}

    def test_a_mirrors_password_is_sent_but_not_logged(
        self, server: WeightServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "videokit")
        with_password = server.url.replace("//", "//me:secret@")
        store = WeightStore([entry(server)], directories=[], cache=tmp_path, mirror=with_password)
        server.plan(f"/{NAME}", 404, 500)
        with pytest.raises(DownloadFailed) as failure:
            store.get(NAME)
        store.get(NAME)
        # RFC 7617: base64 of "me:secret"
        assert {request.authorization for request in server.requests} == {"Basic bWU6c2VjcmV0"}
        assert "secret" not in str(failure.value) + caplog.text


class TestFaults:
    @pytest.mark.parametrize("size", [len(CONTENT), None])
    def test_a_transfer_that_breaks_is_resumed(self, server: WeightServer, tmp_path: Path, size: int | None) -> None:
        server.plan(f"/{NAME}", "truncate", "truncate")
        store = WeightStore([entry(server, size)], directories=[], cache=tmp_path)
        assert store.get(NAME).read_bytes() == CONTENT
        assert [request.start for request in server.requests] == [0, 200_000, 300_000]
        assert sum(request.sent for request in server.requests) == len(CONTENT)
        assert files_in(tmp_path) == [NAME]

    @pytest.mark.parametrize("size", [len(CONTENT), None])
    def test_a_transfer_that_stalls_is_resumed(
        self, server: WeightServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int | None
    ) -> None:
        monkeypatch.setattr(transfer, "STALL_SECONDS", 1.0)
        monkeypatch.setattr(transfer, "BACK_OFF", (0.01,) * 100)
        server.plan(f"/{NAME}", "stall", "stall")
        store = WeightStore([entry(server, size)], directories=[], cache=tmp_path)
        assert store.get(NAME).read_bytes() == CONTENT
        starts = [request.start for request in server.requests]
        assert len(starts) >= 3  # more if a busy machine stalls a transfer, too
        assert starts == sorted(starts)
        assert starts[-1] >= 200_000  # the half that came before a stall
        assert files_in(tmp_path) == [NAME]

    def test_an_early_end_without_content_length_is_detected(self, server: WeightServer, store: WeightStore) -> None:
        server.plan(f"/{NAME}", "unannounced")
        assert store.get(NAME).read_bytes() == CONTENT
        assert [request.start for request in server.requests] == [0, 200_000]

    def test_a_server_that_ignores_range_is_read_from_byte_0(self, server: WeightServer, store: WeightStore) -> None:
        server.plan(f"/{NAME}", "truncate", "whole")
        assert store.get(NAME).read_bytes() == CONTENT
        assert [request.sent for request in server.requests] == [200_000, 400_000]

    def test_a_server_that_ignores_range_and_always_breaks_raises_after_3_attempts(
        self, server: WeightServer, store: WeightStore
    ) -> None:
        server.plan(f"/{NAME}", *["whole, half"] * 100)
        with pytest.raises(DownloadFailed, match="3 times in a row"):
            store.get(NAME)
        assert len(server.requests) == 3

    def test_a_redirect_is_followed_and_an_endless_one_is_not(self, server: WeightServer, store: WeightStore) -> None:
        server.plan("/loop", *["/loop"] * 100)
        server.plan(f"/{NAME}", "/loop", "/moved")
        server.files["/moved"] = CONTENT
        with pytest.raises(DownloadFailed, match="redirects"):
            store.get(NAME)
        assert store.get(NAME).read_bytes() == CONTENT

    @pytest.mark.parametrize(
        ("status", "message"),
        [
            (401, r"401 Unauthorized; .*HF_TOKEN"),
            (403, r"403 Forbidden; .*accept the terms"),
            (404, r"404 Not Found; .*weights table"),
            (410, r"410 Gone"),
        ],
    )
    def test_a_client_error_is_not_retried_and_names_what_to_do(
        self, server: WeightServer, store: WeightStore, tmp_path: Path, status: int, message: str
    ) -> None:
        server.plan(f"/{NAME}", status)
        with pytest.raises(DownloadFailed, match=message) as failure:
            store.get(NAME)
        for text in (NAME, f"{server.url}/{NAME}", "WEIGHTS_MIRROR=", "WEIGHTS=DIR"):
            assert text in str(failure.value)
        assert len(server.requests) == 1
        assert files_in(tmp_path) == []

    def test_a_server_error_is_retried(self, server: WeightServer, store: WeightStore) -> None:
        server.plan(f"/{NAME}", 500, 503)
        assert store.get(NAME).read_bytes() == CONTENT

    def test_a_server_error_that_persists_raises(self, server: WeightServer, store: WeightStore) -> None:
        server.plan(f"/{NAME}", 500, 500, 500)
        with pytest.raises(DownloadFailed, match=r"500 Internal Server Error, 3 times in a row; try again later"):
            store.get(NAME)
        assert len(server.requests) == 3

    def test_a_refused_connection_raises(self, store: WeightStore, server: WeightServer) -> None:
        server.shutdown()
        server.server_close()
        with pytest.raises(DownloadFailed, match=r"refused, 3 times in a row"):
            store.get(NAME)

    def test_wrong_bytes_are_removed_and_the_error_names_both_hashes(
        self, server: WeightServer, store: WeightStore, tmp_path: Path
    ) -> None:
        server.plan(f"/{NAME}", "wrong")
        wrong = hashlib.sha256(bytes(byte ^ 0xFF for byte in CONTENT)).hexdigest()
        with pytest.raises(WeightsError, match=f"SHA-256 is {wrong}; expected {SHA256}"):
            store.get(NAME)
        assert files_in(tmp_path) == []

    @pytest.mark.parametrize("wrong", [CONTENT[:-1], CONTENT + b"!"])
    def test_a_file_of_another_length_raises_before_it_is_fetched(
        self, server: WeightServer, store: WeightStore, tmp_path: Path, wrong: bytes
    ) -> None:
        server.files[f"/{NAME}"] = wrong
        with pytest.raises(WeightsError, match=f"has {len(wrong)} bytes; expected 400000"):
            store.get(NAME)
        assert files_in(tmp_path) == []

    def test_a_file_that_is_longer_than_expected_raises(
        self, server: WeightServer, store: WeightStore, tmp_path: Path
    ) -> None:
        server.files[f"/{NAME}"] = CONTENT * 4
        server.plan(f"/{NAME}", "unannounced")
        with pytest.raises(WeightsError, match="expected 400000"):
            store.get(NAME)
        assert files_in(tmp_path) == []

    def test_the_log_says_what_is_fetched_from_where_to_where_before_the_first_request(
        self, server: WeightServer, store: WeightStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "videokit")
        server.plan(f"/{NAME}", 404)
        with pytest.raises(DownloadFailed):
            store.get(NAME)
        assert f"weights: fetching 400 kB from 127.0.0.1 to {tmp_path / 'cache'}: {NAME}" in caplog.messages

    def test_a_full_disk_raises_before_the_first_request(
        self, server: WeightServer, store: WeightStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usage = shutil.disk_usage("/")._replace(free=len(CONTENT) - 1)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        with pytest.raises(DownloadFailed, match=r"400000 bytes .* are needed, 399999 .* WEIGHTS_CACHE"):
            store.get(NAME)
        assert server.requests == []
        write_file(part_path(store), CONTENT[:1])
        assert store.get(NAME).read_bytes() == CONTENT

    def test_a_full_disk_raises_before_a_byte_of_a_file_of_unknown_size_is_written(
        self, server: WeightServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usage = shutil.disk_usage("/")._replace(free=len(CONTENT) - 1)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        with pytest.raises(DownloadFailed, match=r"400000 bytes .* are needed"):
            WeightStore([entry(server, None)], directories=[], cache=tmp_path).get(NAME)
        assert files_in(tmp_path) == []

    def test_a_cache_that_cannot_be_written_raises(self, server: WeightServer, tmp_path: Path) -> None:
        store = WeightStore([entry(server)], directories=[], cache=write_file(tmp_path / "file", b"") / "cache")
        with pytest.raises(DownloadFailed, match=r"file/cache cannot be used: .* WEIGHTS_CACHE"):
            store.get(NAME)


class TestResume:
    def test_wrong_bytes_of_an_earlier_run_are_removed_and_the_file_is_fetched_again(
        self, server: WeightServer, store: WeightStore
    ) -> None:
        write_file(part_path(store), b"x" * 1000)
        assert store.get(NAME).read_bytes() == CONTENT
        assert [request.start for request in server.requests] == [1000, 0]

    def test_wrong_bytes_in_the_second_attempt_raise(
        self, server: WeightServer, store: WeightStore, tmp_path: Path
    ) -> None:
        write_file(part_path(store), b"x" * 1000)
        server.plan(f"/{NAME}", "serve", "wrong")
        with pytest.raises(WeightsError, match=f"expected {SHA256}"):
            store.get(NAME)
        assert files_in(tmp_path) == []

    def test_a_complete_part_is_not_requested_again(self, server: WeightServer, store: WeightStore) -> None:
        write_file(part_path(store), CONTENT)
        assert store.get(NAME).read_bytes() == CONTENT
        assert server.requests == []

    @pytest.mark.parametrize("size", [len(CONTENT), None])
    def test_a_part_that_is_too_long_is_removed(self, server: WeightServer, tmp_path: Path, size: int | None) -> None:
        store = WeightStore([entry(server, size)], directories=[], cache=tmp_path)
        write_file(part_path(store), CONTENT + b"!")
        assert store.get(NAME).read_bytes() == CONTENT

    def test_without_a_hash_the_part_of_an_earlier_run_is_not_used(self, server: WeightServer, tmp_path: Path) -> None:
        store = WeightStore([entry(server, sha256=None)], directories=[], cache=tmp_path)
        write_file(part_path(store), b"x" * 1000)
        assert store.get(NAME).read_bytes() == CONTENT

    def test_a_cancel_keeps_the_part_and_the_next_call_resumes(
        self, server: WeightServer, store: WeightStore, tmp_path: Path
    ) -> None:
        class Cancelled(BaseException):
            """Like Cog's CancelationException: raised by a signal handler in the main thread."""

        def cancel(*_: object) -> None:
            raise Cancelled

        def send() -> None:
            wait_until(lambda: size_of(part_path(store)) > 0)
            os.kill(os.getpid(), signal.SIGUSR1)

        hold = Hold(131_072)
        server.plan(f"/{NAME}", hold)
        before = signal.signal(signal.SIGUSR1, cancel)
        sender = threading.Thread(target=send)
        sender.start()
        try:
            with pytest.raises(Cancelled):
                store.get(NAME)
        finally:
            sender.join()
            hold.release.set()
            signal.signal(signal.SIGUSR1, before)
        assert files_in(tmp_path / "cache") == [f"{NAME}.part"]
        received = size_of(part_path(store))
        assert store.get(NAME).read_bytes() == CONTENT
        assert [request.start for request in server.requests] == [0, received]


class TestOffline:
    def test_the_error_names_every_missing_file_and_the_command(self, server: WeightServer, tmp_path: Path) -> None:
        files = [entry(server), WeightFile("b c.json", None, "any"), WeightFile("d.json", None, "any")]
        for name in ("WEIGHTS_OFFLINE", "HF_HUB_OFFLINE"):
            store = WeightStore.from_environment(files, "some-model", tmp_path / "some-model", {name: "1"})
            with pytest.raises(WeightsMissing) as missing:
                store.fetch([NAME, "b c.json"])
            assert f"script/weights some-model {NAME} 'b c.json'" in str(missing.value)
            assert "d.json" not in str(missing.value)

    def test_files_without_a_source_raise_before_anything_is_fetched(
        self, server: WeightServer, tmp_path: Path
    ) -> None:
        store = WeightStore([entry(server), WeightFile("b", None, "any")], directories=[], cache=tmp_path)
        with pytest.raises(WeightsMissing, match=r"\n  b\n  not/in/the/table\nThey have no source"):
            store.fetch([NAME, "b", "not/in/the/table"])
        assert server.requests == []

    @pytest.mark.parametrize(("offline", "expected"), [("1", "WeightsMissing none"), ("0", "DownloadFailed some")])
    def test_no_socket_is_opened(self, server: WeightServer, tmp_path: Path, offline: str, expected: str) -> None:
        # Both kinds of source. With "0" the same hook does see connections.
        code = f"""
            events = []
            sys.addaudithook(lambda event, _: events.append(event) if event.startswith("socket.") else None)
            hub = WeightFile("hub.json", HubFile("someone/model", "{REVISION}", "a"), "any")
            store = WeightStore.from_environment([FILE, hub], "some-model", Path("model"))
            try:
                store.fetch([FILE.path, hub.path])
            except WeightsError as error:
                print(type(error).__name__, "some" if events else "none")
        """
        environ = {"WEIGHTS_OFFLINE": offline, "WEIGHTS_CACHE": str(tmp_path), "HF_ENDPOINT": server.url}
        with start_python(server.url, code, **environ) as process:
            assert process.communicate()[0].strip() == expected


class TestProcesses:
    def test_two_processes_at_once_fetch_once(self, server: WeightServer, tmp_path: Path) -> None:
        hold = Hold(131_072)
        server.plan(f"/{NAME}", hold)
        part = tmp_path / f"{NAME}.part"
        with start_fetch(server.url, tmp_path) as first:
            wait_until(lambda: size_of(part) > 0)
            with start_fetch(server.url, tmp_path) as second:
                assert second.stderr is not None
                assert "fetching 400 kB" in second.stderr.readline()
                assert "another process is fetching it; waiting" in second.stderr.readline()
                hold.release.set()
                assert second.communicate()[0].strip() == str(tmp_path / NAME)
            assert first.communicate()[0].strip() == str(tmp_path / NAME)
        assert (tmp_path / NAME).read_bytes() == CONTENT
        assert [request.sent for request in server.requests] == [len(CONTENT)]
        assert files_in(tmp_path) == [NAME]

    def test_after_a_kill_the_next_run_resumes(self, server: WeightServer, tmp_path: Path) -> None:
        hold = Hold(131_072)
        server.plan(f"/{NAME}", hold)
        part = tmp_path / f"{NAME}.part"
        with start_fetch(server.url, tmp_path) as killed:
            wait_until(lambda: size_of(part) > 0)
            killed.kill()
        hold.release.set()
        received = size_of(part)
        with start_fetch(server.url, tmp_path) as process:
            assert process.communicate()[0].strip() == str(tmp_path / NAME)
        assert (tmp_path / NAME).read_bytes() == CONTENT
        assert [request.start for request in server.requests] == [0, received]
        assert server.requests[1].sent == len(CONTENT) - received
        assert files_in(tmp_path) == [NAME]

    def test_a_server_that_is_killed_and_restarted_sends_the_rest(self, tmp_path: Path) -> None:
        content, log, cache = write_file(tmp_path / "content", CONTENT), tmp_path / "log", tmp_path / "cache"
        port = free_port()
        command = [sys.executable, weight_server.__file__, str(port), str(content), f"/{NAME}", str(log)]
        part = cache / f"{NAME}.part"
        with start_fetch(f"http://127.0.0.1:{port}", cache) as process:
            with subprocess.Popen([*command, "131072"]) as server:
                wait_until(lambda: size_of(part) > 0)
                server.kill()
            with subprocess.Popen(command) as server:
                output = process.communicate()[0]
                server.terminate()
        assert output.strip() == str(cache / NAME)
        assert (cache / NAME).read_bytes() == CONTENT
        first, second = map(json.loads, log.read_text().splitlines())
        assert (first["start"], first["sent"]) == (0, 131_072)
        assert 0 < second["start"] <= 131_072  # the bytes in transit are lost
        assert second["start"] + second["sent"] == len(CONTENT)

    def test_progress_in_a_log_is_lines_that_start_with_the_files_name(
        self, server: WeightServer, tmp_path: Path
    ) -> None:
        with start_fetch(server.url, tmp_path) as process:
            log = process.communicate()[1]
        assert "\r" not in log
        assert all(line.startswith(f"weights: {NAME}: ") for line in log.splitlines()[1:])
        assert "100%" in log


def size_of(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def start_fetch(url: str, cache: Path) -> subprocess.Popen[str]:
    """Start a process that fetches the file at `url` into `cache` and prints its location, with 400 retries."""
    return start_python(url, f"print(WeightStore([FILE], directories=[], cache=Path({str(cache)!r})).get(FILE.path))")


def start_python(url: str, code: str, **environ: str) -> subprocess.Popen[str]:
    """Start a process that runs `code`; in it, FILE is the table entry of the file at `url`."""
    preamble = f"""
        import logging, sys
        from pathlib import Path
        from videokit.weights import transfer
        from videokit.errors import WeightsError
        from videokit.weights.store import WeightStore
        from videokit.weights.table import HubFile, Url, WeightFile

        logging.basicConfig(format="%(message)s")
        logging.getLogger("videokit").setLevel("INFO")
        transfer.BACK_OFF = (0.05,) * 400
        FILE = WeightFile({NAME!r}, Url("{url}/{NAME}"), "any", {len(CONTENT)}, "{SHA256}")
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(preamble) + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environ},
    )
