"""Where measurements go besides the job's own storage, and which variables lead there."""

from finetune_api.model import SpecModel
from finetune_api.secrets import SecretReference

# The variables that each service's own client reads. Without the first there is nothing to talk to, or no way in.
# Only these are taken from a Secret: one that could set any variable could make a training pod run anything.
MLFLOW_VARIABLES = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_EXPERIMENT_NAME",
)
WANDB_VARIABLES = ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_PROJECT")


class Mlflow(SpecModel):
    """An MLflow tracking server."""

    secret_ref: SecretReference
    """Secret with the key MLFLOW_TRACKING_URI, and as needed MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD,
    MLFLOW_TRACKING_TOKEN and MLFLOW_EXPERIMENT_NAME. Other keys are not looked at."""


class Wandb(SpecModel):
    """Weights & Biases."""

    secret_ref: SecretReference
    """Secret with the key WANDB_API_KEY, and as needed WANDB_BASE_URL, WANDB_ENTITY and WANDB_PROJECT. Other keys are
    not looked at."""


class Tracking(SpecModel):
    """Services that get the measurements of every step. TensorBoard files are always written to the storage."""

    mlflow: Mlflow | None = None
    """Log to MLflow."""
    wandb: Wandb | None = None
    """Log to Weights & Biases."""
