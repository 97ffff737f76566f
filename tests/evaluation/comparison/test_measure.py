import pytest
import torch
from torch.utils.data import DataLoader

from hn.data import PromptDataset, collate_prompts
from hn.evaluation.comparison.measure import measure, reference_features
from hn.evaluation.methods import Sampled
from hn.evaluation.scorer import Scorer, feature_extractor_of


@pytest.fixture
def module(make_module):
    return make_module(images_per_prompt=2)


@pytest.fixture
def loader(tiny_prompts):
    data = PromptDataset(tiny_prompts / "test.jsonl")
    return lambda batch_size: DataLoader(data, batch_size, collate_fn=collate_prompts)


def test_a_method_is_measured_on_every_image(module, loader, tiny_detector):
    scorer = Scorer(module.reward, tiny_detector, feature_extractor_of(module.reward))
    base = Sampled("base", module.generator)
    record = measure(base, scorer, module.generator, loader(3), images_per_prompt=2, seed=0)
    assert len(record) == 10
    assert (record.name, record.nfe) == ("base", 1)
    assert record.seconds > 0
    assert record.geneval().keys() == {"overall", "colors", "counting"}
    # the same whatever the batches are
    other = measure(base, scorer, module.generator, loader(5), images_per_prompt=2, seed=0)
    torch.testing.assert_close(other.column("reward"), record.column("reward"), rtol=1e-4, atol=1e-5)
    other = measure(base, scorer, module.generator, loader(3), images_per_prompt=2, seed=1)
    assert not torch.allclose(other.column("reward"), record.column("reward"), rtol=1e-4, atol=1e-5)


def test_the_reference_is_the_base_on_other_noise(module, loader):
    scorer = Scorer(module.reward, features=feature_extractor_of(module.reward))
    found = reference_features(module.generator, scorer, loader(3), images_per_prompt=2, seed=0)
    reference = found.pop("features")
    assert not found
    base = measure(Sampled("base", module.generator), scorer, module.generator, loader(3), 2, 0)
    assert reference.shape == base.column("features").shape
    assert not torch.isclose(reference, base.column("features"), rtol=1e-4).all(dim=1).any()
    assert reference_features(module.generator, Scorer(module.reward), loader(3), 2, 0) is None
