"""Downloads without a published size and hash: what is refused, what is recorded, and what later ones must equal."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save
from videokit.errors import DownloadFailed, WeightsError, WeightsMissing
from videokit.weights import transfer
from videokit.weights.store import WeightStore
from videokit.weights.table import Url, WeightFile
from weight_server import PAGE, Some, WeightServer, serve_files

CONFIG = b'{"attention_head_dim": 64}'
TENSORS = save({"weight": torch.arange(1000.0)})
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:37c52774\nsize 2823110385\n"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(transfer, "BACK_OFF", (0.01, 0.01))
    yield
    huggingface_hub.close_session()


@pytest.fixture
def pickled(tmp_path: Path) -> bytes:
    torch.save({"weight": torch.ones(1000)}, tmp_path / "written.bin")
    return (tmp_path / "written.bin").read_bytes()


@pytest.fixture
def server(pickled: bytes) -> Iterator[WeightServer]:
    files = {
        "/config.json": CONFIG,
        "/merges.txt": b"#version: 0.2\ni n\n",
        "/a.safetensors": TENSORS,
        "/b.bin": pickled,
    }
    with serve_files(files) as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def store_of(server: WeightServer, cache: Path, revision: str = "") -> WeightStore:
    """Return a store whose table has neither size nor hash of any file."""
    files = [WeightFile(path[1:], Url(f"{server.url}{revision}{path}"), "any") for path in list(server.files)]
    return WeightStore(files, directories=[], cache=cache)


def recorded(cache: Path) -> dict[str, tuple[int, str]]:
    entries = json.loads((cache / "downloads.json").read_text())
    return {path: (entry["size"], entry["sha256"]) for path, entry in entries.items()}


def sizes_and_hashes(files: dict[str, bytes]) -> dict[str, tuple[int, str]]:
    return {path[1:]: (len(content), hashlib.sha256(content).hexdigest()) for path, content in files.items()}


def test_size_and_hash_of_the_first_download_are_recorded(server: WeightServer, cache: Path) -> None:
    store = store_of(server, cache)
    store.fetch(store.files)
    assert recorded(cache) == sizes_and_hashes(server.files)
    assert {path.name for path in cache.iterdir()} == {*store.files, "downloads.json"}


@pytest.mark.parametrize("path", ["config.json", "a.safetensors"])
def test_a_later_download_of_other_bytes_is_refused(server: WeightServer, cache: Path, path: str) -> None:
    store = store_of(server, cache)
    first = store.get(path).read_bytes()
    (cache / path).unlink()
    changed = first.replace(b"6", b"7", 1) if path == "config.json" else first[:-1] + b"\xff"
    server.files[f"/{path}"] = changed
    with pytest.raises(
        WeightsError, match=r"does not match the first download, recorded in .*downloads\.json"
    ) as raised:
        store.get(path)
    assert hashlib.sha256(changed).hexdigest() in str(raised.value)
    assert not (cache / path).exists()
    server.files[f"/{path}"] = first
    assert store.get(path).read_bytes() == first


def test_another_commit_has_other_bytes(server: WeightServer, cache: Path) -> None:
    store_of(server, cache).get("config.json")
    (cache / "config.json").unlink()
    server.files["/new/config.json"] = b"{}"
    assert store_of(server, cache, "/new").get("config.json").read_bytes() == b"{}"
    assert recorded(cache)["config.json"][0] == 2


def test_a_mirror_is_held_to_the_record_too(server: WeightServer, cache: Path) -> None:
    store_of(server, cache).get("config.json")
    (cache / "config.json").unlink()
    server.files["/mirror/config.json"] = b'{"attention_head_dim": 65}'
    mirrored = store_of(server, cache)
    mirrored.mirror = f"{server.url}/mirror"
    with pytest.raises(WeightsError, match="does not match the first download"):
        mirrored.get("config.json")


@pytest.mark.parametrize("path", ["config.json", "merges.txt", "a.safetensors", "b.bin"])
def test_a_page_in_html_is_refused(server: WeightServer, cache: Path, path: str) -> None:
    server.plan(f"/{path}", "page")
    with pytest.raises(DownloadFailed, match=rf"{path}: .*answered with a web page; .*HF_TOKEN.*WEIGHTS_MIRROR="):
        store_of(server, cache).get(path)
    assert list(cache.iterdir()) == []
    assert len(server.requests) == 1
    assert store_of(server, cache).get(path).read_bytes() == server.files[f"/{path}"]


def test_a_file_of_a_known_hash_may_have_the_type_of_a_page(server: WeightServer, cache: Path) -> None:
    """Some servers send every unknown suffix as text/html."""
    server.plan("/merges.txt", "html", "html")
    content = server.files["/merges.txt"]
    url, sha256 = Url(f"{server.url}/merges.txt"), hashlib.sha256(content).hexdigest()
    file = WeightFile("merges.txt", url, "any", len(content), sha256)
    assert WeightStore([file], directories=[], cache=cache).get("merges.txt").read_bytes() == content
    with pytest.raises(DownloadFailed, match="answered with a web page"):
        store_of(server, cache / "other").get("merges.txt")


@pytest.mark.parametrize(
    ("path", "content", "fault"),
    [
        ("config.json", PAGE, "is a web page"),
        ("merges.txt", PAGE, "is a web page"),
        ("a.safetensors", PAGE, "is a web page"),
        ("b.bin", PAGE, "is a web page"),
        ("config.json", POINTER, "is a pointer of Git LFS"),
        ("a.safetensors", POINTER, "is a pointer of Git LFS"),
        ("b.bin", POINTER, "is a pointer of Git LFS"),
        ("config.json", CONFIG[:-1], "is not JSON"),
        ("a.safetensors", TENSORS[:-1], "is cut off"),
        ("a.safetensors", b"", "cut off after 0 bytes"),
        ("b.bin", b"PK\x03\x04" + bytes(100), "is cut off"),
    ],
)
def test_a_file_of_another_format_is_refused_before_it_has_its_name(
    server: WeightServer, cache: Path, path: str, content: bytes, fault: str
) -> None:
    server.files[f"/{path}"] = content
    with pytest.raises(DownloadFailed, match=rf"{path}: {server.url}/{path}: the received file .*({fault})"):
        store_of(server, cache).get(path)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("path", ["config.json", "a.safetensors", "b.bin"])
def test_a_cached_file_that_is_damaged_is_named_and_fetched_again(
    server: WeightServer, cache: Path, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_of(server, cache)
    content = store.get(path).read_bytes()
    (cache / path).write_bytes(bytes(len(content)))  # as after a power failure
    with caplog.at_level("WARNING", "videokit"):
        assert store.get(path).read_bytes() == content
    assert [message.partition(": ")[2].partition(" ")[0] for message in caplog.messages] == [str(cache / path)]
    assert caplog.messages[0].endswith("; fetching it again")


def test_a_sign_in_page_that_was_cached_is_replaced(server: WeightServer, cache: Path) -> None:
    cache.mkdir()
    (cache / "config.json").write_bytes(PAGE)
    assert store_of(server, cache).get("config.json").read_bytes() == CONFIG


def test_offline_the_error_names_the_damaged_file(server: WeightServer, cache: Path) -> None:
    cache.mkdir()
    (cache / "config.json").write_bytes(PAGE)
    store = store_of(server, cache)
    store.offline = True
    with pytest.raises(WeightsMissing, match=rf"config\.json; {cache}/config\.json is a web page"):
        store.get("config.json")
    assert (cache / "config.json").read_bytes() == PAGE


def test_a_users_damaged_file_is_named_and_never_replaced(server: WeightServer, cache: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "config.json").write_bytes(PAGE)
    for store_cache in (cache, own):  # also if the directory is the cache
        store = WeightStore(store_of(server, cache).files.values(), directories=[own], cache=store_cache)
        with pytest.raises(WeightsError, match=r"own/config\.json is a web page"):
            store.get("config.json")
    assert (own / "config.json").read_bytes() == PAGE
    assert server.requests == []


def test_verify_compares_with_the_record_and_states_what_is_not_known(server: WeightServer, cache: Path) -> None:
    store = store_of(server, cache)
    store.get("config.json")
    result = store.verify("config.json")
    assert (result.fault, result.expected.sha256) == (None, hashlib.sha256(CONFIG).hexdigest())
    assert "first download" in result.expected.stated_by
    (cache / "config.json").write_bytes(CONFIG.replace(b"6", b"7"))
    assert "SHA-256" in str(store.verify("config.json").fault)
    (cache / "downloads.json").unlink()
    result = store.verify("config.json")
    assert (result.fault, result.expected.size, result.expected.sha256) == (None, None, None)
    (cache / "config.json").write_bytes(PAGE)
    assert "it is a web page" in str(store.verify("config.json").fault)


def test_a_damaged_record_is_named(server: WeightServer, cache: Path) -> None:
    cache.mkdir()
    for content in ("", "[]", '{"config.json": 1}', '{"config.json": {"size": 1}}', '{"config.json": {"size": "x"}}'):
        (cache / "downloads.json").write_text(content)
        with pytest.raises(WeightsError, match=r"downloads\.json is not a record of downloads .*; remove it"):
            store_of(server, cache).get("config.json")


def test_processes_that_download_at_once_record_all_files(cache: Path) -> None:
    files = {f"/{index}.json": b"[%d]" % index for index in range(12)}
    with serve_files(files) as server:
        code = """
            import sys
            from pathlib import Path
            from videokit.weights.store import WeightStore
            from videokit.weights.table import Url, WeightFile

            url, cache, *paths = sys.argv[1:]
            files = [WeightFile(path, Url(f"{url}/{path}"), "any") for path in paths]
            WeightStore(files, directories=[], cache=Path(cache)).fetch(paths)
        """
        command = [sys.executable, "-c", textwrap.dedent(code), server.url, str(cache)]
        shares = [[f"{index}.json" for index in range(first, 12, 3)] for first in range(3)]
        processes = [subprocess.Popen([*command, *share]) for share in shares]
        assert [process.wait() for process in processes] == [0, 0, 0]
    assert recorded(cache) == sizes_and_hashes(files)
    assert not list(cache.glob("*.lock"))


class TestBounds:
    def test_a_file_of_unknown_size_has_a_bound_that_is_checked_before_its_first_byte(
        self, server: WeightServer, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert transfer.MAX_BYTES == 20e9
        monkeypatch.setattr(transfer, "MAX_BYTES", len(TENSORS) - 1)
        with pytest.raises(DownloadFailed, match=f"has {len(TENSORS)} bytes; the file in the weights table is not"):
            store_of(server, cache).get("a.safetensors")
        assert list(cache.iterdir()) == []

    def test_a_transfer_without_a_length_ends_at_the_bound(
        self, server: WeightServer, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transfer, "MAX_BYTES", 1000)
        server.plan("/a.safetensors", "unannounced")
        with pytest.raises(DownloadFailed, match="sent more than 1000 bytes"):
            store_of(server, cache).get("a.safetensors")
        assert list(cache.iterdir()) == []

    @pytest.mark.parametrize("size", [None, len(TENSORS)])
    def test_a_server_that_gives_a_few_bytes_in_each_connection_is_not_tried_forever(
        self, server: WeightServer, cache: Path, size: int | None
    ) -> None:
        server.plan("/a.safetensors", *[Some(10)] * 1000)
        file = WeightFile("a.safetensors", Url(f"{server.url}/a.safetensors"), "any", size)
        with pytest.raises(DownloadFailed, match="3 times in a row"):
            WeightStore([file], directories=[], cache=cache).get("a.safetensors")
        assert len(server.requests) == 3

    def test_a_server_that_gives_a_hundredth_in_each_connection_is_tried_until_the_end(
        self, server: WeightServer, cache: Path
    ) -> None:
        server.plan("/a.safetensors", *[Some(len(TENSORS) // 50)] * 1000)
        file = WeightFile("a.safetensors", Url(f"{server.url}/a.safetensors"), "any", len(TENSORS))
        assert WeightStore([file], directories=[], cache=cache).get("a.safetensors").read_bytes() == TENSORS
        assert len(server.requests) > 50

    def test_another_range_than_was_requested_is_not_appended(self, server: WeightServer, cache: Path) -> None:
        server.plan("/a.safetensors", "truncate", "other range")
        assert store_of(server, cache).get("a.safetensors").read_bytes() == TENSORS
