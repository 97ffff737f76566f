"""`hn score` with benchmark metrics on folders of images, against direct scores."""

import json
import os
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants
from PIL import Image

from hn.cli import main
from hn.cli.score import BENCHMARKS
from hn.evaluation.benchmarks.compbench import BlipVqaMetric, SpatialMetric
from hn.evaluation.benchmarks.geneval2 import SoftTifaMetric
from hn.evaluation.benchmarks.geneval_results import read_results
from hn.evaluation.folder.images import load_image
from hn.evaluation.folder.score import FIELDS
from hn.utils.class_path import class_path
from tests import tiny_benchmarks, tiny_vlms
from tests.two_processes import torchrun

ROOT = Path(__file__).parents[3]
PHRASES = {
    "a red cube": ["a red cube"],
    "a green ball and a cube": ["a green ball", "a cube"],
    "the ball": ["the ball"],
}


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    return tiny_benchmarks.blip_vqa(tmp_path_factory.mktemp("blip"))


@pytest.fixture
def describe(tmp_path):
    """Writes a YAML file with a metric."""

    def write(metric_class, **arguments):
        path = tmp_path / f"{metric_class.__name__}.yaml"
        path.write_text(yaml.safe_dump({"metric": {"class_path": class_path(metric_class), "init_args": arguments}}))
        return path

    return write


@pytest.fixture
def images(tmp_path):
    """T2I-CompBench's layout: two images of each of three prompts, and the prompts with their phrases."""
    samples = tmp_path / "images" / "samples"
    samples.mkdir(parents=True)
    for number, prompt in enumerate([prompt for prompt in PHRASES for _ in range(2)]):
        picture(samples / f"{prompt}_{number:06d}.png")
    rows = [{"prompt": prompt, "noun_phrases": phrases} for prompt, phrases in PHRASES.items()]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "images"


def picture(path, width=40):
    Image.fromarray(torch.randint(0, 256, (48, width, 3), dtype=torch.uint8).numpy()).save(path)


def read_lines(path):
    return read_results(path, fields=FIELDS)


@pytest.fixture
def command(images, describe, blip):
    """The command on the images with BLIP-VQA."""
    given = ["--metrics", describe(BlipVqaMetric, **blip), images, "--prompts", images.parent / "prompts.jsonl"]
    return ["score", *map(str, given), "--batch_size", "2", "--device", "cpu"]


@pytest.fixture
def score(command):
    """Runs it."""
    return lambda *options: main([*command, *map(str, options)])


@pytest.fixture
def refused(refuse):
    return lambda *arguments, **options: refuse("score", *arguments, **options)


def test_scores_are_the_direct_ones(score, images, blip, capsys):
    score()
    lines = read_lines(images / "blip_vqa.jsonl")
    paths = sorted((images / "samples").iterdir())
    assert [line["filename"] for line in lines] == [f"samples/{path.name}" for path in paths] and len(paths) == 6
    metric = BlipVqaMetric(**blip)
    for path, line in zip(paths, lines, strict=True):
        row = json.loads(line["metadata"])
        assert row["noun_phrases"] == PHRASES[line["prompt"]] and row["set"].endswith("prompts.jsonl")
        (found,) = metric.score(load_image(path)[None], [row])
        assert line["scores"]["blip_vqa"] == pytest.approx(found.scores["blip_vqa"], abs=1e-5)
        assert [phrase for phrase, _ in line["details"]["phrases"]] == PHRASES[line["prompt"]]
    mean = sum(line["scores"]["blip_vqa"] for line in lines) / 6
    summary = json.loads((images / "blip_vqa.summary.json").read_text())
    assert summary["summary"] == [{"name": "all images", "n": 6, "scores": {"blip_vqa": pytest.approx(mean)}}]
    assert summary["unreadable"] == {} and summary["metric"]["init_args"]["max_phrases"] == 8
    shown = capsys.readouterr().out
    assert f"{mean:.4f}" in shown and f"results      {images / 'blip_vqa.jsonl'}" in shown


def test_an_interrupted_run_continues_to_the_same_file(score, tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    score("--output", whole)
    seen, direct = [], BlipVqaMetric.score

    def interrupted(self, batch, rows):
        if seen:
            raise KeyboardInterrupt
        seen.append(len(batch))
        return direct(self, batch, rows)

    monkeypatch.setattr(BlipVqaMetric, "score", interrupted)
    with pytest.raises(SystemExit):
        score("--output", cut)
    assert len(read_lines(cut)) == 2
    with cut.open("a") as file:  # a line half written
        file.write(whole.read_text().splitlines()[2][:30])
    seen.clear()
    monkeypatch.setattr(
        BlipVqaMetric, "score", lambda self, batch, rows: seen.append(len(batch)) or direct(self, batch, rows)
    )
    score("--output", cut)
    assert seen == [2, 2] and cut.read_bytes() == whole.read_bytes()
    monkeypatch.setattr(BlipVqaMetric, "__init__", lambda *_, **__: pytest.fail("no weights are needed any more"))
    score("--output", cut)
    assert cut.read_bytes() == whole.read_bytes()


def test_shards_give_the_file_of_one_run(score, tmp_path, monkeypatch, capsys):
    whole, shared = tmp_path / "whole.jsonl", tmp_path / "shared.jsonl"
    score("--output", whole)
    seen, direct = [], BlipVqaMetric.score
    monkeypatch.setattr(
        BlipVqaMetric, "score", lambda self, batch, rows: seen.append(len(rows)) or direct(self, batch, rows)
    )
    capsys.readouterr()
    score("--output", shared, "--shard", "1/2")
    assert seen == [2] and not shared.exists()
    assert read_lines(tmp_path / "shared.shard-1-of-2.jsonl") == read_lines(whole)[2:4]
    assert "shard 1/2 is done; the others have not scored yet: 4 images for blip_vqa" in capsys.readouterr().out
    score("--output", shared, "--shard", "0/2")
    assert seen == [2, 2, 2] and shared.read_bytes() == whole.read_bytes()
    summaries = [json.loads(path.with_suffix(".summary.json").read_text()) for path in (shared, whole)]
    assert summaries[0] == summaries[1] and len(list(tmp_path.glob("shared*"))) == 2


@pytest.mark.slow
def test_processes_of_torchrun_share_the_work(score, command, tmp_path):
    whole, shared = tmp_path / "whole.jsonl", tmp_path / "shared.jsonl"
    score("--output", whole)
    torchrun(*command, "--output", shared)
    assert shared.read_bytes() == whole.read_bytes()
    assert len(list(tmp_path.glob("shared*"))) == 2


def test_an_image_that_is_said_to_be_of_two_prompts(describe, blip, images, refused):
    picture(images / "0.png")
    (images / "paths.json").write_text(json.dumps({"a red cube": "0.png", "the ball": "0.png"}))
    given = ("--metrics", describe(BlipVqaMetric, **blip), "--prompts", images.parent / "prompts.jsonl")
    message = refused(*given, "--images", images / "paths.json", "--device", "cpu", silent=False)
    assert "0.png is said to be of two prompts, 'a red cube' and 'the ball'; name each image once." in message
    assert not list(images.glob("*.jsonl"))


def test_images_that_changed_are_scored_again(score, images):
    score()
    results = images / "blip_vqa.jsonl"
    before = read_lines(results)
    path = images / before[0]["filename"]
    picture(path)
    os.utime(path, ns=(0, results.stat().st_mtime_ns - 10**10))  # older than the results
    score()
    after = read_lines(results)
    assert before[0]["scores"] != after[0]["scores"] and before[2:] == after[2:]


def test_images_that_cannot_be_read_are_left_out(score, images, capsys):
    broken = images / "samples" / "the ball_000005.png"
    broken.write_bytes(broken.read_bytes()[:100])
    score()
    assert "warning: 1 image cannot be read and is not in the scores" in capsys.readouterr().out
    assert len(read_lines(images / "blip_vqa.jsonl")) == 5
    summary = json.loads((images / "blip_vqa.summary.json").read_text())
    assert list(summary["unreadable"]) == ["samples/the ball_000005.png"]


def test_soft_tifa_of_geneval2_files(describe, tmp_path, capsys):
    """GenEval 2's own files: its prompts, and the paths of the images by prompt."""
    rows = [
        {"prompt": "two cats", "atom_count": 2, "skills": ["count"], "vqa_list": [["How many cats?", "two"]]},
        {"prompt": "a red cat", "atom_count": 2, "skills": ["attribute", "object"],
         "vqa_list": [["Is the cat red?", "Yes"], ["Is there a cat?", "Yes"]]},
        {"prompt": "a pig", "atom_count": 1, "skills": ["object"], "vqa_list": [["Is there a pig?", "Yes"]]},
    ]  # fmt: skip
    (tmp_path / "geneval2.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for number in range(2):
        picture(tmp_path / f"{number}.png", 40 + 8 * number)
    (tmp_path / "paths.json").write_text(json.dumps({"two cats": "0.png", "a red cat": "1.png"}))
    vlm = str(tiny_vlms.qwen3_vl(tmp_path / "vlm"))
    metric = describe(SoftTifaMetric, pretrained=vlm, dtype="float32")
    given = ("--metrics", metric, tmp_path / "paths.json", "--prompts", tmp_path / "geneval2.jsonl")
    main(["score", *map(str, given), "--device", "cpu"])
    shown = capsys.readouterr().out
    assert "warning: 1 of the prompts have no image" in shown and "2 atoms" in shown and "skill attribute" in shown
    lines = read_lines(tmp_path / "soft_tifa.jsonl")
    direct = SoftTifaMetric(vlm, dtype="float32")
    for number, line in enumerate(lines):
        (found,) = direct.score(load_image(tmp_path / f"{number}.png")[None], rows[number : number + 1])
        assert line["scores"] == pytest.approx(found.scores, rel=1e-4)
    summary = json.loads((tmp_path / "soft_tifa.summary.json").read_text())["summary"]
    assert [group["name"] for group in summary] == [
        "all images", "skill count", "skill attribute", "skill object", "2 atoms",
    ]  # fmt: skip


def test_spatial_prompts_among_others_and_methods(describe, tmp_path, capsys):
    """What `hn generate --compare` writes: the scores of each method."""
    prompts = ("a cat near a dog", "a red cat")
    entries = []
    for method in ("base", "hypernetwork"):
        for number, prompt in enumerate(prompts):
            entries.append({"file": f"{number}_{method}.png", "prompt": prompt, "method": method})
            picture(tmp_path / entries[-1]["file"])
    (tmp_path / "metadata.json").write_text(json.dumps({"images": entries}))
    detector = {
        "class_path": "hn.evaluation.detectors.Owlv2Detector",
        "init_args": tiny_benchmarks.owlv2(tmp_path / "owl"),
    }
    metric = describe(SpatialMetric, detector=detector, options={"least": 0.0})
    main(["score", "--metrics", str(metric), str(tmp_path), "--device", "cpu"])
    shown = capsys.readouterr().out
    assert "note: 2 images have no a prompt like" not in shown and "note: 2 images are left out" in shown
    lines = read_lines(tmp_path / "spatial.jsonl")
    assert [line["filename"] for line in lines] == ["0_base.png", "0_hypernetwork.png"]
    summary = json.loads((tmp_path / "spatial.summary.json").read_text())["summary"]
    assert summary == [
        {"name": f"{method}: all images", "n": 1, "scores": line["scores"]}
        for method, line in zip(("base", "hypernetwork"), lines, strict=True)
    ]


def test_a_benchmark_and_a_reward_of_named_prompts(images, describe, blip, tmp_path, capsys):
    """Images of other prompts are left out of both; the old name of the command."""
    picture(images / "samples" / "a dog_000000.png")
    given = ["--judge", f"{describe(BlipVqaMetric, **blip)},redness", "--images", images]
    given += ["--prompts", tmp_path / "prompts.jsonl", "--output", tmp_path / "out"]
    main(["judge", *map(str, given), "--device", "cpu"])
    shown = capsys.readouterr().out
    assert "note: 1 images are of other prompts and left out" in shown and "6 images of 3 prompts" in shown
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert [list(row["scores"]) for row in found["scores"]] == [["redness", "blip_vqa"]] * 6
    for name in ("redness", "blip_vqa"):
        lines = read_lines(tmp_path / "out" / f"{name}.jsonl")
        assert [line["scores"][name] for line in lines] == [row["scores"][name] for row in found["scores"]]
        assert found["summary"]["all"][name]["mean"] == pytest.approx(
            sum(row["scores"][name] for row in found["scores"]) / 6
        )


def test_what_is_refused(score, images, describe, blip, refused, monkeypatch):
    metric = describe(BlipVqaMetric, **blip)
    prompts = images.parent / "prompts.jsonl"
    given = ("--metrics", metric, images)
    assert "Missing: --metrics. Usage: hn score --metrics NAME" in refused(images)
    assert "Give FOLDER, once: hn score" in refused("--metrics", "spatial")
    assert "--imags: did you mean --images?" in refused("--imags", "x")
    assert "There is no metric 'blip'; did you mean clip or blip_vqa?" in refused("--metrics", "blip", images)
    assert "There is no configuration file no.yaml" in refused("--metrics", "no.yaml", images)
    assert "nothing.Here" in refused("--metrics", "nothing.Here", images)
    (images.parent / "x.yaml").write_text("trainer: {max_steps: 1}\n")
    assert "x.yaml describes no metric" in refused("--metrics", images.parent / "x.yaml", images)
    assert "There is no folder nowhere" in refused("--metrics", metric, "nowhere")
    assert "there is no prompt set 'genevl2'; " in refused(*given, "--prompts", "genevl2")
    assert "batch_size must be at least 1, not 0" in refused(*given, "--batch_size", "0")
    assert "has to be a folder or, for a single benchmark, a file that ends in .jsonl" in refused(
        *given, "--output", "x.json"
    )
    message = refused("--metrics", "soft_tifa", images)
    assert "soft_tifa can score none of the images: their prompts' rows have to have `vqa_list`" in message
    monkeypatch.setattr("hn.evaluation.benchmarks.compbench.phrases.find_spec", lambda name: None)
    assert 'pip install "hn[compbench]"' in refused(*given)
    (images / "samples" / "the ball_000005.png").unlink()
    assert "Most prompts have 2 images, 1 have another number" in refused(*given, "--prompts", prompts)
    score("--allow_uneven")
    other = describe(BlipVqaMetric, **blip, max_phrases=3)
    message = refused("--metrics", other, images, "--prompts", prompts, "--allow_uneven")
    assert "blip_vqa.jsonl has scores with other settings (metric differ" in message


@pytest.mark.parametrize(
    ("name", "repository", "row"),
    [
        ("soft_tifa", "Qwen/Qwen3-VL-8B-Instruct", {"vqa_list": [["Is there a cat?", "Yes"]]}),
        ("blip_vqa", "Salesforce/blip-vqa-capfilt-large", {"noun_phrases": ["a cat"]}),
        ("spatial", "google/owlv2-base-patch16-ensemble", {}),
    ],
)
def test_missing_weights_are_named_before_anything(name, repository, row, refused, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "images" / "00000"
    (folder / "samples").mkdir(parents=True)
    picture(folder / "samples" / "0000.png")
    (folder / "metadata.jsonl").write_text(json.dumps({"prompt": "a cat near a dog", **row}))
    for metric in (name, ROOT / "experiments" / "shared" / "benchmarks" / f"{name}.yaml"):
        message = refused("--metrics", metric, folder.parent)
        commands = [line.split("hf download ")[1] for line in message.splitlines() if "hf download " in line]
        assert commands == [repository]
    assert not (folder.parent / f"{name}.jsonl").exists()


def test_every_benchmark_metric_has_a_file_and_a_line_in_the_documents():
    files = {path.stem for path in (ROOT / "experiments" / "shared" / "benchmarks").glob("*.yaml")}
    documents = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert files == set(BENCHMARKS) and all(f"`{name}`" in documents for name in BENCHMARKS)
