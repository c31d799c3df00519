"""The generated CustomResourceDefinition."""

import json
from collections.abc import Iterator
from typing import Any

import generate_crds
from finetune_api.crd import custom_resource_definition, structural_schema
from finetune_api.spec import FineTuneJobSpec


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema below `schema`, with its path."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")


def root() -> dict[str, Any]:
    [version] = custom_resource_definition()["spec"]["versions"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return schema


def test_the_files_are_what_the_models_say() -> None:
    for target in generate_crds.TARGETS:
        assert target.read_text() == generate_crds.rendered(), f"{target} is stale: run `make crds`"


def test_every_field_has_a_type_and_a_description() -> None:
    for path, schema in nodes(root()):
        if path in ("", ".apiVersion", ".kind", ".metadata") or path.endswith("[]"):
            continue
        assert "type" in schema, path
        assert schema.get("description"), path


def test_every_text_and_list_is_bounded_so_that_the_cost_of_rules_is_known() -> None:
    for path, schema in nodes(root()):
        if path in (".apiVersion", ".kind"):
            continue
        if schema.get("type") == "string" and "enum" not in schema and schema.get("format") != "date-time":
            assert "maxLength" in schema, path
        if schema.get("type") == "array":
            assert "maxItems" in schema, path


def test_every_number_of_the_spec_has_both_bounds() -> None:
    for path, schema in nodes(structural_schema(FineTuneJobSpec)):
        if schema.get("type") in ("integer", "number"):
            assert {"minimum", "maximum"} <= schema.keys(), path


def test_bounds_that_are_not_values_are_said_in_the_way_of_openapi_3_0() -> None:
    hyperparameters = structural_schema(FineTuneJobSpec)["properties"]["hyperparameters"]["properties"]
    learning_rate, beta1 = hyperparameters["learningRate"], hyperparameters["beta1"]
    assert (learning_rate["minimum"], learning_rate["exclusiveMinimum"], learning_rate["maximum"]) == (
        0,
        True,
        1,
    )
    assert (beta1["minimum"], beta1["maximum"], beta1["exclusiveMaximum"]) == (0, 1, True)


def test_nothing_is_left_that_a_structural_schema_forbids() -> None:
    forbidden = {"$ref", "$defs", "anyOf", "title", "const", "exclusiveMinimumValue", "patternProperties"}
    for path, schema in nodes(root()):
        assert not forbidden & schema.keys(), path
        # Of an object it lists its fields, or says what its values are, never both.
        assert not {"properties", "additionalProperties"} <= schema.keys(), path
        assert schema.get("additionalProperties", {}) is not True, path
        assert "null" not in json.dumps(schema.get("default", "")), path
        for bound in ("exclusiveMinimum", "exclusiveMaximum"):
            assert isinstance(schema.get(bound, True), bool), path


def test_a_job_that_nobody_has_looked_at_does_not_look_up_to_date() -> None:
    status = root()["properties"]["status"]
    assert status["default"] == {"observedGeneration": -1}
    assert status["properties"]["observedGeneration"]["default"] == -1


def test_rules_of_the_models_become_cel_with_their_remedy() -> None:
    rules = structural_schema(FineTuneJobSpec)["properties"]["hyperparameters"]["x-kubernetes-validations"]
    assert any("self.maxTokensPerGpu >= self.maxSeqLen" in rule["rule"] for rule in rules)
    assert all(rule["message"] for rule in rules)
