"""Prompts that a reward's text encoder cuts: one warning with counts, and each prompt tokenised once."""

import logging
from pathlib import Path

import pytest
import torch

from hn.cli.embed import embed_text_features
from hn.data.encodings.files import PromptFiles
from hn.rewards import OpenClipReward, Reward
from hn.rewards.contrastive import ContrastiveReward

# The window, and the class in the warning.
CUTTING = {
    "clip": (12, "ClipReward"),
    "pickscore": (12, "PickScoreReward"),
    "open_clip": (77, "OpenClipReward"),
    "hpsv2": (77, "HPSv2Reward"),
    "image_reward": (35, "ImageReward"),
}
CONTRASTIVE = [name for name in CUTTING if name != "image_reward"]


def prompts_around(window: int) -> list[str]:
    """Of 3 tokens, of exactly as many as the window has, and of 1 and 9 more; beside start and end words alone."""
    return ["ball", *(" ".join(["ball"] * (length - 2)) for length in (window, window + 1, window + 9))]


def score(reward: Reward, prompts: list[str]) -> None:
    with torch.no_grad():
        reward(torch.rand(len(prompts), 3, 32, 32), prompts)


def expected(name: str, counts: str, longest: str) -> str:
    window, kind = CUTTING[name]
    return (
        f"{counts} prompts are cut to the {window} tokens that the text encoder of {kind} takes (",
        f"); their ends do not count. The longest has {longest}: 'ball ball ",
    )


@pytest.mark.parametrize("name", CUTTING)
def test_one_warning_counts_the_prompts_that_are_cut(make, name: str, caplog: pytest.LogCaptureFixture) -> None:
    reward, (window, _) = make(name), CUTTING[name]
    prompts = prompts_around(window)
    with caplog.at_level(logging.WARNING, logger="hn"):
        score(reward, prompts[:2])
        assert not caplog.records
        score(reward, prompts)  # two of them are known
        score(reward, [f"{prompts[-1]} ball"])
    (record,) = caplog.records
    for part in expected(name, "2 of 4", str(window + 9)):
        assert part in record.getMessage()


@pytest.mark.parametrize("name", CUTTING)
def test_each_prompt_is_tokenised_once(make, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reward, (window, _) = make(name), CUTTING[name]
    prompts, seen = prompts_around(window), []
    method = "encode" if isinstance(reward, OpenClipReward) else "_encode_plus"
    tokenise = getattr(type(reward.tokenizer), method)

    def recorded(tokenizer, text, *args, **options):
        seen.extend([text] if isinstance(text, str) else text)
        return tokenise(tokenizer, text, *args, **options)

    monkeypatch.setattr(type(reward.tokenizer), method, recorded)
    for _ in range(2):
        score(reward, prompts)
    assert seen == prompts


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_embedding_counts_all_prompts(make, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reward: ContrastiveReward = make(name, encode_batch_size=1)
    files = PromptFiles(tmp_path, reward.text_fingerprint(reward.text_source), "text features")
    window = CUTTING[name][0]
    prompts = [f"{prompt} {end}" for prompt in prompts_around(window)[2:] for end in ("red", "blue", "green")]
    with caplog.at_level(logging.WARNING, logger="hn"):
        embed_text_features(files, lambda: reward, ["ball", *prompts, *prompts], torch.device("cpu"))
        embed_text_features(files, lambda: pytest.fail("loaded"), prompts, torch.device("cpu"))
    (record,) = caplog.records
    for part in expected(name, "6 of 7", str(window + 10)):
        assert part in record.getMessage()
