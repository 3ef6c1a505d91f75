"""Which textual inversions prompts name, where their files are found, and what happens to those that are missing."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from pathlib import Path

import pytest
import safetensors.torch
import torch
from random_weights.tokenizer import write_tokenizer
from safetensors.torch import save_file
from transformers import CLIPTokenizer
from videokit.errors import WeightsError
from videokit.inversion_names import TextualInversions
from videokit.prompts import token_windows
from videokit.weights.store import WeightStore
from videokit.weights.table import Url, WeightFile
from videokit.weights.textual_inversions import TEXTUAL_INVERSIONS, WIDTH
from weight_server import WeightServer, serve_files

# vectors of each published file (their model cards), and the documented example of animate-diff
VECTORS = {
    "badhandv4": 6,
    "easynegative": 8,
    "ng_deepnegative_v1_75t": 75,
    "verybadimagenegative_v1.3": 10,
    "bad-artist": 2,
    "bad_prompt_version2-neg": 8,
}
EXAMPLE = (
    "badhandv4, easynegative, ng_deepnegative_v1_75t, verybadimagenegative_v1.3, bad-artist, bad_prompt_version2-neg, "
    "teeth"
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory)
    return CLIPTokenizer.from_pretrained(directory)


def stand_in(path: str, count: int, width: int = WIDTH) -> bytes:
    """Return a file of the published layout with other vectors."""
    vectors = torch.full((count, width), 0.01)
    if path.endswith(".safetensors"):
        return safetensors.torch.save({"emb_params": vectors})
    buffer = io.BytesIO()
    torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": vectors}, "name": path, "step": 1}, buffer)
    return buffer.getvalue()


STAND_INS = {file.path: stand_in(file.path, VECTORS[Path(file.path).stem]) for file in TEXTUAL_INVERSIONS}


def table(address: str) -> list[WeightFile]:
    """Return the published table with the stand-ins' sizes and hashes, at a server."""
    return [
        dataclasses.replace(
            file,
            source=Url(f"{address}/{file.path}"),
            size=len(STAND_INS[file.path]),
            sha256=hashlib.sha256(STAND_INS[file.path]).hexdigest(),
        )
        for file in TEXTUAL_INVERSIONS
    ]


def user_file(directory: Path, name: str, count: int = 1, value: float = 0.5, width: int = WIDTH) -> Path:
    file = directory / "embeddings" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if name.lower().endswith(".safetensors"):
        save_file({"emb_params": torch.full((count, width), value)}, file)
    else:
        torch.save({"<any>": torch.full((count, width), value)}, file)
    return file


def offline(*directories: Path) -> WeightStore:
    return WeightStore(TEXTUAL_INVERSIONS, directories=directories, cache=None)


class TestPublished:
    def test_the_example_has_109_vectors_in_three_windows(self, tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
        # 6 + 8 with two commas; 75, which fill a window; 10 + 2 + 8 with a comma before each, and ", teeth"
        with serve_files({f"/{path}": content for path, content in STAND_INS.items()}) as server:
            store = WeightStore(table(server.url), directories=[], cache=tmp_path)
            found = TextualInversions(store, WIDTH).read(tokenizer, [EXAMPLE, "a cat"])
        assert {each.name: len(each.vectors) for each in found} == VECTORS
        assert {each.sha256 for each in found} == {
            hashlib.sha256(content).hexdigest() for content in STAND_INS.values()
        }
        windows = token_windows(tokenizer, [EXAMPLE, "a cat"], found)
        teeth = len(tokenizer("teeth", add_special_tokens=False)["input_ids"])
        assert sum(len(place.vectors) for place in windows.placements) == 109
        assert [place.window for place in windows.placements] == [0, 0, 1, 2, 2, 2]
        assert windows.counts[0] == 109 + 6 + teeth
        assert windows.ids.shape[1] == 3

    def test_a_file_is_fetched_when_a_prompt_first_names_it_and_only_then(
        self, tokenizer: CLIPTokenizer, tmp_path: Path
    ) -> None:
        with serve_files({f"/{path}": content for path, content in STAND_INS.items()}) as server:
            library = TextualInversions(WeightStore(table(server.url), directories=[], cache=tmp_path), WIDTH)
            assert library.read(tokenizer, ["a bad artist, easy negative"]) == []
            assert server.requests == []
            for _ in range(2):
                (found,) = library.read(tokenizer, ["a cat", "(Bad-Artist:1.2)"])
        assert found.file == tmp_path / "embeddings/bad-artist.pt"
        assert [request.path for request in server.requests] == ["/embeddings/bad-artist.pt"]

    def test_each_is_logged_with_its_vectors_file_and_hash(
        self, tokenizer: CLIPTokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "videokit")
        file = user_file(tmp_path, "easynegative.safetensors", 2)
        TextualInversions(offline(tmp_path), WIDTH).read(tokenizer, ["EASYNEGATIVE easynegative"])
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert caplog.messages == [f"textual inversion: easynegative, 2 vectors, {file}, SHA-256 {digest}"]

    def test_the_table_has_source_size_hash_and_licence_of_the_documented_files(self) -> None:
        names = [Path(file.path).stem for file in TEXTUAL_INVERSIONS]
        assert names == [name for name in EXAMPLE.split(", ") if name != "teeth"]
        assert all(file.source and file.size and file.sha256 and file.licence for file in TEXTUAL_INVERSIONS)
        assert sum(file.size or 0 for file in TEXTUAL_INVERSIONS) < 350_000


class TestWords:
    """Names that stay words."""

    @pytest.fixture(autouse=True)
    def capture(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO", "videokit")

    def test_offline_and_absent_names_are_logged_once_with_the_command_that_fetches_them(
        self, tokenizer: CLIPTokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        environ = {"WEIGHTS_OFFLINE": "1", "WEIGHTS_CACHE": str(tmp_path / "cache")}
        store = WeightStore.from_environment(TEXTUAL_INVERSIONS, "animate-diff", tmp_path, environ)
        assert TextualInversions(store, WIDTH).read(tokenizer, ["bad-artist, bad-artist", "badhandv4"]) == []
        (message,) = caplog.messages
        assert message.startswith("textual inversions: bad-artist, badhandv4 stay words: Not on this machine")
        assert message.endswith("script/weights animate-diff embeddings/bad-artist.pt embeddings/badhandv4.pt")

    def test_a_download_that_fails_leaves_words_and_those_that_arrived(
        self, tokenizer: CLIPTokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with serve_files({"/embeddings/bad-artist.pt": STAND_INS["embeddings/bad-artist.pt"]}) as server:
            store = WeightStore(table(server.url), directories=[], cache=tmp_path)
            found = TextualInversions(store, WIDTH).read(tokenizer, ["bad-artist, badhandv4"])
        assert [each.name for each in found] == ["bad-artist"]
        assert any("badhandv4 stay words: embeddings/badhandv4.pt: http" in message for message in caplog.messages)
        assert any("answered 404" in message for message in caplog.messages)

    def test_a_file_with_other_bytes_than_the_tables_fails(self, tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
        with serve_files({"/embeddings/bad-artist.pt": STAND_INS["embeddings/bad-artist.pt"][::-1]}) as server:
            store = WeightStore(table(server.url), directories=[], cache=tmp_path)
            with pytest.raises(WeightsError, match="does not match the weights table"):
                TextualInversions(store, WIDTH).read(tokenizer, ["bad-artist"])

    def test_a_text_encoder_of_another_width_gets_none_of_the_table(
        self, tokenizer: CLIPTokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert TextualInversions(offline(tmp_path), 64).read(tokenizer, ["bad-artist"]) == []
        assert caplog.messages == [
            "textual inversions: bad-artist stay words: their vectors have 768 numbers, and this text encoder's have 64"
        ]

    def test_a_model_with_another_text_encoder_reads_no_file(
        self, tokenizer: CLIPTokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        user_file(tmp_path, "mine.pt").write_bytes(b"never read")
        assert TextualInversions(offline(tmp_path), None).read(tokenizer, ["Mine, easynegative, a cat"]) == []
        assert TextualInversions(offline(tmp_path), None).read(tokenizer, ["a cat"]) == []
        (message,) = caplog.messages
        assert message.startswith("textual inversions: mine, easynegative stay words: they are for the text encoder of")

    def test_a_shorter_name_in_an_absent_one_is_read(self, tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
        # as in AUTOMATIC1111, which knows only the files that it has
        user_file(tmp_path, "bad_prompt_version2.pt")
        found = TextualInversions(offline(tmp_path), WIDTH).read(tokenizer, ["bad_prompt_version2-neg"])
        assert [each.name for each in found] == ["bad_prompt_version2"]


class TestUserFiles:
    @pytest.mark.parametrize("name", ["my style.pt", "MyStyle.bin", "mystyle.safetensors", "MYSTYLE.SAFETENSORS"])
    def test_a_file_in_embeddings_has_its_name_in_any_case(
        self, tokenizer: CLIPTokenizer, tmp_path: Path, name: str
    ) -> None:
        file = user_file(tmp_path, name, 3)
        prompt = f"a {Path(name).stem.swapcase()}, red"
        (found,) = TextualInversions(offline(tmp_path), WIDTH).read(tokenizer, [prompt])
        assert (found.name, found.file, len(found.vectors)) == (Path(name).stem, file, 3)

    def test_a_users_file_comes_before_the_tables(self, tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
        file = user_file(tmp_path / "user", "EasyNegative.pt")
        user_file(tmp_path / "baked", "easynegative.safetensors")
        store = offline(tmp_path / "user", tmp_path / "baked")
        (found,) = TextualInversions(store, WIDTH).read(tokenizer, ["easynegative"])
        assert found.file == file

    def test_safetensors_come_before_pickles_of_the_same_name(self, tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
        files = [user_file(tmp_path, f"mine{suffix}") for suffix in (".bin", ".pt", ".safetensors")]
        library = TextualInversions(offline(tmp_path), WIDTH)
        assert library.read(tokenizer, ["mine"])[0].file == files[2]
        files[2].unlink()
        assert library.read(tokenizer, ["mine"])[0].file == files[0]

    def test_a_file_that_is_added_or_replaced_counts_from_the_next_prompt(
        self, tokenizer: CLIPTokenizer, tmp_path: Path
    ) -> None:
        library = TextualInversions(offline(tmp_path), WIDTH)
        assert library.read(tokenizer, ["mine"]) == []
        hashes = []
        for count in (1, 2):
            user_file(tmp_path, "mine.pt", count)
            (found,) = library.read(tokenizer, ["mine"])
            assert len(found.vectors) == count
            hashes.append(found.sha256)
        assert hashes[0] != hashes[1]

    def test_a_file_of_another_width_fails_with_what_it_is_for(self, tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
        user_file(tmp_path, "mine.pt", width=1024)
        with pytest.raises(WeightsError, match=r"1024 numbers \(Stable Diffusion 2\)"):
            TextualInversions(offline(tmp_path), WIDTH).read(tokenizer, ["mine"])

    @pytest.mark.parametrize("name", [".safetensors", ".pt", "._mine.pt", " .pt", ",.pt", "--.bin", "...pt", "a\nb.pt"])
    def test_a_file_without_a_name_is_never_read(self, tokenizer: CLIPTokenizer, tmp_path: Path, name: str) -> None:
        (tmp_path / "embeddings").mkdir()
        (tmp_path / "embeddings" / name).write_bytes(b"never read")
        prompts = ["", " ", "a, b -- c", ".", "..", "safetensors", "a b", "mine", "\n"]
        assert TextualInversions(offline(tmp_path), WIDTH).read(tokenizer, prompts) == []

    def test_a_name_of_one_letter_is_that_word_alone(self, tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
        user_file(tmp_path, "x.pt")
        library = TextualInversions(offline(tmp_path), WIDTH)
        assert library.read(tokenizer, ["xx, box, ax"]) == []
        assert [each.name for each in library.read(tokenizer, ["an x and an X"])] == ["x"]

    @pytest.mark.parametrize("prompt", ["../secret", "../../embeddings/../secret", "/etc/passwd", "embeddings/secret"])
    def test_a_prompt_never_names_a_path(self, tokenizer: CLIPTokenizer, tmp_path: Path, prompt: str) -> None:
        (tmp_path / "embeddings").mkdir()
        (tmp_path / "secret.pt").write_bytes(b"never read")
        (tmp_path / "embeddings/folder.pt").mkdir()
        assert TextualInversions(offline(tmp_path), WIDTH).read(tokenizer, [prompt, "folder"]) == []

    def test_a_folder_of_many_files_opens_only_those_that_are_named(
        self, tokenizer: CLIPTokenizer, tmp_path: Path
    ) -> None:
        for index in range(300):
            (tmp_path / "embeddings").mkdir(exist_ok=True)
            (tmp_path / f"embeddings/style{index}.pt").write_bytes(b"never read")
        user_file(tmp_path, "style300.pt")
        (found,) = TextualInversions(offline(tmp_path), WIDTH).read(tokenizer, ["a cat, style300"])
        assert found.name == "style300"


def test_a_server_is_not_asked_for_files_of_the_user(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    user_file(tmp_path, "bad-artist.bin")
    with serve_files({}) as server:
        assert isinstance(server, WeightServer)
        store = WeightStore(table(server.url), directories=[tmp_path], cache=tmp_path / "cache")
        assert len(TextualInversions(store, WIDTH).read(tokenizer, ["bad-artist"])) == 1
    assert server.requests == []
