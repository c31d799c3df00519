"""What the inputs of a run were: recorded when it begins, so that the run can be repeated."""

from typing import Annotated

from pydantic import Field

from finetune_api.evaluation import MAX_SETS
from finetune_api.model import ApiModel

MAX_INPUTS = MAX_SETS + 3


class Input(ApiModel):
    """An input as it was when the run began."""

    name: Annotated[str, Field(max_length=32)]
    """model, train, validation, or the name of an evaluation set."""
    origin: Annotated[str, Field(max_length=2048)]
    """Where it came from, in the words of the spec."""
    revision: Annotated[str, Field(max_length=128)] | None = None
    """Commit of the repository that it was taken from; absent for others."""
    digest: Annotated[str, Field(max_length=128)]
    """sha256: and the digest of its content; of a model on a volume or in an image, of its configuration and of samples
    of its weights (sampled-sha256:)."""
    bytes: int
    """Size of its files."""
    path: Annotated[str, Field(max_length=1024)] | None = None
    """Where it lies on the storage claim, if it was downloaded."""
