"""The CustomResourceDefinition, generated from the models: the schema that the API server enforces."""

from typing import Any

from finetune_api import names
from finetune_api.model import ApiModel
from finetune_api.spec import FIXED, FIXED_UNLESS_SUSPENDED, MAX_NAME_LENGTH, NAME_PATTERN, FineTuneJobSpec
from finetune_api.status import FineTuneJobStatus, Phase

# What JSON schema says and a structural schema may not.
_DROPPED = {
    "title",
    "additionalProperties",
    "patternProperties",
    "propertyNames",
    "examples",
    "const",
    "$defs",
}


def _column(name: str, kind: str, path: str, *, wide: bool = False) -> dict[str, Any]:
    return {"name": name, "type": kind, "jsonPath": path} | ({"priority": 1} if wide else {})


COLUMNS = [
    _column("Method", "string", ".spec.method"),
    _column("Phase", "string", ".status.phase"),
    _column("Progress", "string", ".status.progress.summary"),
    _column("Epoch", "number", ".status.progress.epoch"),
    _column("Loss", "number", ".status.progress.loss"),
    _column("Validation", "number", ".status.evaluation.validationLoss"),
    _column("ETA", "string", ".status.progress.remaining"),
    _column("Restarts", "integer", ".status.restarts"),
    _column("Age", "date", ".metadata.creationTimestamp"),
    _column("Nodes", "integer", ".spec.resources.nodes", wide=True),
    _column("Tokens/s", "number", ".status.progress.tokensPerSecond", wide=True),
    _column("Message", "string", '.status.conditions[?(@.type=="Ready")].message', wide=True),
]


def structural_schema(model: type[ApiModel]) -> dict[str, Any]:
    """The structural OpenAPI schema of a model: references inlined, null folded away, rules as CEL.

    Raises ValueError where the model says something that a structural schema cannot.
    """
    document = model.model_json_schema(by_alias=True, mode="validation")
    return _structural(document, document.get("$defs", {}), _models(model))


def _models(root: type[ApiModel]) -> dict[str, type[ApiModel]]:
    """Every model reachable from `root`, by name: the JSON schema names them but does not know their rules."""
    found: dict[str, type[ApiModel]] = {}
    todo: list[type[ApiModel]] = [root]
    while todo:
        model = todo.pop()
        if model.__name__ in found:
            continue
        found[model.__name__] = model
        todo += [part for field in model.model_fields.values() for part in _model_types(field.annotation)]
    return found


def _model_types(annotation: Any) -> list[type[ApiModel]]:
    if isinstance(annotation, type) and issubclass(annotation, ApiModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _model_types(part)]


def _structural(node: Any, definitions: dict[str, Any], models: dict[str, type[ApiModel]]) -> dict[str, Any]:
    node = dict(node)
    if reference := node.pop("$ref", None):
        name = reference.rsplit("/", 1)[-1]
        node = _merged(definitions[name], node)
    if options := node.pop("anyOf", None):
        options = [option for option in options if option.get("type") != "null"]
        if len(options) != 1:
            raise ValueError(f"a structural schema has no unions: {options}")
        return _structural(_merged(options[0], node), definitions, models)

    title = node.get("title")
    result = {key: value for key, value in node.items() if key not in _DROPPED}
    if "const" in node:
        result["enum"] = [node["const"]]
    for bound in ("Minimum", "Maximum"):
        # OpenAPI 3.0: the exclusive bound is a flag beside the bound.
        if f"exclusive{bound}" in result:
            result[bound.lower()] = result[f"exclusive{bound}"]
            result[f"exclusive{bound}"] = True
    if "default" in result:
        result["default"] = _without_nulls(result["default"])
        if result["default"] is None:
            del result["default"]
    if "properties" in result:
        result["properties"] = {
            name: _structural(child, definitions, models) for name, child in result["properties"].items()
        }
    if "items" in result:
        items = _structural(result["items"], definitions, models)
        # A field that is null is absent, but a list cannot do without an item in its middle.
        nullable = {"type": "null"} in result["items"].get("anyOf", ())
        result["items"] = items | ({"nullable": True} if nullable else {})
    if isinstance(values := node.get("additionalProperties"), dict):
        result["additionalProperties"] = _structural(values, definitions, models)
    rules = models[title].rules if title in models and "properties" in result else ()
    if rules:
        result["x-kubernetes-validations"] = [
            *result.get("x-kubernetes-validations", []),
            *({"rule": rule.cel, "message": rule.message} for rule in rules),
        ]
    if result.get("type") == "integer":
        result["format"] = "int64"
    return result


def _without_nulls(default: Any) -> Any:
    """What is open is absent: the API server refuses a default that does not validate, and null is no number."""
    if isinstance(default, dict):
        return {key: _without_nulls(value) for key, value in default.items() if value is not None}
    return default


def _merged(base: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """`extra` over `base`: a field's own words over those of its type. Rules of both hold."""
    both = {**base, **extra}
    rules = "x-kubernetes-validations"
    if rules in base and rules in extra:
        both[rules] = [*base[rules], *extra[rules]]
    if "title" in base:
        both["title"] = base["title"]
    return both


def _fixed(field: str) -> dict[str, Any]:
    """What is trained may be corrected until training begins: a job that was refused can be mended in its place."""
    new, old = f"self.spec.{field}", f"oldSelf.spec.{field}"
    same = f"{new} == {old}"
    if FineTuneJobSpec.model_fields[field].default is None:
        # Not as optionals (self.spec.?lora): the API server takes those for boundless, and too dear to compare.
        same = f"(has({new}) ? has({old}) && {same} : !has({old}))"
    return {
        "rule": f"!has(oldSelf.status) || !has(oldSelf.status.startTime) || {same}",
        "message": f"spec.{field} is fixed once training has begun: create another FineTuneJob to train with other "
        "settings",
        "fieldPath": f".spec.{field}",
    }


def _fixed_unless_suspended(field: str) -> dict[str, Any]:
    """Where it is trained may change while nothing runs."""
    return {
        "rule": "!has(oldSelf.status) || !has(oldSelf.status.startTime) || "
        f"(has(oldSelf.status.phase) && oldSelf.status.phase == '{Phase.SUSPENDED}') || "
        f"self.spec.{field} == oldSelf.spec.{field}",
        "message": f"spec.{field} may change while the job is suspended: set spec.suspend: true, and wait for the "
        "condition Suspended",
        "fieldPath": f".spec.{field}",
    }


def custom_resource_definition() -> dict[str, Any]:
    """The whole CustomResourceDefinition."""
    status = structural_schema(FineTuneJobStatus)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": names.CRD_NAME},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": names.KIND,
                "listKind": f"{names.KIND}List",
                "plural": names.PLURAL,
                "singular": names.SINGULAR,
                "shortNames": list(names.SHORT_NAMES),
                "categories": ["all"],
            },
            "versions": [
                {
                    "name": names.VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": COLUMNS,
                    "schema": {
                        "openAPIV3Schema": {
                            "description": "Fine-tunes a language model on a gang of PyTorch pods.",
                            "type": "object",
                            "required": ["spec"],
                            "properties": {
                                "apiVersion": {"type": "string"},
                                "kind": {"type": "string"},
                                "metadata": {"type": "object"},
                                "spec": structural_schema(FineTuneJobSpec),
                                # The default makes a job that nobody has looked at differ from an up-to-date one.
                                "status": status | {"default": {"observedGeneration": -1}},
                            },
                            "x-kubernetes-validations": [
                                {
                                    "rule": f"self.metadata.name.matches('{NAME_PATTERN}')",
                                    "message": "metadata.name must start with a letter, hold only lower-case letters, "
                                    "digits and inner '-', and have at most "
                                    f"{MAX_NAME_LENGTH} characters: names of pods and hosts are built from it",
                                },
                                *map(_fixed, FIXED),
                                *map(_fixed_unless_suspended, FIXED_UNLESS_SUSPENDED),
                            ],
                        }
                    },
                }
            ],
        },
    }
