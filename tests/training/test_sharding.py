"""Generator and hypernetwork sharded over two processes: the same gradients, a half of the memory."""

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from hn.generators import DiffusersGenerator
from hn.hypernets import LoraFinetune, LoraHypernet
from hn.training.strategy import shard
from hn.utils.digest import weights_digest
from hn.utils.distributed import class_of, full_tensor
from tests.tiny_pipelines import CASES, NETWORKS
from tests.two_processes import in_two_processes

PROMPTS = ["a red ball", "two cube", "the green ball", "a blue cube"]
STEP = 0.5


def gradients(generator, network, prompts, noise) -> dict[str, torch.Tensor]:
    """Of a loss that both passes have a part in, by name; the weights take a step along them."""
    conditioning = generator.encode(prompts)
    images, f = network.images(noise, conditioning)
    (images.mean() + f.square().mean()).backward()
    found = {}
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad
        if parameter.requires_grad:
            found[name] = full_tensor(parameter.grad)
            with torch.no_grad():
                parameter -= STEP * parameter.grad
            parameter.grad = None
    return found


def kept_bytes(*modules) -> int:
    """Of all parameters on this process, tensors in the same memory counted once."""
    tensors = [p.to_local() if isinstance(p, DTensor) else p for module in modules for p in module.parameters()]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def build(make_generator, network, **options):
    torch.manual_seed(0)
    generator, network = make_generator(dtype="float64"), network(rank=2, **options)
    rng = torch.Generator().manual_seed(1)
    network.build(generator)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=rng, dtype=parameter.dtype)
    return generator, network


def work(rank, make_generator, network, options):
    noise = torch.randn(len(PROMPTS), 8, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    whole_parts = build(make_generator, network, **options)
    before = kept_bytes(whole_parts[0].backbone, whole_parts[1])
    digest, expected = weights_digest(whole_parts[0].backbone), []
    for _ in range(2):
        expected.append(gradients(*whole_parts, PROMPTS, noise))

    parts = build(make_generator, network, **options)
    generator, trained = parts
    kind = type(generator.backbone)
    for _ in range(2):  # a second time nothing happens, as when a test follows a training
        shard(generator, trained, init_device_mesh("cpu", (2,)))
    with torch.no_grad():  # an evaluation, before there were gradients
        generator.generate(noise[rank::2], generator.encode(PROMPTS[rank::2]))
    found = [gradients(*parts, PROMPTS[rank::2], noise[rank::2]) for _ in range(2)]
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-12)
    assert max(float(gradient.abs().max()) for gradient in expected[1].values()) > 1e-3

    assert class_of(generator.backbone) is kind and class_of(trained) is network
    assert isinstance(trained.backbone, FSDPModule) and all(isinstance(p, DTensor) for p in trained.parameters())
    assert weights_digest(generator.backbone) == digest
    if network is LoraHypernet:
        with pytest.raises(ValueError, match=r"sharded over processes \(FSDP2\).*Save it with save_pretrained"):
            trained.merged()
    state = trained.trainable_state_dict()
    for name, tensor in whole_parts[1].trainable_state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-9, atol=1e-12)
    trained.load_trainable_state_dict({name: torch.full_like(tensor, 3) for name, tensor in state.items()})
    assert all(bool((tensor == 3).all()) for tensor in trained.trainable_state_dict().values())
    return {"before": before, "after": kept_bytes(generator.backbone, trained)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "options"),
    [(LoraHypernet, {}), (LoraHypernet, {"gradient_checkpointing": True}), (LoraFinetune, {})],
    ids=["hypernetwork", "checkpointed", "finetune"],
)
def test_two_processes_have_the_gradients_of_one_and_half_the_weights(make_generator, network, options, tmp_path):
    for kept in in_two_processes(work, tmp_path, make_generator, network, options):
        # Frozen parts once, though two backbones have them; a little more where a dimension is padded.
        assert 0.5 * kept["before"] <= kept["after"] < 0.56 * kept["before"]


def family_work(rank, case):
    found = []
    for shared in (False, True):
        torch.manual_seed(1)
        pipe = case.build()
        height, width = case.size
        generator = DiffusersGenerator.from_pipeline(
            pipe, height=height, width=width, family=case.family, gradient_checkpointing=True
        )
        network = LoraHypernet(rank=2, gradient_checkpointing=True).build(generator)
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.requires_grad:
                    parameter += 0.05 * torch.randn(parameter.shape)
        noise = generator.sample_noise(2, torch.Generator().manual_seed(2))
        part = slice(rank, rank + 1) if shared else slice(None)
        if shared:
            shard(generator, network, init_device_mesh("cpu", (2,)))
        conditioning = generator.encode(PROMPTS[:2][part])
        f = network(noise[part], conditioning)
        (generator.generate(noise[part] + f, conditioning).square().mean() + f.square().mean()).backward()
        gradients = {name: p.grad for name, p in network.named_parameters() if p.requires_grad}
        # The last block of some transformers computes text tokens that nobody reads: no gradient there, or zeros.
        found.append({name: full_tensor(gradient) for name, gradient in gradients.items() if gradient is not None})
    largest = max(float(gradient.abs().max()) for gradient in found[0].values())
    assert largest > 1e-4 and found[0].keys() <= found[1].keys()
    for name, gradient in found[1].items():
        expected = found[0].get(name, torch.zeros_like(gradient))
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5 * largest, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_backbones_of_every_family_can_be_sharded(name, tmp_path):
    in_two_processes(family_work, tmp_path, CASES[name])
