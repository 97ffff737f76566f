"""The example of docs/search.md is one that a comparison takes."""

import re
from pathlib import Path

import yaml

from hn.cli.parsing import Parser
from hn.evaluation.comparison.options import Comparison
from hn.search import Budget, Reno

DOCS = Path(__file__).parents[2] / "docs" / "search.md"


def test_the_example_of_a_configuration():
    (example,) = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    parser = Parser()
    parser.add_class_arguments(Comparison, "comparison")
    comparison = parser.instantiate(parser.parse_object(yaml.safe_load(example))).comparison
    search = comparison.searches["reno_50"]
    assert isinstance(search, Reno)
    assert (search.iterations, search.batch_size, search.report_at) == (50, 8, (10, 20))
    assert search.budget == Budget(max_nfe=40, patience=5, min_delta=0.001)
