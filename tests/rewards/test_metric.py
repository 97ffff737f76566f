"""Metrics of rewards against direct scoring, over updates and processes."""

import copy
import os
import pickle
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.distributed
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from torch.multiprocessing import spawn
from torchmetrics import Metric, MetricCollection
from transformers import CLIPModel, CLIPTokenizer

from hn.rewards import BrightnessReward, ClipReward, RednessReward, Reward
from hn.rewards.metric import ClipScore, RewardMetric, prompt_key, unit_range

PROMPTS = ["a red cube", "two blue ball", "a red cube", "a photo of the green ball", "two blue ball"]


class Rows(Reward):
    """The first pixel: scores that a test chooses."""

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return images[:, 0, 0, 0]


def batch(scores: Sequence[float]) -> Tensor:
    return torch.tensor(scores, dtype=torch.float64).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, 3, 40, 36)


def test_it_equals_direct_scoring_over_several_updates(tiny_clip_folder: Path, images: Tensor) -> None:
    reward = ClipReward(str(tiny_clip_folder))
    scores = torch.cat([reward(images[i : i + 2], PROMPTS[i : i + 2]) for i in (0, 2, 4)]).double()
    metric = RewardMetric(reward)
    for i in (0, 2, 4):
        metric.update(images[i : i + 2], PROMPTS[i : i + 2])
    result = metric.compute()
    assert list(result) == ["mean", "std", "count", "per_prompt"]
    assert result["mean"].item() == pytest.approx(scores.mean().item(), rel=1e-14)
    assert result["std"].item() == pytest.approx(scores.std().item(), rel=1e-12)
    assert result["mean"].dtype == result["std"].dtype == torch.float64
    assert (result["count"].item(), result["count"].dtype) == (5, torch.int64)
    groups = {0: [0, 2], 1: [1, 4], 3: [3]}
    expected = {prompt_key(PROMPTS[i]): scores[rows].mean().item() for i, rows in groups.items()}
    assert result["per_prompt"] == pytest.approx(expected, rel=1e-14)
    assert list(result["per_prompt"]) == list(expected)  # in the order of first appearance
    metric.reset()
    metric.update(images[:1], PROMPTS[:1])
    assert metric.compute()["count"] == 1
    assert metric.compute()["mean"].item() == pytest.approx(scores[0].item(), rel=1e-5)
    assert metric.compute()["std"].isnan()


def test_sums_do_not_depend_on_the_order_to_the_last_bit() -> None:
    scores = torch.rand(1000, dtype=torch.float64).tolist()
    results = []
    for order in (list(range(1000)), torch.randperm(1000).tolist()):
        metric = RewardMetric(Rows())
        for start in range(0, 1000, 125):
            rows = order[start : start + 125]
            metric.update(batch([scores[i] for i in rows]), [PROMPTS[i % 5] for i in rows])
        results.append(metric.compute())
    assert all(torch.equal(results[0][name], results[1][name]) for name in ("mean", "std", "count"))
    assert results[0]["per_prompt"] == results[1]["per_prompt"]


def test_float64_sums_keep_what_float32_loses() -> None:
    metric = RewardMetric(Rows())
    for _ in range(100):
        metric.update(batch([1.0, 2**-24]), PROMPTS[:2])
    assert metric.compute()["mean"].item() == (1 + 2**-24) / 2
    assert {state.dtype for state in (*metric.scores, *metric.keys)} == {torch.float64}


def test_an_index_stands_for_the_prompts(images: Tensor) -> None:
    metric, reward = RewardMetric(RednessReward()), RednessReward()
    scores = reward(images, PROMPTS).double()
    metric.update(images[:3], ["x"] * 3, index=[7, 2**53 - 1, 7])
    metric.update(images[3:], ["x"] * 2, index=torch.tensor([0, 7], dtype=torch.int32))
    assert metric.compute()["per_prompt"] == pytest.approx(
        {7: scores[[0, 2, 4]].mean().item(), 2**53 - 1: scores[1].item(), 0: scores[3].item()}, rel=1e-14
    )


def test_keys_of_prompts_are_stable_and_exact_in_float64() -> None:
    assert prompt_key("a dog") == 8937229083427915  # other processes, other machines
    keys = [prompt_key(f"prompt {i}") for i in range(10000)]
    assert len(set(keys)) == 10000 and max(keys) < 2**53
    assert torch.tensor(keys, dtype=torch.float64).long().tolist() == keys


def test_eight_bit_images_are_divided_by_255() -> None:
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    results = []
    for given in (images, images.double() / 255):
        metric = RewardMetric(RednessReward())
        metric.update(given, PROMPTS)
        results.append(metric.compute()["mean"].item())
    assert results[0] == pytest.approx(results[1], rel=1e-6) and abs(results[0]) > 1e-4
    assert unit_range(images).dtype == torch.float32 and torch.equal((unit_range(images) * 255).round(), images)


def test_the_batchs_own_result_and_the_whole_one(images: Tensor) -> None:
    metric, reward = RewardMetric(RednessReward()), RednessReward()
    for rows in (slice(0, 2), slice(2, 5)):
        own = metric(images[rows], PROMPTS[rows])
        assert own["mean"].item() == pytest.approx(reward(images[rows], PROMPTS[rows]).double().mean().item())
    assert metric.compute()["mean"].item() == pytest.approx(reward(images, PROMPTS).double().mean().item())
    assert metric.compute()["count"] == 5


def test_no_gradients_reach_the_images(images: Tensor) -> None:
    images.requires_grad_(True)
    metric = RewardMetric(RednessReward())
    assert not metric.is_differentiable
    assert not metric(images, PROMPTS)["mean"].requires_grad and not metric.scores[0].requires_grad


def test_weights_are_no_part_of_its_state_and_not_copied(tiny_clip_folder: Path, images: Tensor) -> None:
    reward = ClipReward(str(tiny_clip_folder))
    metric = RewardMetric(reward)
    assert metric.state_dict() == {} and list(metric.parameters()) == [] and list(metric.modules()) == [metric]
    module = nn.Module()
    module.metric = metric
    assert module.state_dict() == {}
    clone = MetricCollection({"clip": metric}).clone(prefix="val_")["clip"]
    assert clone.reward is reward and copy.deepcopy(metric).reward is reward
    clone.update(images, PROMPTS)
    assert metric.scores == [] and len(clone.scores) == 1
    metric.persistent(True)
    metric.update(images, PROMPTS)
    assert set(metric.state_dict()) == {"scores", "keys", "unequal"}
    restored = pickle.loads(pickle.dumps(clone))
    assert torch.equal(restored.compute()["mean"], clone.compute()["mean"])


@pytest.mark.parametrize("convert", [lambda m: m.half(), lambda m: m.to(torch.bfloat16), lambda m: m.float()])
def test_data_types_stay(tiny_clip_folder: Path, images: Tensor, convert) -> None:
    reward = ClipReward(str(tiny_clip_folder), dtype="float64")
    metric = RewardMetric(reward)
    metric.update(images, PROMPTS)
    before = metric.compute()
    metric = convert(metric)
    assert metric.scores[0].dtype == torch.float64 and torch.equal(metric.compute()["mean"], before["mean"])
    assert {p.dtype for p in reward.parameters()} == {torch.float64}


def test_it_takes_its_reward_along_to_a_device(tiny_clip_folder: Path) -> None:
    reward = ClipReward(str(tiny_clip_folder))
    metric = RewardMetric(reward).to("meta")
    assert {p.device.type for p in reward.parameters()} == {"meta"} and metric.unequal.device.type == "meta"


def test_a_collection_keeps_rewards_apart_that_agree_on_the_first_batch() -> None:
    collection = MetricCollection(
        {"red": RewardMetric(RednessReward()), "bright": RewardMetric(BrightnessReward()), "rows": RewardMetric(Rows())}
    )
    black, red = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    red[:, 0] = 1
    collection.update(black, PROMPTS[:2])  # 0 for all of them
    collection.update(red, PROMPTS[:2])
    result = collection.compute()
    assert (result["red_mean"], result["rows_mean"]) == (0.5, 0.5)
    assert result["bright_mean"].item() == pytest.approx(0.2126 / 2, rel=1e-6)
    assert result["bright_count"] == 4


def test_scalars_alone_for_loggers(images: Tensor) -> None:
    metric = RewardMetric(RednessReward(), per_prompt=False)
    metric.update(images, PROMPTS)
    assert {name: value.ndim for name, value in metric.compute().items()} == {"mean": 0, "std": 0, "count": 0}


def test_slips_are_reported(images: Tensor) -> None:
    metric = RewardMetric(RednessReward())
    with pytest.raises(ValueError, match="one prompt per image: 5 images, prompts 2"):
        metric.update(images, PROMPTS[:2])
    with pytest.raises(ValueError, match="these reach from 0 to 255; clamp them"):
        metric.update(torch.tensor([0.0, 255.0, 1.0]).view(1, 3, 1, 1), PROMPTS[:1])
    with pytest.raises(ValueError, match="or uint8 in 0 to 255, not torch.int64"):
        metric.update(torch.ones(1, 3, 2, 2, dtype=torch.int64), PROMPTS[:1])
    for index in ([0], torch.rand(5), [0, 1, 2, 3, -1]):
        with pytest.raises(ValueError, match="an integer of 0 or more for each of the 5 prompts"):
            metric.update(images, PROMPTS, index=index)
    assert metric.scores == []


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_no_images_have_no_mean() -> None:
    result = RewardMetric(RednessReward()).compute()
    assert result["mean"].isnan() and result["std"].isnan()
    assert (result["count"], result["per_prompt"]) == (0, {})


def test_clip_score_is_the_clamped_cosine_in_percent(tiny_clip_folder: Path) -> None:
    """Against CLIPModel itself, on images of its size normalised with the folder's mean and std."""
    images, prompts = torch.rand(8, 3, 32, 32) ** 4, (PROMPTS * 2)[:8]
    images[:4] = images[:4].round()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.5, 0.4, 0.3), (0.25, 0.3, 0.35)))
    model = CLIPModel.from_pretrained(tiny_clip_folder)
    tokens = CLIPTokenizer.from_pretrained(tiny_clip_folder)(prompts, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(pixel_values=(images - mean) / std, **tokens).logits_per_image.diagonal()
    cosines = (logits / model.logit_scale.exp()).double()
    metric = ClipScore(str(tiny_clip_folder))
    metric.update(images, prompts)
    assert metric.compute()["mean"].item() == pytest.approx(100 * cosines.clamp(min=0).mean().item(), rel=1e-4)
    assert cosines.min() < 0 < cosines.max()  # both sides of the clamp


def test_a_config_names_metrics_by_class_path(tiny_clip_folder: Path) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--metrics", type=dict[str, Metric])
    clip = {"class_path": "hn.rewards.metric.ClipScore", "init_args": {"pretrained": str(tiny_clip_folder)}}
    reward = {"class_path": "hn.rewards.redness.RednessReward"}
    red = {"class_path": "hn.rewards.metric.RewardMetric", "init_args": {"reward": reward, "sync_on_compute": False}}
    made = parser.instantiate(parser.parse_object({"metrics": {"clip": clip, "red": red}})).metrics
    assert type(made["clip"]) is ClipScore and isinstance(made["red"].reward, RednessReward)
    assert made["clip"].sync_on_compute and not made["red"].sync_on_compute


SCORES = [0.1, 0.7, 0.3, 0.2, 0.9, 0.4, 0.35, 0.8]
SHARES = {"even": ([0, 2, 4, 6], [1, 3, 5, 7]), "uneven": ([0, 1, 2, 5, 7], [3, 4, 6]), "idle": ([], list(range(8)))}


def measure(rows: Sequence[int]) -> dict:
    metric = RewardMetric(Rows())
    for start in range(0, len(rows), 2):
        some = rows[start : start + 2]
        metric.update(batch([SCORES[i] for i in some]), [PROMPTS[i % 5] for i in some])
    result = metric.compute()
    assert len(metric.scores) == -(-len(rows) // 2)  # its own again
    return result


def worker(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    torch.save({name: measure(rows[rank]) for name, rows in SHARES.items()}, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_processes_equal_one_bit_for_bit(tmp_path: Path) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    spawn(worker, (port, str(tmp_path)), nprocs=2)
    expected = measure(range(8))
    for rank in range(2):
        for result in torch.load(tmp_path / f"{rank}.pt").values():
            assert all(torch.equal(result[name], expected[name]) for name in ("mean", "std", "count"))
            assert result["per_prompt"] == expected["per_prompt"]
