import json

import pytest
import torch
from torch.utils.data import DataLoader

from hn.data import PromptDataset, collate_prompts
from hn.evaluation.comparison.cache import MeasurementCache, measurement_settings, weights_settings
from hn.evaluation.comparison.measure import measure
from hn.evaluation.methods import Searched, TrainedMethod
from hn.evaluation.scorer import Scorer, feature_extractor_of
from hn.search import BestOfN

SETTINGS = {"model": {"seed": 0, "steps": None}, "prompts": "abc"}


class Stop(Exception):
    pass


@pytest.fixture
def module(make_module):
    return make_module(images_per_prompt=2)


@pytest.fixture
def measured(module, tiny_prompts, tiny_detector):
    """Measures a method on batches of two prompts, and what of them is done already is left out."""
    scorer = Scorer(module.reward, tiny_detector, feature_extractor_of(module.reward))
    batches = list(DataLoader(PromptDataset(tiny_prompts / "test.jsonl"), 2, collate_fn=collate_prompts))

    def run(method, record=None, after_batch=None):
        rest = batches[record.batches if record else 0 :]
        return measure(method, scorer, module.generator, rest, 2, 0, record=record, after_batch=after_batch)

    run.batches = batches
    return run


@pytest.mark.parametrize("kind", ["hypernetwork", "search"])
@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_method_goes_on_in_the_middle_as_if_it_had_not_stopped(module, measured, tmp_path, kind, done):
    def method():
        if kind == "hypernetwork":
            return TrainedMethod(module.hypernet, name=kind)
        return Searched(kind, module.generator, BestOfN(3, report_at=[2]), module.reward)

    cache = MeasurementCache(tmp_path / "records", SETTINGS, every=0)

    def keep_and_stop(record):
        cache.keep(record, of_batches=3)
        if record.batches == done:
            raise Stop

    with pytest.raises(Stop):
        measured(method(), after_batch=keep_and_stop)
    found = MeasurementCache(tmp_path / "records", SETTINGS).load(kind)
    assert (found.batches, len(found)) == (done, min(4 * done, 10))
    assert found.nfe == (2 if kind == "hypernetwork" else 3)
    assert found.seconds > 0
    found, whole = measured(method(), record=found), measured(method())
    assert list(found.earlier) == list(whole.earlier) == ([] if kind == "hypernetwork" else [2])
    for ours, theirs in ((found, whole), *((found.earlier[count], whole.earlier[count]) for count in whole.earlier)):
        summaries = [record.summary(whole) for record in (ours, theirs)]
        for summary in summaries:
            assert summary.pop("seconds_per_image") > 0
        assert summaries[0] == summaries[1]
    assert torch.equal(found.column("features"), whole.column("features"))


def test_unfinished_records_are_written_now_and_then(module, measured, tmp_path):
    cache = MeasurementCache(tmp_path / "records", SETTINGS, every=1000)
    record = measured(TrainedMethod(module.hypernet))
    cache.keep(record, of_batches=4)
    assert cache.load("hypernetwork") is None
    cache.keep(record, of_batches=3)
    assert cache.load("hypernetwork").batches == 3
    assert not list((tmp_path / "records").glob("*.partial"))


def test_the_reference_is_kept(tmp_path):
    cache, features = MeasurementCache(tmp_path / "records", SETTINGS), torch.randn(3, 2)
    assert cache.load_reference() is None
    cache.keep_reference({"features": features, "features/dino": 2 * features})
    found = MeasurementCache(tmp_path / "records", SETTINGS).load_reference()
    assert found.keys() == {"features", "features/dino"}
    assert torch.equal(found["features"], features) and torch.equal(found["features/dino"], 2 * features)


def test_other_settings_are_refused_and_named(module, measured, tmp_path):
    cache = MeasurementCache(tmp_path / "records", SETTINGS)
    cache.keep(measured(TrainedMethod(module.hypernet)), own={"n": 3})
    with pytest.raises(
        ValueError, match=r"settings: 2 changed \(extra was nothing and is 2, model\.seed was 0 and is 1\)\. "
    ):
        MeasurementCache(tmp_path / "records", {**SETTINGS, "model": {"seed": 1, "steps": None}, "extra": 2})
    message = r"1 changed \(hypernetwork\.n was 3 and is 4\)\. .*remove hypernetwork.record.safetensors there"
    with pytest.raises(ValueError, match=message):
        cache.load("hypernetwork", {"n": 4})
    assert cache.load("hypernetwork", {"n": 3}).name == "hypernetwork"


def test_settings_follow_prompts(measured):
    one = measurement_settings(SETTINGS, measured.batches)
    assert one == measurement_settings(SETTINGS, measured.batches)
    json.dumps(one)
    assert one["prompts"] != measurement_settings(SETTINGS, measured.batches[1:])["prompts"]


def test_settings_of_a_network_follow_its_files(tmp_path):
    folder = tmp_path / "hypernet"
    folder.mkdir()
    (folder / "hypernet_config.json").write_text("{}")
    (folder / "weights.safetensors").write_bytes(b"1")
    one = weights_settings(str(folder))
    assert one == weights_settings(str(folder.rename(tmp_path / "renamed")))
    (tmp_path / "renamed").rename(folder)
    (folder / "weights.safetensors").write_bytes(b"2")
    assert {name for name, value in weights_settings(str(folder)).items() if value != one[name]} == {
        "weights.safetensors"
    }


def test_the_gallery_is_chosen_once(tmp_path):
    cache = MeasurementCache(tmp_path / "records", SETTINGS)
    assert cache.gallery(lambda: {3, 1}) == {1, 3}
    assert MeasurementCache(tmp_path / "records", SETTINGS).gallery(lambda: pytest.fail("chosen already")) == {1, 3}
    with pytest.raises(ValueError, match="prompts was abc and is d"):
        MeasurementCache(tmp_path / "records", SETTINGS | {"prompts": "d"})
