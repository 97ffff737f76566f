"""Images that a reward chooses among several."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from hn.cli import main
from hn.evaluation.best_of import BestOf
from hn.evaluation.methods import Sampled, TrainedMethod
from hn.evaluation.samples import Samples
from hn.hypernets import LoraFinetune, LoraHypernet
from hn.rewards.named import choosing_section

PROMPTS = ["a red ball", "two cube"]


def redness(images, prompts):
    return images[:, 0].mean((1, 2)) - images[:, 1:].mean((1, 2, 3))


@pytest.fixture
def trained(generator):
    """A network with weights, of the kind given."""

    def make(network):
        network.build(generator)
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.requires_grad:
                    parameter += 0.05
        return network

    return make


@pytest.fixture
def samples(generator):
    return Samples.of_prompts(generator, PROMPTS, 2, seed=3)


@pytest.mark.parametrize("kind", ["base", "hypernetwork", "finetune"])
@pytest.mark.parametrize("scheduler", [None, "diffusers.LCMScheduler"])  # which draws noise at each step
def test_the_first_candidate_is_the_methods_own_image(make_generator, trained, kind, scheduler):
    generator = make_generator(steps=2, **({} if scheduler is None else {"scheduler": scheduler}))
    networks = {"hypernetwork": LoraHypernet(rank=2), "finetune": LoraFinetune(rank=2)}
    method = Sampled("base", generator) if kind == "base" else TrainedMethod(_shaken(networks[kind].build(generator)))
    samples = Samples.of_prompts(generator, PROMPTS, 1, seed=3)
    output = BestOf(method, 3, redness, batch_size=2, keep_images=True)(samples)
    for made, own in zip(output.candidates.images, method(samples).images, strict=True):
        assert len(made) == 3 and torch.equal(made[0], own) and not torch.equal(made[1], made[0])


def _shaken(network):
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter += 0.05
    return network


def test_the_best_is_chosen_and_all_scores_are_known(generator, trained, samples):
    method = TrainedMethod(trained(LoraHypernet(rank=2)))
    chooser = BestOf(method, 4, redness, batch_size=3, keep_images=True)
    assert (chooser.name, chooser.nfe) == ("hypernetwork", 4 * method.nfe)
    output = chooser(samples)
    for place, (scores, chosen) in enumerate(zip(output.candidates.scores, output.candidates.chosen, strict=True)):
        made = torch.stack(output.candidates.images[place])
        assert scores == pytest.approx(redness(made, None).tolist(), abs=1e-6)
        assert scores[chosen] == max(scores)
        assert torch.equal(output.images[place], made[chosen])
    assert BestOf(method, 2, redness)(samples).candidates.images == [[], [], [], []]


def test_candidates_do_not_depend_on_the_batch(generator, samples):
    together = BestOf(Sampled("base", generator), 3, redness, batch_size=5)(samples).candidates
    alone = Samples(["two cube"], [{}], [1], [1], 3, samples.noise[3:])
    found = BestOf(Sampled("base", generator), 3, redness)(alone).candidates
    assert found.scores[0] == pytest.approx(together.scores[3], abs=1e-6)


def test_a_score_that_is_no_number_is_not_chosen(generator, samples):
    calls = []

    def reward(images, prompts):
        calls.append(len(calls))
        return torch.tensor([float("nan") if calls[-1] == 0 else -float(calls[-1])])

    one = Samples(samples.prompts[:1], samples.metadata[:1], [0], [0], 3, samples.noise[:1])
    found = BestOf(Sampled("base", generator), 3, reward)(one).candidates
    assert (found.scores, found.chosen) == ([[None, -1.0, -2.0]], [1])


def test_numbers_that_are_too_small_are_refused(generator):
    with pytest.raises(ValueError, match="n must be at least 1, not 0"):
        BestOf(Sampled("base", generator), 0, redness)


@pytest.fixture
def hypernet(trained, tmp_path) -> Path:
    folder = tmp_path / "hypernet"
    trained(LoraHypernet(rank=2)).save_pretrained(folder)
    return folder


@pytest.fixture
def generate(tiny_pipeline_folder, tmp_path, monkeypatch):
    """Runs `hn generate` on the tiny pipeline; returns the folder that it wrote to."""
    monkeypatch.chdir(tmp_path)

    def run(*options: str, output: str = "out") -> Path:
        words = ["generate", "--generator", str(tiny_pipeline_folder), "--prompt", *PROMPTS, "--output", output]
        main([*words, *map(str, options)])
        return tmp_path / output

    return run


def metadata(folder: Path) -> dict:
    return json.loads((folder / "metadata.json").read_text(encoding="utf-8"))


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_images_and_metadata_of_the_chosen(generate, hypernet, capsys):
    options = ["--hypernet", hypernet, "--count", "2", "--seed", "5"]
    plain = generate(*options, output="plain")
    capsys.readouterr()
    folder = generate(*options, "--best_of", "3", "--reward", "redness", "--keep_candidates")
    stems = [f"000{number}_hypernetwork" for number in range(4)]
    assert {path.name for path in folder.iterdir()} == {
        *(f"{stem}.png" for stem in stems),
        "metadata.json",
        "candidates",
    }
    found = metadata(folder)
    assert (found["best_of"], found["reward_weights"]) == (3, {"redness": 1.0})
    for stem, entry in zip(stems, found["images"], strict=True):
        scores = entry["candidate_scores"]
        assert len(scores) == 3 and entry["score"] == max(scores) == scores[entry["candidate"]]
        kept = [folder / "candidates" / f"{stem}_{number:03d}.png" for number in range(3)]
        assert np.array_equal(pixels(folder / f"{stem}.png"), pixels(kept[entry["candidate"]]))
        assert np.array_equal(pixels(plain / f"{stem}.png"), pixels(kept[0]))
        assert entry["nfe"] == 6
        text = Image.open(folder / f"{stem}.png").text
        assert json.loads(text["candidate_scores"]) == scores and text["candidate"] == str(entry["candidate"])
        assert [Image.open(path).text["candidate"] for path in kept] == ["0", "1", "2"]
        assert [float(Image.open(path).text["score"]) for path in kept] == scores
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("best of 3")]
    best, all_scores = ([e[key] for e in found["images"][:2]] for key in ("score", "candidate_scores"))
    mean = sum(sum(scores) for scores in all_scores) / 6
    assert lines[0] == f"best of 3    a red ball: hypernetwork best {sum(best) / 2:.4g}, mean {mean:.4g}"
    assert len(lines) == 2 and lines[1].startswith("best of 3    two cube: hypernetwork best ")


def test_an_image_depends_on_seed_and_number_alone(generate):
    options = ["--best_of", "2", "--reward", "redness"]
    many = generate("--count", "2", *options)
    one = generate("--count", "1", *options, output="one")
    assert np.array_equal(pixels(many / "0002_base.png"), pixels(one / "0001_base.png"))
    assert not (one / "candidates").exists()


@pytest.mark.slow
def test_the_experiments_reward_chooses(generate, hypernet, experiment, tmp_path):
    options = ["--hypernet", str(hypernet), "--count", "1", "--best_of", "3"]
    words = ["--run.name", "x", "--prompt", json.dumps(PROMPTS), "--keep_candidates"]
    main(["generate", "--config", str(experiment), *words, *options])
    folder = tmp_path / "runs" / "tiny" / "generate_x"
    assert len([*(folder / "candidates").iterdir()]) == 12 and (folder / "overview.png").is_file()
    entries = metadata(folder)["images"]
    assert [entry["method"] for entry in entries] == ["base"] * 2 + ["hypernetwork"] * 2
    assert metadata(folder)["reward_weights"] == {"clip": 1.0, "redness": 0.0}
    # without the experiment, its file names the reward
    other = generate(*options, "--compare", "--reward", str(experiment), output="other")
    assert metadata(other)["reward_weights"] == {"clip": 1.0}
    for entry, same in zip(entries, metadata(other)["images"], strict=True):
        assert entry["candidate_scores"] == pytest.approx(same["candidate_scores"], abs=1e-5)
        assert np.array_equal(pixels(folder / entry["file"]), pixels(other / same["file"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--best_of", "0", "--reward", "redness"], "best_of (0) must be at least 1"),
        (["--best_of", "2"], "--best_of N and --reward go together"),
        (["--reward", "redness"], "--best_of N and --reward go together"),
        (["--keep_candidates"], "keep_candidates keeps the images among which best_of chooses"),
        (["--best_of", "2", "--reward", "clop"], "There is no metric 'clop'; did you mean clip?"),
        (["--best_of", "2", "--reward", "nothing.yaml"], "There is no configuration file nothing.yaml"),
        (["--best_of", "2", "--reward", "none.yaml"], "none.yaml has no reward with a weight other than 0"),
        (["--best_of", "2", "--reward", "gone.yaml"], "data/gone"),
    ],
)
def test_what_cannot_choose_is_refused_before_weights_are_read(
    refuse, tiny_pipeline_folder, tmp_path, monkeypatch, options, message
):
    monkeypatch.chdir(tmp_path)
    redness = {"class_path": "hn.rewards.redness.RednessReward"}
    Path("none.yaml").write_text(yaml.safe_dump({"rewards": {"redness": redness}, "weights": {"redness": 0}}))
    gone = {"class_path": "hn.rewards.clip.ClipReward", "init_args": {"pretrained": "data/gone"}}
    Path("gone.yaml").write_text(yaml.safe_dump(gone))
    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    shown = refuse("generate", "--generator", tiny_pipeline_folder, "--prompt", "a ball", *options)
    assert message in shown and not (tmp_path / "runs").exists()


def test_an_experiment_refuses_too(refuse, experiment, hypernet, monkeypatch):
    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    words = ["generate", "--config", str(experiment), "--prompt", "a ball", "--hypernet", str(hypernet), "--best_of"]
    assert "best_of (0) must be at least 1" in refuse(*words, "0")
    message = refuse(*words, "2", "--model.reward.init_args.weights", "{clip: 0, redness: 0}")
    assert "best_of needs a reward that chooses" in message


def test_what_a_word_has_choose(tmp_path):
    assert choosing_section("redness")["init_args"] == {
        "rewards": {"redness": {"class_path": "hn.rewards.redness.RednessReward"}},
        "weights": {"redness": 1.0},
        "gradient_free": True,
    }
    single = {"class_path": "hn.rewards.brightness.BrightnessReward"}
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"model": {"reward": single}}))
    assert choosing_section(str(file))["init_args"]["rewards"] == {"mine": single}
    ensemble = {
        "rewards": {"a": single, "b": single, "c": single}, "held_out": {"d": single}, "cache": True,
        "weights": {"a": 2.0, "b": 0.0, "c": -1.0}, "quantise": {"a": "int8", "d": "int8"}, "balance_gradients": True,
    }  # fmt: skip
    file.write_text(yaml.safe_dump({"model": {"reward": {"init_args": ensemble}}}))
    assert choosing_section(str(file))["init_args"] == {
        "rewards": {"a": single, "c": single}, "weights": {"a": 2.0, "c": -1.0}, "quantise": {"a": "int8"},
        "gradient_free": True,
    }  # fmt: skip
