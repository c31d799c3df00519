"""Logs as one JSON object a line."""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime

from finetune_api import names

# What a line is about, in the order in which it tells it. Some parts of the operator say it with the line itself.
FIELDS = ("namespace", "job", "attempt", "pod", "event")

_subject: ContextVar[dict[str, object]] = ContextVar("subject")


def about(namespace: str, job: str) -> None:
    """From here on, every line that this asyncio task logs says that it is about this FineTuneJob."""
    _subject.set({"namespace": namespace, "job": job})


def more_about(**fields: object) -> None:
    """The same, and that it is about this `attempt`, or this `pod`."""
    _subject.set(_subject.get({}) | fields)


class JsonFormatter(logging.Formatter):
    """time, level and logger; FIELDS as far as they are known; message; a traceback as `error`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        known = _subject.get({}) | _kopf_fields(record) | record.__dict__
        line |= {field: known[field] for field in FIELDS if field in known}
        line["message"] = record.getMessage()
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def _kopf_fields(record: logging.LogRecord) -> dict[str, object]:
    """The object that a line of kopf's is about."""
    reference: dict[str, str] = getattr(record, "k8s_ref", None) or {}
    field = {names.KIND: "job", "Pod": "pod"}.get(reference.get("kind", ""))
    return {"namespace": reference["namespace"], field: reference["name"]} if field else {}


def configure(level: str) -> None:
    """Log to stderr at this level, warnings of Python included."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    logging.getLogger("kopf.objects").addFilter(_is_no_denial)
    if level != "DEBUG":
        # kopf tells of every event, aiohttp of every request.
        logging.getLogger("kopf").setLevel(logging.WARNING)
        logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


def _is_no_denial(record: logging.LogRecord) -> bool:
    # To kopf a denied request is an error of the handler that denied it; the webhook has told it for what it is.
    return "failed permanently" not in record.getMessage()
