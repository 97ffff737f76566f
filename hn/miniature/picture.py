"""The README's picture: the same prompts and noise through every stage of the miniature's world.

`python -m hn.miniature.picture` writes `docs/miniature.png`.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from PIL import Image

from hn.evaluation.methods import Sampled, Searched, TrainedMethod
from hn.evaluation.samples import Samples
from hn.generators.pipeline import DiffusersGenerator
from hn.hypernets.base import Hypernet
from hn.miniature.captions import split_captions
from hn.miniature.coupling import couple
from hn.miniature.renderer import render
from hn.miniature.scenes import scenes_of
from hn.miniature.world import TAGS
from hn.rewards.clip import ClipReward
from hn.rewards.ensemble import RewardEnsemble
from hn.search.reno import Reno
from hn.utils.images import labelled_grid
from hn.utils.text import say

PER_TAG = {"single_object": 1, "two_object": 2, "counting": 2, "colors": 1, "position": 3, "color_attr": 3}


def picture(folder: str | Path = "data/miniature", seed: int = 3) -> Image.Image:
    """Renders, procedural sampler, generator, hypernetwork and ReNO (50 iterations) for the same captions and noise.

    The columns are held-out captions, chosen by seed and not by result.
    """
    folder, words = Path(folder), random.Random(seed)
    captions = [c for tag in TAGS for c in words.sample(split_captions(tag, "test"), PER_TAG[tag])]
    prompts = [caption.text() for caption in captions]
    generator = DiffusersGenerator(str(folder / "pipeline"))
    reward = RewardEnsemble({"clip": ClipReward(str(folder / "clip"), scale="cosine")}, {"clip": 1.0})
    methods = [
        Sampled("generator, 1 step", generator),
        TrainedMethod(Hypernet.from_pretrained(folder / "hypernet", generator), name="+ hypernetwork"),
        Searched("+ ReNO, 50 steps", generator, Reno(iterations=50), reward),
    ]
    samples = Samples.of_prompts(generator, prompts, 1, seed)
    rng = torch.Generator().manual_seed(seed)
    rows = {"render": render(scenes_of(captions, rng)), "procedural sampler": render(couple(samples.noise, captions))}
    rows |= {method.name: method(samples).images for method in methods}
    return labelled_grid(rows, prompts, upscale=3)


if __name__ == "__main__":
    target = Path("docs/miniature.png")
    target.parent.mkdir(exist_ok=True)
    picture().save(target)
    say(f"wrote {target}")
