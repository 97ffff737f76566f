import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from torch import Tensor

from hn.generators import DiffusersGenerator, Generator
from hn.hypernets import LoraFinetune, LoraHypernet
from hn.rewards import RednessReward
from hn.utils.digest import weights_digest
from tests.exactness import frozen

PROMPTS = ["a red cube", "two blue ball"]


@pytest.fixture
def noise(generator: DiffusersGenerator) -> Tensor:
    return generator.sample_noise(2)


def train_a_little(finetune: LoraFinetune, noise: Tensor) -> list[float]:
    """A few steps on redness; its means along the way."""
    optimizer = torch.optim.SGD([p for p in finetune.parameters() if p.requires_grad], lr=0.02)
    history = []
    for _ in range(5):
        images, _ = finetune.images(noise, finetune.generator.encode(PROMPTS))
        score = RednessReward()(images, PROMPTS).mean()
        optimizer.zero_grad()
        (-score).backward()
        optimizer.step()
        history.append(score.item())
    return history


def test_arguments_make_another_one_like_it() -> None:
    arguments = {"rank": 3, "alpha": 7, "target_modules": ["to_q", "to_k"], "gradient_checkpointing": True}
    assert LoraFinetune(**arguments).arguments() == arguments
    assert LoraFinetune(rank=3).arguments()["alpha"] == 6


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.exact
def test_starts_as_the_generator_itself(generator: DiffusersGenerator, noise: Tensor, steps: int) -> None:
    finetune = LoraFinetune(rank=4).build(generator)
    conditioning = generator.encode(PROMPTS)
    images, f = finetune.images(noise, conditioning, steps)
    base = generator.generate(noise, conditioning, steps)
    assert torch.equal(f, torch.zeros_like(noise))
    assert (images - base).abs().max() == 0


def test_training_changes_the_tuned_generator_only(
    make_generator: Callable[..., DiffusersGenerator], noise: Tensor
) -> None:
    generator = make_generator()
    values = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    base = generator.generate(noise, generator.encode(PROMPTS))
    finetune = LoraFinetune(rank=4).build(generator)
    history = train_a_little(finetune, noise)
    assert history == sorted(history) and history[-1] > history[0]
    assert torch.equal(generator.generate(noise, generator.encode(PROMPTS)), base)
    assert generator.state_dict().keys() == values.keys()
    assert all(torch.equal(tensor, values[name]) for name, tensor in generator.state_dict().items())
    assert all(p.grad is None for p in generator.parameters())


def test_has_the_lora_of_the_hypernetwork(generator: DiffusersGenerator) -> None:
    finetune = LoraFinetune(rank=4).build(generator)
    hypernet = LoraHypernet(rank=4).build(generator)
    assert finetune.trainable_state_dict().keys() == hypernet.trainable_state_dict().keys()
    assert finetune.alpha == hypernet.alpha == 8


def test_checkpointed_gradients_equal_plain_ones(generator: DiffusersGenerator, noise: Tensor) -> None:
    gradients = []
    for gradient_checkpointing in (False, True):
        torch.manual_seed(1)
        finetune = LoraFinetune(rank=4, gradient_checkpointing=gradient_checkpointing).train()
        images, _ = finetune.build(generator).images(noise, generator.encode(PROMPTS), steps=2)
        images.square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in finetune.parameters() if p.requires_grad]))
        assert finetune.image_generator.backbone.is_gradient_checkpointing == gradient_checkpointing
    assert gradients[0].norm() > 0
    assert (gradients[1] - gradients[0]).norm() <= 1e-6 * gradients[0].norm()


@pytest.mark.exact
def test_a_saved_finetune_comes_back_exactly_here_and_in_peft(
    generator: DiffusersGenerator, noise: Tensor, tmp_path: Path
) -> None:
    finetune = LoraFinetune(rank=4, alpha=6).build(generator)
    train_a_little(finetune, noise)
    finetune.save_pretrained(tmp_path)
    conditioning = generator.encode(PROMPTS)
    images, _ = finetune.images(noise, conditioning)

    loaded = LoraFinetune.from_pretrained(tmp_path, generator)
    assert loaded.alpha == 6
    assert torch.equal(loaded.images(noise, conditioning)[0], images)

    peft_model = PeftModel.from_pretrained(copy.deepcopy(generator.backbone), tmp_path)
    plain = generator.with_backbone(peft_model.base_model.model)
    with frozen(finetune.image_generator):
        assert torch.equal(plain.generate(noise, conditioning), finetune.images(noise, conditioning)[0])


def test_is_saved_with_its_base_and_a_model_card(
    generator: DiffusersGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "name", "owner/base")
    finetune = LoraFinetune(rank=4).build(generator)
    finetune.save_pretrained(tmp_path, training={"steps": 300}, name="me/mine")
    config = json.loads((tmp_path / "finetune_config.json").read_text())
    assert config["finetune"] == "hn.hypernets.finetune.LoraFinetune" and config["arguments"] == finetune.arguments()
    assert config["generator"]["digest"] == weights_digest(generator.backbone)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model == "owner/base" and "## Training\n\n```yaml\nsteps: 300\n" in card.text
    code = card.text.split("```python\n")[1].split("```")[0]
    assert 'finetune = LoraFinetune.from_pretrained("me/mine", generator)' in code
    compile(code, "card", "exec")
    assert "x0" not in card.text  # it is no hypernetwork


def test_refuses_a_hypernetwork(generator: DiffusersGenerator, tmp_path: Path) -> None:
    LoraHypernet(rank=4).build(generator).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a noise hypernetwork, not a fine-tune"):
        LoraFinetune.from_pretrained(tmp_path, generator)


def test_build_comes_first_and_once(generator: DiffusersGenerator, tmp_path: Path) -> None:
    finetune = LoraFinetune(rank=4)
    with pytest.raises(RuntimeError, match=r"call build\(generator\) first"):
        finetune.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match=r"call build\(generator\) first"):
        finetune.image_generator  # noqa: B018
    finetune.build(generator)
    with pytest.raises(RuntimeError, match="already bound to a generator"):
        finetune.build(generator)


def test_a_generator_without_a_pipeline_is_refused() -> None:
    class Own(Generator):
        """One that cannot take another backbone."""

        backbone = generate = encode = first_step = None

    with pytest.raises(ValueError, match="needs the generator of a pipeline, not a Own"):
        LoraFinetune(rank=2).build(Own())
