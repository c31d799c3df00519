"""What is known of versions of FineTuneJobs, so that nothing is read or looked at again for nothing."""

from finetune_operator.kinds import Key
from finetune_operator.observation.reading import Wire


class Known:
    """Versions of FineTuneJobs that the operator has looked at, or need not ask for."""

    def __init__(self) -> None:
        self._echoes: dict[Key, str] = {}
        self._at_rest: dict[Key, str] = {}
        self._settled: set[Key] = set()
        self._called: set[Key] = set()
        self._new: dict[Key, Wire] = {}

    def written(self, key: Key, version: str) -> None:
        """The operator has just written this version, and has looked at it already."""
        self._echoes[key] = version

    def rests(self, key: Key, version: str, *, for_good: bool = False) -> None:
        """In this version the job is over, and nothing is left to do about it, or nothing ever (`for_good`)."""
        self._at_rest[key] = version
        if for_good:
            self._settled.add(key)

    def stirs(self, key: Key) -> None:
        """A look has found something to do about the job."""
        self._at_rest.pop(key, None)
        self._settled.discard(key)

    def calls(self, key: Key) -> None:
        """The job has to be looked at, whatever is known of it: also if a look has begun, which may not see why."""
        self._called.add(key)

    def looks(self, key: Key) -> None:
        """A look begins, which sees whatever has called for one so far. What it comes to is known when it is over."""
        self._called.discard(key)
        self._settled.discard(key)

    def is_at_rest(self, key: Key, version: str) -> bool:
        """Whether this version of a job was found to be one about which there is nothing to do."""
        return self._at_rest.get(key) == version

    def is_settled(self, key: Key) -> bool:
        """Whether nothing that its pods tell can matter any more, until somebody changes the job itself."""
        return key in self._settled and key not in self._called

    def matters(self, key: Key, wire: Wire, *, deleted: bool = False) -> bool:
        """Whether there may be something to do about what a watch has brought.

        There is nothing about the operator's own write: each echo is told once, whoever asks has heard it. Nor is there
        about a job that was over for good in this very version, as a watch that begins anew brings all of them.
        """
        version = wire["metadata"]["resourceVersion"]
        if self._echoes.pop(key, None) == version:
            return False
        if not deleted and self.is_settled(key) and self.is_at_rest(key, version):
            return False
        self._new.pop(key, None)
        self.calls(key)
        if not deleted and not (wire.get("status") or {}).get("startTime"):
            self._new[key] = wire
        return True

    def take_new(self, key: Key) -> Wire | None:
        """A job that has not begun, as a watch brought it.

        All that is done about such a job is a write of its status, which the API server refuses if this is out of date.
        So it need not be read first.
        """
        return self._new.pop(key, None)

    def forget(self, key: Key) -> None:
        """The job is gone."""
        for known in (self._echoes, self._at_rest, self._new):
            known.pop(key, None)
        self._settled.discard(key)
        self._called.discard(key)
