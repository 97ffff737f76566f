"""A downloaded repository that tries to run code: no command imports or unpickles anything of it."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from hn.cli.compare import class_of_experiment
from hn.cli.experiment import SettledExperiment
from hn.cli.generate import generate_parser
from hn.hypernets import LoraHypernet
from hn.hypernets.trained import load_trained
from hn.training.checkpoints import TrainingCheckpointIO

CODE = "from pathlib import Path\nPath('ran').touch()\nfrom hn.hypernets import LoraHypernet as X\n"
GENERATOR = {"name": "base", "backbone": "UNet2DConditionModel"}


class Trap:
    """Leaves a file when it is unpickled."""

    def __reduce__(self) -> tuple:
        return (exec, ("from pathlib import Path\nPath('ran').touch()",))


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """`repo`, in a working directory that is on Python's path, with code beside its files; none of it may run."""
    folder = tmp_path / "repo"
    folder.mkdir()
    for name in ("__init__.py", "evil.py"):
        (folder / name).write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    yield folder
    assert not Path("ran").exists()
    assert not {name for name in sys.modules if name.partition(".")[0] in ("repo", "evil")}


@pytest.mark.parametrize("path", ["repo.evil.X", "repo.X", "evil.X", "antigravity.X"])
def test_its_hypernetwork_is_of_its_own_class(
    repository: Path, refuse: Callable[..., str], tiny_pipeline_folder: Path, path: str
) -> None:
    config = {"hypernet": path, "arguments": {}, "generator": GENERATOR}
    (repository / "hypernet_config.json").write_text(json.dumps(config))
    given = ("--generator", tiny_pipeline_folder, "--hypernet", "repo")
    for arguments in (("generate", *given, "--prompt", "x"), ("export", *given, "--output", "f.pt2")):
        message = refuse(*arguments)
        assert f"hypernet_config.json names the class {path!r}, which is not one of hn.hypernets" in message
        assert f"--trust_remote_code {path} (in Python trust_remote_code=['{path}'])" in message


def test_its_weights_are_pickles(repository: Path, generator) -> None:
    for name in ("adapter_model.bin", "pytorch_lora_weights.safetensors"):
        torch.save({"conv_in.lora_A.weight": Trap()}, repository / name)
        with pytest.raises(ValueError, match=f"{name} cannot be read as tensors"):
            load_trained("repo", generator, last_layer_rule="lora_branch_only", alpha=1.0)
        (repository / name).unlink()


@pytest.mark.parametrize(
    "changes",
    [
        {"unet": ["repo.evil", "X"]},
        {"unet": ["evil", "X"]},
        {"scheduler": ["diffusers", "DiffusionPipeline"]},
        {"text_encoder": ["transformers", "AutoModel"]},
        {"_class_name": ["evil", "X"]},
    ],
)
def test_its_pipeline_names_classes_of_its_own(
    repository: Path, refuse: Callable[..., str], tiny_pipeline_folder: Path, changes: dict
) -> None:
    shutil.copytree(tiny_pipeline_folder, repository, dirs_exist_ok=True)
    for part in ("unet", "scheduler", "text_encoder", "."):
        for name in ("evil.py", "pipeline.py", "None.py"):
            (repository / part / name).write_text(CODE)
    index = json.loads((repository / "model_index.json").read_text())
    (repository / "model_index.json").write_text(json.dumps({**index, **changes}))
    (name,) = changes
    assert f"repo, model_index.json: {name!r}" in refuse("generate", "--generator", "repo", "--prompt", "x")


def test_its_checkpoints_are_pickles_and_replace_no_configuration(repository: Path, experiment: Path) -> None:
    file = repository / "last.ckpt"
    hyper_parameters = {"reward_weight": 777.0, "hypernet": {"class_path": "repo.evil.X"}, "_class_path": "repo.evil.X"}
    state = {"state_dict": {}, "pytorch-lightning_version": "2.6", "global_step": 1}
    torch.save({**state, "hyper_parameters": hyper_parameters}, file)
    options = ["--config", str(experiment), "--run.name", "x"]
    plain = SettledExperiment(["fit", *options])
    named = SettledExperiment(["fit", *options, "--ckpt_path", str(file)])
    assert named.config.model == plain.config.model

    for content in (Trap(), {**state, "hyper_parameters": Trap()}):
        torch.save(content, file)
        assert SettledExperiment(["fit", *options, "--ckpt_path", str(file)]).config.model == plain.config.model
        with pytest.raises(ValueError, match=r"last.ckpt cannot be read as a training checkpoint: .* would run code"):
            TrainingCheckpointIO().load_checkpoint(file)


def test_its_images_lie_elsewhere(repository: Path, refuse: Callable[..., str]) -> None:
    (repository / "metadata.json").write_text(json.dumps({"images": [{"file": "../secret.png", "prompt": "x"}]}))
    message = refuse("score", "--metrics", "redness", "repo")
    assert "metadata.json names the image '../secret.png', which is not a path within repo" in message


def test_its_names_do_not_steer_the_terminal(repository: Path, refuse: Callable[..., str]) -> None:
    (repository / "metadata.json").write_text(json.dumps({"images": [{"file": "\x1b[2J.png", "prompt": "x"}]}))
    assert r"\x1b[2J.png" in refuse("score", "--metrics", "redness", "repo")


def test_a_class_that_the_user_names_is_taken(repository: Path, generator) -> None:
    LoraHypernet(rank=1).build(generator).save_pretrained(repository)
    path = repository / "hypernet_config.json"
    path.write_text(path.read_text().replace("hn.hypernets.lora.LoraHypernet", "repo.evil.X"))
    with pytest.raises(ValueError, match="which is not one of hn.hypernets"):
        load_trained("repo", generator)
    assert load_trained("repo", generator, trust_remote_code=["repo.evil.X"]).rank == 1
    assert Path("ran").exists()  # by the user's leave
    Path("ran").unlink()
    for name in ("repo", "repo.evil"):
        del sys.modules[name]


@pytest.mark.parametrize("option", ["--trust_remote_code", "--trust-remote-code"])
def test_classes_are_named_on_the_command_line_or_in_an_experiment(experiment: Path, option: str) -> None:
    arguments = ["--generator", "g", option, "a.B", "c.D", f"{option}=e.F"]
    assert generate_parser().parse_args(arguments).trust_remote_code == ["a.B", "c.D", "e.F"]
    assert SettledExperiment(["test", "--config", str(experiment)]).config.trust_remote_code == []
    experiment.write_text(experiment.read_text() + "\ntrust_remote_code: [a.B]\n")
    settled = SettledExperiment(["test", "--config", str(experiment), option, "c.D"])
    assert settled.config.trust_remote_code == ["a.B", "c.D"]


def test_classes_of_the_experiments_that_are_compared_are_trusted() -> None:
    assert class_of_experiment({"model": {"hypernet": {"class_path": "mine.X"}}}) == ["mine.X"]
    assert class_of_experiment({"vars": {"x": 1}, "model": {"hypernet": "${vars.x}"}}) == []
    assert class_of_experiment({"model": None}) == class_of_experiment({}) == []
