"""`hn geneval` on folders of images, against direct verdicts."""

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
from hn.evaluation.detectors import judge
from hn.evaluation.detectors.coco import OBJECTS
from hn.evaluation.detectors.miniature import GridDetector
from hn.evaluation.folder.images import load_image
from hn.evaluation.folder.score import Shard
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
def judged(images, experiment):
    """Runs the verb on the images with the experiment's detector."""

    def call(*options: str, detector: Path | str = experiment) -> None:
        arguments = ["--images", str(images), "--detector", str(detector), "--batch_size", "4", "--device", "cpu"]
        main(["geneval", *arguments, *map(str, options)])

    return call


@pytest.fixture
def refused(refuse):
    return lambda *arguments: refuse("geneval", *arguments)


def test_verdicts_are_the_direct_ones_in_the_official_format(judged, images, tiny_checkpoints, capsys):
    judged("--options.threshold", "0.1", "--options.counting_threshold", "0.1")
    rows = read_results(images / "geneval.jsonl")
    paths = sorted(images.glob("0*/samples/*.png"))
    assert [row["filename"] for row in rows] == [path.relative_to(images).as_posix() for path in paths]
    detector = GridDetector.from_pretrained(tiny_checkpoints / "detector")
    options = VerdictOptions(threshold=0.1, counting_threshold=0.1)
    for path, row in zip(paths, rows, strict=True):
        metadata = json.loads((path.parents[1] / "metadata.jsonl").read_text())
        verdict = evaluate(detector.detect(load_image(path)[None])[0], metadata, options)
        expected = result_row(row["filename"], metadata, verdict)
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


def test_an_interrupted_run_continues_to_the_same_file(judged, images, tmp_path, monkeypatch, request):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    judged("--output", whole)
    seen = []

    def interrupted(detector, batch, *others):
        if seen:
            raise KeyboardInterrupt
        seen.append(len(batch))
        return judge(detector, batch, *others)

    monkeypatch.setattr("hn.evaluation.folder.benchmarks.judge", interrupted)
    with pytest.raises(SystemExit):
        judged("--output", cut)
    assert len(read_results(cut)) == 4
    with cut.open("a") as file:  # a line half written
        file.write(whole.read_text().splitlines()[4][:30])
    monkeypatch.setattr("hn.evaluation.folder.benchmarks.judge", judge)
    judged_batches = request.getfixturevalue("judged_batches")
    judged("--output", cut)
    assert judged_batches == [4, 2] and cut.read_bytes() == whole.read_bytes()
    judged_batches.clear()
    monkeypatch.setattr(
        "hn.evaluation.folder.benchmarks._require_known_classes",
        lambda *_: pytest.fail("no detector is needed any more"),
    )
    judged("--output", cut)
    assert judged_batches == [] and cut.read_bytes() == whole.read_bytes()


@pytest.fixture
def judged_batches(monkeypatch):
    """Sizes of the batches that are judged."""
    seen = []
    monkeypatch.setattr(
        "hn.evaluation.folder.benchmarks.judge",
        lambda d, batch, *others: seen.append(len(batch)) or judge(d, batch, *others),
    )
    return seen


def test_shards_give_the_file_of_one_run(judged, images, judged_batches, tmp_path, capsys):
    whole, shared = tmp_path / "whole.jsonl", tmp_path / "shared.jsonl"
    judged("--output", whole)
    assert judged_batches == [4, 4, 2]
    judged_batches.clear()
    capsys.readouterr()
    judged("--output", shared, "--shard", "1/2")
    assert judged_batches == [4] and not shared.exists()
    own = tmp_path / "shared.shard-1-of-2.jsonl"
    assert read_results(own) == read_results(whole)[4:8]
    assert capsys.readouterr().out == "shard 1/2 is done; 6 images of the others are not judged yet\n"
    judged("--output", shared, "--shard", "0/2")
    assert judged_batches == [4, 4, 2]
    assert shared.read_bytes() == whole.read_bytes()
    assert "10 images of 5 prompts" in capsys.readouterr().out
    summaries = [json.loads(path.with_suffix(".summary.json").read_text()) for path in (shared, whole)]
    assert summaries[0] == summaries[1]
    assert sorted(path.name for path in tmp_path.glob("shared*")) == ["shared.jsonl", "shared.summary.json"]
    judged("--output", shared, "--shard", "0/2")  # which has nothing left to do
    assert judged_batches == [4, 4, 2] and shared.read_bytes() == whole.read_bytes()
    assert len(list(tmp_path.glob("shared*"))) == 2


def test_what_shards_have_done_is_kept_however_the_work_is_shared_next(judged, images, judged_batches, tmp_path):
    whole, shared = tmp_path / "whole.jsonl", tmp_path / "shared.jsonl"
    judged("--output", whole)
    for shards in (("2/3", None), ("2/3", "0/2", "1/2"), ("0/3", "0/2", "1/2"), ("1/3", "0/3", "2/3", "2/3")):
        judged_batches.clear()
        for shard in shards:
            judged("--output", shared, *(() if shard is None else ("--shard", shard)))
        assert sorted(judged_batches) == [2, 4, 4]
        assert shared.read_bytes() == whole.read_bytes()
        assert len(list(tmp_path.glob("shared*"))) == 2
        shared.unlink()


def test_shards_that_end_at_once_may_both_join_the_file(judged, images, judged_batches, tmp_path, monkeypatch):
    """The other one joins and cleans up while this one is about to."""
    whole, shared = tmp_path / "whole.jsonl", tmp_path / "shared.jsonl"
    judged("--output", whole)
    judged("--output", shared, "--shard", "0/2")
    join, joined = hn.evaluation.folder.score._join, []

    def join_twice(judging, output, shard, *others):
        if not joined:
            joined.append(shard)
            join(judging, output, Shard(0, 2), *others)
            assert shared.read_bytes() == whole.read_bytes() and len(list(tmp_path.glob("shared*"))) == 2
        return join(judging, output, shard, *others)

    monkeypatch.setattr("hn.evaluation.folder.score._join", join_twice)
    judged("--output", shared, "--shard", "1/2")
    assert joined == [Shard(1, 2)]
    assert shared.read_bytes() == whole.read_bytes() and len(list(tmp_path.glob("shared*"))) == 2


def test_a_shard_goes_on_and_leaves_the_others_files_alone(judged, images, judged_batches, tmp_path, refused):
    shared = ("--output", tmp_path / "shared.jsonl", "--batch_size", "2")
    judged(*shared, "--shard", "0/2")
    other = tmp_path / "shared.shard-0-of-2.jsonl"
    with other.open("a") as file:  # it is at work
        file.write('{"filename": "0')
    content = other.read_bytes()
    judged_batches.clear()
    for _ in range(2):  # of its second and fifth batch the other one has the fifth
        judged(*shared, "--shard", "1/3")
        assert judged_batches == [2] and other.read_bytes() == content
    given = ("--images", images, *shared, "--shard", "1/2", "--detector", tmp_path / "tiny.yaml")
    assert "shared.shard-0-of-2.jsonl has verdicts by another judge" in refused(*given, "--options.threshold", "0.5")
    assert "A shard is its number, from 0 on" in refused(*given, "--shard", "1")


@pytest.mark.slow
def test_processes_of_torchrun_share_the_work(images, experiment, judged, tmp_path):
    whole, shared = tmp_path / "whole.jsonl", tmp_path / "shared.jsonl"
    judged("--output", whole)
    options = ["--images", images, "--detector", experiment, "--batch_size", "4", "--device", "cpu", "--output", shared]
    torchrun("geneval", *options)
    assert shared.read_bytes() == whole.read_bytes()
    assert len(list(tmp_path.glob("shared*"))) == 2


def test_images_that_changed_are_judged_again(judged, images):
    judged()
    results = images / "geneval.jsonl"
    before = read_results(results)
    path = images / before[0]["filename"]
    Image.effect_noise((32, 32), 200).convert("RGB").save(path)
    os.utime(path, ns=(0, results.stat().st_mtime_ns + 1))
    judged()
    after = read_results(results)
    assert before[0]["details"] != after[0]["details"] and before[4:] == after[4:]
    row = json.loads((images / "00004" / "metadata.jsonl").read_text()) | {"prompt": "another prompt"}
    (images / "00004" / "metadata.jsonl").write_text(json.dumps(row))
    judged()
    assert [row["prompt"] for row in read_results(results)][-2:] == ["another prompt"] * 2


def test_images_that_cannot_be_read_are_counted_and_left_out(judged, images, capsys):
    broken = images / "00001" / "samples" / "0000.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    judged()
    shown = capsys.readouterr().out
    assert "9 images of 5 prompts" in shown and "warning: 1 image cannot be read and is not in the scores" in shown
    assert f"{broken} cannot be read: " in shown
    summary = json.loads((images / "geneval.summary.json").read_text())
    assert list(summary["unreadable"]) == ["00001/samples/0000.png"]
    broken.write_bytes(whole)
    judged()
    assert "10 images of 5 prompts" in capsys.readouterr().out


def test_another_judge_does_not_continue(judged, images, experiment, refused):
    judged()
    given = ("--images", images, "--detector", experiment)
    assert "has verdicts by another judge (options differ" in refused(*given, "--options.threshold", "0.5")
    (images / "geneval.summary.json").unlink()
    assert "geneval.summary.json, which says what judged it, is not" in refused(*given)


def test_a_folder_that_is_not_right(images, experiment, refused, tmp_path):
    given = ("--images", images, "--detector", experiment)
    assert "Give --images: hn geneval --images FOLDER" in refused("--detector", experiment)
    assert "--imags: did you mean --images?" in refused("--imags", "x")
    assert "There is no folder nowhere" in refused("--images", "nowhere")
    (tmp_path / "empty").mkdir()
    assert "empty is not in GenEval's layout" in refused("--images", tmp_path / "empty")
    sample = images / "00002" / "samples" / "0001.png"
    sample.rename(tmp_path / "kept.png")
    assert "most prompts have 2 images, these have another number: 00002 (1)" in refused(*given)
    main(["geneval", *map(str, given), "--allow_uneven", "--device", "cpu"])
    (tmp_path / "kept.png").rename(sample)
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
    shown = refused("--images", images, "--detector", experiment)
    assert f"{metadata}: `include` has " in shown and message in shown
    assert not (images / "geneval.jsonl").exists()


def test_a_folder_without_one_image_that_can_be_read(images, experiment, refused):
    for path in images.glob("0*/samples/*.png"):
        path.write_bytes(path.read_bytes()[:60])
    assert f"No image of {images} can be read: " in refused("--images", images, "--detector", experiment)
    assert not list(images.glob("geneval*"))


def test_missing_weights_are_named_before_anything(images, refused, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for options in ((), ("--detector", ROOT / "experiments" / "shared" / "geneval.yaml")):
        message = refused("--images", images, *options)
        commands = [line.split("hf download ")[1] for line in message.splitlines() if "hf download " in line]
        assert commands == [
            "facebook/mask2former-swin-small-coco-instance", "timm/vit_large_patch14_clip_224.openai",
        ]  # fmt: skip
        assert not (images / "geneval.jsonl").exists()


def test_detectors_of_a_file_that_cannot_be(images, refused, tmp_path):
    (tmp_path / "x.yaml").write_text("trainer: {max_steps: 1}\n")
    assert "x.yaml describes no detector" in refused("--images", images, "--detector", tmp_path / "x.yaml")
    assert "There is no configuration file no.yaml" in refused("--images", images, "--detector", "no.yaml")
    assert "nothing.Here" in refused("--images", images, "--detector", "nothing.Here")


def test_the_whole_judge_on_real_classes(tmp_path):
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
    arguments = ["--images", tmp_path / "images", "--detector", tmp_path / "tiny.yaml", "--device", "cpu"]
    main(["geneval", *map(str, arguments)])
    rows = read_results(tmp_path / "images" / "geneval.jsonl")
    assert [row["tag"] for row in rows] == ["single_object", "colors"] * 3
    assert any(json.loads(row["details"]) for row in rows)
