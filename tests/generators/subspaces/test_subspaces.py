from pathlib import Path

import pytest
import torch
from scipy.fft import dctn
from torch import Tensor

from hn.generators.noise import seeded
from hn.generators.pipeline_generator import PipelineGenerator
from hn.generators.subspaces import LowFrequency, PrincipalComponents, Subspace, WholeSpace
from hn.generators.subspaces.principal_components import fit_principal_components, save_principal_components
from tests.tiny_pipelines import CASES


@pytest.fixture(scope="module", params=["flux", "flux2_klein", "qwen_image", "sana", "z_image"])
def generator(request: pytest.FixtureRequest) -> PipelineGenerator:
    case = CASES[request.param]
    height, width = case.size
    return PipelineGenerator(case.build(), height=height, width=width, family=case.family)


def noise_of(generator: PipelineGenerator, n: int = 2) -> Tensor:
    return torch.randn(n, *generator.noise_shape, dtype=torch.float64, generator=seeded(0))


def subspaces(generator: PipelineGenerator, folder: Path) -> list[Subspace]:
    file = folder / "components.safetensors"
    save_principal_components(fit_principal_components(noise_of(generator, 6), 5), file)
    return [each.build(generator) for each in (LowFrequency(2), WholeSpace(), PrincipalComponents(str(file)))]


def test_noise_as_an_image_has_the_layout_that_the_pipeline_packs(generator: PipelineGenerator) -> None:
    pipe, (channels, height, width) = generator.pipe, generator.spatial_shape
    noise = noise_of(generator)
    spatial = generator.to_spatial(noise)
    assert spatial.shape == (2, channels, height, width)
    assert torch.equal(generator.from_spatial(spatial), noise)
    name = type(pipe).__name__
    if name in ("FluxPipeline", "QwenImagePipeline"):
        assert torch.equal(pipe._pack_latents(spatial, 2, channels, height, width), noise)
    elif name == "Flux2KleinPipeline":
        assert torch.equal(pipe._patchify_latents(spatial), noise)
    else:
        assert torch.equal(spatial, noise)


def test_low_frequencies_are_those_of_the_discrete_cosine_transform(generator: PipelineGenerator) -> None:
    noise = noise_of(generator)
    found = LowFrequency(2).build(generator).coefficients(noise)
    expected = dctn(generator.to_spatial(noise).numpy(), axes=(-2, -1), norm="ortho")[..., :2, :2]
    torch.testing.assert_close(found, torch.from_numpy(expected).flatten(1))


def test_bases_are_orthonormal(generator: PipelineGenerator, tmp_path: Path) -> None:
    for subspace in subspaces(generator, tmp_path):
        rows = torch.eye(subspace.dimensions, dtype=torch.float64)
        torch.testing.assert_close(subspace.coefficients(subspace.expand(rows)), rows, rtol=1e-5, atol=1e-6)
        noise = noise_of(generator)
        once = subspace.project(noise)
        torch.testing.assert_close(subspace.project(once), once, rtol=1e-5, atol=1e-6)
        # The projection is orthogonal.
        left = ((noise - once) * once).flatten(1).sum(1)
        torch.testing.assert_close(left, torch.zeros_like(left), rtol=0, atol=1e-4)


def test_principal_components_are_the_directions_of_most_movement() -> None:
    directions = torch.linalg.qr(torch.randn(24, 3, dtype=torch.float64, generator=seeded(1))).Q.T
    weights = torch.randn(50, 3, dtype=torch.float64, generator=seeded(2)) * torch.tensor([9.0, 3.0, 1.0])
    moved = (weights @ directions).reshape(50, 2, 3, 4)
    found = fit_principal_components(moved, 3)
    torch.testing.assert_close((found @ directions.T.float()).abs().diagonal() > 0.9, torch.tensor([True] * 3))
    torch.testing.assert_close((found.T @ found).double(), directions.T @ directions, rtol=1e-4, atol=1e-5)


def test_components_are_read_where_a_module_is_planned_without_weights(tmp_path: Path) -> None:
    file = tmp_path / "components.safetensors"
    save_principal_components(torch.eye(2, 5), file)
    with torch.device("meta"):
        assert PrincipalComponents(str(file)).dimensions == 2


def test_unusable_components_are_refused(generator: PipelineGenerator, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no file"):
        PrincipalComponents(str(tmp_path / "nothing"))
    file = tmp_path / "components.safetensors"
    save_principal_components(torch.ones(2, 5), file)
    with pytest.raises(ValueError, match="not orthonormal"):
        PrincipalComponents(str(file))
    save_principal_components(torch.eye(2, 5), file)
    with pytest.raises(ValueError, match="is for noise of 5 dimensions"):
        PrincipalComponents(str(file)).build(generator)
    with pytest.raises(ValueError, match="between 1 and 4"):
        fit_principal_components(torch.ones(4, 9), 5)
