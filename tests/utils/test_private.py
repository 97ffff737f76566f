"""What hn uses of other libraries' private names is there, and behaves as hn expects."""

import ast
import itertools
import logging
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

import lightning as L
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from diffusers import AutoencoderDC, AutoencoderKL, Flux2KleinPipeline, FluxPipeline, QwenImagePipeline
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor
from transformers import CLIPConfig, CLIPVisionModelWithProjection

from hn.utils.private import torch as private
from hn.utils.private.accelerate import is_offloaded
from hn.utils.private.argparse import option_strings
from hn.utils.private.diffusers import flux2_positions, flux2_text_positions, flux_positions, unpack_latents
from hn.utils.private.lightning import set_logged_step
from hn.utils.private.transformers import without_other_weights

PACKAGE = Path(__file__).parents[2] / "hn"


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names(nodes: list[ast.AST], own: set[str]) -> Iterator[str]:
    """Private modules and names that a file imports, and private attributes that nothing in hn defines."""
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            names = []
        yield from (name for name in names if any(map(is_private, name.split("."))))
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
            yield ast.unparse(node)


def test_private_names_are_used_in_one_place() -> None:
    files = {file: [*ast.walk(ast.parse(file.read_text(encoding="utf-8")))] for file in PACKAGE.rglob("*.py")}
    own: set[str] = set()
    for node in itertools.chain.from_iterable(files.values()):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            own.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
    own.discard("_apply")  # PyTorch's, which one of the files overrides
    found = {
        f"{file.relative_to(PACKAGE.parent)}: {name}"
        for file, nodes in files.items()
        if file.parent.name != "private"
        for name in private_names(nodes, own)
    }
    assert not found


def test_the_step_that_is_logged_can_be_set() -> None:
    trainer = L.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    before = {*vars(trainer.fit_loop.epoch_loop)}
    set_logged_step(trainer, 7)
    assert {*vars(trainer.fit_loop.epoch_loop)} == before  # Lightning's own; test_last_checkpoint.py sees its use


def test_a_module_is_told_of_conversions() -> None:
    class Hooked(private.ApplyHook):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.calls = nn.Parameter(torch.ones(2)), 0

        def before_apply(self, convert):
            self.calls += 1
            return lambda tensor: 2 * convert(tensor)

    hooked = Hooked()
    nn.Sequential(nn.Sequential(hooked)).half()
    assert hooked.calls == 1 and hooked.weight.tolist() == [2, 2] and hooked.weight.dtype == torch.float16
    for convert in (hooked.cpu, hooked.double, lambda: hooked.to("cpu")):
        convert()
    assert hooked.calls == 4


def test_fake_tensors_have_no_values_and_real_ones_can_be_made_among_them() -> None:
    with private.FakeTensorMode():
        fake = torch.ones(1 << 40)
        assert fake.shape == (1 << 40,)
        with pytest.raises(private.DataDependentOutputException):
            fake.sum().item()
        with pytest.raises(private.DynamicOutputShapeException):
            torch.ones(3).nonzero()
        with private.unset_fake_temporarily():
            assert torch.ones(3).sum().item() == 3


def test_a_dispatch_mode_sees_operators_and_what_they_write_to() -> None:
    seen = []

    class Watch(private.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            seen.append(function)
            return function(*arguments, **(options or {}))

    with Watch():
        torch.ones(2).add_(1)
    assert all(isinstance(function, private.OpOverload) for function in seen)
    written = [
        argument.name
        for argument in private.schema_arguments(seen[-1])
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    assert seen[-1] is torch.ops.aten.add_.Tensor and written == ["self"]


def test_a_storage_has_one_address() -> None:
    with private.FakeTensorMode():
        a, b = torch.ones(2), torch.ones(2)
        addresses = [private.storage_address(tensor.untyped_storage()) for tensor in (a, a[1:], b)]
    assert addresses[0] == addresses[1] != addresses[2]


def test_tensors_of_tensors_and_nested_values() -> None:
    pair = TwoTensor(torch.ones(2), torch.zeros(2))
    assert private.is_traceable_wrapper_subclass(pair) and not private.is_traceable_wrapper_subclass(torch.ones(2))
    changed = private.transform_subclass(pair, lambda _name, part: part + 1)
    assert changed.a.tolist() == [2, 2] and changed.b.tolist() == [1, 1]
    assert list(private.tree_iter({"a": [1, (2,)], "b": 3})) == [1, 2, 3]


def test_many_tensors_at_once() -> None:
    tensors = [torch.tensor([1.0, -3.0]), torch.tensor([[2.0]])]
    assert [norm.item() for norm in private.foreach_norm(tensors, float("inf"))] == [3, 2]
    private.foreach_mul_(tensors, torch.tensor(2.0))
    assert [tensor.tolist() for tensor in tensors] == [[2, -6], [[4]]]


def test_fused_optimizers_unscale_gradients_themselves() -> None:
    parameters = [nn.Parameter(torch.ones(2))]
    assert private.supports_amp_scaling(torch.optim.AdamW(parameters, fused=True))
    assert not private.supports_amp_scaling(torch.optim.AdamW(parameters))


@pytest.mark.parametrize("pipeline", [FluxPipeline, QwenImagePipeline])
def test_latents_are_unpacked(pipeline: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "vae_scale_factor", 8, raising=False)
    latents = torch.rand(2, 16, 4, 6)
    patches = latents.unflatten(3, (3, 2)).unflatten(2, (2, 2)).permute(0, 2, 4, 1, 3, 5)  # [B, 2, 3, C, 2, 2]
    unpacked = unpack_latents(pipeline, patches.flatten(3).flatten(1, 2), 32, 48)
    assert unpacked.ndim == (4 if pipeline is FluxPipeline else 5)
    assert torch.equal(unpacked.reshape(latents.shape), latents)


def test_positions_of_tokens() -> None:
    flux = flux_positions(FluxPipeline, 2, 3, torch.float64)
    assert flux.dtype == torch.float64
    assert flux.tolist() == [[0, row, column] for row in range(2) for column in range(3)]
    flux2 = flux2_positions(Flux2KleinPipeline, torch.rand(1, 4, 2, 3))
    assert flux2.tolist() == [[[0, row, column, 0] for row in range(2) for column in range(3)]]
    text = flux2_text_positions(Flux2KleinPipeline, torch.rand(1, 3, 8))
    assert text.tolist() == [[[0, 0, 0, token] for token in range(3)]]


def test_an_autoencoder_refuses_gradient_checkpointing_it_does_not_have() -> None:
    AutoencoderKL(block_out_channels=(32,)).enable_gradient_checkpointing()
    options = {"encoder_block_out_channels": (8,), "decoder_block_out_channels": (8,)}
    options |= {"encoder_layers_per_block": (1,), "decoder_layers_per_block": (1,)}
    options |= {"encoder_block_types": "ResBlock", "decoder_block_types": "ResBlock"}
    options |= {"encoder_qkv_multiscales": ((),), "decoder_qkv_multiscales": ((),)}
    with pytest.raises(ValueError, match="does not support gradient checkpointing"):
        AutoencoderDC(**options).enable_gradient_checkpointing()


def test_offloaded_modules_are_known() -> None:
    module: nn.Module = nn.Sequential(nn.Linear(2, 2))
    assert not is_offloaded(module)
    add_hook_to_module(module[0], ModelHook())
    assert is_offloaded(module)
    remove_hook_from_module(module[0])
    assert not is_offloaded(module)


def test_weights_that_a_model_does_not_need_give_no_warning(tiny_clip_folder: Path, caplog) -> None:
    logger = logging.getLogger("transformers")  # does not propagate
    logger.addHandler(caplog.handler)
    config = CLIPConfig.from_pretrained(tiny_clip_folder)
    config.vision_config.projection_dim = config.projection_dim
    others = (r"^text_model\.", r"^text_projection\.", r"^logit_scale$")
    for model_class, is_quiet in (
        (CLIPVisionModelWithProjection, False),
        (without_other_weights(CLIPVisionModelWithProjection, others), True),
    ):
        caplog.clear()
        model_class.from_pretrained(tiny_clip_folder, config=config.vision_config)
        assert ("text_projection" not in caplog.text) is is_quiet
    logger.removeHandler(caplog.handler)


def test_options_of_a_parser() -> None:
    parser = ArgumentParser(add_help=False)
    parser.add_argument("--long", "-l")
    parser.add_argument("place")
    assert option_strings(parser) == ["--long", "-l"]
