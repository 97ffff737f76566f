import json

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from PIL import Image

from hn.evaluation.methods import MethodOutput
from hn.training.callbacks.predictions import PredictionWriter
from hn.utils.errors import InputError


def test_images_lie_where_geneval_looks(make_module, make_data, make_trainer, tiny_prompts, tmp_path, capsys):
    module, trainer = make_module(images_per_prompt=2), make_trainer(callbacks=[PredictionWriter()])
    data = make_data(eval_batch_size=2)
    trainer.predict(module, datamodule=data, return_predictions=False)
    rows = [json.loads(line) for line in (tiny_prompts / "test.jsonl").read_text().splitlines()]
    folders = sorted(path for path in (tmp_path / "images").iterdir())
    assert [folder.name for folder in folders] == [f"{number:05d}" for number in range(len(rows))]
    for folder, row in zip(folders, rows, strict=True):
        assert json.loads((folder / "metadata.jsonl").read_text()) == row
        assert sorted(path.name for path in (folder / "samples").iterdir()) == ["0000.png", "0001.png"]
    _, output = module.evaluation_step(next(iter(data.predict_dataloader())))
    pixels = torch.from_numpy(np.array(Image.open(folders[1] / "samples" / "0000.png")))
    assert (pixels.permute(2, 0, 1) / 255 - output.images[2]).abs().max() <= 0.5 / 255 + 1e-6
    assert f"images       {tmp_path / 'images'}" in capsys.readouterr().out


def test_an_earlier_prediction_is_replaced_in_whole(make_module, make_data, make_trainer, tmp_path):
    images = tmp_path / "images"
    (images / "step_000002.png").parent.mkdir()
    (images / "step_000002.png").touch()

    def predict(copies, *callbacks, **data):
        trainer = make_trainer(callbacks=[PredictionWriter(), *callbacks])
        module = make_module(images_per_prompt=copies)
        trainer.predict(module, datamodule=make_data(eval_batch_size=1, **data), return_predictions=False)

    def written():
        return {path.relative_to(images).as_posix(): path.stat().st_mtime_ns for path in images.rglob("*.*")}

    class Failure(Callback):
        def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
            raise RuntimeError("failed on purpose")

    predict(2)
    before = written()
    assert len(before) == 5 * 3 + 1
    with pytest.raises(RuntimeError, match="on purpose"):
        predict(1, Failure())
    assert written() == before and [path.name for path in tmp_path.iterdir()] == ["images"]
    predict(1, limit_predict=2)
    names = ["00000/metadata.jsonl", "00000/samples/0000.png", "00001/metadata.jsonl", "00001/samples/0000.png"]
    assert sorted(written()) == [*names, "step_000002.png"]
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_an_image_that_is_not_finite_is_not_written_and_named_at_the_end(
    make_module, make_data, make_trainer, tmp_path, monkeypatch
):
    module, trainer = make_module(images_per_prompt=2), make_trainer(callbacks=[PredictionWriter()])
    step = module.evaluation_step

    def break_one(batch):
        samples, output = step(batch)
        if 0 in samples.index:
            output.images[1, 0, 0, 0] = float("nan")
        return samples, MethodOutput(output.images, None, 0.0)

    monkeypatch.setattr(module, "evaluation_step", break_one)
    with pytest.raises(InputError, match="1 images are not finite .*image 1 of 'a photo of the red ball'"):
        trainer.predict(module, datamodule=make_data(eval_batch_size=2), return_predictions=False)
    assert len([*tmp_path.glob("images/*/samples/*.png")]) == 9
    assert not (tmp_path / "images" / "00000" / "samples" / "0001.png").exists()
