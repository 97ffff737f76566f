"""Estimates without a Jacobian against the Jacobian itself."""

import pytest
import torch
from torch import nn

from hn.evaluation.metrics.noise_diagnostics import (
    NoiseDiagnostics,
    differentiable,
    forward_product,
    hutchinson_remainder,
    spectral_norm,
    transposed_product,
    truncation_bound,
)
from hn.evaluation.samples import Samples
from hn.generators import DiffusersGenerator
from hn.hypernets import LoraHypernet
from hn.objective import exact_noise_kl, jacobian_terms, noise_kl, remainder_bound
from tests.tiny_pipelines import CASES


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def network() -> nn.Module:
    """A perturbation of 6 numbers with a Lipschitz constant of about one half."""
    network = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 6)).double()
    for layer in network[::2]:
        layer.weight.data = nn.init.orthogonal_(layer.weight.data) * 0.7
    return network


@pytest.fixture
def x0() -> torch.Tensor:
    return torch.randn(3, 6, dtype=torch.float64)


def jacobians(f, x0: torch.Tensor) -> torch.Tensor:
    return torch.func.vmap(torch.func.jacrev(f))(x0)


def test_the_largest_singular_value_is_that_of_the_jacobian(network, x0):
    exact = torch.linalg.svdvals(jacobians(network, x0))[:, 0]
    found = spectral_norm(network, x0, iterations=200, rng=seeded())
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=0)
    assert (spectral_norm(network, x0, iterations=1, rng=seeded()) <= exact).all()


@pytest.mark.parametrize("terms", [2, 3, 40])
def test_the_remainder_is_the_series_without_bias(network, x0, terms):
    jacobian = jacobians(network, x0).detach()
    powers = [torch.linalg.matrix_power(jacobian, k).diagonal(dim1=1, dim2=2).sum(1) for k in range(2, terms + 1)]
    series = sum((-1) ** k / k * power for k, power in enumerate(powers, 2))
    estimates, _ = hutchinson_remainder(network, x0.repeat(2000, 1), probes=2, terms=terms, rng=seeded())
    assert estimates.shape == (2, 6000)
    estimates = estimates.reshape(-1, 3)
    error = estimates.std(dim=0) / 4000**0.5
    assert (error < 0.1 * series.abs().clamp(min=0.05)).all()  # or the next line would not say much
    assert ((estimates.mean(dim=0) - series).abs() < 4 * error).all()
    trace, log_determinant = jacobian_terms(network, x0)
    bound = truncation_bound(6, float(torch.linalg.svdvals(jacobian).max()), terms)
    assert ((series - (trace - log_determinant)).abs() <= bound + 1e-12).all()
    if terms == 40:
        exact = exact_noise_kl(network, x0)
        torch.testing.assert_close(noise_kl(network(x0)) + series, exact, rtol=1e-9, atol=1e-9)


def test_a_multiple_of_the_identity_needs_one_probe():
    """v . J^k v = d c^k for every v of signs."""
    x0 = torch.randn(2, 5, dtype=torch.float64)
    found, radius = hutchinson_remainder(lambda x: 0.3 * x, x0, probes=1, terms=30, rng=seeded())
    expected = 5 * (0.3 - torch.tensor(1.3, dtype=torch.float64).log())
    torch.testing.assert_close(found, expected.expand(1, 2), rtol=1e-12, atol=0)
    torch.testing.assert_close(radius, torch.full_like(radius, 0.3), rtol=1e-12, atol=0)


def test_the_spectral_radius_is_not_the_largest_singular_value():
    """A Jacobian that is far from normal: the series converges although the theorem says nothing."""
    matrix = torch.tensor([[0.4, 6.0], [0.0, -0.2]], dtype=torch.float64)
    x0 = torch.randn(1, 2, dtype=torch.float64)
    assert float(spectral_norm(lambda x: x @ matrix.T, x0, 50, seeded())) > 6
    found, radius = hutchinson_remainder(lambda x: x @ matrix.T, x0, probes=200, terms=60, rng=seeded())
    torch.testing.assert_close(radius, torch.full_like(radius, 0.4), rtol=0.1, atol=0)
    expected = 0.2 - torch.linalg.slogdet(torch.eye(2, dtype=torch.float64) + matrix).logabsdet
    assert abs(float(found.mean() - expected)) < 4 * float(found.std()) / 200**0.5


@pytest.mark.parametrize("radius", [1.0, 1.5, -0.1, float("nan")])
def test_a_series_that_may_diverge_has_no_bound(radius):
    with pytest.raises(ValueError, match=r"converges for a spectral radius in \[0, 1\)"):
        truncation_bound(4, radius, 6)


@pytest.mark.parametrize("options", [{"prompts": 0}, {"terms": 1}, {"probes": 0}, {"batch_size": 0}])
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="noise_diagnostics needs at least one"):
        NoiseDiagnostics(**options)


def trained(generator, rank: int = 2, size: float = 0.02, **options) -> LoraHypernet:
    """A hypernetwork that is not zero any more."""
    hypernet = LoraHypernet(rank=rank, **options).build(generator)
    with torch.no_grad():
        for parameter in hypernet.parameters():
            if parameter.requires_grad:
                parameter += size * torch.randn_like(parameter)
    return hypernet


def test_a_hypernetwork_is_measured_in_inference_mode_too(generator):
    hypernet = trained(generator)
    diagnostics = NoiseDiagnostics(prompts=2, probes=3, iterations=2, batch_size=2)
    samples = Samples.of_prompts(generator, ["a red ball", "two cube"], 1, seed=0)
    found = diagnostics(hypernet, generator, samples)
    with torch.inference_mode():
        again = diagnostics(hypernet, generator, Samples.of_prompts(generator, ["a red ball", "two cube"], 1, seed=0))
    assert again == pytest.approx(found, rel=1e-5)
    assert 0 < found["lipschitz"] < 1 and found["kl_nats"] > 0 and found["remainder_standard_error"] > 0
    dimensions = samples.noise[0].numel()
    assert found["remainder_bound_nats"] == remainder_bound(dimensions, found["lipschitz"])
    assert found["truncation_nats"] == truncation_bound(dimensions, found["spectral_radius"], 6)
    assert 0 < found["spectral_radius"] <= found["lipschitz"] and found["converging"] == 1
    assert abs(found["remainder_nats"]) < found["remainder_bound_nats"]
    assert all(parameter.grad is None for parameter in hypernet.parameters())


def test_a_compiled_hypernetwork_is_measured_as_any_other(generator):
    plain = trained(generator)
    compiled = LoraHypernet(rank=2, compile=True).build(generator)
    compiled.load_trainable_state_dict(plain.trainable_state_dict())
    samples = Samples.of_prompts(generator, ["a red ball"], 1, seed=0)
    diagnostics = NoiseDiagnostics(prompts=1, probes=2, iterations=1)
    assert diagnostics(compiled, generator, samples) == diagnostics(plain, generator, samples)


@pytest.mark.slow
def test_the_estimates_are_those_of_the_hypernetworks_own_jacobian(generator):
    hypernet = trained(generator)
    conditioning = generator.encode(["a red ball"])
    noise = generator.sample_noise(1, seeded())
    size = noise.numel()
    jacobian = torch.autograd.functional.jacobian(lambda x: hypernet(x, conditioning), noise, vectorize=True).reshape(
        size, size
    )
    exact = jacobian.double()
    norm = spectral_norm(lambda x: hypernet(x, conditioning), noise, 25, seeded())
    assert 0.98 < float(norm) / float(torch.linalg.svdvals(exact)[0]) < 1 + 1e-5
    remainder = exact.trace() - torch.linalg.slogdet(torch.eye(size) + exact).logabsdet
    copies = {key: tensor.repeat_interleave(64, dim=0) for key, tensor in conditioning.items()}
    noises = noise.repeat_interleave(64, dim=0)
    estimates, _ = hutchinson_remainder(lambda x: hypernet(x, copies), noises, 1, 5, seeded())
    error = float(estimates.std()) / 64**0.5
    bound = truncation_bound(size, float(norm), 5)
    assert abs(float(estimates.mean() - remainder)) < 4 * error + bound


def test_an_untrained_hypernetwork_leaves_nothing_out(generator):
    hypernet = LoraHypernet(rank=2).build(generator)
    samples = Samples.of_prompts(generator, ["a red ball"], 1, seed=0)
    found = NoiseDiagnostics(prompts=1, iterations=2)(hypernet, generator, samples)
    assert found.pop("converging") == 1
    assert set(found.values()) == {0.0}


def test_beyond_the_theorem_nothing_is_claimed(generator):
    hypernet = trained(generator, size=0.5)
    samples = Samples.of_prompts(generator, ["a red ball"], 1, seed=0)
    found = NoiseDiagnostics(prompts=1, iterations=2)(hypernet, generator, samples)
    assert found["lipschitz"] > found["spectral_radius"] > 1 and found["converging"] == 0
    known = {"kl_nats", "lipschitz", "spectral_radius", "converging"}
    assert {name for name, value in found.items() if value != value} == found.keys() - known


@pytest.mark.parametrize("name", ["stable_diffusion_xl", "sana", "flux"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.2)])
def test_backbones_can_be_differentiated_in_both_directions(name, dtype, tolerance, tmp_path):
    """J^T J v by one backward after one forward derivative: its product with v is |J v|^2."""
    case = CASES[name]
    case.build().save_pretrained(tmp_path / "pipe")
    options = {"family": case.family, "height": case.size[0], "width": case.size[1], "dtype": dtype}
    generator = DiffusersGenerator(str(tmp_path / "pipe"), gradient_checkpointing=True, **options)
    hypernet = trained(generator, gradient_checkpointing=True)
    conditioning, noise = generator.encode(["a red ball"]), generator.sample_noise(1, seeded())
    direction = torch.randn(noise.shape, generator=seeded(1), dtype=noise.dtype)
    with differentiable():
        x0 = noise.clone().requires_grad_()
        pushed = forward_product(lambda x: hypernet(x, conditioning), noise, direction)
        pulled = transposed_product(hypernet(x0, conditioning), x0, pushed)
    expected = float(pushed.square().sum())
    assert expected > 0
    assert float((direction * pulled).sum()) == pytest.approx(expected, rel=tolerance)
