"""A small comparison in a folder, written by what writes real ones."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hn.evaluation.comparison.details import details, image_rows
from hn.evaluation.comparison.gallery import Gallery
from hn.evaluation.methods import MethodOutput
from hn.evaluation.record import MethodRecord
from hn.evaluation.samples import Samples
from hn.report.comparison import GALLERY
from hn.report.result_files import IMAGES_CSV, METHODS_CSV, TIMING_JSON, write_images_csv, write_methods_csv
from hn.report.results import write_results
from hn.utils.files import write_json

PROMPTS = {
    0: ("colors", "a red ball"),
    1: ("colors", 'a "green" cube & <b>more</b>'),
    2: ("counting", "two cube"),
    3: ("counting", "three ball"),
}
CATEGORIES = {index: category for index, (category, _) in PROMPTS.items()}
CORRECT = {
    "base": [1, 0, 0, 0, 0, 0, 1, 0],
    "base_2_steps": [1, 0, 0, 0, 0, 0, 1, 1],
    "hypernetwork": [1, 1, 1, 1, 0, 0, 1, 1],
    "finetune": [1, 1, 0, 1, 0, 1, 1, 1],
    "best_of_8": [1, 1, 1, 1, 1, 1, 1, 0],
}
REWARD = {"base": 0.5, "base_2_steps": 0.48, "hypernetwork": 0.6, "finetune": 0.65, "best_of_8": 0.7}
SECONDS = {"base": 0.01, "base_2_steps": 0.02, "hypernetwork": 0.02, "finetune": 0.01, "best_of_8": 0.08}


def record_of(method: str, gallery: Gallery | None = None) -> MethodRecord:
    """Two images of each prompt."""
    index, copy = [i for i in PROMPTS for _ in range(2)], [0, 1] * len(PROMPTS)
    rows = [{"tag": PROMPTS[i][0]} for i in index]
    samples = Samples([PROMPTS[i][1] for i in index], rows, index, copy, 0, torch.zeros(len(index), 1))
    rng = torch.Generator().manual_seed(list(REWARD).index(method))
    reward = REWARD[method] + 0.02 * torch.randn(len(index), generator=rng)
    scores = {"reward": reward, "reward/clip": reward, "reward/redness": reward / 10, "held_out": reward + 0.01}
    scores |= {"held_out/other": reward + 0.01, "correct": torch.tensor(CORRECT[method]).float()}
    images = torch.rand(len(index), 3, 32, 32, generator=rng)
    trace = [
        {"nfe": nfe, "reward_calls": nfe, "seconds": 0.08 * nfe, "best_reward": reward - 0.2 / nfe}
        for nfe in (1, 2, 4, 8)
    ]
    is_search = method == "best_of_8"
    output = MethodOutput(images, torch.ones(len(index)), 8 * SECONDS[method], trace=trace if is_search else ())
    record = MethodRecord(method, nfe=8 if is_search else 1)
    record.add(samples, output, scores)
    if gallery is not None:
        gallery.keep(method, samples, images)
    return record


@pytest.fixture
def comparison_folder(tmp_path: Path) -> Path:
    """Base at one and two steps, hypernetwork, fine-tune and a search on four prompts, three of them in the gallery."""
    folder = tmp_path / "runs" / "tiny" / "compare_x"
    gallery = Gallery(folder / GALLERY, {0, 1, 2})
    records = {name: record_of(name, gallery) for name in REWARD}
    base = records["base"]
    summaries = {}
    for name, record in records.items():
        against = None if record is base else base
        summaries[name] = record.summary(against) | details(record, CATEGORIES, against)
    curve = {"step": [0, 50, 100], "value": [0.5, 0.55, 0.6]}
    curves = {"val/reward": curve, "val/base_reward": {"step": [0], "value": [0.5]}}
    facts = {
        "grouped_by": ["tag"],
        "weights": {"hypernetwork": "runs/tiny/one/hypernet"},
        "reward_weights": {"clip": 1.0, "redness": 0.0},
    }
    results = write_results(folder / "results.json", "tiny", summaries, 64, curves={"hypernetwork": curves}, **facts)
    write_methods_csv(folder / METHODS_CSV, results["methods"])
    prompts = {index: prompt for index, (_, prompt) in PROMPTS.items()}
    write_images_csv(
        folder / IMAGES_CSV, (row for record in records.values() for row in image_rows(record, prompts, CATEGORIES))
    )
    traces = {name: record.trace() for name, record in records.items() if record.trace()}
    write_json(folder / TIMING_JSON, {"finished": "2026-01-02T03:04:05+00:00", "traces": traces})
    return folder


@pytest.fixture
def change_results(comparison_folder: Path) -> Callable[[Callable[[dict], None]], None]:
    """Changes the content of the folder's `results.json`."""

    def change(edit: Callable[[dict], None]) -> None:
        path = comparison_folder / "results.json"
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))

    return change
