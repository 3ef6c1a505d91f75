"""Prompts of any length: windows of 77 tokens, joined along the sequence."""

from __future__ import annotations

import pytest
import torch
from random_weights import animate_diff as recipe
from random_weights.tokenizer import write_tokenizer
from transformers import CLIPTextModel, CLIPTokenizer
from videokit.prompts import encode_windows, token_windows


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


@pytest.mark.parametrize("prompt", ["", "a red circle", "red " * 75])
def test_a_prompt_of_at_most_75_tokens_equals_the_tokenizers_own_output(tokenizer: CLIPTokenizer, prompt: str) -> None:
    expected = tokenizer(prompt, padding="max_length", max_length=77, return_tensors="pt")["input_ids"]
    assert torch.equal(token_windows(tokenizer, [prompt]).ids[0], expected)


def test_the_76th_token_is_in_a_second_window(tokenizer: CLIPTokenizer) -> None:
    windows = token_windows(tokenizer, ["red " * 76, "a cat"])
    red = tokenizer("red", add_special_tokens=False)["input_ids"][0]
    assert windows.ids.shape == (2, 2, 77)
    assert windows.counts == (76, 2)
    assert (windows.ids == red).sum(dim=(1, 2)).tolist() == [76, 0]
    assert (windows.ids[:, :, 0] == tokenizer.bos_token_id).all()
    assert str(windows) == "76 and 2 tokens in 2 windows of 75"


def test_each_window_is_encoded_separately(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> None:
    windows = token_windows(tokenizer, ["red " * 76, "a cat"])
    with torch.inference_mode():
        joined = encode_windows(text_encoder, windows)
        first, second = (text_encoder(windows.ids[0, w][None]).last_hidden_state[0] for w in (0, 1))
    assert joined.shape == (2, 154, 64)
    torch.testing.assert_close(joined[0], torch.cat([first, second]))
