import pytest
import torch
from torch import nn

from hn.generators.base import Generator
from hn.hypernets import Hypernet


class ToyGenerator(Generator):
    """Smooth, prompt-dependent images of 2 x 3 x 3 noise; steps after the first add noise drawn from `rng`."""

    name, revision, noise_shape, last_layer, steps = "toy", None, (2, 3, 3), "", 1

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.mix = nn.Conv2d(2, 3, 3, padding=1)
        self.generated: list[int] = []
        self.freeze()

    @property
    def backbone(self):
        return self.mix

    def encode(self, prompts):
        rows = [torch.randn(1, 3, generator=torch.Generator().manual_seed(len(prompt))) for prompt in prompts]
        return {"prompt_embeds": torch.cat(rows)}

    def generate(self, noise, conditioning, steps=None, rng=None):
        self.generated.append(len(noise))
        for _ in range((steps or self.steps) - 1):
            drawn = [torch.randn(1, *self.noise_shape, generator=stream) for stream in rng]
            noise = noise.sin() + 0.3 * torch.cat(drawn)
        return torch.sigmoid(self.mix(noise) + conditioning["prompt_embeds"][..., None, None])

    def first_step(self, backbone, noise, conditioning):
        return backbone(noise)


@pytest.fixture
def generator() -> ToyGenerator:
    return ToyGenerator()


@pytest.fixture
def prompts() -> list[str]:
    return ["word " * n for n in range(1, 9)]


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.randn(8, 2, 3, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def reward():
    """Red where the prompt is short, green where it is long: depends on image and prompt."""

    def score(images, prompts):
        lengths = torch.tensor([len(prompt) / 40 for prompt in prompts])
        red, green, _ = images.square().mean(dim=(2, 3)).unbind(dim=1)
        return (1 - lengths) * red + lengths * green

    return score


class Shift(Hypernet):
    """f depends on noise and prompt."""

    def _build(self, generator):
        self.scale = nn.Parameter(torch.tensor(0.3))

    def arguments(self):
        return {}

    def forward(self, noise, conditioning):
        return self.scale * (noise.cos() + conditioning["prompt_embeds"].mean(dim=1)[:, None, None, None])


@pytest.fixture
def hypernet(generator):
    return Shift().build(generator)
