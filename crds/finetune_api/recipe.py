"""What a plan depends on: the same for whoever plans, from a spec or in the middle of a run."""

from dataclasses import dataclass, field

from finetune_api.evaluation import Evaluation
from finetune_api.hyperparameters import Hyperparameters
from finetune_api.methods import Lora, Method, Osft
from finetune_api.spec import Checkpoints, FineTuneJobSpec

# How much of a GPU is planned with: estimates are not exact, and running out of memory costs more than a smaller batch.
USABLE_GPU_MEMORY = 0.9


@dataclass(frozen=True)
class Recipe:
    """How a model is to be trained, and on what hardware."""

    method: Method
    hyperparameters: Hyperparameters
    osft: Osft
    lora: Lora
    checkpoints: Checkpoints
    nodes: int
    gpus_per_node: int
    """0: one process per node, on its CPU."""
    gpu_memory: int | None = None
    """Bytes of one GPU, as far as stated."""
    evaluation: Evaluation = field(default_factory=Evaluation)
    is_validated: bool = False
    """Whether there are validation data."""
    is_downloaded: bool = False
    """Whether the base model comes over the network, to the job's own storage."""

    @classmethod
    def of_spec(cls, spec: FineTuneJobSpec) -> "Recipe":
        """The recipe that a spec states."""
        resources = spec.resources
        return cls(
            method=spec.method,
            hyperparameters=spec.hyperparameters,
            osft=spec.osft or Osft(),
            lora=spec.lora or Lora(),
            checkpoints=spec.checkpoints,
            nodes=resources.nodes,
            gpus_per_node=resources.gpus_per_node,
            gpu_memory=resources.gpu_memory_bytes,
            evaluation=spec.evaluation,
            is_validated=spec.dataset.is_validated,
            is_downloaded=spec.model.is_downloaded,
        )

    @property
    def is_evaluated(self) -> bool:
        """Whether there is anything to judge the model by."""
        return self.is_validated or bool(self.evaluation.sets)

    @property
    def best_kept(self) -> int:
        """How many models are kept along the way, at most, only because they were the best ones.

        Beside the best of all, that which was the best when the newest state was saved: a restart goes back there.
        """
        kept_anyhow = self.checkpoints.every_epoch and self.evaluation.every_steps is None
        return 2 if self.is_validated and self.checkpoints.keep_best and not kept_anyhow else 0

    @property
    def on_gpu(self) -> bool:
        """Whether each process has a GPU."""
        return self.gpus_per_node > 0

    @property
    def usable_gpu_memory(self) -> int | None:
        """Bytes of one GPU that are planned with, as far as its memory is stated."""
        return None if self.gpu_memory is None else int(self.gpu_memory * USABLE_GPU_MEMORY)

    @property
    def split_over(self) -> int:
        """GPUs that one copy of the model is split over; 1 where each process has its own."""
        split = self.method == "lora" and self.lora.enable_model_splitting
        return self.gpus_per_node if split else 1

    @property
    def is_merged(self) -> bool:
        """Whether training is followed by merging the adapter into the model."""
        return self.method == "lora" and self.lora.merge_adapter

    @property
    def world_size(self) -> int:
        """Training processes over all pods. A split model is trained by a single one."""
        return self.nodes * max(1, self.gpus_per_node) // self.split_over
