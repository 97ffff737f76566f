"""An optimiser without type annotations, as those of many libraries are."""

import torch


class Momentum(torch.optim.SGD):
    def __init__(self, params, lr=0.5, momentum=0.9):
        super().__init__(params, lr=lr, momentum=momentum)
