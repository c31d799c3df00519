"""The gang as one of its processes sees it."""

import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from finetune_trainer.errors import PeerLostError

T = TypeVar("T")

# A peer that takes longer over one collective is taken for dead. Whatever may take longer waits at the store.
COLLECTIVE_TIMEOUT = timedelta(minutes=10)
_POLL_SECONDS = 0.5
_GO_LAST_SECONDS = 1.0


class Gang:
    """Membership in the gang; torchrun's environment says which process this is."""

    def __init__(self, *, use_gpu: bool) -> None:
        """Join; returns once all processes have."""
        local_rank = int(os.environ["LOCAL_RANK"])
        self.device = torch.device("cuda", local_rank) if use_gpu else torch.device("cpu")
        if use_gpu:
            torch.cuda.set_device(self.device)
        self._store: dist.Store
        self.rank: int
        self.world_size: int
        self._store, self.rank, self.world_size = next(dist.rendezvous("env://"))
        # gloo beside nccl: checkpoints and small agreements do not wait for the GPU.
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if use_gpu else "gloo",
            store=dist.PrefixStore("gang", self._store),
            rank=self.rank,
            world_size=self.world_size,
            timeout=COLLECTIVE_TIMEOUT,
        )
        self._meetings = 0

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def mesh(self) -> DeviceMesh:
        """All processes in one dimension."""
        return init_device_mesh(self.device.type, (self.world_size,))

    def gather(self, values: Tensor) -> Tensor:
        """The [n] values of every process as [world_size * n], in rank order, on every process."""
        gathered = values.new_empty(self.world_size * values.numel())
        dist.all_gather_into_tensor(gathered, values)
        return gathered

    def collect(self, value: T) -> list[T]:
        """The values of every process, in rank order, on every process."""
        values: list[T | None] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def agree(self, fine: bool) -> bool:
        """Whether it is fine with every process."""
        return all(self.collect(fine))

    def on_first(self, work: Callable[[], T]) -> T:
        """Have rank 0 do what may take long, and give its result (JSON) to all.

        The others wait at the store, where no time-out of a collective applies, and where signals get through.
        """
        self._meetings += 1
        key = f"meeting-{self._meetings}"
        if self.is_first:
            try:
                result = work()
            except BaseException:
                self._store.set(key, "")
                raise
            self._store.set(key, json.dumps({"result": result}))
            return result
        while not self._store.check([key]):
            time.sleep(_POLL_SECONDS)
        text = self._store.get(key).decode()
        if not text:
            raise PeerLostError("rank 0 gave up")
        value: T = json.loads(text)["result"]
        return value

    def meet(self) -> None:
        """Wait until all processes are here.

        Before processes end: with rank 0's node goes the store at which the others may still be waiting.
        """
        self.collect(None)

    def leave(self) -> None:
        """Leave in good order.

        Rank 0 goes last: its torchrun holds the store at which the other nodes' torchruns say that they are done.
        """
        self.meet()
        dist.destroy_process_group()
        if self.is_first and self.world_size > 1:
            time.sleep(_GO_LAST_SECONDS)
