"""What each of several processes of `hn score` does, and where."""

import pytest
import torch

from hn.cli.parsing import UserError
from hn.cli.score import own_device, own_shard
from hn.evaluation.folder.shard import WorkShard


def test_each_process_of_torchrun_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert own_device(torch.device("cuda")) == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert own_device(torch.device("cuda")) == torch.device("cuda:1")
    assert own_device(torch.device("cuda:0")) == torch.device("cuda:0")
    assert own_device(torch.device("cpu")) == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="There is no device 'cuda:2' here"):
        own_device(torch.device("cuda"))


def test_the_share_is_given_or_torchrun_s(monkeypatch):
    assert own_shard(None) == WorkShard(0, 1) and own_shard("1/3") == WorkShard(1, 3)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert own_shard(None) == WorkShard(1, 2) and own_shard("1/3") == WorkShard(1, 3)


def test_tasks_of_srun_have_to_be_given_their_share(monkeypatch):
    monkeypatch.setattr("hn.cli.score.launcher", lambda: "srun")
    assert own_shard("1/2") == WorkShard(1, 2)
    with pytest.raises(UserError, match="SLURM_PROCID/\\$SLURM_NTASKS"):
        own_shard(None)
