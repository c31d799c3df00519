"""The newest Report of every batch/v1 Job, in memory only: each one is the whole state, so a lost one costs nothing."""

from datetime import datetime, timedelta

from finetune_operator.kinds import Key
from finetune_operator.observed import Received

# A gang that was not heard of for so long no longer counts as a load.
ACTIVE_FOR = timedelta(minutes=2)


class Reports:
    """Reports that came by POST, by FineTuneJob and by the batch/v1 Job whose pod sent them."""

    def __init__(self) -> None:
        self._newest: dict[Key, dict[str, Received]] = {}

    def put(self, key: Key, received: Received) -> bool:
        """Keep a Report unless a newer one of the same pod is known; says whether it was kept.

        Of a gang only rank 0 reports. A Job that starts its pod again has the sequence begin anew.
        """
        jobs = self._newest.setdefault(key, {})
        known = jobs.get(received.job_uid)
        if (
            known is not None
            and known.pod == received.pod
            and known.report.sequence >= received.report.sequence
        ):
            return False
        jobs[received.job_uid] = received
        return True

    def newest(self, key: Key, job_uid: str) -> Received | None:
        """The newest Report from the pods of a batch/v1 Job."""
        return self._newest.get(key, {}).get(job_uid)

    def forget(self, key: Key) -> None:
        """Drop what is known of a FineTuneJob."""
        self._newest.pop(key, None)

    def active(self, now: datetime) -> int:
        """Number of gangs that were heard of lately."""
        return sum(
            now - received.time < ACTIVE_FOR for gangs in self._newest.values() for received in gangs.values()
        )
