"""What saved networks' configurations may hold; `tests/hypernets/test_base.py` loads by them."""

import json
from pathlib import Path

import pytest

from hn.hypernets import LoraHypernet
from hn.hypernets.conv import ConvHypernet
from hn.hypernets.network_config import VERSION, make_network, read_network_config

GENERATOR = {"name": "base", "backbone": "UNet2DConditionModel", "digest": {"float16": "00"}, "noise_shape": [4, 8, 8]}
CONTENT = {"hypernet": "hn.hypernets.lora.LoraHypernet", "arguments": {"rank": 2}, "generator": GENERATOR}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hypernet_config.json"


def write(path: Path, **changes: object) -> None:
    content = {**CONTENT, **changes}
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not KeyError}))


@pytest.mark.parametrize("version", [KeyError, VERSION])
def test_todays_layout_and_that_without_a_number_are_read(path: Path, version: object) -> None:
    write(path, version=version, of_a_class_of_mine=[1, 2])
    assert read_network_config(path, "hypernet")["arguments"] == {"rank": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "has the layout of version 2, and this version of hn reads those up to 1: update hn"),
        ({"version": "1"}, "'version' has to be a whole number, but is '1'"),
        ({"version": True}, "'version' has to be a whole number, but is True"),
        ({"version": 0}, "'version' has to be 1 or more, but is 0"),
        ({"hypernet": KeyError}, "has no 'hypernet', which has to be a string"),
        ({"hypernet": ["a"]}, r"'hypernet' has to be a string, but is \['a'\]"),
        ({"arguments": KeyError}, "has no 'arguments', which has to be an object"),
        ({"arguments": [1]}, "'arguments' has to be an object"),
        ({"generator": KeyError}, "has no 'generator', which has to be an object"),
        ({"generator": "base"}, "'generator' has to be an object"),
        ({"generator": {"backbone": None}}, "has no 'generator.name', which has to be a string"),
        ({"generator": {"name": "base"}}, "has no 'generator.backbone', which has to be a string or null"),
        ({"generator": {**GENERATOR, "name": 3}}, "'generator.name' has to be a string, but is 3"),
        ({"generator": {**GENERATOR, "digest": "00"}}, "'generator.digest' has to be an object"),
        ({"generator": {**GENERATOR, "digest": {"a": 1}}}, r"'generator.digest' has to be an object \(a string each\)"),
        ({"generator": {**GENERATOR, "noise_shape": 3}}, "'generator.noise_shape' has to be a list"),
        ({"generator": {**GENERATOR, "revision": []}}, "'generator.revision' has to be a string or null"),
        ({"last_layer_rule": 3}, "'last_layer_rule' has to be a string or null, but is 3"),
    ],
)
def test_each_wrong_value_is_named(path: Path, changes: dict, message: str) -> None:
    write(path, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        read_network_config(path, "hypernet")
    assert str(caught.value).startswith(str(path)) and ("again" in str(caught.value) or "update" in str(caught.value))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"hypernet": ', "null"])
def test_a_damaged_file_is_named(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(ValueError, match=r"hypernet_config.json.* Download it again, or save the network again"):
        read_network_config(path, "hypernet")


def test_an_adapters_file_may_say_less_but_nothing_wrong(path: Path) -> None:
    path.write_text("{}")
    assert read_network_config(path) == {}
    path.write_text('{"generator": 3}')
    with pytest.raises(ValueError, match="'generator' has to be an object"):
        read_network_config(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 2, "colour": "red"}, "got an unexpected keyword argument 'colour'"),
        ({"rank": "2"}, "'rank' has to be a whole number, but is '2'"),
        ({"rank": True}, "'rank' has to be a whole number, but is True"),
        ({"alpha": [1]}, r"'alpha' has to be a number or null, but is \[1\]"),
        ({"alpha": float("inf")}, "'alpha' has to be a number or null, but is inf"),
        ({"target_modules": [1]}, r"'target_modules' has to be a string or a list \(a string each\) or null"),
        ({"compile": "yes"}, "'compile' has to be true or false, but is 'yes'"),
    ],
)
def test_each_wrong_argument_is_named(path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"hypernet_config.json, arguments of LoraHypernet: .*{message}"):
        make_network(LoraHypernet, arguments, path)


def test_arguments_out_of_range_are_named_with_the_file(path: Path) -> None:
    with pytest.raises(ValueError, match="hypernet_config.json, arguments of ConvHypernet: width must be a multiple"):
        make_network(ConvHypernet, {"width": 3}, path)
    assert make_network(ConvHypernet, {"width": 8, "token_rate": 2}, path).width == 8
