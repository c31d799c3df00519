"""How a job stands in the queue that its gang has to go through."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from finetune_api.model import ApiModel


class Queueing(ApiModel):
    """How a job stands in its queue; absent without scheduling.queueName."""

    name: Annotated[str, Field(max_length=63)]
    """The LocalQueue."""
    waiting_since: datetime | None = None
    """Since when the gang waits; absent while it does not."""
    waited_seconds: int = 0
    """Seconds for which it waited in all before."""
    preemptions: int = 0
    """How often a gang that ran had to go back into the queue."""
