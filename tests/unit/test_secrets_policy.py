"""The policy by which nobody names a Secret that they may not read: it knows every place where one is named."""

import re
from collections.abc import Iterator
from typing import Any

import generate_crds
from finetune_api.crd import structural_schema
from finetune_api.secrets_policy import MOST_QUESTIONS, places, rules
from finetune_api.spec import FineTuneJobSpec


def fields(schema: dict[str, Any], path: str = "spec") -> Iterator[str]:
    """Every field of a schema, as users write it; with [] after a list."""
    for name, child in schema.get("properties", {}).items():
        yield f"{path}.{name}"
        yield from fields(child, f"{path}.{name}")
    if "items" in schema:
        yield from fields(schema["items"], f"{path}[]")


def test_every_field_that_names_a_secret_or_a_config_map_is_asked_about() -> None:
    named = re.compile(r"\.\w*(secret|configMap)\w*$", re.IGNORECASE)
    expected = {field for field in fields(structural_schema(FineTuneJobSpec)) if named.search(field)}
    assert {place.field for place in places()} == expected
    assert len(expected) > 10


def test_its_rules_ask_about_every_place() -> None:
    text = "".join(variable["expression"] for variable in rules()["variables"])
    for place in places():
        assert place.field.rpartition("[]")[2] in text
    questions = [rule for rule in rules()["validations"] if "authorizer" in rule["expression"]]
    assert len(questions) == MOST_QUESTIONS


def test_the_file_of_the_chart_is_up_to_date() -> None:
    text = generate_crds.SECRETS_POLICY.read_text()
    assert text == generate_crds.rendered_secrets_policy(), "it is stale: run `make crds`"
