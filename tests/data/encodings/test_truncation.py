"""Counts of prompts that are cut."""

import logging
from pathlib import Path

import pytest

from hn.data.encodings.truncation import TruncationCounter, uncut_lengths
from hn.rewards.image_reward import load_tokenizer
from tests.tiny_pipelines import clip_tokenizer
from tests.tiny_rewards import bert_tokenizer


def test_what_is_cut_is_counted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    window = TruncationCounter(5, "the text encoder of X", "a/b")
    with caplog.at_level(logging.WARNING, logger="hn"):
        window.count(["one"], [9])
        window.restart()
        window.count(["five", "two"], [5, 2])
        window.warn()
        assert not caplog.records
        window.count(["six", "seven", "four"], [6, 7, 4])
        assert not caplog.records
        window.warn()
        window.count(["eight"], [8])
        window.warn()
    (record,) = caplog.records
    assert record.getMessage() == (
        "2 of 5 prompts are cut to the 5 tokens that the text encoder of X takes (a/b); their ends do not count. The "
        "longest has 7: 'seven' (said once, there may be others later)"
    )


@pytest.mark.parametrize("kind", ["clip", "bert"])
@pytest.mark.parametrize("window", [4, 6, 7, 8])
def test_lengths_are_known_of_what_was_cut(kind: str, window: int, tmp_path: Path) -> None:
    if kind == "clip":
        tokenizer = clip_tokenizer()
    else:
        bert_tokenizer(tmp_path)
        tokenizer = load_tokenizer(str(tmp_path))
    prompts = ["a ball", "a red ball above the", "a red ball above the cube", "a red " * 20, ""]
    tokens = tokenizer(prompts, padding="max_length", max_length=window, truncation=True, return_tensors="pt")
    assert tokens.input_ids.shape == (5, window)
    assert uncut_lengths(tokens) == [4, 7, 8, 42, 2]
    assert uncut_lengths(tokenizer(prompts)) == [4, 7, 8, 42, 2]
