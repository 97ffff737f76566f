import torch
from torch import nn

from hn.utils.copies import share_weights


def test_the_copy_has_its_own_modules_over_the_same_tensors() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ModuleDict({"inner": nn.Linear(4, 2)}))
    copy = share_weights(module)
    pairs = list(zip(module.modules(), copy.modules(), strict=True))
    assert all(type(a) is type(b) and a is not b for a, b in pairs)
    tensors = [*module.parameters(), *module.buffers()]
    assert len(tensors) == 9
    assert all(a is b for a, b in zip(tensors, [*copy.parameters(), *copy.buffers()], strict=True))


def test_changing_the_copys_layers_leaves_the_original_alone() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    x = torch.randn(2, 3)
    before = module(x)
    copy = share_weights(module)
    copy[1] = nn.Identity()
    assert torch.equal(module(x), before)
    assert torch.equal(copy(x), module[0](x))


def test_weights_tied_in_the_original_stay_tied() -> None:
    module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    module[1].weight = module[0].weight
    assert share_weights(module)[1].weight is module[0].weight
