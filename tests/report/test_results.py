import json
import math
import re
import subprocess

import torch

import hn
from hn.report.results import write_results
from hn.utils.environment import environment


def test_the_file_says_what_was_measured_and_on_what(tmp_path):
    methods = {"base": {"kl_nats": 0.0}, "hypernetwork": {"kl_nats": 6.0}, "finetune": {"kl_nats": None}}
    path = tmp_path / "runs" / "results.json"
    results = write_results(path, "tiny", methods, dimensions=4, training={"steps": 3})
    assert json.loads(path.read_text()) == results
    assert list(results) == ["experiment", "environment", "training", "methods"]
    assert results["experiment"] == "tiny"
    assert [method["penalty_per_dimension"] for method in results["methods"].values()] == [0.0, 1.5, None]
    assert methods["base"] == {"kl_nats": 0.0}
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_numbers_that_json_does_not_know_are_null(tmp_path):
    methods = {"base": {"kl_nats": math.inf, "reward": math.nan, "interval": [math.nan, 1.0]}}
    write_results(tmp_path / "results.json", "tiny", methods, dimensions=4)
    found = json.loads((tmp_path / "results.json").read_text())["methods"]["base"]
    assert found == {"kl_nats": None, "reward": None, "interval": [None, 1.0], "penalty_per_dimension": None}


def test_the_environment_is_that_of_this_process():
    found = environment()
    assert found["packages"]["hn"] == hn.__version__
    assert found["packages"]["torch"] == torch.__version__.split("+")[0]
    assert found["threads"] == torch.get_num_threads()
    assert found["git_commit"] is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", found["git_commit"])


def test_a_gpu_is_named_beside_the_processor_for_it_may_lie_idle(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert environment()["gpu"] is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    found = environment()
    assert found["gpu"] == "NVIDIA H100" and "cores" in found["processor"]
    assert "device" not in found


def test_without_git_there_is_no_commit(monkeypatch):
    def missing(*args, **kwargs):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    assert environment()["git_commit"] is None
