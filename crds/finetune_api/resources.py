"""What a job asks of the cluster."""

from typing import Annotated

from pydantic import AfterValidator, Field

from finetune_api.model import SpecModel
from finetune_api.scalars import SUBDOMAIN, Quantity, amount, cel

_POSITIVE_MESSAGE = "must be more than nothing, such as 80Gi"
_POSITIVE = cel("quantity(self).isGreaterThan(quantity('0'))", _POSITIVE_MESSAGE)

# What a device plugin offers has a domain before its name.
_EXTENDED_RESOURCE = rf"^{SUBDOMAIN}/[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?$"
GpuResourceName = Annotated[str, Field(max_length=128, pattern=_EXTENDED_RESOURCE)]
# What it is where neither the job nor the administrator says.
GPU_RESOURCE_NAME = "nvidia.com/gpu"


def _positive(quantity: str) -> str:
    if amount(quantity) <= 0:
        raise ValueError(_POSITIVE_MESSAGE)
    return quantity


class ResourceRequests(SpecModel):
    """What each training pod asks of its node besides GPUs."""

    cpu: Quantity | None = None
    """Cores."""
    memory: Quantity | None = None
    """Memory, requested and at the same time the limit, so that training never starves its neighbours."""


class Resources(SpecModel):
    """The gang: how many pods, and what each one gets."""

    nodes: Annotated[int, Field(ge=1, le=1024)] = 1
    """Number of training pods. All start together or not at all."""
    gpus_per_node: Annotated[int, Field(ge=0, le=64)] = 1
    """GPUs of each pod; one training process per GPU. 0 trains on the CPU with one process per pod."""
    gpu_memory: Annotated[Quantity, Field(json_schema_extra=_POSITIVE), AfterValidator(_positive)] | None = (
        None
    )
    """Memory of one GPU. What fits is planned with it; nothing is asked of the cluster."""
    gpu_resource_name: GpuResourceName | None = None
    """Name under which the cluster offers GPUs; the administrator's default, or else nvidia.com/gpu, if left out."""
    requests: ResourceRequests = ResourceRequests()
    """CPU and memory of each pod."""
    shared_memory: Quantity | None = None
    """Upper limit of /dev/shm; bounded by the pod's memory alone if left out."""

    @property
    def gpu_memory_bytes(self) -> int | None:
        """Memory of one GPU as a number, as far as it is stated."""
        return None if self.gpu_memory is None else int(amount(self.gpu_memory))
