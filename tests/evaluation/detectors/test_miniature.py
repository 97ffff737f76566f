import math
from pathlib import Path

import pytest
import torch

from hn.evaluation.detectors.miniature import GridDetector
from hn.evaluation.geneval import Detection
from hn.miniature.recipe.detector import detection_targets
from hn.miniature.scenes import random_scenes
from hn.miniature.world import COLOR_NAMES, SHAPES
from tests.scenes import ground_truth

CLASSES, COLORS = ("circle", "star"), ("red", "blue", "black")


class Fixed(GridDetector):
    """Its maps are given: all cells say no, but those that a test sets."""

    def __init__(self) -> None:
        super().__init__(CLASSES, COLORS, width=8)
        self.maps = torch.full((1, 2, 8, 8), -9.0), torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.maps

    def put(self, name: str, row: int, column: int, score: float, color: str = "red", geometry=(0.0, 0.0, 1.5)) -> None:
        logits, colors, boxes = self.maps
        logits[0, CLASSES.index(name), row, column] = math.log(score / (1 - score))
        colors[0, COLORS.index(color), row, column] = 5
        boxes[0, :, row, column] = torch.tensor(geometry)

    def found(self, **options: float) -> dict[str, list[Detection]]:
        return self.detect(torch.zeros(1, 3, 32, 32), **options)[0]


@pytest.fixture
def fixed() -> Fixed:
    return Fixed()


def test_a_cell_becomes_a_box_in_pixels(fixed: Fixed) -> None:
    fixed.put("star", 2, 5, 0.75, "blue", (0.25, -0.5, math.log(4)))
    found = fixed.found()
    assert found["circle"] == []
    (star,) = found["star"]
    assert star.color == "blue"
    assert star.score == pytest.approx(0.75)
    # centre: cell (5, 2) of 4 pixels from its middle, (5.5 + 0.25) * 4 = 23 and (2.5 - 0.5) * 4 = 8
    assert star.box == pytest.approx((19, 4, 27, 12))


def test_detections_come_best_first(fixed: Fixed) -> None:
    for column, score in ((0, 0.3), (3, 0.9), (6, 0.6)):
        fixed.put("circle", 1, column, score)
    assert [found.score for found in fixed.found()["circle"]] == pytest.approx([0.9, 0.6, 0.3])


def test_of_neighbours_of_one_class_the_best_stays(fixed: Fixed) -> None:
    fixed.put("circle", 3, 3, 0.8)
    fixed.put("circle", 3, 4, 0.7)  # 4 pixels away: the same object
    fixed.put("circle", 3, 5, 0.6)  # 8 pixels away from the best, but next to the second
    fixed.put("star", 3, 4, 0.5)  # another class
    found = fixed.found()
    assert [seen.score for seen in found["circle"]] == pytest.approx([0.8])
    assert [seen.score for seen in found["star"]] == pytest.approx([0.5])


def test_objects_two_cells_apart_both_stay(fixed: Fixed) -> None:
    fixed.put("circle", 3, 2, 0.8)
    fixed.put("circle", 3, 4, 0.7)
    assert len(fixed.found()["circle"]) == 2


def test_scores_below_the_floor_are_dropped(fixed: Fixed) -> None:
    fixed.put("circle", 1, 1, 0.2)
    fixed.put("circle", 6, 6, 0.4)
    assert len(fixed.found()["circle"]) == 2
    assert [seen.score for seen in fixed.found(floor=0.3)["circle"]] == pytest.approx([0.4])


def test_every_image_gets_its_own_detections() -> None:
    torch.manual_seed(0)
    detector = GridDetector(CLASSES, COLORS, width=8).eval()
    images = torch.rand(3, 3, 32, 32)
    together = detector.detect(images)
    for image, found in zip(images, together, strict=True):
        alone = detector.detect(image[None])[0]
        assert found.keys() == alone.keys() == set(CLASSES)
        for name in CLASSES:
            assert [d.box for d in found[name]] == [pytest.approx(d.box, abs=1e-3) for d in alone[name]]
            assert [d.color for d in found[name]] == [d.color for d in alone[name]]
    assert sum(len(found) for found in together[0].values()) > 0


def test_targets_lead_back_to_the_scene(fixed: Fixed) -> None:
    # A detector whose maps are the training targets finds exactly what is in the scene.
    scenes = random_scenes(20, torch.Generator().manual_seed(0))
    heat, where, color, geometry = detection_targets(scenes)
    objects = (scenes.radius > 0).sum()
    assert objects < heat.sum() == len(where) <= 4 * objects  # beside a border several cells answer for an object
    colors, boxes = torch.zeros(20, len(COLOR_NAMES), 8, 8), torch.zeros(20, 3, 8, 8)
    image, row, column = where.T
    colors[image, color, row, column] = 1
    boxes[image, :, row, column] = geometry
    fixed.classes, fixed.colors, fixed.maps = SHAPES, COLOR_NAMES, (40 * heat - 20, colors, boxes)
    for found, truth in zip(fixed.detect(torch.zeros(20, 3, 32, 32)), ground_truth(scenes), strict=True):
        for name in SHAPES:
            seen = sorted((d.color, *d.box) for d in found[name])
            expected = sorted((d.color, *d.box) for d in truth.get(name, []))
            assert [s[0] for s in seen] == [e[0] for e in expected]
            assert [s[1:] for s in seen] == [pytest.approx(e[1:], abs=1e-3) for e in expected]


def test_saved_and_loaded_it_is_the_same_in_half_precision(tmp_path: Path) -> None:
    torch.manual_seed(0)
    detector = GridDetector(SHAPES, COLOR_NAMES, width=16)
    detector.save_pretrained(tmp_path / "detector")
    loaded = GridDetector.from_pretrained(tmp_path / "detector")
    assert (loaded.classes, loaded.colors, loaded.width) == (SHAPES, COLOR_NAMES, 16)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    for name, value in detector.state_dict().items():
        assert loaded.state_dict()[name].dtype == torch.float32
        assert torch.equal(loaded.state_dict()[name], value.half().float())
    # What was loaded is saved and loaded without a further loss.
    loaded.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "detector/model.safetensors").read_bytes()


def test_missing_folder_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="config.json is missing; `make miniature` builds"):
        GridDetector.from_pretrained(tmp_path / "nowhere")
