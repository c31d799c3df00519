"""The gang as one of its processes sees it."""

import json
import logging
import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import DistError
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from finetune_trainer.ends.errors import MissingGpuError, PeerLostError, TerminatedError
from finetune_trainer.ends.stopping import FOLLOW_SECONDS

T = TypeVar("T")

# A peer that takes longer over one collective is taken for dead. Whatever may take longer waits at the store.
COLLECTIVE_TIMEOUT = timedelta(minutes=10)
_POLL_SECONDS = 0.5
_GO_LAST_SECONDS = 1.0
_CALLED_OFF = "called-off"
_PARTED = "parted"
# How long rank 0 waits for others that should be on their way out.
_PART_SECONDS = 30.0
_log = logging.getLogger(__name__)


class Gang:
    """Membership in the gang; the environment says which process this is, in torchrun's words.

    It comes about in two steps, so that whoever is asked to stop can tell the others before any of them goes ahead.
    """

    def __init__(self, *, use_gpu: bool, split_over: int = 1) -> None:
        """Come to the store at which all meet: from then on a process can `call_off`, whoever else is there.

        With `use_gpu` each process has `split_over` of its node's GPUs. Raises MissingGpuError where there are fewer.
        """
        self.devices = _gpus(int(os.environ["LOCAL_RANK"]), split_over) if use_gpu else [torch.device("cpu")]
        """What this process computes on; the first one takes the data."""
        if use_gpu:
            torch.cuda.set_device(self.device)
        self._store, self.rank, self.world_size = _meeting_place()
        self._meetings = 0
        # A thread that asks must not wait for another that waits for an answer.
        self._store_of_threads = self._store.clone()

    def join(self) -> None:
        """Be ready for collectives; returns once all processes are."""
        # gloo beside nccl: checkpoints and small agreements do not wait for the GPU.
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo",
            store=dist.PrefixStore("gang", self._store),
            rank=self.rank,
            world_size=self.world_size,
            timeout=COLLECTIVE_TIMEOUT,
        )

    @property
    def device(self) -> torch.device:
        """The only one of `devices`, unless the model is split."""
        return self.devices[0]

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

    def on_first(self, work: Callable[[], T]) -> T:
        """Have rank 0 do what may take long, and give its result (JSON) to all.

        The others wait at the store, where no time-out of a collective applies, and where signals get through.
        """
        self._meetings += 1
        key = f"meeting-{self._meetings}"
        if self.is_first:
            try:
                result = work()
            except TerminatedError:
                # That all is called off is the others' end, too; they need not take rank 0 for lost.
                raise
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

    def call_off(self) -> None:
        """Tell the others, before training begins, that this process has to go; they may be anywhere."""
        try:
            self.post(_CALLED_OFF, f"by rank {self.rank}")
        except DistError as error:
            _log.warning("the other processes cannot be told that this one was asked to stop: %s", error)
        # Until they have heard of it: a connection that is gone would look like an accident.
        time.sleep(2 * FOLLOW_SECONDS)

    def called_off(self) -> bool:
        """Whether a process has called it all off. For a thread of its own to ask."""
        return self.posted(_CALLED_OFF) is not None

    def leave(self) -> None:
        """Leave in good order.

        Rank 0 goes last: its torchrun holds the store at which the other nodes' torchruns say that they are done.
        """
        self.meet()
        dist.destroy_process_group()
        if self.is_first and self.world_size > 1:
            time.sleep(_GO_LAST_SECONDS)

    def post(self, key: str, text: str) -> None:
        """Leave a word for all processes, from any thread. The first one counts."""
        self._store_of_threads.compare_set(key, "", text)

    def posted(self, key: str) -> str | None:
        """The word that some process has left under a key, for any thread."""
        try:
            return self._store_of_threads.get(key).decode() if self._store_of_threads.check([key]) else None
        except DistError:
            # The store is gone with rank 0's node: whoever waits for rank 0 learns of that by itself.
            return None

    def part(self) -> None:
        """Before this process ends out of the middle of training, as all of them do; from any thread.

        Rank 0 goes last: with its node goes the store at which the others hear that they are to go.
        """
        deadline = time.monotonic() + _PART_SECONDS
        try:
            if not self.is_first:
                self._store_of_threads.add(_PARTED, 1)
                return
            while self._store_of_threads.add(_PARTED, 0) < self.world_size - 1:
                if time.monotonic() > deadline:
                    _log.warning("not all processes have left; this one does all the same")
                    return
                time.sleep(_GO_LAST_SECONDS / 10)
        except DistError as error:
            _log.warning("leaving without a word to the others: %s", error)


def _gpus(local_rank: int, each: int) -> list[torch.device]:
    """This process's share of the node's GPUs, where each process has so many."""
    wanted = range(local_rank * each, (local_rank + 1) * each)
    shown = torch.cuda.device_count()
    # Where there is none at all, torch knows why.
    if 0 < shown < wanted.stop:
        raise MissingGpuError(
            f"spec.resources.gpusPerNode: {wanted.stop} or more GPUs are wanted, and this node shows {shown}: one has "
            "failed, or what spec.resources.gpuResourceName counts cannot be used together"
        )
    return [torch.device("cuda", index) for index in wanted]


def _meeting_place() -> tuple[dist.Store, int, int]:
    """A store that all processes of the gang see, this one's rank, and how many there are."""
    if os.environ["WORLD_SIZE"] == "1":
        # Nobody else is to come, so no port is opened.
        return dist.HashStore(), 0, 1
    place: tuple[dist.Store, int, int] = next(dist.rendezvous("env://"))
    return place


class Ballot:
    """A question to all processes whose answer nobody waits for: each time, it is that of the time before.

    So the processes' agreement runs beside what they compute, on the CPU and over connections of its own.
    """

    def __init__(self, gang: Gang) -> None:
        """Every process makes it, and asks equally often."""
        self._alone = gang.world_size == 1
        self._group: dist.ProcessGroup | None = None
        if not self._alone:
            group = dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT)
            assert isinstance(group, dist.ProcessGroup)
            self._group = group
        self._pending: tuple[dist.Work, Tensor] | None = None

    def ask(self, mine: bool) -> bool:
        """Whether some process said yes the last time, the same in all of them; `mine` is for the next time."""
        if self._alone:
            return mine
        answer = False
        if self._pending:
            work, votes = self._pending
            work.wait()
            answer = bool(votes.item())
        votes = torch.tensor([mine], dtype=torch.int32)
        begun = dist.all_reduce(votes, dist.ReduceOp.MAX, group=self._group, async_op=True)
        assert begun is not None
        self._pending = begun, votes
        return answer
