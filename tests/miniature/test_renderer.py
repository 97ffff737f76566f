import itertools
import math
from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F

from hn.miniature.renderer import SceneBatch, color_table, render
from hn.miniature.scenes import random_scenes
from hn.miniature.world import COLORS, SHAPES
from tests.exactness import assert_close_to_rounding
from tests.scenes import scene

RED, BLUE, BLACK = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0)


@pytest.fixture
def masks() -> dict[str, torch.Tensor]:
    """Coverage [256, 256] of every shape at radius 5 pixels of 32, drawn large."""
    return {name: 1 - render(scene(((16, 16), 5, name, BLACK)), 256)[0, 0] for name in SHAPES}


def test_the_same_scene_gives_the_same_image() -> None:
    first, second = (render(random_scenes(16, torch.Generator().manual_seed(3))) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, render(random_scenes(16, torch.Generator().manual_seed(4))))


def test_numbers_stay_what_they_were() -> None:
    # Checkpoints are trained on these very images.
    image = render(
        scene(
            ((10, 12), 5, "circle", RED),
            ((22, 20), 4.5, "star", BLUE),
            background=(0.7, 0.8, 0.75),
            shading=(0.05, -0.03, 0.02, 0.04),
        )
    )
    assert image.shape == (1, 3, 32, 32) and image.dtype == torch.float32
    torch.testing.assert_close(image.mean((0, 2, 3)), torch.tensor([0.6997, 0.7253, 0.7108]), atol=1e-4, rtol=0)
    pixels = {
        (12, 10): RED,
        (20, 22): BLUE,
        (0, 0): (0.7202, 0.8202, 0.7702),
        (7, 10): (0.8700, 0.3413, 0.3198),  # the circle's edge
        (22, 19): (0.3937, 0.4511, 0.8483),  # the star's edge
    }
    for (y, x), value in pixels.items():
        torch.testing.assert_close(image[0, :, y, x], torch.tensor(value), atol=1e-4, rtol=0)


def test_background_follows_its_formula() -> None:
    image = render(scene(((16, 16), 0, "circle", RED), background=(0.7, 0.8, 0.75), shading=(0.05, -0.03, 0.02, 0.04)))
    for y, x in ((0, 0), (5, 20), (31, 31)):
        u, v = (x + 0.5) / 32, (y + 0.5) / 32
        waves = 0.02 * 0.5 * math.cos(2 * math.pi * u) + 0.04 * 0.5 * math.cos(2 * math.pi * v)
        shade = 0.05 * (u - 0.5) - 0.03 * (v - 0.5) + waves
        torch.testing.assert_close(image[0, :, y, x], torch.tensor([0.7, 0.8, 0.75]) + shade, atol=1e-5, rtol=0)


def test_absent_objects_paint_nothing() -> None:
    there, absent = ((9, 9), 5, "heart", RED), ((20, 20), 0, "square", BLUE)
    assert_close_to_rounding(render(scene(there, absent)), render(scene(there)))


def test_later_objects_cover_earlier_ones() -> None:
    image = render(scene(((16, 16), 6, "square", RED), ((16, 16), 3, "square", BLUE)))
    torch.testing.assert_close(image[0, :, 16, 16], torch.tensor(BLUE))
    torch.testing.assert_close(image[0, :, 16, 12], torch.tensor(RED))


def test_edges_are_anti_aliased() -> None:
    for name in SHAPES:
        objects = scene(((16.3, 15.8), 5, name, BLACK))
        small, large = render(objects), render(objects, 256)
        exact = F.avg_pool2d(large, 8)
        assert (small - exact).abs().mean() < 0.003
        # Distances know no corners, so single pixels at a sharp tip may be further off.
        assert (small - exact).abs().max() < 0.4
        assert ((small > 0.05) & (small < 0.95)).sum() > 3 * 20


def test_areas_are_those_of_the_shapes(masks: dict[str, torch.Tensor]) -> None:
    area = {name: mask.sum().item() / 64 / 25 for name, mask in masks.items()}  # in units of radius squared
    assert area["circle"] == pytest.approx(math.pi * 0.92**2, rel=0.01)
    assert area["square"] == pytest.approx(1.64**2, rel=0.01)
    assert area["diamond"] == pytest.approx(2 * 1.12 * 0.72, rel=0.01)
    assert area["triangle"] == pytest.approx(0.5 * 2.1 * 1.85, rel=0.01)
    assert area["cross"] == pytest.approx(4 * 0.32 * (2 - 0.32), rel=0.01)
    assert area["ring"] == pytest.approx(math.pi * (0.99**2 - 0.51**2), rel=0.01)
    assert area["star"] == pytest.approx(5 * 1.15 * 0.46 * math.sin(math.pi / 5), rel=0.02)


def test_shapes_are_distinct(masks: dict[str, torch.Tensor]) -> None:
    for first, second in itertools.combinations(SHAPES, 2):
        a, b = masks[first] > 0.5, masks[second] > 0.5
        assert (a & b).sum() / (a | b).sum() < 0.85, (first, second)


@pytest.mark.parametrize("field", ["center", "radius", "shape", "color", "background", "shading"])
def test_gradient_matches_finite_differences(field: str) -> None:
    step = 1e-7  # edges have kinks, a longer step crosses them
    for seed in range(4):
        rng = torch.Generator().manual_seed(seed)
        scenes = random_scenes(4, rng)
        scenes = SceneBatch(*(getattr(scenes, entry.name).double() for entry in fields(SceneBatch)))
        weight = F.avg_pool2d(torch.randn(4, 3, 32, 32, generator=rng), 5, 1, 2).double()
        value = getattr(scenes, field).clone().requires_grad_()
        direction = torch.randn(value.shape, generator=rng).double()
        if field == "radius":
            direction = direction * (value.detach() > 0)

        def total(shift: torch.Tensor, scenes=scenes, value=value, weight=weight) -> torch.Tensor:
            return (render(replace(scenes, **{field: value + shift})) * weight).sum()

        (gradient,) = torch.autograd.grad(total(torch.zeros_like(value)), value)
        slope = (total(step * direction) - total(-step * direction)) / (2 * step)
        torch.testing.assert_close(slope.detach(), (gradient * direction).sum(), rtol=1e-4, atol=1e-5)
        assert slope.abs() > 0.05


def test_batches_can_be_cut_and_joined() -> None:
    scenes = random_scenes(5, torch.Generator().manual_seed(0))
    assert len(scenes) == 5
    again = SceneBatch.cat([scenes[:2], scenes[2:]])
    assert torch.equal(render(again), render(scenes))
    assert_close_to_rounding(render(scenes[torch.tensor([3])])[0], render(scenes)[3])


def test_color_table_is_in_the_order_of_the_names() -> None:
    for row, rgb in zip(color_table(), COLORS.values(), strict=True):
        torch.testing.assert_close(row, torch.tensor(rgb))
