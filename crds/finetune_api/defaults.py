"""What an administrator fills in of what the specs of a namespace leave open."""

from finetune_api.resources import GpuResourceName
from finetune_api.scalars import ClaimName
from finetune_api.scheduling import Scheduling


class Defaults(Scheduling):
    """Values for fields that a spec leaves open: those of spec.scheduling, and some others."""

    gpu_resource_name: GpuResourceName | None = None
    """For spec.resources.gpuResourceName."""
    storage_claim_name: ClaimName | None = None
    """For spec.storage.claimName."""
