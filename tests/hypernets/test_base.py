import inspect
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from torch import Tensor, nn

import hn
from hn.generators import Conditioning, DiffusersGenerator, Generator
from hn.hypernets import Hypernet, LoraHypernet
from hn.hypernets.conv import ConvHypernet
from hn.hypernets.trained import load_trained
from hn.utils.digest import weights_digest


class Bias(Hypernet):
    """The smallest hypernetwork that does not need the backbone: a learned perturbation for every sample."""

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.scale = scale

    def _build(self, generator: Generator) -> None:
        self.bias = nn.Parameter(torch.zeros(generator.noise_shape))

    def forward(self, noise: Tensor, conditioning: Conditioning) -> Tensor:
        return (self.scale * self.bias).expand_as(noise)

    def arguments(self) -> dict[str, Any]:
        return {"scale": self.scale}


@pytest.fixture
def hypernet(generator: DiffusersGenerator) -> Bias:
    return Bias(scale=2.0).build(generator)


def test_modulated_noise_is_the_sum(hypernet: Bias, generator: DiffusersGenerator) -> None:
    noise = generator.sample_noise(2)
    assert torch.equal(hypernet.modulate(noise, {}), noise)
    hypernet.bias.data.fill_(0.5)
    assert torch.equal(hypernet.modulate(noise, {}), noise + 1)


def test_the_generator_is_no_part_of_the_hypernetwork(hypernet: Bias, generator: DiffusersGenerator) -> None:
    assert hypernet.generator is generator
    assert list(hypernet.state_dict()) == list(hypernet.trainable_state_dict()) == ["bias"]


def test_saved_and_loaded_exactly_without_a_backbone(
    hypernet: Bias, generator: DiffusersGenerator, tmp_path: Path
) -> None:
    hypernet.bias.data.normal_()
    hypernet.save_pretrained(tmp_path / "new" / "folder")
    loaded = Bias.from_pretrained(tmp_path / "new" / "folder", generator)
    assert isinstance(loaded, Bias) and loaded.scale == 2.0
    assert torch.equal(loaded.bias, hypernet.bias)


def test_the_config_says_what_it_was_trained_for(hypernet: Bias, generator: DiffusersGenerator, tmp_path: Path) -> None:
    hypernet.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "hypernet_config.json").read_text())
    assert config["hypernet"].endswith("Bias") and config["arguments"] == {"scale": 2.0}
    assert config["generator"] == {
        "class": "hn.generators.pipeline.DiffusersGenerator",
        "name": generator.name,
        "revision": None,
        "backbone": "UNet2DConditionModel",
        "noise_shape": [8, 8, 8],
        "digest": weights_digest(generator.backbone),
    }
    assert config["versions"].keys() == {"hn", "torch", "diffusers", "peft"}
    assert config["versions"]["hn"] == hn.__version__
    assert config["versions"]["torch"] == torch.__version__.split("+")[0]


def test_the_model_card_says_what_it_is_and_how_to_use_it(
    hypernet: Bias, generator: DiffusersGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "name", "owner/base")
    monkeypatch.setattr(generator, "revision", "v2")
    hypernet.save_pretrained(tmp_path, training={"updates": 300, "reward": {"clip": 1.0}}, name="me/mine")
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.base_model, card.data.library_name) == ("owner/base", "hn")
    assert "# me/mine\n" in card.text and "updates: 300\nreward:\n  clip: 1.0" in card.text
    code = card.text.split("```python\n")[1].split("```")[0]
    assert 'DiffusersGenerator("owner/base", revision="v2")' in code
    assert 'Hypernet.from_pretrained("me/mine", generator)' in code
    compile(code, "card", "exec")
    assert "Last layer" not in card.text  # it has no rule for one


def test_a_folder_is_no_base_model_for_the_hub(hypernet: Bias, tmp_path: Path) -> None:
    hypernet.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model is None
    assert f"# {tmp_path}\n" in card.text and "## Training" not in card.text


def test_pushed_to_the_hub_with_its_card(hypernet: Bias, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Hub:
        """Stands in for the Hub; takes what is uploaded."""

        def __init__(self, token: str | None):
            calls.append(token)

        def create_repo(self, repo_id: str, **options: object) -> None:
            calls.append((repo_id, options))

        def upload_folder(self, repo_id: str, folder_path: str, commit_message: str) -> SimpleNamespace:
            files = {path.name: path.read_text(errors="replace") for path in Path(folder_path).iterdir()}
            calls.append((repo_id, commit_message, files))
            return SimpleNamespace(commit_url="https://hub/commit")

    monkeypatch.setattr("hn.hypernets.trainable.HfApi", Hub)
    assert hypernet.push_to_hub("me/mine", private=True, commit_message="First", token="t") == "https://hub/commit"
    assert calls[:2] == ["t", ("me/mine", {"private": True, "exist_ok": True})]
    repo_id, message, files = calls[2]
    assert (repo_id, message) == ("me/mine", "First")
    assert files.keys() == {"README.md", "hypernet.safetensors", "hypernet_config.json"}
    assert 'Hypernet.from_pretrained("me/mine", generator)' in files["README.md"]


def test_another_class_is_refused(generator: DiffusersGenerator, tmp_path: Path) -> None:
    LoraHypernet(rank=1).build(generator).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a LoraHypernet, not a ConvHypernet"):
        ConvHypernet.from_pretrained(tmp_path, generator)


@pytest.fixture
def downloaded(generator: DiffusersGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hypernetwork of a module that lies beside its files, in the working directory; its import leaves a file."""
    package = tmp_path / "downloaded"
    Bias(scale=2.0).build(generator).save_pretrained(package)
    code = f"import torch\nfrom torch import nn\nfrom hn.hypernets import Hypernet\n\n\n{inspect.getsource(Bias)}"
    code = "from __future__ import annotations\nfrom pathlib import Path\n" + code
    (package / "module.py").write_text(f"{code}\n\nPath({str(tmp_path / 'ran')!r}).touch()\n")
    edit_config(package, hypernet="downloaded.module.Bias")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return package


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "hypernet_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_class_that_a_file_names_is_imported_only_if_the_user_names_it(
    downloaded: Path, generator: DiffusersGenerator, tmp_path: Path
) -> None:
    message = r"hypernet_config.json names the class 'downloaded.module.Bias', which is not one of hn.hypernets, .*"
    for load in (Hypernet.from_pretrained, load_trained):
        with pytest.raises(ValueError, match=message + "allow it with --trust_remote_code downloaded.module.Bias"):
            load(str(downloaded), generator)
        with pytest.raises(ValueError, match=message):
            load(str(downloaded), generator, trust_remote_code=["downloaded.module"])
    with pytest.raises(ValueError, match=message):
        LoraHypernet(rank=1).build(generator).load_same_kind(downloaded)
    assert not (tmp_path / "ran").exists()
    assert load_trained(str(downloaded), generator, trust_remote_code=["downloaded.module.Bias"]).scale == 2.0
    assert (tmp_path / "ran").exists()


def test_the_users_own_class_is_trusted(hypernet: Bias, generator: DiffusersGenerator, tmp_path: Path) -> None:
    hypernet.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="which is not one of hn.hypernets"):
        Hypernet.from_pretrained(tmp_path, generator)
    assert Bias.from_pretrained(tmp_path, generator).scale == 2.0


NOT_ONE = r" names the class '{path}', which is not one of"
"""What is said of a class that is no hypernetwork of hn; nothing is imported for it."""


@pytest.mark.parametrize(
    ("path", "message"),
    [
        *((path, NOT_ONE) for path in ("os.path.join", "hn.rewards.redness.RednessReward", "hn.hypernets..evil.X")),
        *((path, NOT_ONE) for path in ("hn.hypernetsevil.X", "", "X")),
        *((f"hn.hypernets.{name}", ": .*{path}'") for name in ("nothing.Nothing", "base.Nothing", "lora.nn")),
    ],
)
def test_no_other_class_is_taken_and_it_is_named_with_the_file(
    hypernet: Bias, generator: DiffusersGenerator, tmp_path: Path, path: str, message: str
) -> None:
    hypernet.save_pretrained(tmp_path)
    edit_config(tmp_path, hypernet=path)
    with pytest.raises(ValueError, match=f"hypernet_config.json{message.format(path=path)}"):
        Hypernet.from_pretrained(tmp_path, generator)


def test_nan_weights_are_refused_by_name(hypernet: Bias, generator: DiffusersGenerator, tmp_path: Path) -> None:
    hypernet.bias.data[0, 0, 0] = float("nan")
    hypernet.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"hypernet.safetensors has values that are NaN .* 1 of 1 weights \(bias\)"):
        Bias.from_pretrained(tmp_path, generator)


def test_cut_weights_are_refused_by_name(hypernet: Bias, generator: DiffusersGenerator, tmp_path: Path) -> None:
    hypernet.save_pretrained(tmp_path)
    path = tmp_path / "hypernet.safetensors"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="hypernet.safetensors cannot be read as tensors"):
        Bias.from_pretrained(tmp_path, generator)


def test_another_backbone_is_refused(hypernet: Bias, generator: DiffusersGenerator, tmp_path: Path) -> None:
    hypernet.save_pretrained(tmp_path)
    path = tmp_path / "hypernet_config.json"
    path.write_text(path.read_text().replace("UNet2DConditionModel", "FluxTransformer2DModel"))
    with pytest.raises(ValueError, match="for a FluxTransformer2DModel, but the generator has a UNet2DConditionModel"):
        Bias.from_pretrained(tmp_path, generator)


def test_another_name_is_pointed_out_where_no_digest_tells_the_weights(
    hypernet: Bias, generator: DiffusersGenerator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hypernet.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, logger="hn"):
        Bias.from_pretrained(tmp_path, generator)
        assert not caplog.records
        path = tmp_path / "hypernet_config.json"
        config = json.loads(path.read_text())
        config["generator"]["name"] = "stabilityai/sd-turbo"
        path.write_text(json.dumps(config))
        Bias.from_pretrained(tmp_path, generator)
        assert not caplog.records  # the digest says that the weights are the same
        del config["generator"]["digest"]
        path.write_text(json.dumps(config))
        Bias.from_pretrained(tmp_path, generator)
    assert "was trained for stabilityai/sd-turbo and is now used with" in caplog.text


def test_build_comes_first_and_once(generator: DiffusersGenerator) -> None:
    hypernet = Bias()
    with pytest.raises(RuntimeError, match=r"call build\(generator\) first"):
        _ = hypernet.generator
    hypernet.build(generator)
    with pytest.raises(RuntimeError, match="already bound"):
        hypernet.build(generator)
