"""FineTuneJobs of every kind: valid ones, ones at the edges of what is allowed, and ones that are wrong somewhere."""

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

from finetune_api.crd import structural_schema
from finetune_api.spec import FineTuneJobSpec
from finetune_operator import validation
from world import manifest

Wire = dict[str, Any]
Path = tuple[str | int, ...]

SCHEMA = structural_schema(FineTuneJobSpec)

# JSON and YAML are UTF-8, which has no surrogates. Control characters, which no path has, are among the oddities.
LETTERS = st.characters(exclude_categories=["Cs", "Cc"])

# What no field of its kind takes, or takes although it looks odd.
ODDITIES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2.0, 1.5, -0.0, 5e-324, 1e300, 2**31, 2**63, -(2**63) - 1, 10**30),
    *(
        "",
        " ",
        "1",
        "2.0",
        "5e-6",
        "1e400",
        "true",
        "null",
        "NaN",
        "a\n",
        "\x00",
        "é",
        "漢字",
        "😀",
        "a" * 2000,
    ),
    *([], [None], [1], ["a"], [[]], {}, {"a": 1}, {"": None}),
)


TOKEN = {"name": "a", "key": "a"}
# The least that a source of each kind needs, by what has such sources.
MODELS: Wire = {
    "volume": {"volume": {"claimName": "a", "path": "a"}},
    "huggingFace": {"huggingFace": {"repo": "a/a"}},
    "image": {"image": {"reference": "a"}},
}
DATA: Wire = {
    "volume": {"volume": {"claimName": "a", "path": "a.jsonl"}},
    "huggingFace": {"huggingFace": {"repo": "a/a", "path": "a.jsonl"}},
    "objectStore": {"objectStore": {"uri": "s3://a/a.jsonl"}},
    "configMap": {"configMap": {"name": "a", "key": "a.jsonl"}},
}
TARGETS: Wire = {
    "objectStore": {"objectStore": {"uri": "s3://a/a"}},
    "huggingFace": {"huggingFace": {"repo": "a/a", "tokenSecretRef": TOKEN}},
}
SET: Path = ("evaluation", "sets", 0)


def kinds_of(path: Path) -> Wire:
    """The kinds of sources, or of targets, of which exactly one stands at a path; none where no such choice is."""
    if path in (("dataset", "train"), ("dataset", "validation"), SET):
        return DATA
    others: dict[Path, Wire] = {("model",): MODELS, ("publish",): TARGETS}
    return others.get(path, {})


def fields(schema: Wire = SCHEMA, path: Path = ()) -> Iterator[tuple[Path, Wire]]:
    """Every field below `schema`, an item of each list included, with its own schema."""
    children: dict[str | int, Wire] = dict(schema.get("properties", {}))
    if "items" in schema:
        children[0] = schema["items"]
    for name, child in children.items():
        yield (*path, name), child
        yield from fields(child, (*path, name))


FIELDS = list(fields())


def edges(schema: Wire) -> Iterator[Any]:
    """The last values that a field takes, and the first that it does not."""
    if schema["type"] in ("integer", "number"):
        for bound in (schema["minimum"], schema["maximum"]):
            yield from (bound, float(bound), bound - 1, bound + 1, bound + 0.5)
            if schema["type"] == "number":
                yield from (math.nextafter(bound, -math.inf), math.nextafter(bound, math.inf))
    elif "enum" in schema:
        for name in schema["enum"]:
            yield from (name, name.upper(), f"{name} ")
    elif schema["type"] == "string":
        for length in (schema.get("minLength", 0), schema["maxLength"]):
            for letter in ("a", "é", "😀", "1"):
                yield from (letter * size for size in (length - 1, length, length + 1) if size >= 0)
        # What patterns look at.
        yield from (
            "A",
            "a.b",
            "a-b",
            ".a",
            "a.",
            "-a",
            "a-",
            "a..b",
            "a.-b",
            "a_b",
            "a/b",
            "/a",
            "a/",
            "a//b",
        )
        yield from (
            "..",
            "../a",
            "a/..",
            "a/../b",
            "...",
            "..a",
            "a\n",
            "\na",
            "a\tb",
            "a\x7f",
            "\u2028",
            "\ufeff",
        )
        yield from (
            "0",
            "0.0",
            "00",
            "1.5",
            "1.",
            ".5",
            "+1",
            "-1",
            "500m",
            "16Gi",
            "16 Gi",
            "16GI",
            "1e3",
            "1E",
        )
        yield from ("0Gi", "0.0000001m", "9" * 32, "9" * 30 + "Pi", "0." + "0" * 29 + "1")
        yield from (
            "(",
            "[",
            "*",
            "a{1,0}",
            "(?P<n>a)(?P<n>b)",
            "(?<=a+)b",
            r"\p{L}",
            r"(?i)a",
            r"a\Z",
            "a|",
            "((a)",
        )
    elif schema["type"] == "array":
        for length in (schema.get("minItems", 0), schema["maxItems"]):
            yield from (
                _items(schema["items"], size) for size in (length - 1, length, length + 1) if size >= 0
            )


def _items(schema: Wire, size: int) -> list[Any]:
    """So many items of a list: texts, or evaluation sets."""
    if schema["type"] == "string":
        return ["a"] * size
    return [{"name": f"set-{number}"} | DATA["volume"] for number in range(size)]


def replaced(wire: Wire, path: Path, value: Any) -> Wire:
    """A copy of a FineTuneJob with one field of its spec replaced, or removed where the value is `...`.

    What leads to the field is made where it is not there.
    """
    copied = copy.deepcopy(wire)
    node: Any = copied
    for part, following in zip(("spec", *path), (*path, None), strict=True):
        empty: Any = [] if isinstance(following, int) else {}
        if isinstance(node, list):
            node.extend([None] * (1 - len(node)))
            part = 0
        elif part not in node:
            node[part] = None
        if following is None:
            if value is ... and isinstance(node, dict):
                del node[part]
            else:
                node[part] = copy.deepcopy(value) if value is not ... else None
        else:
            if not isinstance(node[part], type(empty)):
                node[part] = empty
            node = node[part]
    return copied


def fitting(path: Path) -> Wire:
    """A valid FineTuneJob in which a field may stand: of the right method, and with what it needs beside it."""
    method = path[0] if path[0] in ("osft", "lora") else "sft"
    beside: Wire = {"hyperparameters": {"pretraining": {"blockSize": 512}}} if "pretraining" in path else {}
    fit = manifest(method=method, **beside)
    if not {"earlyStopping", "deliverBest"}.isdisjoint(path):
        fit = replaced(fit, ("dataset", "validationSplit"), 0.5)
    for length in range(1, len(path)):
        owner, kind = path[:length], path[length]
        named: Wire = {"name": "a"} if owner == SET else {}
        if (kinds := kinds_of(owner)) and kind in kinds:
            fit = replaced(fit, owner, named | kinds[kind])
        elif owner == SET:
            fit = replaced(fit, owner, named | DATA["volume"])
        elif kind == "tokenSecretRef":
            fit = replaced(fit, path[: length + 1], TOKEN)
    return fit


def one_field_at_a_time() -> Iterator[tuple[Path, Wire]]:
    """Valid FineTuneJobs with one field at an edge, odd, missing, misspelt or from elsewhere; the same every time.

    A field that stands in several places, such as the path of each data set, is tried with everything in the first.
    """
    known: set[tuple[Any, str]] = set()
    for path, schema in fields():
        kind = path[-1], repr(schema)
        values = [None, 1, "", "a", {}, ...] if kind in known else [*edges(schema), *ODDITIES, ...]
        for value in values:
            yield path, replaced(fitting(path), path, value)
        if kind in known:
            continue
        known.add(kind)
        *parents, name = path
        if isinstance(name, str):
            for stranger in (
                name.lower(),
                name + "s",
                "_".join(name.split("m")),
                "spec",
                "metadata",
                "r",
                "\x00",
            ):
                for value in (None, 1):
                    yield path, replaced(fitting(path), (*parents, stranger), value)


def conforming(schema: Wire) -> st.SearchStrategy[Any]:
    """Values that a structural schema allows; rules in CEL are not looked at."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema["type"]:
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(schema["minimum"], schema["maximum"])
        case "number":
            return st.floats(
                schema["minimum"],
                schema["maximum"],
                exclude_min=schema.get("exclusiveMinimum", False),
                exclude_max=schema.get("exclusiveMaximum", False),
            )
        case "string":
            least, most = schema.get("minLength", 0), schema["maxLength"]
            if pattern := schema.get("pattern"):
                return st.from_regex(pattern, fullmatch=True).filter(lambda text: least <= len(text) <= most)
            return st.text(LETTERS, min_size=least, max_size=min(most, 20))
        case "array":
            return st.lists(conforming(schema["items"]), min_size=schema.get("minItems", 0), max_size=3)
    if values := schema.get("additionalProperties"):
        [rule] = schema["x-kubernetes-validations"]
        pattern = rule["rule"].partition("matches(r'")[2].rpartition("')")[0]
        keys = st.from_regex(pattern, fullmatch=True)
        return st.dictionaries(keys, conforming(values), max_size=3)
    properties = {name: conforming(child) for name, child in schema["properties"].items()}
    required = {name: properties.pop(name) for name in schema.get("required", [])}
    return st.fixed_dictionaries(required, optional=properties)


# Made once: they are large.
CONFORMING = conforming(SCHEMA)
CONFORMING_FIELDS = {path: conforming(schema) for path, schema in FIELDS}


def _one_method(spec: Wire) -> None:
    for block in {"osft", "lora"} - {spec["method"]}:
        spec.pop(block, None)


def _method_of_documents(spec: Wire) -> None:
    if spec["method"] == "lora":
        spec["hyperparameters"].pop("pretraining", None)


def _method_of_unmasking(spec: Wire) -> None:
    if spec["method"] == "lora":
        spec["hyperparameters"].pop("unmaskMessages", None)


def _one_quantization(spec: Wire) -> None:
    if spec.get("lora", {}).get("loadIn4Bit"):
        spec["lora"].pop("loadIn8Bit", None)


def _split_over_one_node(spec: Wire) -> None:
    if spec.get("lora", {}).get("enableModelSplitting"):
        spec["resources"] = spec.get("resources", {}) | {"nodes": 1, "gpusPerNode": 8}


def _blocks_have_a_size(spec: Wire) -> None:
    if (pretraining := spec["hyperparameters"].get("pretraining")) is not None:
        pretraining.setdefault("blockSize", 512)


def _documents_have_no_length(spec: Wire) -> None:
    if "pretraining" in spec["hyperparameters"]:
        spec["hyperparameters"].pop("maxSeqLen", None)


def _documents_have_no_mask(spec: Wire) -> None:
    if "pretraining" in spec["hyperparameters"]:
        spec["hyperparameters"].pop("unmaskMessages", None)


def _samples_fit(spec: Wire) -> None:
    if "maxTokensPerGpu" in spec["hyperparameters"]:
        spec["hyperparameters"]["maxTokensPerGpu"] = 1048576


def _one_shape_of_rows(spec: Wire) -> None:
    for named in (spec["dataset"], *spec.get("evaluation", {}).get("sets", [])):
        columns = named.get("columns", {})
        if "messages" in columns or "tools" in columns:
            named["columns"] = {key: columns[key] for key in ("messages", "tools") if key in columns}
        elif "prompt" in columns or "completion" in columns:
            for key in ("instruction", "input", "output"):
                columns.pop(key, None)


def _results_have_a_directory(spec: Wire) -> None:
    if "path" in spec.get("storage", {}):
        spec["storage"]["path"] = f"{spec['storage']['path'][:500]}/job"


def _data(spec: Wire) -> list[Wire]:
    """Where data come from, each set of them."""
    dataset, sets = spec["dataset"], spec.get("evaluation", {}).get("sets", [])
    return [dataset["train"], *([dataset["validation"]] if "validation" in dataset else []), *sets]


def _data_tell_their_format(spec: Wire) -> None:
    for source in _data(spec):
        for kind, name in (
            *(("volume", "path"), ("huggingFace", "path"), ("objectStore", "uri"), ("configMap", "key")),
        ):
            if kind in source:
                source[kind][name] = f"{source[kind][name][:200]}.jsonl"


def _one_source_each(spec: Wire) -> None:
    choices = [(spec["model"], MODELS), *((source, DATA) for source in _data(spec))]
    if "publish" in spec:
        choices.append((spec["publish"], TARGETS))
    for found, kinds in choices:
        stated = [kind for kind in kinds if kind in found]
        for kind in stated[1:]:
            del found[kind]
        if not stated:
            found |= copy.deepcopy(kinds[next(iter(kinds))])


def _one_kind_of_validation(spec: Wire) -> None:
    if "validation" in spec["dataset"]:
        spec["dataset"].pop("validationSplit", None)


def _sets_have_names_of_their_own(spec: Wire) -> None:
    for number, one in enumerate(spec.get("evaluation", {}).get("sets", [])):
        one["name"] = f"set-{number}"


def _documents_are_not_answered(spec: Wire) -> None:
    if "pretraining" in spec["hyperparameters"]:
        for one in spec.get("evaluation", {}).get("sets", []):
            one.pop("generate", None)


def _what_stops_early_is_validated(spec: Wire) -> None:
    if not {"validation", "validationSplit"} & spec["dataset"].keys():
        spec.get("evaluation", {}).pop("earlyStopping", None)


def _what_stops_early_is_evaluated(spec: Wire) -> None:
    if "earlyStopping" in spec.get("evaluation", {}):
        spec["evaluation"]["everyEpoch"] = True


def _what_is_delivered_is_kept(spec: Wire) -> None:
    checkpoints = spec.get("checkpoints", {})
    if checkpoints.get("deliverBest"):
        checkpoints["keepBest"] = True


def _the_best_is_known(spec: Wire) -> None:
    if not {"validation", "validationSplit"} & spec["dataset"].keys():
        spec.get("checkpoints", {}).pop("deliverBest", None)


def _gpus_wait_for_no_download(spec: Wire) -> None:
    if any("huggingFace" in source or "objectStore" in source for source in (spec["model"], *_data(spec))):
        spec["dataset"].pop("prepare", None)


# What makes a spec that its schema allows a valid one, but for paths and quantities.
_REPAIRS = (
    *(_one_method, _method_of_documents, _method_of_unmasking, _one_quantization, _split_over_one_node),
    *(_blocks_have_a_size, _documents_have_no_length, _documents_have_no_mask, _samples_fit),
    *(_one_shape_of_rows, _one_source_each, _data_tell_their_format, _results_have_a_directory),
    *(_one_kind_of_validation, _sets_have_names_of_their_own, _documents_are_not_answered),
    *(_what_stops_early_is_validated, _what_stops_early_is_evaluated, _what_is_delivered_is_kept),
    *(_the_best_is_known, _gpus_wait_for_no_download),
)


@st.composite
def specs(draw: st.DrawFn) -> Wire:
    """Specs that the CRD's schema allows. About half keep the rules across fields, the others break few of them."""
    spec: Wire = draw(CONFORMING)
    spec.setdefault("hyperparameters", {})
    left_out = draw(st.none() | st.sampled_from(_REPAIRS))
    for repair in _REPAIRS:
        if repair is not left_out:
            repair(spec)
    return spec


def jobs() -> st.SearchStrategy[Wire]:
    """Valid FineTuneJobs that leave nothing to an administrator which they need."""
    return specs().filter(lambda spec: is_valid(job_of(spec))).map(lambda spec: job_of(_with_claim(spec)))


def _with_claim(spec: Wire) -> Wire:
    return spec | {"storage": {"claimName": "runs"} | spec.get("storage", {})}


def job_of(spec: Wire) -> Wire:
    """A FineTuneJob of that spec."""
    return manifest() | {"spec": spec}


def is_valid(wire: Wire) -> bool:
    """Whether the models take a FineTuneJob."""
    return validation.read(wire)[0] is not None


_PRETRAINING = {"blockSize": 512}
_DATASET = manifest()["spec"]["dataset"]
_VALIDATED = _DATASET | {"validationSplit": 0.5}
# Each breaks one rule, and between them they break all.
RULE_BREAKERS: tuple[Wire, ...] = (
    {"method": "sft", "osft": {}},
    {"method": "osft", "lora": {}},
    {"method": "lora", "hyperparameters": {"pretraining": _PRETRAINING}},
    {"method": "lora", "hyperparameters": {"unmaskMessages": True}},
    {"method": "lora", "lora": {"enableModelSplitting": True}},
    {"method": "lora", "lora": {"loadIn4Bit": True, "loadIn8Bit": True}},
    {"hyperparameters": {"maxSeqLen": 128, "maxTokensPerGpu": 127}},
    {"hyperparameters": {"pretraining": _PRETRAINING, "unmaskMessages": True}},
    {"hyperparameters": {"pretraining": _PRETRAINING, "maxSeqLen": 128}},
    {"hyperparameters": {"pretraining": _PRETRAINING, "maxTokensPerGpu": 511}},
    {"hyperparameters": {"pretraining": {}}},
    {"dataset": {"train": {"volume": {"claimName": "a", "path": "jsonl"}}}},
    {"dataset": {"train": {"objectStore": {"uri": "s3://a/jsonl"}}}},
    {"dataset": {"train": {"configMap": {"name": "a", "key": "jsonl"}}}},
    {"model": MODELS["volume"] | MODELS["image"]},
    {"dataset": {"train": DATA["huggingFace"] | DATA["configMap"]}},
    {"publish": TARGETS["huggingFace"] | TARGETS["objectStore"]},
    {"dataset": _DATASET | {"validation": DATA["volume"], "validationSplit": 0.5}},
    {"dataset": _DATASET | {"prepare": "Inline"}, "model": MODELS["huggingFace"]},
    {"evaluation": {"sets": [{"name": "train"} | DATA["volume"]]}},
    {"evaluation": {"earlyStopping": {}}},
    {"evaluation": {"earlyStopping": {}, "everyEpoch": False}, "dataset": _VALIDATED},
    {"checkpoints": {"deliverBest": True}},
    {"checkpoints": {"deliverBest": True, "keepBest": False}, "dataset": _VALIDATED},
    {
        "evaluation": {"sets": [{"name": "a", "generate": {}} | DATA["volume"]]},
        "hyperparameters": {"pretraining": _PRETRAINING},
    },
    {"dataset": _DATASET | {"columns": {"messages": "a", "output": "b"}}},
    {"dataset": _DATASET | {"columns": {"messages": "a", "system": "b"}}},
    {"storage": {"claimName": "a", "path": "../a"}},
    {"storage": {"claimName": "a", "path": "./"}},
    {"resources": {"gpuMemory": "0Gi"}},
    {"scheduling": {"workloadPriorityClassName": "a"}},
    {"scheduling": {"podGroup": "Volcano"}},
    {"scheduling": {"nodeSelector": {"a/": "b"}}},
    {"scheduling": {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}},
    {"scheduling": {"tolerations": [{"value": "b"}]}},
    {"scheduling": {"tolerations": [{"key": "a", "tolerationSeconds": 1}]}},
)


def almost_whole(number: float) -> bool:
    """Whether a number is no integer, but is one to the API server, which looks at nine digits."""
    return number != round(number) and math.isclose(number, round(number), rel_tol=1e-8)


@st.composite
def changes(draw: st.DrawFn) -> tuple[Path, Any]:
    """A field, and a value to write into it: right, at an edge, or of any kind."""
    path, schema = draw(st.sampled_from(FIELDS))
    values = (
        CONFORMING_FIELDS[path],
        st.sampled_from([*edges(schema), ...]),
        st.sampled_from(ODDITIES),
        st.text(LETTERS, max_size=8),
        st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: not almost_whole(number)),
        st.integers(-(2**70), 2**70),
    )
    # One alternative in two is what the field is made for.
    return path, draw(st.one_of(CONFORMING_FIELDS[path], st.one_of(values)))


@st.composite
def families(draw: st.DrawFn, size: int = 8) -> Sequence[Wire]:
    """A FineTuneJob of any kind, followed by such as differ from it in a field or two."""
    first = job_of(draw(specs()))
    family = [first]
    for _ in range(size - 1):
        changed = first
        for path, value in draw(st.lists(changes(), min_size=1, max_size=2)):
            changed = replaced(changed, path, value)
        family.append(changed)
    return family
