import pytest

from hn.report.tables import results_table

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


def method(**changes):
    return {
        "reward": 0.5,
        "held_out_reward": 0.25,
        "geneval": {"overall": 0.7654, **dict.fromkeys(TAGS, 1.0), "colors": 0.125},
        "seconds_per_image": 0.01234,
        "nfe": 1,
        "kl_nats": 0.0,
        "penalty_per_dimension": 0.0,
        "cmmd": 1.234,
        "images": 94,
        **changes,
    }


@pytest.fixture
def results():
    intervals = {
        "reward_delta_ci95": [0.01, 0.02],
        "held_out_reward_delta_ci95": [-0.01, 0.02],
        "geneval_delta_ci95": None,
    }
    worst = method(
        reward=-12.345, held_out_reward=-10.5, seconds_per_image=12.3456, nfe=50, penalty_per_dimension=0.1234,
        cmmd=123.45, **intervals,
    )  # fmt: skip
    bare = method(held_out_reward=None, geneval=None, kl_nats=None, penalty_per_dimension=None, cmmd=None)
    return {"experiment": "miniature", "methods": {"base": method(), "hypernetwork": worst, "finetune": bare}}


def test_a_row_per_method_with_all_its_numbers(results):
    lines = results_table(results).splitlines()
    assert lines[0] == "miniature: 94 images a method"
    cells = {line.split()[0]: line.split()[1:] for line in lines if line[:1] == " "}
    header = "reward held-out GenEval single two count color pos. attr. s/image NFE ½f²/dim CMMD"
    assert header.split() in [line.split()[1:] for line in lines]
    base = "0.500 0.250 0.765 1.00 1.00 1.00 0.12 1.00 1.00 0.0123 1 0.0000 1.23"
    assert next(line.split()[1:] for line in lines if line.split()[:1] == ["base"]) == base.split()
    assert cells["finetune"] == ["0.500", *"--------", "0.0123", "1", "-", "-"]


def test_intervals_are_listed_below(results):
    lines = results_table(results).splitlines()
    below = lines[next(i for i, line in enumerate(lines) if "95 %" in line) :]
    row = next(line for line in below if "hypernetwork" in line)
    assert " ".join(row.split()[1:]) == "+0.010 .. +0.020 -0.010 .. +0.020"  # no column of what nobody has
    assert not any("base" in line.split()[:1] for line in below)


def test_it_fits_into_120_columns_uncut(results):
    table = results_table(results)
    assert max(map(len, table.splitlines())) <= 120
    assert "…" not in table


def test_tags_of_other_prompt_sets_have_columns_too(results):
    results["methods"] = {"base": method(geneval={"overall": 0.5, "texture": 0.5})}
    table = results_table(results)
    assert "texture" in table
    assert "95 %" not in table


def test_a_long_name_cuts_no_number(results):
    long = {**results, "methods": {**results["methods"], "hypernetwork_reno_50": results["methods"]["hypernetwork"]}}
    table = results_table(long)
    assert "…" not in table
    row = next(line for line in table.splitlines() if line.split()[:1] == ["hypernetwork_reno_50"])
    assert row.split()[-1] == "123.45"


def test_scores_that_are_not_finite_are_counted_below_the_table(results):
    assert "not finite" not in results_table(results)
    found = {"scores": {"held_out_reward": {"left_out": 1, "n": 93}}, "prompts": ["a red ball"]}
    results["methods"]["hypernetwork"]["not_finite"] = found
    line = results_table(results).splitlines()[-1]
    assert line == "hypernetwork: not finite and left out of means: held_out_reward 1 (n 93); of 'a red ball'"
