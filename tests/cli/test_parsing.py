import abc

import pytest
from jsonargparse import ArgumentParser

from hn.cli.parsing import Parser, UserError
from hn.utils.numbers import PositiveInt


class Base(abc.ABC):
    @abc.abstractmethod
    def work(self): ...


class Unfinished(Base):
    """Has no `work`."""


class Finished(Base):
    def __init__(self, size: PositiveInt | None = None) -> None: ...
    def work(self): ...


class Untyped(Base):
    def __init__(self, path) -> None: ...
    def work(self): ...


def message(value):
    parser = Parser()
    parser.add_argument("--part", type=Base | None)
    parser.add_argument("--parts", type=dict[str, Base | None])
    with pytest.raises(UserError) as caught:
        parser.parse_object(value)
    return str(caught.value)


@pytest.mark.parametrize("wrap", [lambda part: {"part": part}, lambda part: {"parts": {"a": part}}])
def test_a_union_shows_the_error_of_the_branch_that_was_meant(wrap):
    here = __name__
    found = message(wrap({"class_path": f"{here}.Finished", "init_args": {"size": 0}}))
    assert "must be at least 1 and a whole number, not 0" in found
    found = message(wrap({"class_path": f"{here}.Finished", "init_args": {"sise": 3}}))
    assert "Option 'sise' is not accepted" in found
    found = message(wrap({"class_path": f"{here}.Unfinished"}))
    assert f"{here}.Unfinished is abstract: it has no work" in found
    found = message(wrap({"class_path": f"{here}.Untyped", "init_args": {"path": "x"}}))
    assert f"The argument path of {here}.Untyped has no type: annotate it" in found
    found = message(wrap({"class_path": f"{here}.Nothing"}))
    assert "no attribute 'Nothing'" in found


@pytest.mark.parametrize("value", [{"part": 5}, {"part": {"class_path": 5}}, {"parts": {"a": [1]}}, {"parts": "x"}])
def test_no_message_lists_the_types_of_a_union(value):
    found = message(value)
    assert not any(words in found for words in ("Union subtypes", "Subtypes:", "NoneType", "Subclass types expect"))


def test_a_parser_whose_caller_says_more_raises_as_it_is():
    assert issubclass(Parser, ArgumentParser)
