"""The OpenAPI document of the endpoint that takes Reports, generated from the models. Pure."""

from dataclasses import dataclass, field
from typing import Any

from finetune_api import names
from finetune_api.model import ApiModel
from finetune_api.report import MAX_REPORT_BYTES, Report, ReportReply
from finetune_api.scalars import DNS_LABEL
from finetune_api.spec import MAX_NAME_LENGTH, NAME_PATTERN

_SCHEMAS = "#/components/schemas/"
_JSON = "application/json"
_TEXT = "text/plain"
_SECURITY = "podToken"
_INT64 = {"format": "int64", "minimum": -(2**63), "maximum": 2**63 - 1}

Schema = dict[str, Any]

_CHALLENGE = {"WWW-Authenticate": {"description": "Bearer", "schema": {"const": "Bearer"}}}
_METHODS = {"Allow": {"description": "The methods that there are.", "schema": {"const": "POST"}}}
_PAUSE = {
    "Retry-After": {
        "description": "Seconds to wait before the next try.",
        "schema": {"type": "string", "pattern": "^[1-9][0-9]*$"},
    }
}


@dataclass(frozen=True)
class Refusal:
    """An answer of the endpoint that is no ReportReply. Nothing has changed by the request."""

    code: int
    means: str
    remedy: str
    headers: dict[str, Any] = field(default_factory=dict)
    """Those that every such answer has."""
    may_be_plain: bool = False
    """What cannot be read as HTTP is answered by a line of text, before anything here sees it."""


REFUSALS = (
    Refusal(
        400,
        "This is no HTTP, there are too many headers, or the body did not arrive whole.",
        "Mend the client.",
        may_be_plain=True,
    ),
    Refusal(
        401,
        "There is no bearer token, or it is not valid for this endpoint: it has expired, its pod is gone, or it is "
        f"for another audience than `{names.TOKEN_AUDIENCE}`.",
        "Read the token anew from its file: it is replaced before it expires.",
        _CHALLENGE,
    ),
    Refusal(
        403,
        "The token is valid, but its pod does not belong to this FineTuneJob, or not to the attempt that the Report "
        "speaks of.",
        "Report from a pod of the gang, for its own attempt.",
    ),
    Refusal(
        404, "There is no such path, or no FineTuneJob can have such a name.", "Take the RunConfig's URL."
    ),
    Refusal(405, "There is no such method.", "POST.", _METHODS),
    Refusal(408, "The body did not arrive in time.", "Send the body at once."),
    Refusal(
        413,
        f"The body is longer than {MAX_REPORT_BYTES:,} bytes.",
        "Leave out what is needed least, as a termination message does.",
    ),
    Refusal(415, "The body is compressed.", "Send it as it is, without Content-Encoding."),
    Refusal(417, "More is expected than 100-continue.", "Send no header Expect.", may_be_plain=True),
    Refusal(422, "The body is no Report. Every fault is named with its field.", "Mend the Report."),
    Refusal(
        429,
        "This gang reports too often, or too many tokens from this address were refused.",
        "Wait, and send the newest Report.",
        _PAUSE,
    ),
    Refusal(
        503,
        "Whose token it is cannot be checked just now: the API server does not answer, or too many wait for it.",
        "Wait, and send the newest Report.",
        _PAUSE,
    ),
)


def report_endpoint() -> dict[str, Any]:
    """The whole document, OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Report endpoint",
            "version": "v1",
            "description": "Trainers tell the operator here how their FineTuneJobs go.",
        },
        "paths": {names.report_path("{namespace}", "{name}"): {"parameters": _parameters(), "post": _post()}},
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                _SECURITY: {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "The service-account token projected into a pod of the gang, for the audience "
                    f"{names.TOKEN_AUDIENCE}.",
                }
            },
        },
    }


def _parameters() -> list[Schema]:
    namespace = {"type": "string", "pattern": f"^{DNS_LABEL}$"}
    name = {"type": "string", "pattern": NAME_PATTERN, "maxLength": MAX_NAME_LENGTH}
    return [
        _parameter("namespace", "Namespace of the FineTuneJob.", namespace),
        _parameter("name", "Name of the FineTuneJob.", name),
    ]


def _parameter(name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": "path", "required": True, "description": description, "schema": schema}


def _post() -> Schema:
    taken = {
        "description": "The Report is taken, or a newer one of the same pod is known.",
        "content": _content(ReportReply.__name__),
    }
    refused = {
        str(refusal.code): {"description": refusal.means, "content": _error(refusal)}
        | ({"headers": _always(refusal.headers)} if refusal.headers else {})
        for refusal in REFUSALS
    }
    return {
        "operationId": "report",
        "summary": "Take the newest Report of a FineTuneJob.",
        "security": [{_SECURITY: []}],
        "requestBody": {
            "required": True,
            "description": f"At most {MAX_REPORT_BYTES} bytes, not compressed. Whole numbers have no point.",
            "content": _content(Report.__name__),
        },
        "responses": {"200": taken} | refused,
    }


def _error(refusal: Refusal) -> Schema:
    return _content("Error") | ({_TEXT: {"schema": {"type": "string"}}} if refusal.may_be_plain else {})


def _always(headers: Schema) -> Schema:
    return {name: {"required": True} | header for name, header in headers.items()}


def _content(schema: str) -> Schema:
    return {_JSON: {"schema": {"$ref": f"{_SCHEMAS}{schema}"}}}


def _schemas() -> dict[str, Schema]:
    error = {
        "description": "Why a request was refused.",
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "string", "description": "In a sentence.", "minLength": 1}},
        "additionalProperties": False,
    }
    found = _of(Report) | _of(ReportReply) | {"Error": error}
    return dict(sorted(found.items()))


def _of(model: type[ApiModel]) -> dict[str, Schema]:
    """A model and all that it is made of, by their names."""
    schema = model.model_json_schema(by_alias=True, ref_template=f"{_SCHEMAS}{{model}}")
    parts = schema.pop("$defs", {})
    return {name: _written(part) for name, part in {**parts, model.__name__: schema}.items()}


def _written(node: Any) -> Any:
    """A schema without titles, which repeat names, and without what only the API server reads.

    Every integer has to fit into 64 bits.
    """
    if isinstance(node, list):
        return [_written(part) for part in node]
    if not isinstance(node, dict):
        return node
    kept = {
        # A property may be called title: what is its schema, is no string.
        key: _written(part)
        for key, part in node.items()
        if not (key == "title" and isinstance(part, str)) and not key.startswith("x-kubernetes-")
    }
    return _INT64 | kept if kept.get("type") == "integer" else kept
