import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hn.training.callbacks.images import ImageGrid


def test_pictures_of_every_validation_and_of_the_test(make_module, make_data, make_trainer, tmp_path):
    grid = ImageGrid(["a red ball", "two cube", "a green ball"], images_per_prompt=2, upscale=3)
    logger = TensorBoardLogger(str(tmp_path), name="", version="")
    module, trainer = make_module(images_per_prompt=1), make_trainer(callbacks=[grid], max_steps=4, logger=logger)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "step_000009.png").touch()  # of a run that went back
    trainer.fit(module, datamodule=make_data())
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == ["step_000002.png", "step_000004.png"]
    trainer.test(module, datamodule=make_data(), verbose=False)
    assert grid.last_path == tmp_path / "images" / "final.png"
    picture = Image.open(grid.last_path)
    assert picture.width > 3 * 3 * 32
    assert picture.height > 4 * 3 * 32  # two pairs of rows
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Images("images")][:2] == [2, 4]


def test_a_prompt_that_the_generator_refuses_stops_the_run_at_once(make_module, make_data, make_trainer):
    trainer = make_trainer(callbacks=[ImageGrid(["a cow"])])
    with pytest.raises(ValueError, match="'cow'"):
        trainer.fit(make_module(), datamodule=make_data())
    assert not trainer.is_working


@pytest.mark.parametrize("options", [{"prompts": []}, {"prompts": ["a"], "upscale": 0}])
def test_arguments_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="ImageGrid needs at least one"):
        ImageGrid(**options)
