"""A comparison's folder is read, and errors say what is wrong with it."""

import shutil

import pytest

from hn.report.comparison import read_comparison


def test_everything_is_found(comparison_folder):
    found = read_comparison(comparison_folder)
    assert found.finished.isoformat() == "2026-01-02T03:04:05+00:00"
    assert found.categories == ["colors", "counting"]
    assert [metric.key for metric in found.metrics] == ["reward", "held_out_reward", "geneval"]
    assert [point["nfe"] for point in found.traces["best_of_8"]] == [1, 2, 4, 8]
    assert [(row.index, row.prompt) for row in found.gallery][::2] == [(0, "a red ball"), (2, "two cube")]
    image = found.gallery[1].images["hypernetwork"]
    assert image.correct is True and image.path.name == "00001.png"
    assert found.gallery[1].images["base"].correct is False
    assert found.gallery[1].images["base"].reward == pytest.approx(0.5, abs=0.1)


def test_results_are_enough(comparison_folder, tmp_path):
    (tmp_path / "bare").mkdir()
    shutil.copy(comparison_folder / "results.json", tmp_path / "bare")
    found = read_comparison(tmp_path / "bare")
    assert found.gallery == [] and found.traces == {}
    assert found.methods.keys() == read_comparison(comparison_folder).methods.keys()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder .*nothing. Name the one that hn compare wrote"):
        read_comparison(tmp_path / "nothing")


def test_a_comparison_that_is_not_finished_is_to_go_on(tmp_path):
    (tmp_path / "compare_x" / "records").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="not finished.*--run.name=x"):
        read_comparison(tmp_path / "compare_x")


def test_the_folder_above_says_what_is_in_it(comparison_folder):
    with pytest.raises(FileNotFoundError, match="In it are .*compare_x"):
        read_comparison(comparison_folder.parent)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "cannot be read as JSON"), ("[]", "holds no results"), ('{"methods": {"x": {}}}', "`methods` with `base`")],
)
def test_other_files_are_refused(comparison_folder, text, message):
    (comparison_folder / "results.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_comparison(comparison_folder)


def test_a_date_that_is_none_is_refused(comparison_folder):
    (comparison_folder / "timing.json").write_text('{"finished": "yesterday"}')
    with pytest.raises(ValueError, match="timing.json: `finished` is no date: 'yesterday'"):
        read_comparison(comparison_folder)
