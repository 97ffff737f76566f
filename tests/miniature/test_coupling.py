import math
import random

import pytest
import torch

from hn.miniature.captions import Caption, captions_of, split_captions
from hn.miniature.coupling import NOISE_SHAPE, Obedience, couple, smooth
from hn.miniature.renderer import SceneBatch, color_table, render
from hn.miniature.world import COLOR_NAMES, DIRECTIONS, RELATIONS, SHAPES, TAGS

COUNT = 1500
ALWAYS = Obedience(
    second_object=-math.inf, binding=math.inf, missing=(-math.inf,) * 3, extra=(math.inf,) * 2, softness=0.15
)


@pytest.fixture(scope="module")
def noise() -> torch.Tensor:
    return torch.randn(COUNT, *NOISE_SHAPE, generator=torch.Generator().manual_seed(0))


def present(scenes: SceneBatch) -> torch.Tensor:
    """[B] number of objects at more than half their size."""
    return (scenes.radius > 2).sum(1)


def nearest_colors(scenes: SceneBatch) -> torch.Tensor:
    return torch.cdist(scenes.color, color_table().expand(len(scenes), -1, -1)).argmin(-1)


def test_smoothed_noise_has_unit_variance_everywhere() -> None:
    # The fields are linear in the noise: their variance is the sum of squared responses to every single cell.
    impulses = torch.eye(64).view(64, 1, 8, 8)
    torch.testing.assert_close(smooth(impulses).square().sum(0), torch.ones(1, 8, 8))


def test_smoothing_keeps_channels_apart() -> None:
    noise = torch.zeros(1, *NOISE_SHAPE)
    noise[0, 3] = torch.randn(8, 8)
    fields = smooth(noise)
    assert fields[0, 3].abs().max() > 0
    assert not fields[0, [0, 1, 2, 4, 5, 6, 7]].any()


@pytest.mark.parametrize("tag", TAGS)
def test_scenes_are_determined_by_noise_and_caption(tag: str, noise: torch.Tensor) -> None:
    captions = random.Random(0).choices(split_captions(tag, "train"), k=64)
    images = render(couple(noise[:64], captions))
    assert torch.equal(images, render(couple(noise[:64], captions)))
    # A sample does not depend on its neighbours in the batch.
    alone = render(couple(noise[5:6], captions[5:6]))
    torch.testing.assert_close(alone[0], images[5], atol=1e-5, rtol=0)
    assert not torch.equal(images, render(couple(noise[64:128], captions)))


@pytest.mark.parametrize("tag", TAGS)
def test_objects_are_inside_the_image_and_apart(tag: str, noise: torch.Tensor) -> None:
    scenes = couple(noise, random.Random(0).choices(list(captions_of(tag)), k=COUNT))
    there = scenes.radius > 0.3
    assert ((scenes.center - scenes.radius[..., None] >= 0) & (scenes.center + scenes.radius[..., None] <= 32))[
        there
    ].all()
    both = there[:, :, None] & there[:, None] & ~torch.eye(4, dtype=torch.bool)
    gap = torch.cdist(scenes.center, scenes.center) - scenes.radius[:, :, None] - scenes.radius[:, None]
    assert gap.masked_fill(~both, torch.inf).min() > 1
    assert scenes.color.min() >= 0 and scenes.color.max() <= 1
    torch.testing.assert_close(scenes.shape.sum(-1), torch.ones(COUNT, 4))


@pytest.mark.parametrize("tag", TAGS)
def test_a_small_step_in_noise_is_a_small_step_in_the_image(tag: str, noise: torch.Tensor) -> None:
    captions = random.Random(0).choices(list(captions_of(tag)), k=COUNT)
    step = 1e-3 * torch.randn(noise.shape, generator=torch.Generator().manual_seed(1))
    change = (render(couple(noise + step, captions)) - render(couple(noise, captions))).flatten(1)
    # Where two maxima are equally high the object jumps, which few samples are close to.
    assert (change.abs().amax(1) > 0.3).float().mean() < 0.01
    assert 0 < (change.norm(dim=1) / step.flatten(1).norm(dim=1)).median() < 1


@pytest.mark.parametrize(("caption", "expected"), [("two_object", 2), ("counting", 3), ("color_attr", 2)])
def test_an_obedient_sampler_does_what_it_is_asked(caption: str, expected: int, noise: torch.Tensor) -> None:
    asked = {
        "two_object": Caption("two_object", ("circle", "star")),
        "counting": Caption("counting", ("heart",), number=3),
        "color_attr": Caption("color_attr", ("circle", "star"), ("red", "blue")),
    }[caption]
    scenes = couple(noise, [asked] * COUNT, ALWAYS)
    assert (present(scenes) == expected).all()
    for slot in range(expected):
        kind = SHAPES.index(asked.shapes[slot % len(asked.shapes)])
        assert (scenes.shape[:, slot, kind] == 1).all()
    if asked.colors:
        assert (
            nearest_colors(scenes)[:, :2] == torch.tensor([COLOR_NAMES.index("red"), COLOR_NAMES.index("blue")])
        ).all()


def test_the_second_class_is_forgotten_where_its_peak_is_low(noise: torch.Tensor) -> None:
    captions = [Caption("two_object", ("circle", "star"))] * COUNT

    def remembered(threshold: float) -> float:
        scenes = couple(noise, captions, Obedience(second_object=threshold))
        return (scenes.shape[:, 1, SHAPES.index("star")] > 0.5).float().mean().item()

    shares = [remembered(threshold) for threshold in (-1.0, 0.5, 1.0, 1.5, 6.0)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.99 and shares[-1] == 0
    assert remembered(Obedience().second_object) == pytest.approx(0.68, abs=0.05)


def test_colours_go_astray_as_often_as_the_binding_channel_is_high(noise: torch.Tensor) -> None:
    scenes = couple(noise, [Caption("color_attr", ("circle", "star"), ("red", "blue"))] * COUNT)
    own = nearest_colors(scenes)[:, :2] == torch.tensor([COLOR_NAMES.index("red"), COLOR_NAMES.index("blue")])
    # Read between cells, a field has a little less than unit variance.
    high = 0.5 * math.erfc(Obedience().binding / math.sqrt(2))
    for share in own.float().mean(0).tolist():
        assert share == pytest.approx(1 - high, abs=0.04)


@pytest.mark.parametrize(("number", "right"), [(2, 0.40), (3, 0.38), (4, 0.40)])
def test_numbers_are_missed_by_one_as_often_as_stated(number: int, right: float, noise: torch.Tensor) -> None:
    counts = present(couple(noise, [Caption("counting", ("circle",), number=number)] * COUNT))
    assert set(counts.tolist()) == {number - 1, number, number + 1} - {5}
    assert (counts == number).float().mean().item() == pytest.approx(right, abs=0.05)


@pytest.mark.parametrize("relation", RELATIONS)
def test_relations_are_left_to_chance(relation: str, noise: torch.Tensor) -> None:
    scenes = couple(noise, [Caption("position", ("circle", "star"), relation=relation)] * COUNT)
    offset = torch.nn.functional.normalize(scenes.center[:, 0] - scenes.center[:, 1], dim=-1)
    along = (offset * torch.tensor(DIRECTIONS[relation])).sum(-1)
    assert (along > math.sqrt(0.5)).float().mean().item() == pytest.approx(0.25, abs=0.04)


def test_colours_that_a_caption_leaves_open_come_from_the_noise(noise: torch.Tensor) -> None:
    colors = nearest_colors(couple(noise, [Caption("single_object", ("ring",))] * COUNT))[:, 0]
    seen = torch.bincount(colors, minlength=len(COLOR_NAMES)) / COUNT
    chromatic = [COLOR_NAMES.index(name) for name in ("red", "orange", "yellow", "green", "blue", "purple", "pink")]
    assert (seen[chromatic] > 0.08).all()
    assert seen[chromatic].sum() > 0.9
