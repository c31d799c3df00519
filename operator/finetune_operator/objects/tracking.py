"""Pure: how a training pod gets at the services that track its measurements."""

from collections.abc import Sequence
from typing import Any

from finetune_api.spec import FineTuneJobSpec
from finetune_api.tracking import MLFLOW_VARIABLES, WANDB_VARIABLES


def environment(spec: FineTuneJobSpec) -> list[dict[str, Any]]:
    """A container's environment entries for what `spec.tracking` names; the kubelet reads the Secrets, nobody else.

    A pod whose Secret is missing, or lacks what it must have, does not start: the kubelet says so by name.
    """
    tracking = spec.tracking
    entries: list[dict[str, Any]] = []
    if tracking.mlflow is not None:
        entries += _from_secret(tracking.mlflow.secret_ref.name, MLFLOW_VARIABLES)
    if tracking.wandb is not None:
        entries += _from_secret(tracking.wandb.secret_ref.name, WANDB_VARIABLES)
    return entries


def _from_secret(name: str, variables: Sequence[str]) -> list[dict[str, Any]]:
    needed = variables[0]
    return [
        {
            "name": variable,
            "valueFrom": {
                "secretKeyRef": {"name": name, "key": variable, "optional": variable != needed},
            },
        }
        for variable in variables
    ]
