"""A weighted sum of rewards, returned with all its components."""

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from hn.data.encodings.files import PromptFiles
from hn.rewards.base import PreprocessedReward, Reward, check_batch, check_scores
from hn.rewards.contrastive import ContrastiveReward
from hn.rewards.gradient_balance import balanced_gradient, with_gradient
from hn.rewards.preprocess import SharedPixels
from hn.rewards.score_statistics import ScoreStatistics
from hn.utils.dtype import full_precision
from hn.utils.layers import compile_layers, require_compile
from hn.utils.numbers import FiniteFloat
from hn.utils.quantisation import Quantisation, quantise_linear_layers, require_torchao

_QUANTISATIONS = {*get_args(Quantisation)}


@dataclass(frozen=True)
class RewardOutput:
    """Scores of one batch.

    Attributes:
        total: [B] weighted sum, differentiable in the images.
        components: [B] unweighted score of every trained reward by name, in its published scale; without gradients if
            the ensemble balances them.
    """

    total: Tensor
    components: dict[str, Tensor]


class RewardEnsemble(nn.Module):
    """sum_k weight_k * reward_k, and held-out rewards that are only reported.

    A reward of weight 0 is scored without gradients: it is reported with the components but needs no backward pass.
    Members with the same preprocessing share the pixels: a batch is resized once per size, not once per reward.

    Args:
        rewards: the trained rewards by name.
        weights: one per reward, by the same names. By default the published weights (arXiv 2508.09968): HPSv2.1 5,
            ImageReward 1, PickScore 0.05, CLIP 0.01, aesthetic 0.
        held_out: rewards for `score_held_out`, by other names; never part of the total.
        normalise: mean and standard deviation of the scores of some rewards on images of the base generator, by name.
            The total then contains (score - mean) / std instead of the score, so that weights are comparable.
            `measure_statistics` measures them.
        balance_gradients: scale the gradients of the trained rewards with respect to the images of a batch to the same
            norm, so that only the weights decide their influence (`hn.rewards.gradient_balance`). The value of the
            total stays the weighted sum, but its gradient is another one. This needs no further passes: the gradient of
            each reward is computed right after its score, and the activations of one tower at a time are in memory.
            Norms are those of the batch of one process, so the gradient of an image depends on the rest of its batch.
        gradient_free: for searches without gradients (Best-of-N) and training by forward passes alone: rewards that are
            not differentiable may have a weight, and the total has no gradient.
        compile: compile the image towers of the trained rewards with torch.compile at their first call
            (`hn.utils.layers`). Held-out rewards are called too rarely to gain from it.
        cache: folder of text features from `hn embed`, used by all trained and held-out rewards that have text
            features; true for the default folder (HN_CONDITIONING or ~/.cache/hn/conditioning). If it has features of a
            reward, the text tower is removed and only prompts in the folder can be scored; otherwise the tower is kept.
            The commands of an experiment write missing features before they start.
        quantise: "int8" for int8 weights in the towers of all trained and held-out rewards, or a mapping for some of
            them, by name (`hn.utils.quantisation`). Rewards stay differentiable. Text features in files are those of
            the unquantised weights. Needs `hn[quantise]`.

    Raises:
        ImportError: if `quantise` is given and torchao is not installed.
        ValueError: if there are no rewards; if names are missing, unknown, used twice or invalid; if a reward has no
            published weight and none is given; if a reward that is not differentiable has a weight in training; if
            options contradict each other; if there is nothing to compile, quantise or cache, or it is not possible.
    """

    def __init__(
        self,
        rewards: Mapping[str, Reward],
        weights: Mapping[str, FiniteFloat] | None = None,
        held_out: Mapping[str, Reward] | None = None,
        normalise: Mapping[str, ScoreStatistics] | None = None,
        balance_gradients: bool = False,
        gradient_free: bool = False,
        compile: bool = False,
        cache: bool | str = False,
        quantise: Quantisation | Mapping[str, Quantisation] | None = None,
    ):
        super().__init__()
        if compile:
            require_compile()
        held_out, normalise = held_out or {}, normalise or {}
        trained, watched = _module_dict(rewards), _module_dict(held_out)
        if weights is None and rewards:
            weights = _published_weights(rewards)
            if normalise:
                raise ValueError("Published weights are for published scales; with `normalise` give weights as well.")
        _check_options(rewards, weights, held_out, normalise, balance_gradients, gradient_free, quantise)
        self.rewards, self.held_out = trained, watched
        assert weights is not None  # published ones, if none were given and there are rewards
        self.weights = {name: float(weights[name]) for name in rewards}
        self.normalise = dict(normalise)
        self.balance_gradients = balance_gradients
        self.gradient_free = gradient_free
        if cache:
            self._use_files(cache)
        self._quantise(quantise)
        if compile:
            self._compile()

    def forward(self, images: Tensor, prompts: Sequence[str]) -> RewardOutput:
        """Scores of images [B, 3, H, W] in [0, 1] for B prompts.

        Raises:
            ValueError: if the shapes do not fit.
            InputError: if a reward returns something else than scores, or scores without a gradient that is needed.
            RuntimeError: if the images require gradients and the ensemble is gradient-free.
        """
        check_batch(images, prompts)
        differentiated = torch.is_grad_enabled() and images.requires_grad
        if differentiated and self.gradient_free:
            raise RuntimeError("A gradient_free ensemble can be neither trained on nor searched with gradients.")
        if differentiated and self.balance_gradients:
            return self._forward_balanced(images, prompts)
        components = self._components(images, prompts)
        return RewardOutput(self._total(components), components)

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Check prompts before expensive work starts.

        Raises:
            ValueError: if a reward, trained or held out, cannot score one of them; names both.
        """
        for name, reward in self._members().items():
            try:
                reward.check_prompts(prompts)
            except ValueError as error:
                raise ValueError(f"The reward {name}: {error}") from error

    def total(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Only the weighted sum [B], the form in which a search takes its reward."""
        return self(images, prompts).total

    @torch.no_grad()
    def score_held_out(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Scores [B] of every held-out reward by name, without gradients."""
        check_batch(images, prompts)
        pixels = SharedPixels(full_precision(images))
        return {name: _score(name, reward, images, pixels, prompts) for name, reward in self.held_out.items()}

    @torch.no_grad()
    def measure_statistics(self, batches: Iterable[tuple[Tensor, Sequence[str]]]) -> dict[str, ScoreStatistics]:
        """Statistics for `normalise` of every trained reward, on batches of the base generator's images and prompts.

        Raises:
            ValueError: if there are fewer than two images, or a reward scores all of them the same.
        """
        scores: dict[str, list[Tensor]] = {name: [] for name in self.rewards}
        for images, prompts in batches:
            for name, component in self(images, prompts).components.items():
                scores[name].append(component.cpu())
        return {name: ScoreStatistics.of(torch.cat([torch.empty(0), *parts])) for name, parts in scores.items()}

    def _components(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        pixels = SharedPixels(full_precision(images))
        scores = {}
        for name in self._weighed_first():
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.weights[name] != 0):
                scores[name] = _score(name, self.rewards[name], images, pixels, prompts)
        return {name: scores[name] for name in self.rewards}

    def _forward_balanced(self, images: Tensor, prompts: Sequence[str]) -> RewardOutput:
        leaf = images.detach().requires_grad_()
        pixels = SharedPixels(full_precision(leaf))
        scores, gradients = {}, {}
        for name in self._weighed_first():
            if self.weights[name] == 0:
                with torch.no_grad():
                    scores[name] = _score(name, self.rewards[name], leaf, pixels, prompts)
            else:
                scores[name], gradients[name] = self._score_and_gradient(name, leaf, pixels, prompts)
        components = {name: scores[name] for name in self.rewards}
        total = self._total(components)
        if gradients:
            total = with_gradient(images, total, balanced_gradient(gradients, self.weights))
        return RewardOutput(total, components)

    def _score_and_gradient(
        self, name: str, leaf: Tensor, pixels: SharedPixels, prompts: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Scores [B], and the gradient [B, 3, H, W] of each score with respect to its own image."""
        scores = _score(name, self.rewards[name], leaf, pixels, prompts)
        # The graph of the pixels is shared, so it is retained. That of the tower is freed with `scores`.
        (gradient,) = torch.autograd.grad(self._in_total(name, scores).sum(), leaf, retain_graph=True)
        return scores.detach(), gradient

    def _total(self, components: Mapping[str, Tensor]) -> Tensor:
        return reduce(add, (self.weights[name] * self._in_total(name, score) for name, score in components.items()))

    def _in_total(self, name: str, scores: Tensor) -> Tensor:
        """Scores as in the total, without the weight."""
        return self.normalise[name].normalise(scores) if name in self.normalise else scores

    def _members(self) -> dict[str, Reward]:
        return {**self.rewards, **self.held_out}

    def _use_files(self, cache: Literal[True] | str) -> None:
        members = [reward for reward in self._members().values() if isinstance(reward, ContrastiveReward)]
        if not members:
            raise ValueError(
                f"There is nothing for `cache` to read: none of {sorted(self._members())} has text features."
            )
        for reward in members:
            reward.use_files(PromptFiles(cache, reward.text_fingerprint(reward.text_source), "text features"))

    def _compile(self) -> None:
        layers = [layer for reward in self.rewards.values() for layer in reward.image_layers()]
        if not layers:
            raise ValueError(
                f"There is nothing to compile: none of {sorted(self.rewards)} has an image tower's layers."
            )
        compile_layers(layers)

    def _quantise(self, quantise: Quantisation | Mapping[str, Quantisation] | None) -> None:
        if not quantise:
            return
        members = self._members()
        towers = {name: reward.towers() for name, reward in members.items()}
        if isinstance(quantise, str):
            quantise = dict.fromkeys([name for name in members if towers[name]] or members, quantise)
        if without := [name for name in quantise if not towers[name]]:
            raise ValueError(f"There is nothing to quantise: {sorted(without)} have no towers.")
        require_torchao()
        for name in quantise:
            for tower in towers[name]:
                try:
                    quantise_linear_layers(tower)
                except ValueError as error:
                    raise ValueError(f"{name} cannot be quantised: {error}") from error

    def _weighed_first(self) -> list[str]:
        """Names in the order of scoring: rewards with a weight first, since they need shared pixels with gradients."""
        return sorted(self.rewards, key=lambda name: self.weights[name] == 0)


def _check_options(
    rewards: Mapping[str, Reward],
    weights: Mapping[str, float] | None,
    held_out: Mapping[str, Reward],
    normalise: Mapping[str, ScoreStatistics],
    balance_gradients: bool,
    gradient_free: bool,
    quantise: Quantisation | Mapping[str, Quantisation] | None,
) -> None:
    """Raises:
    ValueError: as `RewardEnsemble`, for all that names and kinds of rewards tell.
    """
    if not rewards:
        raise ValueError("A reward ensemble needs at least one reward.")
    if both := rewards.keys() & held_out.keys():
        raise ValueError(f"{sorted(both)} cannot be trained on and held out at once; give them different names.")
    if unknown := normalise.keys() - rewards.keys():
        raise ValueError(f"Statistics of unknown rewards {sorted(unknown)}; the rewards are {sorted(rewards)}.")
    if gradient_free and balance_gradients:
        raise ValueError("An ensemble is gradient_free or balances gradients, not both.")
    if isinstance(quantise, Mapping):
        members = {*rewards, *held_out}
        if unknown := quantise.keys() - members:
            raise ValueError(f"Quantisation of unknown rewards {sorted(unknown)}; the rewards are {sorted(members)}.")
    if unknown := {*(quantise.values() if isinstance(quantise, Mapping) else [quantise or "int8"])} - _QUANTISATIONS:
        raise ValueError(f"Unknown quantisation {sorted(unknown)}; choose 'int8'.")
    if weights is None:
        return
    if unknown := weights.keys() - rewards.keys():
        raise ValueError(f"Weights for unknown rewards {sorted(unknown)}; the rewards are {sorted(rewards)}.")
    if missing := rewards.keys() - weights.keys():
        raise ValueError(f"Rewards without a weight: {sorted(missing)}; give 0 to only report one.")
    without = [name for name, reward in rewards.items() if weights[name] != 0 and not reward.differentiable]
    if without and not gradient_free:
        raise ValueError(
            f"{sorted(without)} give no gradients and cannot be trained on. Give them the weight 0, or hold them "
            "out, to only report them; with gradient_free they count in searches and training by forward passes alone."
        )


def _score(name: str, reward: Reward, images: Tensor, pixels: SharedPixels, prompts: Sequence[str]) -> Tensor:
    if isinstance(reward, PreprocessedReward):
        scores = reward.score_pixels(pixels(reward.preprocess), prompts)
    else:
        scores = reward(images, prompts)
    needs_gradient = torch.is_grad_enabled() and images.requires_grad
    return check_scores(scores, reward, len(prompts), needs_gradient, name)


def _published_weights(rewards: Mapping[str, Reward]) -> dict[str, float]:
    weights = {name: reward.published_weight for name, reward in rewards.items() if reward.published_weight is not None}
    if without := rewards.keys() - weights.keys():
        raise ValueError(f"{sorted(without)} have no published weight: give `weights` for all rewards.")
    return weights


def _module_dict(rewards: Mapping[str, Reward]) -> MutableMapping[str, Reward]:
    if others := [name for name, reward in rewards.items() if not isinstance(reward, Reward)]:
        raise ValueError(f"{others} are no rewards (hn.rewards.base.Reward).")
    try:
        return cast(MutableMapping[str, Reward], nn.ModuleDict(rewards))
    except (KeyError, TypeError) as error:  # a name with a dot, or that of a method
        raise ValueError(f"These rewards cannot be named or used so: {error}") from error
