"""Text encoders that stay on the CPU. The meta device stands for a GPU: what moves there has no values any more."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from hn.generators import DiffusersGenerator, PipelineGenerator
from hn.utils.copies import on_device
from tests.tiny_pipelines import CASES, NETWORKS

META = torch.device("meta")


@pytest.fixture
def offloading(make_generator: Callable[..., DiffusersGenerator]) -> DiffusersGenerator:
    return make_generator(offload_text_encoders=True)


def devices(module: nn.Module) -> set[str]:
    return {tensor.device.type for tensor in (*module.parameters(), *module.buffers())}


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_conditioning_and_images_stay_the_same(name: str) -> None:
    case = CASES[name]
    pipe, (height, width) = case.build(), case.size
    options = {"height": height, "width": width, "family": case.family}
    plain, offloading = (PipelineGenerator(pipe, offload_text_encoders=off, **options) for off in (False, True))
    networks = [n for n in plain.components if n.startswith("text_encoder")]
    assert networks and [*offloading.text_encoders] == networks
    assert not any(name in offloading.components for name in networks)
    expected, conditioning = (generator.encode(["a red ball", "two cube"]) for generator in (plain, offloading))
    assert conditioning.keys() == expected.keys()
    assert all(torch.equal(conditioning[key], expected[key]) for key in expected)
    noise = plain.sample_noise(2, torch.Generator().manual_seed(0))
    images = [
        generator.generate(noise, expected, 1, torch.Generator().manual_seed(0)) for generator in (plain, offloading)
    ]
    assert torch.equal(*images)


def test_a_move_leaves_text_encoders_on_the_cpu(offloading: DiffusersGenerator) -> None:
    before = {name: tensor.clone() for name, tensor in offloading.text_encoders.state_dict().items()}
    nn.ModuleDict({"part of": offloading}).to(META)  # as Lightning moves it, with the module around it
    assert devices(offloading.components) == {"meta"}
    assert devices(offloading.text_encoders) == {"cpu"}
    after = offloading.text_encoders.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_change_of_data_type_reaches_them(
    offloading: DiffusersGenerator, make_generator: Callable[..., DiffusersGenerator]
) -> None:
    other = make_generator().to(torch.float64)
    conditioning, expected = (generator.encode(["a red ball"]) for generator in (offloading.to(torch.float64), other))
    assert conditioning["prompt_embeds"].dtype == torch.float64
    assert torch.equal(conditioning["prompt_embeds"], expected["prompt_embeds"])


def test_a_copy_on_the_device_leaves_the_network_alone(offloading: DiffusersGenerator) -> None:
    network = offloading.text_encoders["text_encoder"]
    places = [tensor.data_ptr() for tensor in network.parameters()]
    copy, same = on_device(network, META), on_device(network, torch.device("cpu"))
    assert devices(copy) == {"meta"} and devices(network) == {"cpu"}
    assert [tensor.data_ptr() for tensor in network.parameters()] == places
    assert [tensor.data_ptr() for tensor in same.parameters()] == places
    assert len([*copy.parameters()]) == len(places)
    assert not any(parameter.requires_grad for parameter in copy.parameters())


def test_they_are_copied_for_new_prompts_alone(offloading: DiffusersGenerator) -> None:
    ran: list[nn.Module] = []
    network = offloading.text_encoders["text_encoder"]
    network.register_forward_hook(lambda module, *_: ran.append(module) or None)
    for prompts, calls in ((["a ball", "a cube"], 1), (["a cube"], 1), (["a cube", "the cube"], 2)):
        offloading.encode(prompts)
        assert len(ran) == calls
    assert all(module is not network for module in ran)


def test_another_backbone_shares_them(offloading: DiffusersGenerator) -> None:
    other = offloading.with_backbone(offloading.backbone)
    assert other.text_encoders is offloading.text_encoders
    assert torch.equal(other.encode(["a ball"])["prompt_embeds"], offloading.encode(["a ball"])["prompt_embeds"])
