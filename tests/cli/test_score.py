"""Scoring folders of images through the command line, against direct scoring."""

import csv
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import constants
from PIL import Image

import hn
from hn.cli import main
from hn.evaluation.folder.images import load_image
from hn.rewards import BrightnessReward, ClipReward, HPSv2Reward, ImageReward, JpegSizeReward, RednessReward, Reward
from hn.rewards.named import SHORT_NAMES
from hn.utils.class_path import import_class
from tests import tiny_rewards

PROMPTS = ("a red ball", "two cube", "a red ball", "the green cube")
SIZES = ((40, 36), (32, 32), (36, 40), (40, 36))
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Four images of three sizes and formats, and what else lies in a folder."""
    folder = tmp_path / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name, (height, width) in zip(("a.png", "b.jpg", "c.webp", "d.PNG"), SIZES, strict=True):
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / ".hidden.png").touch()
    (folder / "notes.md").touch()
    return folder


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS) + "\n")
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Arguments of rewards on tiny checkpoints."""
    folder = tmp_path_factory.mktemp("rewards")
    writers = {"clip": tiny_rewards.clip, "hps": tiny_rewards.hpsv2, "image_reward": tiny_rewards.image_reward}
    return {name: write(folder / name) for name, write in writers.items()}


@pytest.fixture
def config(tiny: dict[str, dict[str, Any]], tmp_path: Path) -> Path:
    """An experiment that is rewarded by two, and held-out, models."""
    rewards = {
        "hps": {"class_path": "hn.rewards.hpsv2.HPSv2Reward", "init_args": tiny["hps"]},
        "clip": {"class_path": "hn.rewards.clip.ClipReward", "init_args": {"pretrained": "${vars.clip}"}},
    }
    held_out = {"ir": {"class_path": "hn.rewards.image_reward.ImageReward", "init_args": tiny["image_reward"]}}
    ensemble = {
        "class_path": "hn.rewards.ensemble.RewardEnsemble",
        "init_args": {"rewards": rewards, "held_out": held_out, "weights": {"hps": 1.0, "clip": 0.5}},
    }
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({"vars": {"clip": tiny["clip"]["pretrained"]}}))
    content = {"extends": "base.yaml", "model": {"reward": ensemble}, "trainer": {"max_steps": "${vars.nothing}"}}
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture
def score(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs `hn score`; returns what it wrote as JSON."""

    def run(*options: Any, output: str = "out") -> dict[str, Any]:
        main(["score", "--device", "cpu", "--output", output, *map(str, options)])
        found = json.loads((tmp_path / output / "scores.json").read_text(encoding="utf-8"))
        lines = {f"{name}{end}" for name in found["rewards"] for end in (".jsonl", ".summary.json")}
        assert {path.name for path in (tmp_path / output).iterdir()} == {"scores.json", "scores.csv", *lines}
        return found

    return run


@pytest.fixture
def refused(refuse: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The one message with which a command is refused, before weights are loaded and a result is written."""

    def message(*options: Any) -> str:
        with monkeypatch.context() as patched:
            patched.setattr("hn.cli.score.score_files", lambda *_, **__: pytest.fail("weights would be loaded"))
            shown = refuse("score", *options)
        assert not list((tmp_path / "images").glob("*.jsonl"))
        return shown

    return message


def column(found: dict[str, Any], name: str) -> list[float]:
    return [row["scores"][name] for row in found["scores"]]


def direct(reward: Reward, folder: Path, names: list[str], prompts: tuple[str, ...] = PROMPTS) -> list[float]:
    with torch.no_grad():
        return [
            reward(load_image(folder / name)[None], [prompt]).item()
            for name, prompt in zip(names, prompts, strict=True)
        ]


NAMES = ["a.png", "b.jpg", "c.webp", "d.PNG"]


def test_an_experiments_rewards_equal_direct_scoring(images, prompts, config, tiny, score) -> None:
    found = score("--metrics", config, images, "--prompts", prompts, "--batch_size", 2)
    assert [(row["file"], row["prompt"]) for row in found["scores"]] == list(zip(NAMES, PROMPTS, strict=True))
    rewards = {
        "hps": HPSv2Reward(**tiny["hps"]), "clip": ClipReward(**tiny["clip"]), "ir": ImageReward(**tiny["image_reward"])
    }  # fmt: skip
    assert list(found["scores"][0]["scores"]) == ["hps", "clip", "ir"]
    for name, reward in rewards.items():
        expected = direct(reward, images, NAMES)
        assert column(found, name) == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert len({round(value, 4) for value in expected}) == 4
        statistics = found["summary"]["all"][name]
        assert statistics["mean"] == pytest.approx(np.mean(column(found, name)), rel=1e-12)
        assert statistics["std"] == pytest.approx(np.std(column(found, name), ddof=1), rel=1e-12)
    assert found["environment"]["packages"]["hn"] == hn.__version__
    assert (found["images"], found["batch_size"], found["device"]) == (4, 2, "cpu")
    assert (found["folder"], found["prompts"]) == (str(images), [str(prompts)])
    assert found["rewards"]["clip"]["init_args"]["pretrained"] == tiny["clip"]["pretrained"]


def test_the_csv_has_the_same_numbers(images, tmp_path, score) -> None:
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": f'{p}, "é"'}) + "\n" for p in PROMPTS))
    found = score("--rewards", "redness,jpeg_size", "brightness", "--images", images, "--prompts", "p.jsonl")
    with (tmp_path / "out" / "scores.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "prompt", "redness", "jpeg_size", "brightness"]
    assert [row["prompt"] for row in rows] == [f'{p}, "é"' for p in PROMPTS]
    for name, reward in (
        ("redness", RednessReward()),
        ("jpeg_size", JpegSizeReward()),
        ("brightness", BrightnessReward()),
    ):
        assert [float(row[name]) for row in rows] == column(found, name)
        assert column(found, name) == pytest.approx(direct(reward, images, NAMES), rel=1e-5)


def test_rewards_that_read_no_prompts_need_none(images, tmp_path, score, refused, config) -> None:
    found = score("--metrics", "saturation", images)
    assert [row["prompt"] for row in found["scores"]] == [None] * 4
    assert (tmp_path / "out" / "scores.csv").read_text().splitlines()[1].startswith("a.png,,0.")
    message = refused("--metrics", f"saturation,{config}", images)
    assert f"hps, clip, ir read prompts, and {images} has none: give a file of them with --prompts" in message


def test_several_images_of_a_prompt(images, tmp_path, score, refused) -> None:
    (tmp_path / "two.txt").write_text("a red ball\n\n  two cube\n")
    found = score("--metrics", "redness", images, "--prompts", "two.txt", "--images_per_prompt", "2")
    assert [row["prompt"] for row in found["scores"]] == ["a red ball"] * 2 + ["two cube"] * 2
    message = refused("--metrics", "redness", images, "--prompts", "two.txt")
    assert "images has 4 images, but two.txt has 2 prompts; blank lines do not count" in message
    assert "if 2 in a row are of one prompt, say --images_per_prompt 2." in message
    message = refused("--metrics", "redness", images, "--prompts", "two.txt", "--images_per_prompt", "3")
    assert "With 3 images of each prompt these have to be 6 images.\n" in message
    assert "name that file" in refused("--metrics", "redness", images, "--images_per_prompt", "2")


@pytest.mark.slow
def test_what_generate_wrote_is_scored_method_by_method(tmp_path, score, monkeypatch, capsys) -> None:
    """The miniature end to end: its images, its CLIP reward, its experiment."""
    monkeypatch.chdir(ROOT)
    folder = tmp_path / "generated"
    main(["generate", "--generator", "data/miniature/pipeline", "--hypernet", "data/miniature/hypernet", "--compare",
          "--count", "3", "--steps", "1", "--prompt", "a photo of a red ring", "a photo of three stars",
          "--output", str(folder)])  # fmt: skip
    capsys.readouterr()
    found = score("--metrics", "experiments/miniature.yaml", folder, output=str(tmp_path / "out"))
    prompts = ["a photo of a red ring"] * 3 + ["a photo of three stars"] * 3
    names = [f"{number:04d}_{method}.png" for method in ("base", "hypernetwork") for number in range(6)]
    assert [row["file"] for row in found["scores"]] == names  # and not overview.png
    assert [row["method"] for row in found["scores"]] == ["base"] * 6 + ["hypernetwork"] * 6
    assert [row["prompt"] for row in found["scores"]] == prompts * 2
    clip = ClipReward("data/miniature/clip", scale="cosine", encode_batch_size=1)
    assert column(found, "clip") == pytest.approx(direct(clip, folder, names, tuple(prompts * 2)), rel=1e-4)
    assert list(found["summary"]) == ["all", "base", "hypernetwork"]
    for i, method in enumerate(("base", "hypernetwork")):
        values = column(found, "clip")[6 * i : 6 * i + 6]
        assert found["summary"][method]["clip"]["mean"] == pytest.approx(np.mean(values))
    assert found["summary"]["hypernetwork"]["clip"]["mean"] > found["summary"]["base"]["clip"]["mean"]
    shown = capsys.readouterr()
    assert shown.out.startswith("12 images of 2 prompts\n") and "hypernetwork: mean ± std" in shown.out
    clip_row = next(line for line in shown.out.splitlines() if line.split()[:1] == ["clip"])
    assert f"{found['summary']['base']['clip']['mean']:.4f} ± {found['summary']['base']['clip']['std']:.4f}" in clip_row
    assert "clip: 2/2 batches" in shown.err  # no terminal, no bar
    with (tmp_path / "out" / "scores.csv").open() as file:
        assert next(csv.reader(file)) == ["file", "prompt", "method", "clip", "redness", "clip_held_out"]


@pytest.mark.slow
def test_what_predict_wrote_is_scored(run_of_experiment, experiment, score) -> None:
    main(["predict", "--config", str(experiment), "--run.name", run_of_experiment.name])
    folder = run_of_experiment / "images"
    assert (folder / "final.png").is_file()  # the training's pictures lie there too, and are none of the prompts'
    found = score("--metrics", "redness", folder)
    first = found["scores"][0]
    assert (first["file"], first["prompt"]) == ("00000/samples/0000.png", "a photo of the red ball")
    assert len({row["prompt"] for row in found["scores"]}) == 5


def test_genevals_layout(images, tmp_path, score, refused) -> None:
    folder = tmp_path / "geneval"
    for number, prompt in (("00010", "two cube"), ("00002", "a red ball")):
        (folder / number / "samples").mkdir(parents=True)
        (folder / number / "metadata.jsonl").write_text(json.dumps({"prompt": prompt, "tag": "x"}))
        for name in ("0001.png", "0000.png"):
            Image.open(images / "a.png").save(folder / number / "samples" / name)
    found = score("--metrics", "redness", folder)
    assert [(row["file"], row["prompt"]) for row in found["scores"]] == [
        ("00002/samples/0000.png", "a red ball"), ("00002/samples/0001.png", "a red ball"),
        ("00010/samples/0000.png", "two cube"), ("00010/samples/0001.png", "two cube"),
    ]  # fmt: skip
    (tmp_path / "run").mkdir()
    folder.rename(tmp_path / "run" / "images")
    assert f"did you mean {tmp_path / 'run' / 'images'}?" in refused("--metrics", "redness", tmp_path / "run")
    folder = tmp_path / "run" / "images"
    (folder / "00002" / "metadata.jsonl").write_text('{"prompt": " "}')
    assert 'non-empty string "prompt"' in refused("--metrics", "redness", folder)
    (folder / "00002" / "metadata.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}')
    assert "00002/metadata.jsonl has 2 rows" in refused("--metrics", "redness", folder)


def test_weights_in_another_type(images, prompts, config, tiny, score) -> None:
    found = score("--metrics", f"{config},redness", images, "--prompts", prompts, "--dtype", "bfloat16")
    assert {found["rewards"][name]["init_args"].get("dtype") for name in ("hps", "clip", "ir")} == {"bfloat16"}
    assert "init_args" not in found["rewards"]["redness"]
    expected = direct(ClipReward(**tiny["clip"], dtype="bfloat16"), images, NAMES)
    assert column(found, "clip") == pytest.approx(expected, abs=0.05)
    assert column(found, "clip") != pytest.approx(direct(ClipReward(**tiny["clip"]), images, NAMES), rel=1e-5)


def test_class_paths_and_files_of_rewards_alone(images, prompts, tiny, score, tmp_path) -> None:
    single = {"class_path": "hn.rewards.clip.ClipReward", "init_args": {**tiny["clip"], "scale": "cosine"}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(single))
    (tmp_path / "several.yaml").write_text(
        yaml.safe_dump({"rewards": {"hpsv2.1": SHORT_NAMES["redness"], "c": single}})
    )
    words = "hn.rewards.BrightnessReward,mine.yaml,several.yaml,redness"
    found = score("--metrics", words, images, "--prompts", prompts)
    assert list(found["rewards"]) == ["BrightnessReward", "mine", "hpsv2.1"]  # each reward once
    assert column(found, "hpsv2.1") == pytest.approx(direct(RednessReward(), images, NAMES), rel=1e-5)
    assert column(found, "mine") == pytest.approx(
        direct(ClipReward(**tiny["clip"], scale="cosine"), images, NAMES), rel=1e-4
    )


def test_every_short_name_is_of_a_reward() -> None:
    classes = {name: import_class(section["class_path"], Reward) for name, section in SHORT_NAMES.items()}
    assert {name for name, reward in classes.items() if not reward.reads_prompts} == {
        "aesthetic", "redness", "brightness", "saturation", "jpeg_size"
    }  # fmt: skip


def test_missing_weights_are_named_at_once(images, prompts, refused, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    words = "hps,imagereward,clip,pickscore,aesthetic,redness"
    message = refused("--metrics", words, images, "--prompts", prompts)
    for command in (
        "xswu/HPSv2 HPS_v2.1_compressed.pt",
        "zai-org/ImageReward",
        'google-bert/bert-base-uncased --include "*.json" --include "*.txt"',
        "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        "yuvalkirstain/PickScore_v1",
        "openai/clip-vit-large-patch14",
        "camenduru/improved-aesthetic-predictor sac+logos+ava1-l14-linearMSE.pth",
    ):
        assert message.count(f"hf download {command}\n") == 1


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (["--metrics", "hpps"], ["There is no metric 'hpps'; did you mean hps", "Known are hps, hpsv2"]),
        (["--metrics", "hpsv2.2"], ["There is no metric 'hpsv2.2'; did you mean hpsv2", "? Known are hps"]),
        (["--metrics", "image_reward"], ["There is no metric 'image_reward'; did you mean imagereward"]),
        (
            ["--metrics", "dpg"],
            ["There is no metric 'dpg'; ", ", geneval, soft_tifa, blip_vqa, spatial, besides class"],
        ),
        (["--metrics", ","], ["Missing: --metrics. Usage: hn score --metrics NAME"]),
        (["--metrics", "no.such.Reward"], ["No class at 'no.such.Reward'"]),
        (["--metrics", "torch.nn.Linear"], ["'torch.nn.Linear' is not a subclass of hn.rewards.base.Reward"]),
        (["--metrics", "no.yaml"], ["There is no configuration file no.yaml"]),
        (["--dtype", "bf16"], ["Unknown dtype 'bf16'; choose one of"]),
        (["--device", "cuda:99"], ["There is no device 'cuda:99' here; choose auto or one of cpu"]),
        (["--device", "gpu"], ["There is no device 'gpu' here"]),
        (["--batch_size", "0"], ["batch_size must be at least 1, not 0"]),
        (["--images", "nowhere"], ["There is no folder nowhere"]),
        (["--images", "prompts.txt"], ["There is no folder prompts.txt, it is a file"]),
        (["--prompts", "no.txt"], ["no.txt: there is no such prompt file"]),
        (["--output", "prompts.txt"], ["--output prompts.txt has to be a folder"]),
        (["--output", "scores.csv"], ["--output scores.csv has to be a folder"]),
        (["--detector", "experiment.yaml"], ["--detector is for geneval, which is not among the metrics"]),
        (["--imges", "x"], ["--imges: did you mean --images?", "hn score --help"]),
        (["--config", "x.yaml"], ["hn score --help"]),
    ],
)
def test_a_slip_gives_one_message_before_weights_are_loaded(images, prompts, refused, options, messages) -> None:
    right = {"--metrics": "redness", "--images": str(images), "--prompts": str(prompts)}
    given = right | dict(zip(options[::2], options[1::2], strict=True))
    message = refused(*(word for pair in given.items() for word in pair))
    for part in messages:
        assert part in message


def test_missing_options_are_named(refused, images, prompts) -> None:
    message = refused(images)
    assert "Missing: --metrics. Usage: hn score --metrics NAME" in message
    assert "\nRewards: hps, " in message and "\nBenchmarks: geneval, soft_tifa, blip_vqa, spatial.\n" in message
    assert "Give FOLDER, once: hn score --metrics NAME" in refused("--metrics", "redness")
    assert "Give FOLDER, once: " in refused("--metrics", "redness", images, "--images", images)
    message = refused("--metrics", "redness", images, "--prompts", prompts, "drawbench")
    assert "--prompts is one file for rewards alone, with the prompts of all images" in message
    message = refused("--metrics", "redness,geneval", images, "--images_per_prompt", "2")
    assert "--images_per_prompt is for rewards alone" in message


def test_rewards_of_a_file_that_cannot_be(images, refused, tmp_path) -> None:
    def of(content: dict[str, Any]) -> str:
        (tmp_path / "x.yaml").write_text(yaml.safe_dump(content))
        return refused("--metrics", "redness,x.yaml", images)

    assert "x.yaml describes no metric" in of({"trainer": {"max_steps": 1}})
    assert "x.yaml cannot be resolved" in of({"model": {"reward": {"rewards": {"a": "${vars.x}"}}}})
    saturation = SHORT_NAMES["saturation"]
    assert "Two rewards are called 'redness'; rename one" in of({"rewards": {"redness": saturation}})
    message = of({"class_path": "hn.rewards.JpegSizeReward", "init_args": {"qualty": 3}})
    assert "qualty" in message
    assert "quality" in of({"class_path": "hn.rewards.JpegSizeReward", "init_args": {"quality": "high"}})


def test_images_that_cannot_be_read_are_named(images, refused) -> None:
    whole = (images / "b.jpg").read_bytes()
    (images / "b.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "c.webp").write_text("no image")
    png = (images / "d.PNG").read_bytes()
    (images / "d.PNG").write_bytes(png[: len(png) // 2])
    Image.fromarray(np.zeros((8, 8), dtype=np.uint16)).save(images / "e.png")
    message = refused("--metrics", "redness", images)
    for name in ("b.jpg", "c.webp", "d.PNG", "e.png"):
        assert f"{images / name} cannot be read: " in message
    assert "mode I;16; save it with 8 bits a channel" in message and "a.png" not in message


def test_an_empty_folder_and_wrong_metadata(tmp_path, refused, images) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty has no images (.png, .jpg, .jpeg, .webp)." in refused("--metrics", "redness", "empty")
    for content, message in (
        ("{", "metadata.json, line 1: not JSON"),
        ('{"images": [{"file": "a.png"}]}', "images[0] has no 'prompt', which has to be a string"),
        ('{"images": []}', "names no images"),
        ('{"images": [{"file": "a.png", "prompt": " "}]}', "the prompt of a.png is empty"),
        ('{"images": [{"file": "a.png", "prompt": "x"}, {"file": "z.png", "prompt": "x"}]}', "does not have: z.png."),
    ):
        (images / "metadata.json").write_text(content)
        assert message in refused("--metrics", "redness", images)
    (tmp_path / "p.txt").write_text("x\n")
    message = refused("--metrics", "redness", images, "--prompts", "p.txt")
    assert "has the prompts of its images itself (metadata.json); leave the file of prompts out" in message


@pytest.fixture
def scored(monkeypatch) -> list[int]:
    """Numbers of images in the batches that redness scores."""
    seen, direct = [], RednessReward.score
    monkeypatch.setattr(
        RednessReward, "score", lambda self, batch, prompts: seen.append(len(batch)) or direct(self, batch, prompts)
    )
    return seen


def test_an_interrupted_run_continues_to_the_same_files(images, tmp_path, score, scored, monkeypatch, capsys) -> None:
    whole = score("--metrics", "redness,brightness", images, "--batch_size", "1", output="whole")
    assert scored == [1] * 4
    brightness = BrightnessReward.score
    monkeypatch.setattr(BrightnessReward, "score", interrupting_after(2, brightness))
    command = ["score", "--metrics", "redness,brightness", str(images), "--batch_size", "1", "--output", "out"]
    with pytest.raises(SystemExit) as caught:
        main([*command, "--device", "cpu"])
    assert caught.value.code == 130 and "interrupted" in capsys.readouterr().err
    assert len((tmp_path / "out" / "brightness.jsonl").read_text().splitlines()) == 2
    assert not (tmp_path / "out" / "scores.json").exists()
    monkeypatch.setattr(BrightnessReward, "score", interrupting_after(2, brightness))
    scored.clear()
    found = score("--metrics", "redness,brightness", images, "--batch_size", "1")
    assert scored == [] and found == whole
    assert (tmp_path / "out" / "scores.csv").read_bytes() == (tmp_path / "whole" / "scores.csv").read_bytes()


def interrupting_after(calls: int, function: Callable[..., Any]) -> Callable[..., Any]:
    left = iter(range(calls))

    def call(*arguments: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return function(*arguments)

    return call


def test_results_are_beside_the_images_and_go_on_with_another_metric(images, scored, capsys, refuse) -> None:
    main(["score", "--metrics", "redness", str(images), "--device", "cpu"])
    shown = capsys.readouterr().out
    assert shown.startswith("4 images\n") and f"scores       {images / 'scores.json'} and scores.csv" in shown
    assert f"results      {images}: redness.jsonl\n" in shown
    main(["score", "--metrics", "redness,saturation", str(images), "--device", "cpu"])
    assert sum(scored) == 4
    assert list(json.loads((images / "scores.json").read_text())["summary"]["all"]) == ["redness", "saturation"]
    Image.new("RGB", (32, 32), "red").save(images / "b.jpg")
    written = (images / "redness.jsonl").stat().st_mtime_ns
    os.utime(images / "b.jpg", ns=(0, written - 10**10))  # older than the results
    main(["score", "--metrics", "redness", str(images), "--device", "cpu"])
    assert sum(scored) == 5
    (images / "redness.yaml").write_text(yaml.safe_dump({"class_path": "hn.rewards.brightness.BrightnessReward"}))
    message = refuse("score", "--metrics", images / "redness.yaml", images, "--device", "cpu")
    assert "redness.jsonl has scores with other settings (reward differ, see redness.summary.json)" in message


@pytest.mark.parametrize("shards", [None, ("0/2", "1/2")])
def test_scores_are_of_the_images_content(images, tmp_path, scored, capsys, shards) -> None:
    """A second folder has files of the same names, which are older than the first one's results."""
    other = Path(shutil.copytree(images, tmp_path / "other"))
    for path in (other / name for name in NAMES):
        Image.new("RGB", (32, 32), "red").save(path)
        os.utime(path, (0, 0))
    output = ["--output", str(tmp_path / "all"), "--device", "cpu"]
    main(["score", "--metrics", "redness", str(images), *output])
    capsys.readouterr()
    for shard in shards or [None]:
        main(["score", "--metrics", "redness", str(other), *output, *([] if shard is None else ["--shard", shard])])
    assert sum(scored) == 8 and "4 scores in" in capsys.readouterr().out
    written = json.loads((tmp_path / "all" / "scores.json").read_text())
    assert written["folder"] == str(other) and written["images"] == 4
    assert written["summary"]["all"]["redness"]["std"] < 0.01
    main(["score", "--metrics", "redness", str(other.rename(tmp_path / "renamed")), *output])
    assert sum(scored) == 8  # the same images by another name


def test_scores_of_other_images_are_not_dropped_in_silence(images, tmp_path, refuse) -> None:
    first, second = images / "first.json", images / "second.json"
    for path, names in ((first, ["a.png", "b.jpg"]), (second, ["c.webp"])):
        path.write_text(json.dumps({f"prompt {name}": name for name in names}))
    words = ("score", "--device", "cpu", "--metrics", "redness")
    main([*words, str(first)])
    before = (images / "redness.jsonl").read_bytes()
    message = refuse(*words, str(second))
    assert "redness.jsonl has scores of 2 images that are not among those to score now" in message
    assert (images / "redness.jsonl").read_bytes() == before
    main([*words, str(second), "--output", str(tmp_path / "second")])


def test_scores_of_other_weights_are_not_continued(images, prompts, tmp_path, refuse, tiny) -> None:
    """The file that describes the reward is the same; what its folder of weights holds is not."""
    weights = Path(shutil.copytree(tiny["clip"]["pretrained"], tmp_path / "weights"))
    file = tmp_path / "reward.yaml"
    section = {"class_path": "hn.rewards.clip.ClipReward", "init_args": {"pretrained": str(weights)}}
    file.write_text(yaml.safe_dump(section))
    words = ("score", "--device", "cpu", "--metrics", str(file), str(images), "--prompts", str(prompts))
    main([*words])
    (weights / "config.json").write_text((weights / "config.json").read_text() + "\n")
    assert "has scores with other settings (weights differ" in refuse(*words)


def test_shards_give_the_files_of_one_run(images, tmp_path, score, scored, capsys) -> None:
    words = ("--metrics", "redness,brightness", images, "--batch_size", "1")
    whole = score(*words, output="whole")
    capsys.readouterr()
    scored.clear()
    main(["score", *map(str, words), "--output", "out", "--device", "cpu", "--shard", "1/2"])
    message = "shard 1/2 is done; the others have not scored yet: 2 images for redness, 2 images for brightness\n"
    assert scored == [1, 1] and capsys.readouterr().out == message
    assert score(*words, "--shard", "0/2") == whole
    assert scored == [1] * 4
    for name in ("redness.jsonl", "brightness.jsonl", "scores.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_folder_that_cannot_be_written_to(images, refused, monkeypatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    message = refused("--metrics", "redness", images)
    assert f"Nothing can be written to {images}; choose another folder with --output" in message


def test_a_score_that_is_not_finite_is_said(images, tmp_path, monkeypatch, score, capsys) -> None:
    monkeypatch.setattr(RednessReward, "score", lambda self, images, prompts: images.mean((1, 2, 3)) / 0)
    found = score("--metrics", "redness,brightness", images)
    assert column(found, "redness") == [None] * 4 and found["summary"]["all"]["redness"] == {
        "mean": None,
        "std": None,
        "n": 0,
    }
    assert all(math.isfinite(value) for value in column(found, "brightness"))
    assert "4 of redness's scores are not finite" in capsys.readouterr().out
    assert (tmp_path / "out" / "scores.csv").read_text().splitlines()[1].startswith("a.png,,,0.")


def test_one_image_has_no_deviation(images, score) -> None:
    for name in NAMES[1:]:
        (images / name).unlink()
    found = score("--metrics", "redness", images)
    assert found["summary"]["all"]["redness"] == {"mean": column(found, "redness")[0], "std": None}


def test_help_lists_the_options(capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["score", "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: hn score --metrics NAME")
    for option in (
        "--metrics",
        "--geneval.threshold",
        "--prompts",
        "--images_per_prompt",
        "--output",
        "--dtype",
        "imagereward",
    ):
        assert option in shown
    assert "--geneval CONFIG" not in shown


@pytest.mark.parametrize(
    ("old", "new"), [("geneval", "hn score --metrics geneval"), ("judge", "hn score --metrics NAME")]
)
def test_old_names_say_what_they_stand_for(old, new, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main([old, "--help"])
    assert caught.value.code == 0
    note, pointer = capsys.readouterr().out.splitlines()
    assert f"is an alias of `{new}`" in note and pointer.endswith("hn score --help")
