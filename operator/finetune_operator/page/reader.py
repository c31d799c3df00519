"""What the page shows, read from the API server: once for all tabs that are open, and no more often than need be."""

from collections import OrderedDict

from finetune_operator.cluster import Cluster
from finetune_operator.kinds import Key
from finetune_operator.page import overview
from finetune_operator.page.job import job
from finetune_operator.page.overview import Row, View
from finetune_operator.page.shared import Shared

# Of single jobs, so many answers are kept.
MAX_JOBS = 64


class Reader:
    """Answers with views. Every method raises what Cluster raises where the API server does not answer."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._rows = Shared(self._list)
        self._jobs: OrderedDict[Key, Shared[View | None]] = OrderedDict()

    async def overview(self, namespace: str | None) -> View:
        """The FineTuneJobs of a namespace, or of all that the operator watches."""
        return overview.overview(await self._rows.get(), namespace)

    async def job(self, key: Key) -> View | None:
        """One FineTuneJob with everything about it; None if there is none that is the operator's."""
        if not self._cluster.covers(key.namespace):
            return None
        found = self._jobs.setdefault(key, Shared(lambda: self._read(key)))
        self._jobs.move_to_end(key)
        if len(self._jobs) > MAX_JOBS:
            self._jobs.popitem(last=False)
        return await found.get()

    async def _list(self) -> list[Row]:
        return [overview.row(wire) async for wires in self._cluster.job_lists() for wire in wires]

    async def _read(self, key: Key) -> View | None:
        wire = await self._cluster.finetunejob(key)
        return None if wire is None else job(wire, await self._cluster.events(key))
