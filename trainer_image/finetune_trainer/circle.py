"""All processes of the gang, agreeing on something beside the training: neither waits for the other."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from finetune_trainer.ends.verdict import explain, relayed

T = TypeVar("T")

# Some write their share of a state much faster than others. One that died is noticed at once all the same, and one
# that hangs is noticed by the training.
_PATIENCE = timedelta(hours=2)


class Circle:
    """A gloo group of its own: collectives of different groups may be under way at the same time.

    All processes make their circles in the same order, and each circle is used by one thread at a time.
    """

    def __init__(self) -> None:
        group = dist.new_group(backend="gloo", timeout=_PATIENCE)
        assert isinstance(group, dist.ProcessGroup)
        self.group = group
        self.rank = dist.get_rank()

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def everyone(self, work: Callable[[], T]) -> list[T]:
        """Have every process do something, and give all results to all, in rank order.

        Where one fails, all fail, once everybody is done: each with its own error, or with what another's means.
        """
        result: T | None = None
        failure: Exception | None = None
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - raised below, when the others know
            failure = error
        told: list[Any] = [None] * dist.get_world_size()
        try:
            dist.all_gather_object(told, (result, failure and explain(failure)), group=self.group)
        except RuntimeError as lost:
            # That the others went is no news where this one is about to go itself.
            raise failure or lost from None
        if failure:
            raise failure
        for rank, (_, cause) in enumerate(told):
            if cause:
                exit_code, message = cause
                raise relayed(exit_code, f"rank {rank}: {message}")
        return [value for value, _ in told]

    def first(self, work: Callable[[], T]) -> T:
        """Have rank 0 do something, and give the result to all. Where it fails, all fail."""
        return self.everyone(lambda: work() if self.is_first else None)[0]  # type: ignore[return-value]
