"""Pure: what is wrong with a FineTuneJob, in words that name the field."""

from typing import Any

from pydantic import ValidationError

from finetune_api.spec import FineTuneJob


def read(manifest: Any) -> tuple[FineTuneJob | None, list[str]]:
    """The FineTuneJob that `manifest` (parsed YAML or JSON) describes, or all that is wrong with it."""
    try:
        return FineTuneJob.model_validate(manifest), []
    except ValidationError as error:
        return None, problems(error)


def problems(error: ValidationError) -> list[str]:
    """One sentence per fault: the path of the field, what is allowed, and what was found."""
    return [_sentence(fault) for fault in error.errors(include_url=False, include_context=False)]


def _sentence(fault: Any) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"]).lstrip(".")
    message = fault["msg"].removeprefix("Value error, ")
    found = fault["input"]
    if fault["type"] == "extra_forbidden":
        message = "there is no such field; see kubectl explain finetunejob.spec"
    elif fault["type"] != "missing" and not isinstance(found, dict | list):
        message = f"{message} (found {found!r})"
    return f"{path}: {message}" if path else message
