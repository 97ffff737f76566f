import random

import pytest
import torch

from hn.evaluation.geneval import evaluate
from hn.miniature.captions import captions_of
from hn.miniature.renderer import SceneBatch
from hn.miniature.scenes import GAP, RELATION_COSINE, directions, place, random_radius, random_scenes, scenes_of
from hn.miniature.world import DIRECTIONS, IMAGE_SIZE, RELATIONS, TAGS
from tests.scenes import ground_truth


def draw(tag: str, count: int, seed: int = 0) -> tuple[list, SceneBatch]:
    captions = random.Random(seed).choices(list(captions_of(tag)), k=count)
    return captions, scenes_of(captions, torch.Generator().manual_seed(seed))


def slack(center: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """[B] what is left of the least distance between two objects' outlines beyond `GAP`; infinite for one object."""
    needed = (radius[:, :, None] + radius[:, None]) * 1.05 + GAP
    both = (radius[:, :, None] > 0) & (radius[:, None] > 0) & ~torch.eye(radius.shape[1], dtype=torch.bool)
    distance = torch.cdist(center, center) - needed
    return distance.masked_fill(~both, torch.inf).flatten(1).amin(1)


def test_scenes_are_decided_by_the_seed() -> None:
    first, second = (random_scenes(8, torch.Generator().manual_seed(1)) for _ in range(2))
    assert all(torch.equal(getattr(first, name), getattr(second, name)) for name in vars(first))


def test_scenes_have_one_to_four_objects_inside_the_image() -> None:
    scenes = random_scenes(500, torch.Generator().manual_seed(0))
    there = scenes.radius > 0
    assert set(there.sum(1).tolist()) == {1, 2, 3, 4}
    assert (there.int().diff(dim=1) <= 0).all()  # absent ones come last
    assert (scenes.radius[there] >= 3.8).all() and (scenes.radius[there] <= 6.0).all()
    edge = scenes.radius[..., None] * 1.12
    assert ((scenes.center - edge >= 0) & (scenes.center + edge <= IMAGE_SIZE))[there].all()
    for colors in (scenes.color, scenes.background):
        assert colors.min() >= 0 and colors.max() <= 1
    assert torch.equal(scenes.shape.sum(-1), torch.ones(500, 4)) and torch.equal(
        scenes.shape.amax(-1), torch.ones(500, 4)
    )


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_objects_keep_their_distance_when_there_are_tries_enough(count: int) -> None:
    rng = torch.Generator().manual_seed(0)
    radius = random_radius(torch.full((50,), count), rng)
    assert (slack(place(radius, rng, tries=8192), radius) >= 0).all()


def test_crowded_scenes_nearly_always_keep_their_distance_too() -> None:
    scenes = random_scenes(1000, torch.Generator().manual_seed(0))
    room = slack(scenes.center, scenes.radius)
    assert (room < 0).float().mean() < 0.02
    assert room.min() > -GAP  # and never touch


def test_without_a_valid_try_the_least_crowded_one_is_taken() -> None:
    rng = torch.Generator().manual_seed(0)
    radius = torch.full((1, 4), 9.0)  # more than fits
    few, many = (slack(place(radius, rng, tries=tries), radius).item() for tries in (1, 4096))
    assert few < many < 0


@pytest.mark.parametrize("relation", RELATIONS)
def test_the_first_object_stands_where_the_direction_says(relation: str) -> None:
    rng = torch.Generator().manual_seed(0)
    radius = random_radius(torch.full((200,), 2), rng)
    wanted = torch.tensor(DIRECTIONS[relation]).expand(200, 2)
    center = place(radius, rng, wanted, tries=1024)
    offset = torch.nn.functional.normalize(center[:, 0] - center[:, 1], dim=-1)
    assert ((offset * wanted).sum(-1) >= RELATION_COSINE).all()
    assert (slack(center, radius) >= 0).all()


def test_directions_are_unit_vectors_from_the_second_object_to_the_first() -> None:
    _, scenes = draw("two_object", 4)
    scenes.center[0, :2] = torch.tensor([[10.0, 4.0], [7.0, 8.0]])
    torch.testing.assert_close(directions(scenes)[0], torch.tensor([0.6, -0.8]))


@pytest.mark.parametrize("tag", TAGS)
def test_scenes_fulfil_their_captions_by_genevals_verdict(tag: str) -> None:
    captions, scenes = draw(tag, 600)
    verdicts = [
        evaluate(found, caption.metadata()) for found, caption in zip(ground_truth(scenes), captions, strict=True)
    ]
    wrong = [verdict.reason for verdict in verdicts if not verdict.correct]
    assert wrong == []


@pytest.mark.parametrize("tag", TAGS)
def test_scenes_hold_nothing_else(tag: str) -> None:
    captions, scenes = draw(tag, 200)
    asked = torch.tensor([len(caption.shapes) * caption.number for caption in captions])
    assert torch.equal((scenes.radius > 0).sum(1), asked)


@pytest.mark.parametrize("tag", TAGS)
def test_flips_are_contradicted_by_the_scene(tag: str) -> None:
    words = random.Random(1)
    captions, scenes = draw(tag, 200)
    checked = 0
    for found, caption, direction in zip(ground_truth(scenes), captions, directions(scenes).tolist(), strict=True):
        for flip in caption.contradicted_flips(words, direction):
            checked += 1
            assert not evaluate(found, flip.metadata()).correct, (caption, flip)
    assert checked >= 800
