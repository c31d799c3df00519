"""The rules by which nobody has a job read what they may not read themselves, generated from the models.

The kubelet hands a pod every Secret and every ConfigMap of its namespace that the pod names. So whoever may create
FineTuneJobs, but neither pods nor read Secrets, could have the job read one for them. The API server asks, with the
rights of whoever creates or changes a FineTuneJob, whether they may get what it names: a ValidatingAdmissionPolicy,
whose variables and validations are these.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from types import GenericAlias
from typing import Any, get_args, get_origin

from finetune_api.model import ApiModel
from finetune_api.secrets import SecretKeyReference, SecretReference
from finetune_api.sources import ConfigMapSource
from finetune_api.spec import FineTuneJobSpec

# A question about someone's rights costs 350,000 of the 10,000,000 units that the API server grants a policy, and one
# expression has no more than 1,000,000. No job needs so many: each of its data sets has one source.
MOST_QUESTIONS = 24

_KINDS: dict[type[ApiModel], str] = {
    SecretReference: "Secret",
    SecretKeyReference: "Secret",
    ConfigMapSource: "ConfigMap",
}


@dataclass(frozen=True)
class Place:
    """A field of the spec, or of each item of a list in it, that names a Secret or a ConfigMap."""

    kind: str
    path: tuple[str, ...]
    """The field, from the spec, or from the item, on."""
    items: tuple[str, ...] | None = None
    """The list, from the spec on."""

    @property
    def field(self) -> str:
        """The field as users write it; with [] after a list."""
        owner = "" if self.items is None else f"{'.'.join(self.items)}[]."
        return f"spec.{owner}{'.'.join(self.path)}"

    @property
    def block(self) -> tuple[str, ...]:
        """What says all that is done with it: a ConfigMap's own fields, the fields beside a reference to a Secret."""
        return self.path if self.kind == "ConfigMap" else self.path[:-1]


def places(
    model: type[ApiModel] = FineTuneJobSpec,
    path: tuple[str, ...] = (),
    items: tuple[str, ...] | None = None,
) -> Iterator[Place]:
    """Every place where a FineTuneJob names a Secret or a ConfigMap."""
    for field in model.model_fields.values():
        here = (*path, str(field.alias))
        for found, listed in _models(field.annotation):
            if found in _KINDS:
                yield Place(_KINDS[found], here, items)
            elif not listed:
                yield from places(found, here, items)
            elif items is None:
                yield from places(found, (), here)
            else:
                raise ValueError(f"a list in a list has no place in the policy: {'.'.join((*items, *here))}")


def _models(annotation: Any, *, listed: bool = False) -> Iterator[tuple[type[ApiModel], bool]]:
    """The models that an annotation is made of, and whether they are the items of a list."""
    if isinstance(annotation, type) and not isinstance(annotation, GenericAlias):
        if issubclass(annotation, ApiModel):
            yield annotation, listed
        return
    for part in get_args(annotation):
        yield from _models(part, listed=listed or get_origin(annotation) is list)


def rules() -> dict[str, Any]:
    """`variables` and `validations` of the policy.

    Asked is about blocks that are new or that have changed: who may not read a Secret may still change the rest of a
    job, but not what its credentials are for.
    """
    found = {f"place{number}": _named(place) for number, place in enumerate(places(), start=1)}
    named = " + ".join(f"variables.{name}" for name in found)
    return {
        "variables": [
            {"name": "before", "expression": "oldObject == null ? dyn({}) : dyn(oldObject.spec)"},
            *({"name": name, "expression": expression} for name, expression in found.items()),
            {"name": "named", "expression": named},
        ],
        "validations": [
            {
                "expression": f"variables.named.size() <= {MOST_QUESTIONS}",
                "message": f"more than {MOST_QUESTIONS} Secrets and ConfigMaps are named at once: name fewer",
                "reason": "Forbidden",
            },
            *(_validation(f"variables.named[{number}]", number) for number in range(MOST_QUESTIONS)),
        ],
    }


def _named(place: Place) -> str:
    """What a place names, if that is new there: a list of maps, empty or with one for each item of the place's list."""
    field = ".".join(place.path)
    if place.items is None:
        new, old = f"object.spec{_optional(place.block)}", f"variables.before{_optional(place.block)}"
        one = _one(place.kind, f"'spec.{field}'", f"object.spec.{field}.name")
        return f"object.spec{_optional(place.path)}.hasValue() && {new} != {old} ? [{one}] : []"
    items = f"{_optional(place.items)}.orValue([])"
    block = _optional(place.block)
    same = f"variables.before{items}.exists(old, old.name == one.name && old{block} == one{block})"
    label = f"'spec.{'.'.join(place.items)}[' + one.name + '].{field}'"
    one = _one(place.kind, label, f"one.{field}.name")
    return f"object.spec{items}.map(one, one{_optional(place.path)}.hasValue() && !{same}, {one})"


def _optional(path: tuple[str, ...]) -> str:
    return "".join(f".?{part}" for part in path)


def _one(kind: str, field: str, name: str) -> str:
    return f"{{'kind': '{kind}', 'field': {field}, 'name': string({name})}}"


def _validation(one: str, number: int) -> dict[str, str]:
    allowed = (
        f"authorizer.group('').resource({one}.kind.lowerAscii() + 's').namespace(request.namespace)"
        f".name({one}.name).check('get').allowed()"
    )
    message = (
        f"{one}.field + ': ' + request.userInfo.username + ' may not read ' + {one}.kind + ' ' + {one}.name"
        " + ', so no job of theirs may: name one that they may read, or have somebody give them the right to get it'"
    )
    return {
        "expression": f"variables.named.size() <= {number} || {allowed}",
        "messageExpression": message,
        "reason": "Forbidden",
    }
