import pytest
import torch

from hn.generators.noise import (
    BatchSlice,
    TrainingNoise,
    evaluation_noise,
    evaluation_streams,
    seeded,
    training_streams,
)

N = 3


def draw(noise_type, generator, step=0, seed=0, n=N, **batch):
    return TrainingNoise(noise_type)(n, generator, seed, step, BatchSlice(**batch))


def same(a, b) -> bool:
    return torch.equal(a, b)


def test_keys_that_differ_in_anything_give_unrelated_draws():
    keys = [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (2**40, 5)]
    draws = torch.stack([torch.randn(1000, generator=seeded(*key)) for key in keys])
    assert torch.equal(draws[2], torch.randn(1000, generator=seeded(0, 0)))
    correlation = torch.corrcoef(draws) - torch.eye(len(keys))
    assert correlation.abs().max() < 0.15  # five standard deviations of unrelated draws


def test_inf_is_fresh_for_every_sample_step_part_and_rank(generator):
    first = draw("inf", generator)
    assert first.shape == (N, *generator.noise_shape)
    assert not same(first[0], first[1])
    assert same(first, draw("inf", generator))
    for other in (
        draw("inf", generator, step=1),
        draw("inf", generator, part=1, parts=2),
        draw("inf", generator, rank=1, ranks=2),
        draw("inf", generator, seed=1),
    ):
        assert not same(first, other)


def test_batch_is_one_noise_per_update(generator):
    first = draw("batch", generator)
    assert same(first[0], first[1])
    assert same(first, draw("batch", generator, part=1, parts=2, rank=2, ranks=3))
    assert not same(first, draw("batch", generator, step=1))
    assert not same(first, draw("batch", generator, seed=1))


def test_one_is_the_same_noise_always(generator):
    first = draw("one", generator)
    assert same(first[0], first[1])
    assert same(first, draw("one", generator, step=9, part=1, parts=2, rank=2, ranks=3))
    assert not same(first, draw("one", generator, seed=1))


def test_multi_is_the_same_batch_always(generator):
    first = draw("multi", generator)
    assert not same(first[0], first[1])
    assert same(first, draw("multi", generator, step=9))
    assert not same(first, draw("multi", generator, rank=1, ranks=2))
    assert not same(first, draw("multi", generator, seed=1))


@pytest.mark.parametrize("noise_type", ["inf", "batch", "one", "multi"])
@pytest.mark.parametrize(("ranks", "parts"), [(2, 1), (1, 2), (3, 2)])
def test_an_update_has_the_same_noises_however_it_is_shared(generator, noise_type, ranks, parts):
    whole = draw(noise_type, generator, step=4, n=N * ranks * parts)
    streams = [stream.initial_seed() for stream in training_streams(len(whole), 0, 4)]
    assert len(set(streams)) == len(streams)
    for part in range(parts):
        batch = slice(part * N * ranks, (part + 1) * N * ranks)
        for rank in range(ranks):
            batch_slice = BatchSlice(part, parts, rank, ranks)
            # As EpochShuffle distributes the rows of a batch: over the ranks in turn.
            assert same(whole[batch][rank::ranks], TrainingNoise(noise_type)(N, generator, 0, 4, batch_slice))
            own = [stream.initial_seed() for stream in training_streams(N, 0, 4, batch_slice)]
            assert own == streams[batch][rank::ranks]


@pytest.mark.parametrize("noise_type", ["inf", "multi"])
def test_the_parts_of_an_update_share_one_draw(generator, noise_type, monkeypatch):
    drawn, sample_noise = [], generator.sample_noise
    monkeypatch.setattr(generator, "sample_noise", lambda n, *a, **b: drawn.append(n) or sample_noise(n, *a, **b))
    noise, parts = TrainingNoise(noise_type), [(5, 0), (5, 1), (5, 2), (6, 0), (6, 1)]
    batches = [noise(N, generator, 0, step, BatchSlice(part, 3)) for step, part in parts]
    assert drawn == [3 * N, 3 * N]
    for batch, (step, part) in zip(batches, parts, strict=True):
        assert same(batch, draw(noise_type, generator, step, part=part, parts=3))


def test_one_process_keeps_the_noise_that_committed_results_were_trained_with(generator):
    """The keys and the single draw of the time before updates could be shared."""
    assert same(draw("inf", generator, step=6, seed=3), generator.sample_noise(N, seeded(3, 0, 6, 0, 0)))
    assert same(draw("multi", generator, step=6, seed=3), generator.sample_noise(N, seeded(3, 3, 0)))


def test_an_unknown_type_is_refused(generator):
    with pytest.raises(ValueError, match="Unknown noise type 'infinite'; choose one of inf, batch, one, multi"):
        TrainingNoise("infinite")


def test_evaluation_noise_is_a_matter_of_prompt_and_copy_alone(generator):
    noise = evaluation_noise(generator, [7, 7, 2], [0, 1, 0], seed=5)
    assert same(noise[2:], evaluation_noise(generator, [2], [0], seed=5))
    assert same(noise[1:2], evaluation_noise(generator, [7], [1], seed=5))
    assert not same(noise[0], noise[1])
    assert not same(noise, evaluation_noise(generator, [7, 7, 2], [0, 1, 0], seed=6))


def test_streams_are_fresh_each_time_and_unrelated_to_the_noise(generator):
    a, b = evaluation_streams([7, 2], [0, 1], seed=5)
    size = torch.Size(generator.noise_shape).numel()
    drawn = torch.randn(size, generator=a)
    assert not same(drawn, torch.randn(size, generator=b))
    assert same(drawn, torch.randn(size, generator=evaluation_streams([7], [0], seed=5)[0]))
    assert not same(drawn, evaluation_noise(generator, [7], [0], seed=5).flatten())
    drawn = [torch.randn(size, generator=training_streams(1, 0, step)[0]) for step in (3, 3, 4)]
    assert same(drawn[0], drawn[1])
    assert not same(drawn[0], drawn[2])
    assert not same(drawn[0], draw("inf", generator, step=3)[0].flatten())
