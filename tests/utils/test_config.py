from pathlib import Path

import pytest
import yaml

from hn.generators import Generator
from hn.utils.class_path import import_class
from hn.utils.config import GENERATOR, config_names, find_config, find_key, generator_section, merge, read_config

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def write(tmp_path):
    """Writes YAML files by their paths in `tmp_path`, from their content."""

    def write_files(**files):
        for name, content in files.items():
            path = tmp_path / f"{name.replace('__', '/')}.yaml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return tmp_path

    return write_files


def test_mappings_are_merged_and_anything_else_is_replaced():
    base = {"a": {"x": 1, "y": [1, 2]}, "b": 1, "c": {"d": 1}}
    change = {"a": {"y": [3], "z": 4}, "b": {"e": 5}, "c": None}
    assert merge(base, change) == {"a": {"x": 1, "y": [3], "z": 4}, "b": {"e": 5}, "c": None}
    assert base == {"a": {"x": 1, "y": [1, 2]}, "b": 1, "c": {"d": 1}}


def test_another_class_drops_the_arguments_of_the_first():
    base = {"class_path": "A", "init_args": {"x": 1, "y": 2}}
    assert merge(base, {"init_args": {"x": 3}}) == {"class_path": "A", "init_args": {"x": 3, "y": 2}}
    assert merge(base, {"class_path": "A", "init_args": {"x": 3}})["init_args"] == {"x": 3, "y": 2}
    assert merge(base, {"class_path": "B", "init_args": {"z": 3}}) == {"class_path": "B", "init_args": {"z": 3}}
    assert merge(base, {"class_path": "B"}) == {"class_path": "B"}
    # In a configuration the class may be named further down the chain than its arguments.
    assert merge({"init_args": {"x": 1}}, {"class_path": "A"}) == {"class_path": "A"}


def test_null_removes_an_inherited_reward_and_its_weight():
    base = {
        "rewards": {"clip": {"class_path": "A"}, "redness": {"class_path": "B"}},
        "weights": {"clip": 1.0, "redness": 0.0},
        "normalise": {"clip": {"mean": 0, "std": 1}},
        "held_out": {"aesthetic": {"class_path": "C"}},
        "quantise": {"clip": "int8", "aesthetic": "int8"},
    }
    change = {"rewards": {"clip": None, "mine": {"class_path": "D"}}, "weights": {"mine": 2.0}}
    change |= {"held_out": {"aesthetic": None}}
    assert merge({"model": {"reward": {"init_args": base}}}, {"model": {"reward": {"init_args": change}}}) == {
        "model": {
            "reward": {
                "init_args": {
                    "rewards": {"redness": {"class_path": "B"}, "mine": {"class_path": "D"}},
                    "weights": {"redness": 0.0, "mine": 2.0},
                    "normalise": {},
                    "held_out": {},
                    "quantise": {},
                }
            }
        }
    }
    assert base["rewards"].keys() == {"clip", "redness"} and base["weights"].keys() == {"clip", "redness"}
    assert merge({**base, "quantise": "int8"}, change)["quantise"] == "int8"


def test_null_for_a_reward_that_is_not_inherited_is_refused(write):
    rewards = {"clip": {"class_path": "A"}, "redness": {"class_path": "B"}}
    folder = write(
        base={"model": {"reward": {"init_args": {"rewards": rewards}}}},
        mistyped={"extends": "base.yaml", "model": {"reward": {"init_args": {"rewards": {"clpi": None}}}}},
    )
    with pytest.raises(ValueError, match="rewards inherits no 'clpi'; it has: clip, redness"):
        read_config(folder / "mistyped.yaml")


def test_a_weight_for_a_removed_reward_stays_so_that_the_ensemble_names_it():
    base = {"rewards": {"clip": {"class_path": "A"}}, "weights": {"clip": 1.0}}
    merged = merge(base, {"rewards": {"clip": None}, "weights": {"clip": 2.0}})
    assert merged == {"rewards": {}, "weights": {"clip": 2.0}}


def test_null_stays_for_a_callback_and_for_options():
    base = {"callbacks": {"best": {"class_path": "A"}}, "detector": {"class_path": "B"}, "limit": 3}
    change = {"callbacks": {"best": None}, "detector": None, "limit": None}
    assert merge(base, change) == change


def test_a_chain_is_relative_to_each_file_and_the_last_one_wins(write):
    folder = write(
        top={"extends": "shared/middle.yaml", "a": 1},
        shared__middle={"extends": ["bottom.yaml"], "a": 2, "b": 2},
        shared__bottom={"a": 3, "b": 3, "c": "${b}"},
    )
    assert read_config(folder / "top.yaml") == {"a": 1, "b": 2, "c": "${b}"}


def test_of_several_the_later_ones_win(write):
    folder = write(top={"extends": ["one.yaml", "two.yaml"]}, one={"a": 1, "b": 1}, two={"a": 2})
    assert read_config(folder / "top.yaml") == {"a": 2, "b": 1}


def test_what_is_reached_twice_counts_once(write):
    """Both build on `base`; the second must not bring its values back over the changes of the first."""
    folder = write(
        top={"extends": ["one.yaml", "two.yaml"]},
        one={"extends": "base.yaml", "a": 1},
        two={},
        base={"a": 0, "b": 0, "c": 0},
    )
    (folder / "two.yaml").write_text(yaml.safe_dump({"extends": f"../{folder.name}/base.yaml", "b": 2}))
    assert read_config(folder / "top.yaml") == {"a": 1, "b": 2, "c": 0}


def test_a_cycle_is_named(write):
    folder = write(one={"extends": "two.yaml"}, two={"extends": "one.yaml"})
    with pytest.raises(ValueError, match=r"extends itself: .*one\.yaml -> .*two\.yaml -> .*one\.yaml"):
        read_config(folder / "one.yaml")


def test_a_missing_file_lists_what_is_there(write):
    folder = write(one={"extends": "twoo.yaml"}, two={})
    with pytest.raises(FileNotFoundError, match=r"no configuration file .*three\.yaml\. .* has: one, two\."):
        read_config(folder / "three.yaml")
    with pytest.raises(FileNotFoundError, match=r"twoo\.yaml, which .*one\.yaml extends\. .* has: one, two"):
        read_config(folder / "one.yaml")
    with pytest.raises(FileNotFoundError, match=r"no configuration file nowhere/x\.yaml\.$"):
        read_config("nowhere/x.yaml")


def test_a_configuration_is_found_by_name_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("miniature", "experiment", "experiments") == str(EXPERIMENTS / "miniature.yaml")
    assert find_config("experiments/miniature.yaml", "experiment", "experiments") == str(EXPERIMENTS / "miniature.yaml")
    assert find_config("nowhere.yaml", "experiment", "experiments") == "nowhere.yaml"
    (tmp_path / "experiments").mkdir()
    for name in ("miniature", "own"):
        (tmp_path / "experiments" / f"{name}.yaml").write_text("extends: experiments/shared/training.yaml\n")
        assert find_config(name, "experiment", "experiments") == f"experiments/{name}.yaml"
    assert {"own", "miniature", "sana_redness"} <= {*config_names("experiments")}
    assert read_config("experiments/own.yaml") == read_config(EXPERIMENTS / "shared" / "training.yaml")


def test_a_wrong_name_is_answered_with_the_nearest_and_all_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no experiment 'minature'\. Did you mean miniature\? .* sana_redness"):
        find_config("minature", "experiment", "experiments")
    with pytest.raises(
        FileNotFoundError, match=r"no study 'x'\. There are: diversity, .*rank, .*; or give a YAML file"
    ):
        find_config("x", "study", "experiments/studies")


def test_files_that_come_with_hn_are_named_by_their_paths_in_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "own.yaml"
    file.write_text("extends: experiments/miniature.yaml\nmodel: {reward_weight: 2}\n")
    config = read_config(file)
    assert config["model"]["reward_weight"] == 2
    assert config["vars"]["checkpoints"] == str(EXPERIMENTS.parent / "data" / "miniature")
    assert config["comparison"]["finetune"] == str(EXPERIMENTS / "miniature_finetune.yaml")
    monkeypatch.chdir(EXPERIMENTS.parent)
    assert read_config(file)["vars"]["checkpoints"] == "data/miniature"


@pytest.mark.parametrize(
    ("content", "message"),
    [("a: [1", "is not valid YAML"), ("- a", "must hold a mapping of options, not "), ("", "not nothing")],
)
def test_a_file_that_is_no_mapping_is_refused(write, content, message):
    folder = write(one=content)
    with pytest.raises(ValueError, match=message):
        read_config(folder / "one.yaml")


def test_a_generator_is_an_id_a_folder_or_a_section_of_a_file(tmp_path):
    section = generator_section("owner/name", {"dtype": "float16"})
    assert section == {"class_path": GENERATOR, "init_args": {"pretrained": "owner/name", "dtype": "float16"}}
    model = {"generator": {"class_path": "a.B", "init_args": {"pretrained": "${vars.p}/x", "dtype": "float32"}}}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump({"vars": {"p": "folder"}, "model": model}))
    section = generator_section(str(tmp_path / "experiment.yaml"), {"dtype": "float16"})
    assert section == {"class_path": "a.B", "init_args": {"pretrained": "folder/x", "dtype": "float16"}}
    (tmp_path / "alone.yml").write_text("pretrained: a/b\nsteps: 2\n")
    section = generator_section(str(tmp_path / "alone.yml"), {})
    assert section == {"class_path": GENERATOR, "init_args": {"pretrained": "a/b", "steps": 2}}


def test_the_default_generator_is_a_class():
    assert issubclass(import_class(GENERATOR, Generator), Generator)


def test_a_key_is_found_in_the_last_file_that_has_it(write, tmp_path, monkeypatch):
    folder = write(
        base="a:\n  b: 1\n  c: [1, {d: 2,\n    e: 3}]\n",
        child="extends: base.yaml\n\na:\n  'b': 2\nf: {<<: {g: 1}}\n",
    )
    child = [folder / "child.yaml"]
    assert find_key(child, ("a", "b")) == f"{folder}/child.yaml, line 4"
    assert find_key(child, ("a", "c", 1, "e")) == f"{folder}/base.yaml, line 4"
    assert find_key(child, ("f", "g")) == f"{folder}/child.yaml"
    monkeypatch.chdir(tmp_path)
    assert find_key(child, ("a",)) == "child.yaml, line 3"


def test_what_yaml_expands_to_is_bounded(write):
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
    )
    folder = write(
        laughs=laughs, nested="a: " + "[" * 2000 + "]" * 2000, circle="a: &a [*a]", aliases="a: &a {b: 1}\nc: *a"
    )
    with pytest.raises(ValueError, match="laughs.yaml has .* values once its aliases are written out"):
        read_config(folder / "laughs.yaml")
    for name in ("nested", "circle"):
        with pytest.raises(ValueError, match=f"{name}.yaml is nested too deeply"):
            read_config(folder / f"{name}.yaml")
    assert read_config(folder / "aliases.yaml") == {"a": {"b": 1}, "c": {"b": 1}}


@pytest.mark.parametrize("extends", [5, True, {"a": 1}, [5]])
def test_extends_names_files(write, extends):
    with pytest.raises(ValueError, match="`extends` in .*a.yaml must be the name of a file, or a list of names"):
        read_config(write(a={"extends": extends}) / "a.yaml")


def test_paths_are_found_beside_the_file_that_names_them(write, monkeypatch, tmp_path):
    folder = write(
        own__a={"train": "prompts/x.jsonl", "val": {"y.txt": 2.0}, "run": {"root": "prompts/x.jsonl"}, "z": "x"}
    )
    (folder / "own" / "prompts").mkdir()
    for name in ("prompts/x.jsonl", "y.txt", "x"):
        (folder / "own" / name).write_text("a ball")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    found = read_config(folder / "own" / "a.yaml")
    own = folder / "own"
    assert found == {
        "train": str(own / "prompts/x.jsonl"),
        "val": {str(own / "y.txt"): 2.0},
        "run": {"root": "prompts/x.jsonl"},
        "z": "x",
    }
    (elsewhere / "y.txt").write_text("the working directory's")
    assert read_config(folder / "own" / "a.yaml")["val"] == {"y.txt": 2.0}
