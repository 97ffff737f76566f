import pytest
import torch

from hn.training.strategy import ShardedStrategy, check_optimizer


def make(kind, gradient=1.0, **options):
    """An optimiser of one parameter that has taken a step."""
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = kind([parameter], lr=0.1, **options)
    parameter.grad = torch.full((3,), gradient)
    optimizer.step()
    return optimizer


def test_kernels_that_do_not_take_parts_are_refused():
    for kind, fused in ((torch.optim.SGD, False), (torch.optim.AdamW, True), (torch.optim.RMSprop, None)):
        check_optimizer(make(kind, **({} if fused is None else {"fused": fused})))
    with pytest.raises(ValueError, match="fused SGD .* add --model.optimizer.init_args.fused=false"):
        check_optimizer(make(torch.optim.SGD, fused=True))


@pytest.mark.parametrize(("here", "there"), [(False, True), (True, False)])
def test_a_checkpoint_does_not_choose_the_kernels(here, there):
    saved = make(torch.optim.SGD, gradient=2.0, momentum=0.9, fused=there).state_dict()
    optimizer = make(torch.optim.SGD, momentum=0.5, fused=here)
    strategy = ShardedStrategy()
    strategy.optimizers = [optimizer]
    strategy.load_optimizer_state_dict({"optimizer_states": [saved]})
    (group,) = optimizer.param_groups
    assert (group["momentum"], group["fused"]) == (0.9, here)
    (state,) = optimizer.state.values()
    assert state["momentum_buffer"].tolist() == [2.0, 2.0, 2.0]
