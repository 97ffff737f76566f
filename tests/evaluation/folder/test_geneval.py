"""`hn score --metrics geneval` on folders of images, against direct verdicts."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants
from PIL import Image

import hn.evaluation.folder.score
from hn.cli import main
from hn.evaluation.benchmarks.geneval_results import read_results, result_row, summarize
from hn.evaluation.detectors import geneval_verdicts
from hn.evaluation.detectors.coco import OBJECTS
from hn.evaluation.detectors.miniature import GridDetector
from hn.evaluation.folder.images import load_image
from hn.evaluation.geneval import VerdictOptions, evaluate
from tests import tiny_detectors
from tests.two_processes import torchrun

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def predicted(tmp_path_factory) -> Path:
    """Where the first test that needs images leaves a copy."""
    return tmp_path_factory.mktemp("predicted") / "images"


@pytest.fixture
def images(experiment, tmp_path, capsys, make_module, predicted):
    """What `hn predict` writes: two images of each of five prompts."""
    if not predicted.exists():
        make_module().hypernet.save_pretrained(tmp_path / "runs" / "tiny" / "p" / "hypernet")
        main(["predict", "--config", str(experiment), "--run.name", "p"])
        capsys.readouterr()
        shutil.copytree(next((tmp_path / "runs").rglob("images")), predicted)
    assert len(list(predicted.rglob("*.png"))) == 10
    return Path(shutil.copytree(predicted, tmp_path / "images"))


@pytest.fixture
def score(images, experiment):
    """Scores the images with the experiment's detector."""

    def call(*options: str, detector: Path | str = experiment) -> None:
        arguments = [str(images), "--detector", str(detector), "--batch_size", "4", "--device", "cpu"]
        main(["score", "--metrics", "geneval", *arguments, *map(str, options)])

    return call


@pytest.fixture
def refused(refuse):
    return lambda *arguments: refuse("score", "--metrics", "geneval", *arguments)


def test_verdicts_are_the_direct_ones_in_the_official_format(score, images, tiny_checkpoints, capsys):
    score("--geneval.threshold", "0.1", "--geneval.counting_threshold", "0.1")
    rows = read_results(images / "geneval.jsonl")
    paths = sorted(images.glob("0*/samples/*.png"))
    assert [row["filename"] for row in rows] == [path.relative_to(images).as_posix() for path in paths]
    detector = GridDetector.from_pretrained(tiny_checkpoints / "detector")
    options = VerdictOptions(threshold=0.1, counting_threshold=0.1)
    for path, row in zip(paths, rows, strict=True):
        metadata = json.loads((path.parents[1] / "metadata.jsonl").read_text())
        verdict = evaluate(detector.detect(load_image(path)[None])[0], metadata, options)
        expected = result_row(row["filename"], metadata, verdict)
        assert row.pop("sha256") == hashlib.sha256(path.read_bytes()).hexdigest()
        assert {k: v for k, v in row.items() if k != "details"} == {k: v for k, v in expected.items() if k != "details"}
        ours, theirs = json.loads(row["details"]), json.loads(expected["details"])
        assert ours.keys() == theirs.keys()
        for name in ours:
            torch.testing.assert_close(torch.tensor(ours[name]), torch.tensor(theirs[name]), atol=1e-4, rtol=1e-4)
    assert {row["correct"] for row in rows} == {True, False}
    summary = json.loads((images / "geneval.summary.json").read_text())
    assert summary["summary"]["overall"] == summarize(rows).overall and summary["unreadable"] == {}
    shown = capsys.readouterr().out
    assert "10 images of 5 prompts" in shown and f"results      {images / 'geneval.jsonl'}" in shown


def test_an_interrupted_run_continues_to_the_same_file(score, images, tmp_path, monkeypatch, request):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    score("--output", whole)
    seen = []

    def interrupted(detector, batch, *others):
        if seen:
            raise KeyboardInterrupt
        seen.append(len(batch))
        return geneval_verdicts(detector, batch, *others)

    monkeypatch.setattr("hn.evaluation.folder.benchmarks.geneval_verdicts", interrupted)
    with pytest.raises(SystemExit):
        score("--output", cut)
    assert len(read_results(cut)) == 4
    with cut.open("a") as file:  # a line half written
        file.write(whole.read_text().splitlines()[4][:30])
    monkeypatch.setattr("hn.evaluation.folder.benchmarks.geneval_verdicts", geneval_verdicts)
    scored_batches = request.getfixturevalue("scored_batches")
    score("--output", cut)
    assert scored_batches == [4, 2] and cut.read_bytes() == whole.read_bytes()
    scored_batches.clear()
    monkeypatch.setattr(
        "hn.evaluation.folder.benchmarks._require_known_classes",
        lambda *_: pytest.fail("no detector is needed any more"),
    )
    score("--output", cut)
    assert scored_batches == [] and cut.read_bytes() == whole.read_bytes()


@pytest.fixture
def scored_batches(monkeypatch):
    """Sizes of the batches that are scored."""
    seen = []
    monkeypatch.setattr(
        "hn.evaluation.folder.benchmarks.geneval_verdicts",
        lambda d, batch, *others: seen.append(len(batch)) or geneval_verdicts(d, batch, *others),
    )
    return seen


def test_shards_give_the_file_of_one_run(score, images, scored_batches, tmp_path, capsys):
    whole, shared = tmp_path / "whole.jsonl", tmp_path / "shared.jsonl"
    score("--output", whole)
    assert scored_batches == [4, 4, 2]
    scored_batches.clear()
    capsys.readouterr()
    score("--output", shared, "--shard", "1/2")
    assert scored_batches == [4] and not shared.exists()
    own = tmp_path / "shared.shard-1-of-2.jsonl"
    assert read_results(own) == read_results(whole)[4:8]
    assert capsys.readouterr().out == "shard 1/2 is done; the others have not scored yet: 6 images for geneval\n"
    score("--output", shared, "--shard", "0/2")
    assert scored_batches == [4, 4, 2]
    assert shared.read_bytes() == whole.read_bytes()
    assert "10 images of 5 prompts" in capsys.readouterr().out
    summaries = [json.loads(path.with_suffix(".summary.json").read_text()) for path in (shared, whole)]
    assert summaries[0] == summaries[1]
    assert sorted(path.name for path in tmp_path.glob("shared*")) == ["shared.jsonl", "shared.summary.json"]
    score("--output", shared, "--shard", "0/2")  # which has nothing left to do
    assert scored_batches == [4, 4, 2] and shared.read_bytes() == whole.read_bytes()
    assert len(list(tmp_path.glob("shared*"))) == 2


def test_what_shards_have_done_is_kept_however_the_work_is_shared_next(score, images, scored_batches, tmp_path):
    whole, shared = tmp_path / "whole.jsonl", tmp_path / "shared.jsonl"
    score("--output", whole)
    for shards in (("2/3", None), ("2/3", "0/2", "1/2"), ("0/3", "0/2", "1/2"), ("1/3", "0/3", "2/3", "2/3")):
        scored_batches.clear()
        for shard in shards:
            score("--output", shared, *(() if shard is None else ("--shard", shard)))
        assert sorted(scored_batches) == [2, 4, 4]
        assert shared.read_bytes() == whole.read_bytes()
        assert len(list(tmp_path.glob("shared*"))) == 2
        shared.unlink()


def test_shards_that_end_at_once_may_both_join_the_file(score, images, scored_batches, tmp_path, monkeypatch):
    """The other one joins and cleans up while this one is about to."""
    whole, shared = tmp_path / "whole.jsonl", tmp_path / "shared.jsonl"
    score("--output", whole)
    score("--output", shared, "--shard", "0/2")
    join, joined = hn.evaluation.folder.score._join, []

    def join_twice(metric, output, *others):
        if not joined:
            joined.append(output)
            join(metric, output, *others)
            assert shared.read_bytes() == whole.read_bytes() and len(list(tmp_path.glob("shared*"))) == 2
        return join(metric, output, *others)

    monkeypatch.setattr("hn.evaluation.folder.score._join", join_twice)
    score("--output", shared, "--shard", "1/2")
    assert joined == [shared]
    assert shared.read_bytes() == whole.read_bytes() and len(list(tmp_path.glob("shared*"))) == 2


def test_a_shard_goes_on_and_leaves_the_others_files_alone(score, images, scored_batches, tmp_path, refused):
    shared = ("--output", tmp_path / "shared.jsonl", "--batch_size", "2")
    score(*shared, "--shard", "0/2")
    other = tmp_path / "shared.shard-0-of-2.jsonl"
    with other.open("a") as file:  # it is at work
        file.write('{"filename": "0')
    content = other.read_bytes()
    scored_batches.clear()
    for _ in range(2):  # of its second and fifth batch the other one has the fifth
        score(*shared, "--shard", "1/3")
        assert scored_batches == [2] and other.read_bytes() == content
    given = (images, *shared, "--shard", "1/2", "--detector", tmp_path / "tiny.yaml")
    assert "shared.shard-0-of-2.jsonl has scores with other settings" in refused(*given, "--geneval.threshold", "0.5")
    assert "A shard is its number, from 0 on" in refused(*given, "--shard", "1")


def test_several_metrics_have_a_file_each_and_one_table(score, images, tmp_path, capsys):
    score()
    alone, official = capsys.readouterr().out, (images / "geneval.jsonl").read_bytes()
    arguments = [images, "--metrics", "redness,geneval,brightness", "--detector", tmp_path / "tiny.yaml"]
    main(["score", *map(str, arguments), "--batch_size", "4", "--device", "cpu", "--output", str(tmp_path / "out")])
    shown = capsys.readouterr().out
    files = {f"{name}{end}" for name in ("redness", "geneval", "brightness") for end in (".jsonl", ".summary.json")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*files, "scores.json", "scores.csv"}
    assert (tmp_path / "out" / "geneval.jsonl").read_bytes() == official
    overall = json.loads((tmp_path / "out" / "geneval.summary.json").read_text())["summary"]["overall"]
    rows = [line.split() for line in shown.splitlines()]
    assert ["geneval", f"{overall:.4f}", "±", "-"] in rows and shown.startswith("10 images of 5 prompts\n")
    assert ["overall", f"{overall:.4f}"] == next(row for row in map(str.split, alone.splitlines()) if "overall" in row)[
        :2
    ]
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert list(found["rewards"]) == ["redness", "brightness"] and list(found["benchmarks"]) == ["geneval"]
    correct = [row["correct"] for row in read_results(tmp_path / "out" / "geneval.jsonl")]
    assert [row["scores"]["geneval"] for row in found["scores"]] == correct
    header = (tmp_path / "out" / "scores.csv").read_text().splitlines()[0]
    assert header == "file,prompt,redness,brightness,geneval"


@pytest.mark.slow
def test_processes_of_torchrun_share_the_work(images, experiment, score, tmp_path):
    whole, shared = tmp_path / "whole.jsonl", tmp_path / "shared.jsonl"
    score("--output", whole)
    options = [images, "--detector", experiment, "--batch_size", "4", "--device", "cpu", "--output", shared]
    torchrun("score", "--metrics", "geneval", *options)
    assert shared.read_bytes() == whole.read_bytes()
    assert len(list(tmp_path.glob("shared*"))) == 2


def test_images_that_changed_are_scored_again(score, images):
    score()
    results = images / "geneval.jsonl"
    before = read_results(results)
    path = images / before[0]["filename"]
    Image.effect_noise((32, 32), 200).convert("RGB").save(path)
    os.utime(path, ns=(0, results.stat().st_mtime_ns - 10**10))  # older than the results
    score()
    after = read_results(results)
    assert before[0]["details"] != after[0]["details"] and before[4:] == after[4:]
    row = json.loads((images / "00004" / "metadata.jsonl").read_text()) | {"prompt": "another prompt"}
    (images / "00004" / "metadata.jsonl").write_text(json.dumps(row))
    score()
    assert [row["prompt"] for row in read_results(results)][-2:] == ["another prompt"] * 2


def test_images_that_cannot_be_read_are_counted_and_left_out(score, images, capsys):
    broken = images / "00001" / "samples" / "0000.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    score()
    shown = capsys.readouterr().out
    assert "9 images of 5 prompts" in shown and "warning: 1 image cannot be read and is not in the scores" in shown
    assert f"{broken} cannot be read: " in shown
    summary = json.loads((images / "geneval.summary.json").read_text())
    assert list(summary["unreadable"]) == ["00001/samples/0000.png"]
    broken.write_bytes(whole)
    score()
    assert "10 images of 5 prompts" in capsys.readouterr().out


def test_other_settings_do_not_continue(score, images, experiment, refused):
    score()
    given = (images, "--detector", experiment)
    assert "has scores with other settings (options differ" in refused(*given, "--geneval.threshold", "0.5")
    (images / "geneval.summary.json").unlink()
    assert "geneval.summary.json, which says with what settings it was made, is not" in refused(*given)


def test_a_folder_that_is_not_right(images, experiment, refused, tmp_path):
    given = (images, "--detector", experiment)
    assert "Give FOLDER, once: hn score --metrics NAME" in refused("--detector", experiment)
    assert "--imags: did you mean --images?" in refused("--imags", "x")
    assert "Give FOLDER, once: hn score" in refused(images, "--images", images)
    assert "There is no folder nowhere" in refused("--images", "nowhere")
    (tmp_path / "empty").mkdir()
    assert "empty is not in GenEval's layout" in refused(tmp_path / "empty")
    sample = images / "00002" / "samples" / "0001.png"
    sample.rename(tmp_path / "kept.png")
    message = refused(*given)
    assert "Most prompts have 2 images, 1 have another number: " in message and f"in {sample.parent} (1)" in message
    main(["score", "--metrics", "geneval", *map(str, given), "--allow_uneven", "--device", "cpu"])
    (tmp_path / "kept.png").rename(sample)
    assert "geneval takes the prompts' rows from the folder; leave --prompts out" in refused(*given, "--prompts", "x")
    metadata = images / "00003" / "metadata.jsonl"
    row = metadata.read_text()
    metadata.write_text('{"prompt": "x"}\n')
    assert f"{metadata} is no row of GenEval's: it needs `tag`" in refused(*given)
    metadata.unlink()
    assert "has no metadata.jsonl, the row of the prompt, in 00003" in refused(*given)
    metadata.write_text(row.replace("ball", "zebra").replace("cube", "zebra"))
    assert "The prompts ask for zebra, which the detector does not know; it knows ball, cube." in refused(*given)
    assert not list(images.glob("*.partial"))


@pytest.mark.parametrize(
    ("clause", "message"),
    [
        ({"count": "2"}, '"count": "2"}; a `count` is a number from 1 on'),
        ({"count": 0}, "a `count` is a number from 1 on"),
        ({"count": 1, "color": "grey"}, "a `color` is one of red, orange, yellow, "),
        ({"count": 1, "position": ["beside", 0]}, "a `position` is one of left of, right of, above, below"),
        ({"count": 1, "position": ["above", 1]}, "and the place of an earlier clause"),
    ],
)
def test_clauses_that_are_none_of_geneval_s(images, experiment, refused, clause, message):
    metadata = images / "00003" / "metadata.jsonl"
    row = json.loads(metadata.read_text())
    metadata.write_text(json.dumps(row | {"include": [row["include"][0], {"class": "ball", **clause}]}))
    shown = refused(images, "--detector", experiment)
    assert f"{metadata}: `include` has " in shown and message in shown
    assert not (images / "geneval.jsonl").exists()


def test_a_folder_without_one_image_that_can_be_read(images, experiment, refused):
    for path in images.glob("0*/samples/*.png"):
        path.write_bytes(path.read_bytes()[:60])
    assert f"No image of {images} can be read: " in refused(images, "--detector", experiment)
    assert not list(images.glob("geneval*"))


def test_missing_weights_are_named_before_anything(images, refused, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for options in ((), ("--detector", ROOT / "experiments" / "shared" / "geneval.yaml")):
        message = refused(images, *options)
        commands = [line.split("hf download ")[1] for line in message.splitlines() if "hf download " in line]
        assert commands == [
            "facebook/mask2former-swin-small-coco-instance", "timm/vit_large_patch14_clip_224.openai",
        ]  # fmt: skip
        assert not (images / "geneval.jsonl").exists()


def test_detectors_of_a_file_that_cannot_be(images, refused, tmp_path):
    (tmp_path / "x.yaml").write_text("trainer: {max_steps: 1}\n")
    assert "x.yaml describes no detector" in refused(images, "--detector", tmp_path / "x.yaml")
    assert "There is no configuration file no.yaml" in refused(images, "--detector", "no.yaml")
    assert "nothing.Here" in refused(images, "--detector", "nothing.Here")


def test_the_whole_detector_on_real_classes(tmp_path):
    """Mask2Former and CLIP of a YAML file, on prompts of COCO's objects."""
    base = yaml.safe_load((ROOT / "experiments" / "shared" / "geneval.yaml").read_text())
    section = base["callbacks"]["evaluation"]["init_args"]["detector"]
    parts = section["init_args"]
    parts["detector"]["init_args"] = tiny_detectors.mask2former(tmp_path / "mask2former")
    parts["color_classifier"]["init_args"] = tiny_detectors.color_classifier(tmp_path / "clip")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(base))
    torch.manual_seed(0)
    for number, name in enumerate(OBJECTS[:6]):
        samples = tmp_path / "images" / f"{number:05d}" / "samples"
        samples.mkdir(parents=True)
        clause = {"class": name, "count": 1} | ({"color": "red"} if number % 2 else {})
        row = {"tag": "colors" if number % 2 else "single_object", "include": [clause], "prompt": f"a {name}"}
        (samples.parent / "metadata.jsonl").write_text(json.dumps(row) + "\n")
        pixels = torch.randint(0, 256, (48, 40, 3), dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(samples / "0000.png")
    arguments = ["--images", tmp_path / "images", "--detector", tmp_path / "tiny.yaml", "--options.threshold", "0.01"]
    main(["geneval", *map(str, arguments), "--device", "cpu"])  # the old name
    summary = json.loads((tmp_path / "images" / "geneval.summary.json").read_text())
    assert summary["options"]["threshold"] == 0.01
    rows = read_results(tmp_path / "images" / "geneval.jsonl")
    assert [row["tag"] for row in rows] == ["single_object", "colors"] * 3
    assert any(json.loads(row["details"]) for row in rows)
