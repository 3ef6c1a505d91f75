"""Prompts of any length: windows of 77 tokens, joined along the sequence, with the vectors of textual inversions."""

from __future__ import annotations

import copy
import random
import re
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from diffusers.loaders import TextualInversionLoaderMixin
from random_weights import animate_diff as recipe
from random_weights.tokenizer import write_tokenizer
from transformers import CLIPTextModel, CLIPTokenizer
from videokit.prompts import TokenWindows, encode_windows, find_names, name_ids, token_windows
from videokit.weights.inversion_file import TextualInversion

WIDTH = 64


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory)
    return CLIPTokenizer.from_pretrained(directory)


@pytest.fixture(scope="module")
def text_encoder() -> CLIPTextModel:
    model = recipe.text_encoder(recipe.SMALL, write_tokenizer(None))
    model.load_state_dict(recipe.random_tensors(model, "test"), assign=True)
    return model.eval()


def inversion(name: str, count: int) -> TextualInversion:
    vectors = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(count))
    return TextualInversion(name, vectors, "0" * 64, Path(f"{name}.pt"))


def texts(tokenizer: CLIPTokenizer, windows: TokenWindows, prompt: int = 0) -> list[str]:
    """Return the text of each window of a prompt, without start, end and padding."""
    return [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in windows.ids[prompt]]


class TestWindows:
    @pytest.mark.parametrize("prompt", ["", "a red circle", "red " * 75, "red, " * 37 + "a"])
    def test_a_prompt_of_at_most_75_tokens_equals_the_tokenizers_own_output(
        self, tokenizer: CLIPTokenizer, prompt: str
    ) -> None:
        expected = tokenizer(prompt, padding="max_length", max_length=77, return_tensors="pt")["input_ids"]
        assert torch.equal(token_windows(tokenizer, [prompt]).ids[0], expected)

    def test_the_76th_token_is_in_a_second_window(self, tokenizer: CLIPTokenizer) -> None:
        windows = token_windows(tokenizer, ["red " * 76, "a cat"])
        red = tokenizer("red", add_special_tokens=False)["input_ids"][0]
        assert windows.ids.shape == (2, 2, 77)
        assert windows.counts == (76, 2)
        assert (windows.ids == red).sum(dim=(1, 2)).tolist() == [76, 0]
        assert (windows.ids[:, :, 0] == tokenizer.bos_token_id).all()
        assert (windows.ids[0, 1, 2:] == tokenizer.eos_token_id).all()
        assert (windows.ids[1, 1, 1:] == tokenizer.eos_token_id).all()
        assert str(windows) == "76 and 2 tokens in 2 windows of 75"

    @pytest.mark.parametrize("reds", [54, 55, 70, 74])
    def test_a_window_ends_at_a_comma_among_its_last_20_tokens(self, tokenizer: CLIPTokenizer, reds: int) -> None:
        # the comma is the token after the reds, and the last 20 of 75 tokens are the 56th to the 75th
        windows = texts(tokenizer, token_windows(tokenizer, ["red " * reds + ", " + "blue " * 60]))
        blues = 60 if reds >= 55 else 60 - (74 - reds)
        assert windows[0].count("red") == reds
        assert windows[0].endswith(",") == (reds >= 55)
        assert windows[1] == " ".join(["blue"] * blues)

    def test_the_last_of_several_commas_ends_a_window(self, tokenizer: CLIPTokenizer) -> None:
        windows = token_windows(tokenizer, ["a red circle, " * 40])  # four tokens each
        assert [text.count("circle") for text in texts(tokenizer, windows)] == [18, 18, 4]
        assert all(text.endswith(",") for text in texts(tokenizer, windows))

    def test_a_window_does_not_end_inside_a_word(self, tokenizer: CLIPTokenizer) -> None:
        # "zzzz" is not in the vocabulary, and takes a token for each letter
        windows = texts(tokenizer, token_windows(tokenizer, ["red " * 73 + "zzzz 2-zz " + "blue " * 40]))
        assert windows == [" ".join(["red"] * 73), "zzzz 2 - zz " + " ".join(["blue"] * 40)]

    def test_a_word_of_more_than_75_tokens_is_cut(self, tokenizer: CLIPTokenizer) -> None:
        windows = token_windows(tokenizer, ["red " + "z" * 150])
        assert windows.counts == (151,)
        assert [text.count("z") for text in texts(tokenizer, windows)] == [74, 75, 1]

    def test_no_token_is_lost_or_added_in_any_prompt(self, tokenizer: CLIPTokenizer) -> None:
        rng = random.Random(0)
        pieces = [
            "red",
            "circle",
            ",",
            ", ",
            " ",
            "zzzz",
            "zz,zz",
            "é",
            "漢字",
            "\U0001f388",
            "\n",
            "(a:1.2)",
            "'s",
            "<",
            "z" * 80,
        ]
        for _ in range(300):
            prompt = "".join(rng.choice(pieces) + rng.choice(["", " "]) for _ in range(rng.randrange(200)))
            windows = token_windows(tokenizer, [prompt])
            inside = [token for ids in windows.ids[0].tolist() for token in ids[1:] if token != tokenizer.eos_token_id]
            assert inside == tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]
            assert windows.counts == (len(inside),)


class TestEncoding:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_without_inversions_the_result_is_that_of_clips_own_module(
        self, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, dtype: torch.dtype
    ) -> None:
        encoder = copy.deepcopy(text_encoder).to(dtype)
        windows = token_windows(tokenizer, ["a red circle, moving right", ""])
        with torch.inference_mode():
            assert torch.equal(encode_windows(encoder, windows), encoder(windows.ids[:, 0]).last_hidden_state)

    def test_each_window_is_encoded_separately(self, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> None:
        windows = token_windows(tokenizer, ["red " * 76, "a cat"])
        with torch.inference_mode():
            joined = encode_windows(text_encoder, windows)
            first, second = (text_encoder(windows.ids[0, w][None]).last_hidden_state[0] for w in (0, 1))
        assert joined.shape == (2, 154, 64)
        torch.testing.assert_close(joined[0], torch.cat([first, second]))


class TestNames:
    @pytest.mark.parametrize(
        "prompt", ["bad-artist", "a BAD-Artist, red", "(bad-artist:1.2)", "red,bad-artist,blue", "bad-artist's"]
    )
    def test_a_name_is_found_in_any_case_and_next_to_punctuation(self, tokenizer: CLIPTokenizer, prompt: str) -> None:
        assert find_names(tokenizer, prompt, {name_ids(tokenizer, "bad-artist"): 1}) == [1]

    @pytest.mark.parametrize("prompt", ["bad artist", "badartist", "bad-artists", "bad-", ""])
    def test_other_words_are_not_the_name(self, tokenizer: CLIPTokenizer, prompt: str) -> None:
        assert find_names(tokenizer, prompt, {name_ids(tokenizer, "bad-artist"): 1}) == []

    def test_a_name_is_not_found_inside_a_word(self, tokenizer: CLIPTokenizer) -> None:
        names = {name_ids(tokenizer, "cat"): 1}
        assert find_names(tokenizer, "a bobcat", names) == []
        assert find_names(tokenizer, "a bob cat", names) == [1]

    def test_the_longest_of_the_names_at_a_place_is_found(self, tokenizer: CLIPTokenizer) -> None:
        names = {name_ids(tokenizer, name): name for name in ("bad-artist", "bad", "bad-artist-anime")}
        prompt = "bad-artist-anime, bad-artist, bad, bad-artist-ani"
        assert find_names(tokenizer, prompt, names) == ["bad-artist-anime", "bad-artist", "bad", "bad-artist"]

    def test_a_blank_name_is_never_found(self, tokenizer: CLIPTokenizer) -> None:
        assert find_names(tokenizer, "a cat", {name_ids(tokenizer, " "): 1}) == []


class TestInversions:
    def test_vectors_take_one_position_each(self, tokenizer: CLIPTokenizer) -> None:
        windows = token_windows(tokenizer, ["red, bad-artist, blue"], [inversion("bad-artist", 5)])
        assert windows.counts == (2 + 5 + 2,)
        (place,) = windows.placements
        assert (place.prompt, place.window, place.position, len(place.vectors)) == (0, 0, 3, 5)

    @pytest.mark.parametrize(("before", "window"), [(70, 0), (71, 1)])
    def test_an_inversion_is_not_cut_by_the_end_of_a_window(
        self, tokenizer: CLIPTokenizer, before: int, window: int
    ) -> None:
        windows = token_windows(tokenizer, ["red " * before + "bad-artist"], [inversion("bad-artist", 5)])
        (place,) = windows.placements
        assert (place.window, place.position) == (window, 1 if window else 1 + before)
        assert windows.counts == (before + 5,)

    def test_an_inversion_that_fills_a_window_is_alone_in_it(self, tokenizer: CLIPTokenizer) -> None:
        windows = token_windows(tokenizer, ["red, bad-artist, blue"], [inversion("bad-artist", 75)])
        assert texts(tokenizer, windows) == ["red ,", "", ", blue"]

    def test_the_result_is_that_of_added_tokens(self, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> None:
        """diffusers adds a token and a row of the embedding table for each vector, to copies here."""
        inversions = [inversion("bad-artist", 3), inversion("bad", 1)]
        reference = AddedTokens(copy.deepcopy(tokenizer), copy.deepcopy(text_encoder))
        for each in inversions:
            reference.load_textual_inversion({f"<{each.name}>": each.vectors})
        prompts = ["a red circle, bad-artist, bad blue", "bad", "BAD-artist bad-artist, red", ""]
        before = copy.deepcopy(text_encoder.state_dict())
        with torch.inference_mode():
            hidden = encode_windows(text_encoder, token_windows(tokenizer, prompts, inversions))
            for prompt, actual in zip(prompts, hidden, strict=True):
                expected = reference.encode(re.sub("(?i)(bad-artist|bad)", lambda name: f"<{name[0].lower()}>", prompt))
                assert (actual - expected).abs().max() < 1e-5
        assert all(torch.equal(before[key], value) for key, value in text_encoder.state_dict().items())

    def test_the_result_in_later_windows_is_that_of_added_tokens(
        self, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel
    ) -> None:
        inversions = [inversion("bad-artist", 5), inversion("worst", 75)]
        reference = AddedTokens(copy.deepcopy(tokenizer), copy.deepcopy(text_encoder))
        for each in inversions:
            reference.load_textual_inversion({f"<{each.name}>": each.vectors})
        with torch.inference_mode():
            prompt = "red " * 73 + "bad-artist worst bad-artist"
            windows = token_windows(tokenizer, ["a cat", prompt], inversions)
            hidden = encode_windows(text_encoder, windows)[1]
            parts = ["red " * 73, "<bad-artist>", "<worst>", "<bad-artist>"]
            expected = torch.cat([reference.encode(part) for part in parts])
        assert (hidden - expected).abs().max() < 1e-5

    def test_vectors_are_converted_to_the_text_encoders_precision(
        self, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel
    ) -> None:
        windows = token_windows(tokenizer, ["a red bad-artist"], [inversion("bad-artist", 3)])
        with torch.inference_mode():
            full, half = (
                encode_windows(copy.deepcopy(text_encoder).to(d), windows) for d in (torch.float32, torch.half)
            )
        assert half.dtype is torch.half
        torch.testing.assert_close(half.float(), full, rtol=0.05, atol=0.05)


class AddedTokens(TextualInversionLoaderMixin):  # type: ignore[misc]
    """diffusers' way: a token in the tokenizer and a row of the embedding table for each vector."""

    components: ClassVar[dict[str, object]] = {}
    hf_device_map = None

    def __init__(self, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> None:
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder

    def encode(self, prompt: str) -> torch.Tensor:
        text = self.maybe_convert_prompt(prompt, self.tokenizer)
        ids = self.tokenizer(text, padding="max_length", max_length=77, return_tensors="pt")["input_ids"]
        assert ids.shape == (1, 77)
        return self.text_encoder(ids).last_hidden_state[0]
