"""YAML as kubectl reads it. That kubectl does read it so is tested where there is one."""

from typing import Any

import pytest
import yaml

from finetune_operator.cli.kubectl_yaml import KubectlLoader
from spellings import SPELLINGS


def read(text: str) -> Any:
    return yaml.load(text, KubectlLoader)


@pytest.mark.parametrize(("text", "value"), SPELLINGS.items(), ids=repr)
def test_a_plain_scalar(text: str, value: Any) -> None:
    found = read(text)
    assert found == value
    assert isinstance(found, bool | str) == isinstance(value, bool | str)


@pytest.mark.parametrize("text", ["5e-6", "1", "true", "null", "2024-01-01"])
def test_what_is_quoted_is_a_text(text: str) -> None:
    assert read(f"'{text}'") == text
    assert read(f"!!str {text}") == text


@pytest.mark.parametrize("text", ["!!float 1", "!!float '1.0'", "!!int 1", '!!int "1"'])
def test_a_tag_that_fits(text: str) -> None:
    assert read(text) == 1


@pytest.mark.parametrize("text", ["!!int x", "!!int 1.5", "!!float x", "!!bool 1", "!!null 0", "a: !!int []"])
def test_a_tag_that_does_not_fit_is_an_error_of_the_file(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        read(text)


def test_what_is_merged_is_there() -> None:
    assert read("a: &a {x: 1e-3}\nb: {<<: *a}")["b"] == {"x": 1e-3}
