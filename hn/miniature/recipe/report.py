"""The quality report of the miniature's checkpoints: `report.json`, `REPORT.md` and `samples.png` beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from hn.evaluation.detectors.miniature import GridDetector
from hn.generators.pipeline import DiffusersGenerator
from hn.miniature.captions import Caption
from hn.miniature.coupling import NOISE_SHAPE, couple
from hn.miniature.recipe.measure import (
    clean_renders,
    evaluation_captions,
    generate,
    hard_negative_accuracy,
    held_out_captions,
    megabytes,
    psnr,
    reconstruct,
    verdicts,
)
from hn.miniature.renderer import render
from hn.miniature.world import TAGS
from hn.rewards.base import Reward
from hn.rewards.clip import ClipReward
from hn.rewards.image_reward import ImageReward
from hn.utils.files import write_json, write_text
from hn.utils.images import labelled_grid, write_png

STEPS = (1, 2, 4)
SECOND = "image_reward"
REWARDS = ("clip", "clip_held_out", SECOND)
METHOD = (
    "There is no diffusion teacher. The generator is distilled from a procedural sampler, `hn/miniature/coupling.py`: "
    "a deterministic map from noise and caption to a scene, which the renderer draws. Where and how often that sampler "
    "disobeys captions (numbers, relations, second objects, which colour goes where) is a design choice, stated in its "
    "`Obedience`; the generator adds errors of its own. Prompts are those of the test split: combinations of colours, "
    "shapes and numbers that neither the generator nor the rewards were trained on; only numbers are all known to the "
    "rewards (in other words and scenes), for the training split has one or two numbers a shape. The second reward, of "
    "ImageReward's architecture, knows shapes, numbers and colours, but hardly more of relations than chance: a reward "
    "with a blind spot, as many are."
)


def measure(folder: str | Path, per_tag: int = 200, noises: int = 8, flips_of: int = 200) -> dict[str, Any]:
    """Measure the checkpoints in `folder`.

    Args:
        folder: holds `pipeline`, `clip`, `clip_held_out`, `image_reward` and `detector`.
        per_tag: clean renders a tag.
        noises: images a test prompt that the generator and the procedural sampler make, from the same noise.
        flips_of: renders a tag whose caption is compared with its hard negatives.

    Raises:
        FileNotFoundError: a checkpoint is missing.
    """
    folder = Path(folder)
    generator = DiffusersGenerator(str(folder / "pipeline"))
    detector = GridDetector.from_pretrained(folder / "detector")
    shares, psnr_db = measure_autoencoder(generator, detector, held_out_captions(per_tag))
    return {
        "method": METHOD,
        "verdicts": {**shares, **measure_generator(generator, detector, noises)},
        "psnr_db": psnr_db,
        "hard_negatives": {
            name: hard_negative_accuracy(load_reward(folder, name), "test", flips_of) for name in REWARDS
        },
        "megabytes": measure_sizes(folder),
        "images": {"renders": per_tag * len(TAGS), "generated": noises * len(evaluation_captions())},
    }


def load_reward(folder: Path, name: str) -> Reward:
    """One of `REWARDS`."""
    return (ImageReward if name == SECOND else ClipReward)(str(folder / name))


def measure_autoencoder(
    generator: DiffusersGenerator, detector: GridDetector, captions: list[Caption]
) -> tuple[dict[str, dict[str, float]], float]:
    """Verdicts on clean renders of `captions` and on their reconstructions, and the reconstructions' PSNR in dB."""
    rows = [caption.metadata() for caption in captions]
    images = clean_renders(captions)
    rebuilt = reconstruct(generator, images)
    shares = {"renders": verdicts(detector, images, rows), "reconstructions": verdicts(detector, rebuilt, rows)}
    return shares, psnr(rebuilt, images)


def measure_generator(
    generator: DiffusersGenerator, detector: GridDetector, noises: int
) -> dict[str, dict[str, float]]:
    """Verdicts on the procedural sampler's renders and on the generator's images at 1, 2 and 4 steps."""
    captions = [caption for caption in evaluation_captions() for _ in range(noises)]
    rows, noise = [caption.metadata() for caption in captions], draw_noise(len(captions))
    shares = {"procedural sampler": verdicts(detector, render(couple(noise, captions)), rows)}
    for steps in STEPS:
        images = generate(generator, noise, [row["prompt"] for row in rows], steps)
        shares[step_name(steps)] = verdicts(detector, images, rows)
    return shares


def measure_sizes(folder: Path) -> dict[str, float]:
    """Megabytes of each checkpoint, and of everything in the folder."""
    parts = {part.name: megabytes(part) for part in sorted(folder.iterdir()) if part.is_dir()}
    return {**parts, "total": megabytes(folder)}


def bars(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures that have a bar to clear: name, value, least and greatest value allowed, whether the bar holds."""
    shares = measured["verdicts"]
    renders, rebuilt = shares["renders"], shares["reconstructions"]
    lost = {tag: renders[tag] - rebuilt[tag] for tag in ("overall", "counting")}
    found = [
        _bar("detector: right verdicts on clean renders", renders["overall"], least=0.97),
        _bar("detector: right verdicts on clean renders, counting", renders["counting"], least=0.97),
        _bar("autoencoder: verdicts lost on reconstructions", lost["overall"], most=0.03),
        _bar("autoencoder: verdicts lost on reconstructions, counting", lost["counting"], most=0.03),
        _bar("generator: right verdicts at 1 step", shares[step_name(1)]["overall"], least=0.45, most=0.75),
    ]
    found += [
        _bar(f"generator: right verdicts at {steps} steps", shares[step_name(steps)]["overall"], least=0.45)
        for steps in STEPS[1:]
    ]
    for name, by_tag in measured["hard_negatives"].items():
        each = {tag: shares["each"] for tag, shares in by_tag.items()}
        if name == SECOND:  # reads relations hardly better than by chance, see `METHOD`
            label, value, least = "on average", sum(each.values()) / len(each), 0.85
        else:
            worst = min(each, key=each.get)
            label, value, least = f"worst category ({worst})", each[worst], 0.90
        found.append(_bar(f"{name}: true caption above a hard negative, {label}", value, least=least))
    return [*found, _bar("size of everything, MB", measured["megabytes"]["total"], most=25.0)]


def _bar(name: str, value: float, least: float | None = None, most: float | None = None) -> dict[str, Any]:
    holds = (least is None or value >= least) and (most is None or value <= most)
    return {"name": name, "value": value, "least": least, "most": most, "holds": holds}


def sample_picture(generator: DiffusersGenerator, per_tag: int = 2, upscale: int = 3) -> Image.Image:
    """The first test prompts of each tag, from one noise each: procedural sampler, its reconstruction, generator."""
    captions = []
    for tag in TAGS:
        captions += [caption for caption in evaluation_captions() if caption.tag == tag][:per_tag]
    noise, prompts = draw_noise(len(captions)), [caption.text() for caption in captions]
    target = render(couple(noise, captions))
    rows = {"procedural sampler": target, "its reconstruction": reconstruct(generator, target)}
    rows |= {step_name(steps): generate(generator, noise, prompts, steps) for steps in STEPS}
    return labelled_grid(rows, prompts, upscale)


def draw_noise(count: int, seed: int = 0) -> Tensor:
    """Noise [count, 8, 8, 8] ~ N(0, I)."""
    return torch.randn(count, *NOISE_SHAPE, generator=torch.Generator().manual_seed(seed))


def step_name(steps: int) -> str:
    """How the generator is called in tables and pictures."""
    return f"generator, {steps} step{'s' if steps > 1 else ''}"


def markdown(measured: dict[str, Any]) -> str:
    """The report in words and tables."""
    lines = [
        "# Quality of the miniature's checkpoints",
        "",
        METHOD,
        "",
        "Written by `make miniature`; do not edit.",
        "",
    ]
    lines += ["## Bars", "", "| figure | value | bar | holds |", "|---|---|---|---|"]
    for bar in bars(measured):
        wanted = " and ".join(
            f"{sign} {bar[key]:g}" for key, sign in (("least", ">="), ("most", "<=")) if bar[key] is not None
        )
        lines.append(f"| {bar['name']} | {bar['value']:.3f} | {wanted} | {'yes' if bar['holds'] else '**no**'} |")
    columns = ("overall", *TAGS)
    lines += ["", "## GenEval-style verdicts", ""]
    lines += [f"| images | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for name, shares in measured["verdicts"].items():
        lines.append(f"| {name} | {' | '.join(f'{shares[column]:.3f}' for column in columns)} |")
    images = measured["images"]
    lines += [
        "",
        f"Renders and reconstructions: {images['renders']} clean scenes; PSNR {measured['psnr_db']:.1f} dB. "
        f"Sampler and generator: {images['generated']} images each, same noise.",
        "",
        "## Rewards: renders scored with their caption and with hard negatives",
        "",
        f"| reward | share beaten | {' | '.join(TAGS)} |",
        f"|---|---|{'---|' * len(TAGS)}",
    ]
    for name, by_tag in measured["hard_negatives"].items():
        for kind, label in (("each", "single negatives"), ("all", "all of a caption's")):
            lines.append(f"| {name} | {label} | {' | '.join(f'{by_tag[tag][kind]:.3f}' for tag in TAGS)} |")
    sizes = ", ".join(f"{name} {size:.1f}" for name, size in measured["megabytes"].items())
    lines += ["", f"Megabytes: {sizes}.", "", "![samples](samples.png)", ""]
    return "\n".join(lines)


def write_report(folder: str | Path, **options: int) -> dict[str, Any]:
    """Measure the checkpoints in `folder` and write `samples.png`, `REPORT.md` and `report.json` there.

    Args:
        folder: as for `measure`.
        options: numbers of samples, as for `measure`.

    Returns:
        What `report.json` holds.
    """
    folder = Path(folder)
    measured = measure(folder, **options)
    write_png(sample_picture(DiffusersGenerator(str(folder / "pipeline"))), folder / "samples.png", optimize=True)
    write_text(folder / "REPORT.md", markdown(measured))
    report = {**measured, "bars": bars(measured)}
    write_json(folder / "report.json", report)
    return report
