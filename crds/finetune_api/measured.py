"""What the trainer finds in the data of a run before it trains, for whoever plans one."""

from finetune_api.facts import DataFacts
from finetune_api.model import ApiModel
from finetune_api.status import DatasetStatus, MicroBatches


class Measured(ApiModel):
    """The training data as a model's own tokenizer and chat template make it."""

    dataset: DatasetStatus
    """Samples, tokens and lengths."""
    micro_batches: MicroBatches
    """As the batch planner packs them for the run's processes."""

    @property
    def facts(self) -> DataFacts:
        """What a plan needs to know of the data."""
        return DataFacts(
            samples=self.dataset.samples,
            dropped=self.dataset.dropped,
            lengths=self.dataset.lengths,
            micro_batches=self.micro_batches,
        )
