"""Pure: what is wrong with a FineTuneJob, in words that name the field."""

import difflib
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from finetune_api.spec import FineTuneJob


def read(manifest: Any) -> tuple[FineTuneJob | None, list[str]]:
    """The FineTuneJob that `manifest` (parsed YAML or JSON) describes, or all that is wrong with it."""
    try:
        return parse(manifest), []
    except ValidationError as error:
        return None, problems(error)


def parse(manifest: Any) -> FineTuneJob:
    """The FineTuneJob that `manifest` describes.

    Raises ValidationError, also for a field in snake case: Python's name for it is not the API's.
    """
    return FineTuneJob.model_validate(manifest, by_name=False, by_alias=True)


def problems(error: ValidationError) -> list[str]:
    """One sentence per fault: the path of the field, what is allowed, and what was found."""
    return [_sentence(fault) for fault in error.errors(include_url=False, include_context=False)]


def _sentence(fault: Any) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"]).lstrip(".")
    message = fault["msg"].removeprefix("Value error, ").replace("Input should", "must", 1)
    found = fault["input"]
    if fault["type"] == "extra_forbidden":
        message = f"there is no such field; {_suggestion(fault['loc'])}"
    elif fault["type"] == "missing":
        message = "is required"
    elif fault["type"] in ("model_type", "model_attributes_type"):
        message = f"must be an object (found {found!r})"
    elif not isinstance(found, dict | list):
        message = f"{message} (found {found!r})"
    return f"{path}: {message}" if path else message


def _suggestion(location: Sequence[int | str]) -> str:
    """What may have been meant by a field that does not exist."""
    model: Any = FineTuneJob
    for part in location[:-1]:
        model = next(field.annotation for field in model.model_fields.values() if field.alias == part)
    fields = [field.alias for field in model.model_fields.values()]
    lower = {name.lower(): name for name in fields}
    close = difflib.get_close_matches(str(location[-1]).lower().replace("_", ""), lower, n=1)
    return f"did you mean {lower[close[0]]}?" if close else f"there are {', '.join(fields)}"
