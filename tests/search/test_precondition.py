import math

import pytest
import torch
from torch.testing import assert_close

from hn.search import Reno, WhiteNoiseProjection
from hn.search.precondition import GradientTransform, _project_blocks, compact_spectrum, from_compact_spectrum

DOUBLE = torch.float64


def test_the_compact_spectrum_is_the_transform_without_its_redundancy():
    x = torch.randn(3, 24, dtype=DOUBLE)
    y = compact_spectrum(x)
    whole = torch.fft.fft(x, norm="ortho")
    assert_close(y[:, 1:], whole[:, 1:12])
    assert_close(y[:, 0], (whole[:, 0] + 1j * whole[:, 12]) / math.sqrt(2))
    assert_close(from_compact_spectrum(y), x)
    assert_close(2 * y.abs().square().sum(1), x.square().sum(1))


def test_every_block_has_the_norms_of_noise():
    gradient = torch.randn(4, 2, 8, 8, dtype=DOUBLE) * torch.logspace(-3, 3, 8, dtype=DOUBLE)
    projected = WhiteNoiseProjection(8)(gradient)
    blocks = compact_spectrum(projected.flatten(1)).unflatten(1, (-1, 8))
    assert_close(blocks.abs().sum(-1), torch.full((4, 8), math.sqrt(math.pi) / 2 * 8, dtype=DOUBLE))
    assert_close(blocks.abs().square().sum(-1), torch.full((4, 8), 8.0, dtype=DOUBLE))
    assert_close(projected.flatten(1).norm(dim=1), torch.full((4,), math.sqrt(128), dtype=DOUBLE))


@pytest.mark.parametrize("sparsity", [0.0, 2.0])
def test_no_point_of_the_set_is_nearer(sparsity):
    """Against a dense scan of the set for blocks of 2 and 3: |y| on the circle where the sphere meets the plane."""
    for size in (2, 3):
        magnitudes = torch.rand(20, size, dtype=DOUBLE).pow(1 + sparsity)
        found = _project_blocks(magnitudes + 0j).real
        plane, centre = math.sqrt(math.pi) / 2 * size, torch.full((size,), math.sqrt(math.pi) / 2, dtype=DOUBLE)
        reach = math.sqrt(size - plane**2 / size)
        if size == 2:
            circle = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=DOUBLE) / math.sqrt(2)
        else:
            basis = torch.tensor([[1.0, -1.0, 0.0], [1.0, 1.0, -2.0]], dtype=DOUBLE)
            basis = basis / basis.norm(dim=1, keepdim=True)
            angles = torch.linspace(0, 2 * math.pi, 20001, dtype=DOUBLE)
            circle = torch.stack([angles.cos(), angles.sin()], dim=1) @ basis
        points = centre + reach * circle
        points = points[(points >= 0).all(dim=1)]
        nearest = points[torch.cdist(magnitudes, points).argmin(dim=1)]
        assert_close(found, nearest, rtol=0, atol=1e-3)


def test_projecting_twice_is_projecting_once_and_phases_stay():
    gradient = torch.randn(2, 64, dtype=DOUBLE)
    once = WhiteNoiseProjection()(gradient)
    assert_close(WhiteNoiseProjection()(once), once)
    before, after = compact_spectrum(gradient), compact_spectrum(once)
    kept = after.abs() > 1e-9
    assert_close((after / before)[kept].imag, torch.zeros(int(kept.sum()), dtype=DOUBLE), rtol=0, atol=1e-9)
    assert (torch.cosine_similarity(gradient, once) > 0.95).all()  # noise is nearly in the set already


def test_one_loud_frequency_is_brought_down():
    wave = torch.cos(2 * math.pi * 5 * torch.arange(128, dtype=DOUBLE) / 128)
    gradient = (100 * wave + torch.randn(128, dtype=DOUBLE))[None]
    share = [compact_spectrum(x).abs().square().max() * 2 / x.square().sum() for x in
             (gradient, WhiteNoiseProjection()(gradient))]  # fmt: skip
    assert share[0] > 0.99
    assert share[1] < 7.2 * 2 / 128  # the largest square in a block of 16, the paper says, is 7.18


def test_degenerate_blocks():
    zero = WhiteNoiseProjection()(torch.zeros(1, 64))
    assert torch.equal(zero, torch.zeros(1, 64))
    tied = torch.zeros(1, 16, dtype=torch.complex128)
    tied[0, :14] = 3.0
    assert_close(_project_blocks(tied).abs().square().sum(), torch.tensor(16.0, dtype=DOUBLE))


def test_samples_and_scales_are_independent():
    gradient = torch.randn(5, 4, 4, 4)
    together = WhiteNoiseProjection()(gradient)
    assert together.dtype == torch.float32
    for i in range(5):
        assert_close(WhiteNoiseProjection()(1e-6 * gradient[[i]]), together[[i]])


def test_what_does_not_fit_is_said_before_an_image_is_made(generator, reward, prompts, noise):
    with pytest.raises(ValueError, match=r"multiple of 32 numbers.*\[2, 3, 3\] has 18"):
        Reno(precondition=WhiteNoiseProjection())(generator, reward, prompts, noise)
    assert not generator.generated
    with pytest.raises(ValueError, match="block_size must be at least 2"):
        WhiteNoiseProjection(1)


class Halved(GradientTransform):
    def __call__(self, gradient):
        return gradient / 2


def test_reno_steps_along_the_transformed_gradient(generator, reward, prompts, noise):
    plain = Reno(6, gradient_clip=None, learning_rate=0.5)
    halved = Reno(6, gradient_clip=None, learning_rate=1.0, precondition=Halved())
    one, other = (search(generator, reward, prompts, noise) for search in (plain, halved))
    assert_close(other.noises, one.noises)
    assert not torch.equal(one.noises, noise)


def test_preconditioned_reno_climbs_and_a_batch_equals_single_runs(generator, reward, prompts, noise):
    search = Reno(8, learning_rate=1.0, regulariser_weight=0, precondition=WhiteNoiseProjection(3))
    together = search(generator, reward, prompts, noise)
    assert (together.rewards > together.trace[0]["best_reward"] + 1e-4).all()
    alone = torch.cat([search(generator, reward, [p], noise[[i]]).noises for i, p in enumerate(prompts)])
    assert_close(together.noises, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("k", [0, 1])
def test_a_negative_threshold_lifts_what_is_too_sparse(k):
    size = 4
    block = torch.zeros(1, size, dtype=torch.complex128)
    block[0, k] = 1j
    found = _project_blocks(block)
    assert_close(found.abs().sum(), torch.tensor(math.sqrt(math.pi) / 2 * size, dtype=DOUBLE))
    assert_close(found[0, k].real, torch.tensor(0.0, dtype=DOUBLE))
    assert (found.abs() > 0.1).all()
