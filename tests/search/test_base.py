import pytest
import torch

from hn.search import BestOfN, Reno


@pytest.mark.parametrize("search", [BestOfN, lambda **options: Reno(iterations=1, **options)])
def test_steps_are_the_generators_unless_given(generator, reward, prompts, noise, search):
    generator.steps = 3
    results = {}
    for steps in (None, 3, 1):
        options = {} if steps is None else {"steps": steps}
        streams = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
        results[steps] = search(**options)(generator, reward, prompts, noise, streams)
    assert torch.equal(results[None].images, results[3].images)
    assert not torch.equal(results[None].images, results[1].images)
    nfe = {steps: result.trace[0]["nfe"] for steps, result in results.items()}
    assert nfe == {None: 3, 3: 3, 1: 1}
    with pytest.raises(ValueError, match="steps"):
        search(steps=0)
