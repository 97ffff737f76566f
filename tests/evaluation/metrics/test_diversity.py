import pytest
import torch

from hn.evaluation.metrics.diversity import pairwise_cosine_distance


def test_it_is_the_mean_over_prompts_of_the_mean_over_pairs():
    features = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    index = torch.tensor([4, 0, 4, 0, 0, 2, 4, 4, 0])  # the prompt 2 has one image
    means = []
    for prompt in (0, 4):
        own = features[index == prompt].double()
        pairs = [(i, j) for i in range(len(own)) for j in range(i)]
        distances = [1 - torch.cosine_similarity(own[i], own[j], dim=0) for i, j in pairs]
        means.append(sum(distances) / len(distances))
    assert pairwise_cosine_distance(features, index) == pytest.approx(float(sum(means) / 2), rel=1e-10)


def test_equal_images_have_none_and_opposite_ones_two():
    same = torch.tensor([[1.0, 2.0]]).expand(4, 2)
    assert pairwise_cosine_distance(same, torch.tensor([0, 0, 1, 1])) == pytest.approx(0, abs=1e-12)
    assert pairwise_cosine_distance(torch.tensor([[1.0, 2.0], [-3.0, -6.0]]), torch.tensor([7, 7])) == pytest.approx(2)


def test_single_images_have_no_diversity():
    assert pairwise_cosine_distance(torch.randn(3, 2), torch.tensor([0, 1, 2])) is None
