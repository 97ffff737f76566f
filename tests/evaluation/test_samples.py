import torch

from hn.evaluation.samples import Samples

ROWS = [{"prompt": "a red ball", "tag": "colors"}, {"prompt": "two cube"}]
BATCH = {"prompt": [row["prompt"] for row in ROWS], "metadata": ROWS, "index": torch.tensor([5, 2])}


def test_prompts_are_repeated_one_after_the_other(generator):
    samples = Samples.draw(generator, BATCH, images_per_prompt=2, seed=0)
    assert len(samples) == 4
    assert samples.prompts == ["a red ball", "a red ball", "two cube", "two cube"]
    assert samples.index == [5, 5, 2, 2]
    assert samples.copy == [0, 1, 0, 1]
    assert samples.tags == ["colors", "colors", "all", "all"]
    assert samples.metadata == [ROWS[0], ROWS[0], ROWS[1], ROWS[1]]
    assert samples.noise.shape == (4, *generator.noise_shape)


def test_noise_does_not_depend_on_the_batch_or_the_number_of_images(generator):
    samples = Samples.draw(generator, BATCH, images_per_prompt=3, seed=1)
    alone = {"prompt": ["two cube"], "metadata": [ROWS[1]], "index": torch.tensor([2])}
    fewer = Samples.draw(generator, alone, images_per_prompt=2, seed=1)
    assert torch.equal(fewer.noise, samples.noise[3:5])
    drawn = [[torch.rand(1, generator=stream) for stream in s.streams()] for s in (samples, samples, fewer)]
    assert drawn[0] == drawn[1]
    assert drawn[0][3:5] == drawn[2]
    assert not torch.equal(samples.noise, Samples.draw(generator, BATCH, 3, seed=2).noise)


def test_bare_prompts_are_numbered(generator):
    samples = Samples.of_prompts(generator, ["two cube", "a red ball"], images_per_prompt=1, seed=1)
    assert samples.index == [0, 1]
    assert samples.metadata == [{"prompt": "two cube"}, {"prompt": "a red ball"}]
    assert samples.tags == ["all", "all"]
