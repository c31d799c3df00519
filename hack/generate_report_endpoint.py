"""Write docs/reference/report-endpoint.md and its OpenAPI document from the models (`make docs`)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_api import names
from finetune_api.openapi import REFUSALS, report_endpoint
from finetune_api.report import MAX_REPORT_BYTES, Metrics, Report, ReportReply, Stage
from schema_tables import bounds, line, table

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "reference" / "report-endpoint.md"
DOCUMENT = TARGET.with_suffix(".openapi.json")

# It never is the newest one of a trainer that runs: whoever tries it out does no harm.
EXAMPLE = Report(attempt=1, sequence=0, stage=Stage.TRAINING, metrics=Metrics(step=12, loss=1.87))
REPLY = ReportReply(next_report_seconds=5)

HEAD = f"""\
<!-- Generated from crds/finetune_api by `make docs`. Do not edit. -->
# Report endpoint

While a FineTuneJob runs, rank 0 of its pods tells the operator here how it goes, and that becomes the job's status.
Nobody has to know of it to train a model. This page is for those who look for the reason why a job shows no progress,
or who bring a trainer of their own in the trainer image; [{DOCUMENT.name}]({DOCUMENT.name}) says the same in
OpenAPI 3.1, for programs.

```
POST {names.report_path("{namespace}", "{name}")}
```

by HTTPS, with a `Report` as the body: JSON of at most {MAX_REPORT_BYTES:,} bytes, not compressed. The answer tells when
the next one is wanted, which is how the operator keeps many jobs from asking too much of it.

- A Report is always **the whole state**. One that is lost costs nothing, and nobody has to send it again: the next one
  says the same and more.
- **The highest sequence wins.** A Report whose sequence is not higher than that of the newest one of the same pod is
  answered like any other, and changes nothing. A sequence that stands still for `failurePolicy.progressDeadlineSeconds`
  is a hang, and the job is restarted.
- What comes last is not sent here alone: the container leaves a shortened Report as its **termination message**, which
  counts more than anything that was sent before.
- Refused, or not answered: go on training, and send the newest Report later.

## Who may report

A pod that belongs to an attempt of the job, for this attempt, and nobody else. It shows who it is with the
service-account token of its projected volume, which is for the audience `{names.TOKEN_AUDIENCE}` alone and expires with
the pod. The operator has the API server check it. [The threat model](../threat-model.md) has what that keeps out.

In every pod of a job there are

| File | What it is |
| --- | --- |
| `{names.RUN_CONFIG_DIR}/{names.RUN_CONFIG_FILE}` | The RunConfig; `reportUrl` in it is the whole URL |
| `{names.RUN_CONFIG_DIR}/{names.REPORT_CA_FILE}` | The authority that vouches for the operator's certificate |
| `{names.TOKEN_DIR}/{names.TOKEN_FILE}` | The token; read it for every Report, for it is replaced before it expires |

## Trying it out

In a pod of the gang whose image has curl. The sequence is 0, so nothing is changed:

```
url=$(python3 -c 'import json; print(json.load(open("{names.RUN_CONFIG_DIR}/{names.RUN_CONFIG_FILE}"))["reportUrl"])')
curl --cacert {names.RUN_CONFIG_DIR}/{names.REPORT_CA_FILE} \\
  --header "Authorization: Bearer $(cat {names.TOKEN_DIR}/{names.TOKEN_FILE})" \\
  --header "Content-Type: application/json" \\
  --data '{EXAMPLE.to_json()}' "$url"
```

```
{REPLY.model_dump_json(by_alias=True)}
```
"""

Schema = dict[str, Any]


def rendered() -> str:
    """The text of the page."""
    return "\n".join([HEAD, *_answers(), *_fields(report_endpoint()["components"]["schemas"])])


def rendered_document() -> str:
    """The text of the OpenAPI document."""
    return json.dumps(report_endpoint(), indent=2, ensure_ascii=False) + "\n"


def _answers() -> Iterator[str]:
    yield "## Answers\n"
    yield (
        'Every refusal says why, `{"error": "…"}`, and nothing has changed by the request. A connection serves one '
        "request. Where too many are open, or one lasts too long, it is closed without an answer.\n"
    )
    rows = [("200", "The Report is taken. The body is a `ReportReply`.", "", "")]
    for refusal in REFUSALS:
        headers = ", ".join(f"`{header}`" for header in refusal.headers)
        rows.append((str(refusal.code), refusal.means, refusal.remedy, headers))
    yield from table(("Status", "What it means", "What to do", "Headers"), rows)


def _fields(schemas: dict[str, Schema]) -> Iterator[str]:
    """Every object that Reports and answers are made of, each below the first one that speaks of it."""
    yield "## Fields\n"
    yield (
        "Unknown fields are errors. `null` is as if a field were not there; a number that is not finite is absent. "
        "Whole numbers have no point, and fit into 64 bits.\n"
    )
    todo = [Report.__name__, ReportReply.__name__]
    for name in todo:
        schema = schemas[name]
        yield f"### {name}\n"
        yield f"{line(schema['description'])}\n"
        rows = []
        for field, stated in schema["properties"].items():
            inner = _not_null(stated)
            part = _name(inner) or _name(inner.get("items", {}))
            if part is not None and "properties" in schemas[part] and part not in todo:
                todo.append(part)
            required = "required" if field in schema.get("required", ()) else ""
            described = line(stated.get("description") or _part(stated, schemas).get("description", ""))
            rows.append((f"`{field}`", _values(inner, schemas), required, described.replace("|", "\\|")))
        yield from table(("Field", "Values", "", "What it is"), rows)


def _not_null(schema: Schema) -> Schema:
    [stated] = [option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"]
    return dict(stated)


def _name(schema: Schema) -> str | None:
    """The object that a schema refers to."""
    reference = schema.get("$ref")
    return reference and str(reference).rsplit("/", 1)[-1]


def _part(schema: Schema, schemas: dict[str, Schema]) -> Schema:
    name = _name(schema)
    return schemas[name] if name else schema


def _values(schema: Schema, schemas: dict[str, Schema]) -> str:
    name = _name(schema)
    if name is not None and "properties" in schemas[name]:
        return f"[{name}](#{name.lower()})"
    schema = _part(schema, schemas)
    if "items" in schema:
        items = _values(_not_null(schema["items"]), schemas)
        return (
            f"a list of up to {schema['maxItems']}: {items}" if "maxItems" in schema else f"a list: {items}"
        )
    if schema.get("format") == "date-time":
        return "a time, with its zone"
    if "format" in schema:
        return "a whole number"
    if schema.get("type") == "number" and "minimum" not in schema:
        return "a number"
    if "maxLength" in schema:
        return f"a text of at most {schema['maxLength']:,} characters"
    return bounds(schema)


if __name__ == "__main__":
    for target, text in ((TARGET, rendered()), (DOCUMENT, rendered_document())):
        target.write_text(text)
        print(target.relative_to(ROOT))
