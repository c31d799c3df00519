"""Pure: what is wrong with a FineTuneJob, in words that name the field."""

import difflib
import re
import reprlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError

from finetune_api.spec import FineTuneJob

# Values are shown to be recognised, however long they are.
_SHORT = reprlib.Repr()
_SHORT.maxstring = 80


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


def problems(
    error: ValidationError, model: type[BaseModel] = FineTuneJob, *, most: int | None = None
) -> list[str]:
    """One sentence per fault, or for the first of them: the path of the field, what is allowed, what was found."""
    return [
        f"{fault.field}: {fault.message}" if fault.field else fault.message
        for fault in faults(error, model, most=most)
    ]


class Fault(NamedTuple):
    """One thing that is wrong."""

    location: tuple[int | str, ...]
    message: str

    @property
    def field(self) -> str:
        """The field as users write it: `spec.osft.targetPatterns[0]`; empty for the object itself."""
        parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.location)
        return "".join(parts).lstrip(".")


def faults(
    error: ValidationError, model: type[BaseModel] = FineTuneJob, *, most: int | None = None
) -> list[Fault]:
    """All that is wrong with what should be a `model`, or the first so many: field, what is allowed, what was found.

    What is wrong with something from elsewhere has no end, and to find what may have been meant takes a while.
    """
    found = error.errors(include_url=False, include_context=False)[:most]
    return [Fault(_without_key(fault["loc"]), _message(fault, model)) for fault in found]


def _without_key(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The place of a fault; pydantic has that of a map's key where the key's value is, and one step further."""
    return location[:-1] if location[-1:] == ("[key]",) else location


def _message(fault: Any, model: type[BaseModel]) -> str:
    message = re.sub(r"^\w+ should", "must", fault["msg"].removeprefix("Value error, "))
    found = fault["input"]
    if fault["type"] == "extra_forbidden":
        message = f"there is no such field; {_suggestion(fault['loc'], model)}"
    elif fault["type"] == "missing":
        message = "is required"
    elif fault["type"] in ("model_type", "model_attributes_type"):
        message = f"must be an object (found {_SHORT.repr(found)})"
    elif not isinstance(found, dict | list):
        message = f"{message} (found {_SHORT.repr(found)})"
    return message


def _suggestion(location: Sequence[int | str], model: type[BaseModel]) -> str:
    """What may have been meant by a field that does not exist."""
    for part in location[:-1]:
        model = _model_of(model, part)
    fields = [str(field.alias) for field in model.model_fields.values()]
    lower = {name.lower(): name for name in fields}
    close = difflib.get_close_matches(str(location[-1]).lower().replace("_", ""), lower, n=1)
    return f"did you mean {lower[close[0]]}?" if close else f"there are {', '.join(fields)}"


def _model_of(model: type[BaseModel], part: int | str) -> type[BaseModel]:
    """The model of the object that `part` of a path leads to from an object of `model`."""
    annotation = next(
        (field.annotation for field in model.model_fields.values() if field.alias == part), None
    )
    if annotation is None:
        # An item of a list, or of a map: the step to that itself led to what its items are.
        return model
    return next(found for found in _classes(annotation) if issubclass(found, BaseModel))


def _classes(annotation: Any) -> Iterator[type]:
    """The classes that an annotation is made of: X of `X | None`, of `list[X]`."""
    if isinstance(annotation, type) and not get_args(annotation):
        yield annotation
    for part in get_args(annotation):
        yield from _classes(part)
