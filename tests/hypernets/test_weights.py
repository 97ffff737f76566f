import math

import pytest
import torch
from torch import nn

from hn.hypernets.weights import load_trainable_state_dict, trainable_state_dict


@pytest.fixture
def module() -> nn.Sequential:
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1, bias=False))
    module[0].bias.requires_grad_(False)
    return module


def test_only_what_is_trained_is_kept_and_comes_back_exactly(module: nn.Sequential) -> None:
    state = {name: tensor.clone() for name, tensor in trainable_state_dict(module).items()}
    assert list(state) == ["0.weight", "1.weight"]
    assert not any(tensor.requires_grad for tensor in state.values())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    load_trainable_state_dict(module, state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in trainable_state_dict(module).items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("1.weight"), r"Sequential: 1 missing \(1.weight\)\."),
        (lambda state: state.update(extra=torch.zeros(1)), r"1 unexpected \(extra\)\."),
        (lambda state: state.update({"1.weight": torch.zeros(3, 1)}), r"1 of another shape \(1.weight\)\."),
        (lambda state: state["1.weight"][0].fill_(math.nan), r"this Sequential are not finite.*\(1.weight\)"),
        (lambda state: state["0.weight"][0].fill_(math.inf), r"1 of 2 have NaN or infinite values \(0.weight\)"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(module: nn.Sequential, change, message: str) -> None:
    before = {name: tensor.clone() for name, tensor in trainable_state_dict(module).items()}
    state = {name: tensor + 1 for name, tensor in before.items()}
    change(state)
    with pytest.raises(ValueError, match=message):
        load_trainable_state_dict(module, state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainable_state_dict(module).items())
