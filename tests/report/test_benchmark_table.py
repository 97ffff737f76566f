from hn.evaluation.benchmarks.base import ScoreGroup
from hn.report.tables import benchmark_table


def test_a_row_for_each_group():
    groups = [
        ScoreGroup("all images", 12, {"soft_tifa_am": 0.5, "soft_tifa_gm": 0.25}),
        ScoreGroup("skill count", 30, {"soft_tifa_am": 1 / 3}),
        ScoreGroup("3 atoms", 4, {"soft_tifa_gm": 1.0}),
    ]
    header, _, *rows = (line.split() for line in benchmark_table(groups).splitlines())
    assert header == ["soft_tifa_am", "soft_tifa_gm", "n"]
    assert rows == [
        ["all", "images", "0.5000", "0.2500", "12"], ["skill", "count", "0.3333", "30"], ["3", "atoms", "1.0000", "4"],
    ]  # fmt: skip
    assert len(benchmark_table(groups).splitlines()[-1]) == len(benchmark_table(groups).splitlines()[-2])
