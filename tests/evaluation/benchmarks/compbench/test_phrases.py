import sys
from types import SimpleNamespace

import pytest

from hn.evaluation.benchmarks.compbench import BlipVqaMetric
from hn.evaluation.benchmarks.compbench.phrases import load_parser, row_phrases


def document(*chunks):
    return lambda text: SimpleNamespace(noun_chunks=[SimpleNamespace(text=chunk) for chunk in chunks])


def test_parts_of_relations_are_left_out():
    parse = document("a horse", "the left", "a car", "top", "the side", "the right", "the top")
    assert row_phrases({"prompt": "..."}, parse) == ["a horse", "a car", "the top"]


def test_phrases_of_the_row_come_first():
    row = {"prompt": "a horse", "noun_phrases": ["a brown horse"]}
    assert load_parser([row], "no_such_pipeline") is None and row_phrases(row, None) == ["a brown horse"]
    for wrong in ([], "a horse", [1], [" "]):
        with pytest.raises(ValueError, match="'a horse': noun_phrases must be a list of phrases like"):
            row_phrases(row | {"noun_phrases": wrong}, None)


def test_a_prompt_without_phrases():
    with pytest.raises(ValueError, match="no noun phrase in 'running': give them in the prompt's row as noun_phrases"):
        row_phrases({"prompt": "running"}, document("top"))


def test_what_to_install(monkeypatch):
    monkeypatch.setattr("hn.evaluation.benchmarks.compbench.phrases.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "hn\[compbench\]" and python -m spacy download en_core_web_sm'):
        BlipVqaMetric.check_rows([{"prompt": "a horse"}], {"spacy_model": "en_core_web_sm"})
    BlipVqaMetric.check_rows([{"prompt": "a horse", "noun_phrases": ["a horse"]}], {"spacy_model": "en_core_web_sm"})


def test_a_missing_pipeline(monkeypatch):
    def load(name):
        raise OSError("[E050] Can't find model")

    monkeypatch.setattr("hn.evaluation.benchmarks.compbench.phrases.find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=load))
    with pytest.raises(ImportError, match="no pipeline 'x': python -m spacy download x, or give(.|\n)*E050"):
        load_parser([{"prompt": "a horse"}], "x")


@pytest.mark.extras("spacy")
def test_phrases_of_spacy_itself():
    import spacy

    if not spacy.util.is_package("en_core_web_sm"):
        pytest.skip("spaCy's pipeline en_core_web_sm is not installed")
    prompts = {
        "a green bench and a blue bowl": ["a green bench", "a blue bowl"],
        "rubber sole shoes and fluffy clouds": ["rubber sole shoes", "fluffy clouds"],
        "The red hat was on top of the brown coat rack.": ["The red hat", "the brown coat rack"],
    }
    parse = load_parser([{"prompt": prompt} for prompt in prompts], "en_core_web_sm")
    assert {prompt: row_phrases({"prompt": prompt}, parse) for prompt in prompts} == prompts
