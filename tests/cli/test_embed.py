"""`hn embed`, and training on what it wrote."""

import json
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback

from hn.cli import main
from hn.cli.embed import embed_prompts
from hn.data import PromptDataModule
from hn.generators import DiffusersGenerator
from hn.hypernets import LoraHypernet
from hn.rewards import RednessReward, RewardEnsemble
from hn.training.module import NoiseHypernetModule
from tests.tiny_pipelines import CASES

CPU = torch.device("cpu")
PROMPTS = [f"{start} {color} ball" for start in ("a", "the") for color in ("red", "blue", "green", "photo")]


@pytest.fixture
def meta_generator(tiny_pipeline_folder: Path, tmp_path: Path) -> Callable[[], DiffusersGenerator]:
    options = {"cache": str(tmp_path / "cache"), "encode_batch_size": 1}
    return lambda: DiffusersGenerator.build_on_meta(str(tiny_pipeline_folder), **options)


def shards(generator: DiffusersGenerator) -> dict[str, int]:
    """Names and times of change of the files."""
    return {path.name: path.stat().st_mtime_ns for path in generator.conditioning.folder.glob("*.safetensors")}


def test_an_interrupted_run_is_gone_on_with(meta_generator, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(batches: Iterable[list[str]], name: str) -> Iterator[list[str]]:
        yield from islice(batches, 3)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("hn.data.encodings.write.with_progress", interrupted)
        with pytest.raises(KeyboardInterrupt):
            embed_prompts(meta_generator(), PROMPTS, CPU, shard_bytes=1)
    before = shards(meta_generator())
    assert list(before) and len(before) == 3
    done = embed_prompts(meta_generator(), PROMPTS, CPU, shard_bytes=1)
    assert (done.prompts, done.written) == (8, 5)
    after = shards(meta_generator())
    assert len(after) == 8 and {name: after[name] for name in before} == before
    assert embed_prompts(meta_generator(), [*PROMPTS, *PROMPTS], CPU).written == 0
    assert shards(meta_generator()) == after


def test_what_cannot_be_embedded_is_said_before_anything_is_written(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    options = {"cache": str(tmp_path / "cache"), "strict_vocabulary": True}
    generator = DiffusersGenerator.build_on_meta(str(tiny_pipeline_folder), **options)
    with pytest.raises(ValueError, match="outside the generator's vocabulary: 'cubes'"):
        embed_prompts(generator, ["a ball", "two cubes"], CPU)
    with pytest.raises(ValueError, match="There are no prompts to embed"):
        embed_prompts(generator, [], CPU)
    assert not generator.conditioning.folder.exists()


def test_too_large_a_set_is_refused_before_anything_is_written(meta_generator, monkeypatch: pytest.MonkeyPatch) -> None:
    each = 12 * 12 * 4  # tokens, channels, bytes of float32
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=8 * each - 1))
    with pytest.raises(OSError, match="About 4.61 kB are needed in .*, where 4.61 kB are free"):
        embed_prompts(meta_generator(), PROMPTS, CPU)
    assert not meta_generator().conditioning.folder.exists()
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=8 * each))
    assert embed_prompts(meta_generator(), PROMPTS, CPU).written == 8


def test_two_processes_do_not_write_twice(meta_generator) -> None:
    context = multiprocessing.get_context("fork")
    generator, barrier, results = meta_generator(), context.Barrier(2), context.Queue()

    def work() -> None:
        barrier.wait()
        results.put(embed_prompts(generator, PROMPTS, CPU, shard_bytes=1).written)

    processes = [context.Process(target=work) for _ in range(2)]
    for process in processes:
        process.start()
    written = sorted(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(timeout=60)
    assert written == [0, 8]
    assert len(shards(meta_generator())) == 8
    assert not meta_generator().conditioning.missing(PROMPTS)


class Losses(Callback):
    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.values.append(outputs["loss"].item())


@pytest.mark.parametrize(
    "name", ["stable_diffusion", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sana", "flux"))]
)
@pytest.mark.parametrize("precision", ["32-true", pytest.param("bf16-mixed", marks=pytest.mark.slow)])
def test_training_on_files_is_training(name, precision, make_data, make_trainer, tmp_path) -> None:
    """The same losses, at a learning rate at which they move."""
    case = CASES[name]
    case.build().save_pretrained(tmp_path / "pipe")
    data: PromptDataModule = make_data()
    data.setup("fit")
    options = {"family": case.family, "height": case.size[0], "width": case.size[1], "encode_batch_size": 1}
    files = {**options, "cache": str(tmp_path / "cache")}
    prompts = [prompt for dataset in data.datasets.values() for prompt in dataset.prompts]
    embed_prompts(DiffusersGenerator.build_on_meta(str(tmp_path / "pipe"), **files), prompts, CPU)
    losses = []
    for each in (options, files):
        generator = DiffusersGenerator(str(tmp_path / "pipe"), **each)
        assert ("text_encoder" in generator.components) is ("cache" not in each)
        reward = RewardEnsemble({"redness": RednessReward()}, {"redness": 1.0})
        module = NoiseHypernetModule(
            generator, LoraHypernet(rank=2), reward, lambda weights: torch.optim.Adam(weights, 0.1), reward_weight=10.0
        )
        recorder = Losses()
        trainer = make_trainer(max_steps=4, callbacks=[recorder], precision=precision, limit_val_batches=0)
        trainer.fit(module, make_data())
        losses.append(recorder.values)
    assert len(losses[0]) == 4 and len(set(losses[0])) == 4
    assert losses[0] == pytest.approx(losses[1], abs=1e-6, rel=0)


@pytest.fixture
def conditioning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The user's folder of conditioning."""
    monkeypatch.setenv("HN_CONDITIONING", str(tmp_path / "conditioning"))
    return tmp_path / "conditioning"


@pytest.mark.slow
def test_the_command_says_how_far_it_is_and_goes_on_where_it_stopped(experiment: Path, conditioning, capsys) -> None:
    main(["embed", "--config", str(experiment)])
    written = capsys.readouterr()
    # 14 for training, 5 each for validation and test; those of the pictures are among them.
    (folder,) = conditioning.glob("*/")
    assert written.out == f"24 prompts, 24 of them new\nconditioning {folder}\n"
    assert "conditioning of 24 prompts, about 13.8 kB: 24/24 batches, " in written.err
    assert not (experiment.parent / "runs").exists()
    main(["embed", "--config", str(experiment)])
    assert "24 prompts, 0 of them new" in capsys.readouterr().out


@pytest.mark.slow
def test_commands_write_what_is_missing_and_give_the_same_results(experiment: Path, conditioning, capsys) -> None:
    run = experiment.parent / "runs" / "tiny"
    for name, cache in (("plain", "false"), ("files", "true"), ("again", "true")):
        main(["train", "--config", str(experiment), f"--model.generator.cache={cache}", "--run.name", name])
        progress = capsys.readouterr().err
        assert ("conditioning of" in progress) is (name == "files")
    plain, *others = (json.loads((run / name / "results.json").read_text()) for name in ("plain", "files", "again"))
    for other in others:
        for method, results in plain["methods"].items():
            for score in ("reward", "held_out_reward", "geneval", "kl_nats"):
                assert results[score] == other["methods"][method][score]
    weights = [
        torch.load(run / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("plain", "files", "again")
    ]
    for other in weights[1:]:
        assert all(torch.equal(tensor, other[key]) for key, tensor in weights[0].items())

    # `generate` takes prompts that are in no file, and adds none.
    (file,) = conditioning.glob("*/*.safetensors")
    size = file.stat().st_size
    main(
        ["generate", "--config", str(experiment), "--model.generator.cache=true", "--prompt", "the green cube , two ."]
    )
    assert [path.stat().st_size for path in conditioning.glob("*/*.safetensors")] == [size]


def test_files_that_cannot_be_written_are_one_message(experiment: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as caught:
        main(["embed", "--config", str(experiment), f"--model.generator.cache={tmp_path / 'file' / 'below'}"])
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert "error: " in message and str(tmp_path / "file") in message and "Traceback" not in message


@pytest.mark.slow
def test_text_features_of_rewards_are_written_too_and_give_the_same_results(
    experiment: Path, conditioning: Path, capsys
) -> None:
    cached = [f"--model.{part}.cache=true" for part in ("generator", "reward")]
    main(["embed", "--config", str(experiment), *cached])
    written = capsys.readouterr().out.splitlines()
    assert written[0::2] == ["24 prompts, 24 of them new"] * 3
    assert [line.split()[0] for line in written[1::2]] == ["conditioning", "clip", "clip_held_out"]
    assert sorted(line.split()[1] for line in written[1::2]) == sorted(map(str, conditioning.glob("[!.]*")))

    run = experiment.parent / "runs" / "tiny"
    for name, options in (("plain", []), ("files", cached)):
        main(["train", "--config", str(experiment), "--run.name", name, *options])
        assert " prompts, about" not in capsys.readouterr().err
    plain, files = (json.loads((run / name / "results.json").read_text())["methods"] for name in ("plain", "files"))
    for method, results in plain.items():
        for score in ("reward", "held_out_reward", "geneval", "kl_nats"):
            assert results[score] == files[method][score]


@pytest.mark.slow
def test_text_features_are_written_before_training_where_they_are_missing(
    experiment: Path, conditioning: Path, capsys
) -> None:
    main(["train", "--config", str(experiment), "--model.reward.cache=true"])
    assert "text features of 24 prompts, about 1.15 kB" in capsys.readouterr().err
    assert len(list(conditioning.glob("*/*.safetensors"))) == 2
    main(["generate", "--config", str(experiment), "--model.reward.cache=true", "--prompt", "the green cube , two ."])


def test_training_is_told_of_each_batch_ahead(make_module, make_data, make_trainer, monkeypatch) -> None:
    module, events = make_module(), []
    encode = module.generator.encode
    monkeypatch.setattr(module.generator, "prefetch", lambda prompts: events.append(("ahead", prompts)))
    monkeypatch.setattr(module.generator, "encode", lambda prompts: events.append(("now", prompts)) or encode(prompts))
    make_trainer(max_steps=5, limit_val_batches=0).fit(module, make_data())
    now = [prompts for kind, prompts in events if kind == "now"]
    # Three batches an epoch, of which the first is not announced, and the one after the last step is.
    assert [kind for kind, _ in events] == ["ahead", "now", "ahead", "now", "now", "ahead", "now", "ahead", "now"]
    assert [prompts for kind, prompts in events if kind == "ahead"][:3] == [now[1], now[2], now[4]]
