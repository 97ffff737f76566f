"""An evaluation by two processes, from the command line: the numbers are those of one process, to the last bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hn.report.curves import read_scalars

ROOT = Path(__file__).parents[2]


@pytest.fixture
def evaluated(experiment, make_module, tiny_prompts, tmp_path):
    """Tests weights in so many processes; what was logged, and the suite's results."""
    module = make_module()
    with torch.no_grad():
        for parameter in module.hypernet.parameters():
            if parameter.requires_grad:
                parameter += 0.05
    suite = {"name": "words", "prompts": str(tiny_prompts / "val.jsonl"), "category": "tag", "batch_size": 2}
    suite = {"class_path": "hn.training.callbacks.suite.PromptSuite", "init_args": suite}

    def run(processes: int) -> tuple[dict[str, float], dict]:
        root = tmp_path / f"of_{processes}"
        module.hypernet.save_pretrained(root / "tiny" / "one" / "hypernet")
        # One prompt at a time: its image's last bits depend on the company that it is made in.
        options = {"run.root": root, "run.name": "one", "data.init_args.eval_batch_size": 1}
        options |= {"trainer.devices": processes, "trainer.strategy": "ddp" if processes > 1 else "auto"}
        options |= {"callbacks.suite": json.dumps(suite)}
        command = [sys.executable, "-m", "hn", "test", "--config", str(experiment)]
        command += [f"--{name}={value}" for name, value in options.items()]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr
        (found,) = root.rglob("results_words.json")
        scalars = {name: values[-1] for name, (_, values) in read_scalars(found.parent).items()}
        return scalars, json.loads(found.read_text())["methods"]

    return run


@pytest.mark.slow
def test_two_processes_measure_what_one_does(evaluated):
    scalars, suite = evaluated(1)
    shared_scalars, shared_suite = evaluated(2)  # of five prompts, the first is given to both
    assert shared_scalars == scalars
    assert {"test/reward", "test/cmmd", "test/diversity", "test/geneval_counting", "words/reward"} <= scalars.keys()
    for method in (*suite.values(), *shared_suite.values()):
        assert method.pop("seconds_per_image") > 0
    assert shared_suite == suite
