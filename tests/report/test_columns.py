"""Columns of the page's table."""

from hn.report.columns import columns_of


def test_a_tag_s_interval_is_its_own_however_prompts_are_grouped():
    method = {
        "geneval": {"overall": 0.5, "counting": 0.5},
        "geneval_tags_ci95": {"counting": [0.4, 0.6]},
        "categories": {"counting": {"geneval_ci95": [0.1, 0.2]}},  # of a field of the user's
    }
    (column,) = (each for each in columns_of({"base": method}, {}) if each.key == "geneval.counting")
    assert column.interval(method) == [0.4, 0.6]
    del method["geneval_tags_ci95"]  # written by an earlier version, which knew tags alone
    assert column.interval(method) == [0.1, 0.2]
