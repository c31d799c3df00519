"""What became of the upload of a result, as status."""

from datetime import datetime
from typing import Annotated

from pydantic import AwareDatetime, Field

from finetune_api.model import ApiModel


class Published(ApiModel):
    """A result that is complete where it was uploaded to."""

    target: Annotated[str, Field(max_length=1024)]
    """Where: the uri, or the repository."""
    revision: Annotated[str, Field(max_length=128)] | None = None
    """Commit of the repository; absent for object stores."""
    bytes: int
    """Size of all its files."""
    time: AwareDatetime
    """When it was complete."""


class Publication(ApiModel):
    """The upload of a result. It never changes what the job came to."""

    target: Annotated[str, Field(max_length=1024)]
    """What spec.publish named when it was begun; where that changes, it begins anew."""
    digest: Annotated[str, Field(max_length=64)]
    """Of all that spec.publish said then: as long as the result is not there, any change of it begins anew."""
    tries: int = 0
    """Pods that tried, each with retries of its own, and failed."""
    last_try: datetime | None = None
    """When the last of them failed."""
    message: Annotated[str, Field(max_length=1024)] | None = None
    """Why it did."""
    next_try: datetime | None = None
    """When it is tried again; absent while it is under way, and where it was given up."""
    published: Published | None = None
    """What is there now."""
