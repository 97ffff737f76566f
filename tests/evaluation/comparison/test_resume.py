"""A comparison that was killed goes on, through the command line."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from hn.cli import main

ROOT = Path(__file__).parents[3]


@pytest.fixture
def comparison(experiment, make_module, tmp_path) -> list[str]:
    """`hn compare` with a trained hypernetwork, a search that can be held up, and a warm start after it."""
    module = make_module()
    with torch.no_grad():
        for parameter in module.hypernet.parameters():
            if parameter.requires_grad:
                parameter += 0.05
    module.hypernet.save_pretrained(tmp_path / "runs" / "tiny" / "one" / "hypernet")
    reno = {"class_path": "hn.search.reno.Reno", "init_args": {"iterations": 2}}
    searches = {
        "best_of_8": {"init_args": {"n": 3, "report_at": [2], "budget": {"patience": 2}}},
        "best_of_50": None,
        "zero_order_17": None,
        "reno_50": None,
        "hypernetwork_reno_5": None,
        "gated": {"class_path": "tests.gated_search.GatedSearch", "init_args": {"gate": str(tmp_path / "gate.open")}},
        "hypernetwork_reno_2": {"class_path": "hn.search.warm_start.WarmStart", "init_args": {"search": reno}},
    }
    file = tmp_path / "tiny.yaml"
    content = yaml.safe_load(file.read_text())
    file.write_text(
        yaml.safe_dump({**content, "comparison": {"finetune": None, "steps": None, "gallery": 3, "searches": searches}})
    )
    return ["compare", "--config", str(file)]


def without_seconds(path: Path) -> dict:
    """Results without what no two runs have in common: seconds, and the peak of the process's memory."""
    results = json.loads(path.read_text())
    for method in results["methods"].values():
        assert method.pop("seconds_per_image") > 0
        method.pop("peak_memory_bytes")
    return results


@pytest.mark.slow
def test_a_killed_comparison_goes_on_and_ends_as_if_it_had_not_been(comparison, tmp_path, capsys):
    runs, gate = tmp_path / "runs" / "tiny", tmp_path / "gate.open"
    process = subprocess.Popen(
        [sys.executable, "-m", "hn", *comparison, "--run.name", "killed"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    deadline = time.monotonic() + 240
    while not gate.with_suffix(".waits").exists():
        assert process.poll() is None, process.communicate()[0].decode()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.communicate()

    folder = runs / "compare_killed"
    assert not (folder / "results.json").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in (folder / "records").glob("*.safetensors")}
    assert set(kept) == {
        "reference.safetensors", "base.record.safetensors", "hypernetwork.record.safetensors",
        "best_of_8.record.safetensors",
    }  # fmt: skip
    pictures = {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.glob("gallery/*/*.png")}
    measured = {"base", "hypernetwork", "best_of_8", "best_of_8@2"}
    assert {str(path.parent.name) for path in pictures} == measured and len(pictures) == 12

    gate.touch()
    main([*comparison, "--run.name", "killed"])
    again = {path.name: path.stat().st_mtime_ns for path in (folder / "records").glob("*.safetensors")}
    assert {name: again[name] for name in kept} == kept
    assert {path: (folder / path).stat().st_mtime_ns for path in pictures} == pictures
    assert set(again) - set(kept) == {"gated.record.safetensors", "hypernetwork_reno_2.record.safetensors"}
    main([*comparison, "--run.name", "whole"])
    results = without_seconds(folder / "results.json")
    assert results == without_seconds(runs / "compare_whole" / "results.json")
    for path in [*folder.glob("gallery/*/*.png"), folder / "images.csv"]:
        assert path.read_bytes() == (runs / "compare_whole" / path.relative_to(folder)).read_bytes()
    assert len(list(folder.glob("gallery/*/*.png"))) == 18
    methods = results["methods"]
    assert list(methods) == ["base", "hypernetwork", "best_of_8@2", "best_of_8", "gated", "hypernetwork_reno_2"]
    assert methods["best_of_8@2"]["nfe"] == 2 < methods["best_of_8"]["nfe"] <= 3
    assert methods["base"]["reward"] <= methods["best_of_8@2"]["reward"] <= methods["best_of_8"]["reward"]
    assert methods["hypernetwork_reno_2"]["nfe"] == 3
    assert methods["hypernetwork_reno_2"]["reward"] > methods["hypernetwork"]["reward"]
    assert "hypernetwork_reno_2" in capsys.readouterr().out

    # a search more is measured alone
    one_more = ["--comparison.searches.best_of_50.class_path", "hn.search.best_of_n.BestOfN",
                "--comparison.searches.best_of_50.init_args.n", "2"]  # fmt: skip
    main([*comparison, "--run.name", "killed", *one_more])
    last = {path.name: path.stat().st_mtime_ns for path in (folder / "records").glob("*.safetensors")}
    assert {name: last[name] for name in again} == again
    more = without_seconds(folder / "results.json")["methods"]
    assert more.pop("best_of_50")["nfe"] == 2
    assert more == methods


@pytest.mark.slow
def test_other_settings_are_not_mixed(comparison, tmp_path, capsys):
    (tmp_path / "gate.open").touch()
    main([*comparison, "--run.name", "x"])
    before = (tmp_path / "runs" / "tiny" / "compare_x" / "results.json").read_bytes()

    def refused(*options: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([*comparison, "--run.name", "x", *options])
        assert caught.value.code == 2
        message = capsys.readouterr().err
        assert "Traceback" not in message
        assert "choose another --run.name" in message
        return message

    assert "model.images_per_prompt was 2 and is 3" in refused("--model.images_per_prompt", "3")
    assert "comparison.gallery was 3 and is 4" in refused("--comparison.gallery", "4")
    option = "comparison.searches.best_of_8.init_args.n"
    assert "best_of_8.init_args.n was 3 and is 4" in refused(f"--{option}", "4")
    weights = tmp_path / "runs" / "tiny" / "one" / "hypernet" / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "hypernetwork.weights.adapter_model.safetensors was" in refused()
    assert (tmp_path / "runs" / "tiny" / "compare_x" / "results.json").read_bytes() == before


@pytest.mark.parametrize("name", ["base", "hypernetwork", "a/b"])
def test_a_search_cannot_take_the_name_of_a_method(comparison, tmp_path, capsys, name):
    file = tmp_path / "tiny.yaml"
    content = yaml.safe_load(file.read_text())
    content["comparison"]["searches"][name] = {"class_path": "hn.search.best_of_n.BestOfN"}
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(SystemExit):
        main(comparison)
    assert f"{name!r}, which cannot name a search" in capsys.readouterr().err
