"""The newest Report of every batch/v1 Job, in memory only: each one is the whole state, so a lost one costs nothing."""

from datetime import datetime, timedelta

from finetune_operator.endpoint.hearing import Hearing
from finetune_operator.kinds import Key
from finetune_operator.observation.observed import Received

# A gang that was not heard of for so long no longer counts as a load.
ACTIVE_FOR = timedelta(minutes=2)
# Of a FineTuneJob only its newest batch/v1 Job is asked about; the one before may still have a word to say.
MAX_GANGS = 2


class Reports:
    """Reports that came by POST, by FineTuneJob and by the batch/v1 Job whose pod sent them."""

    def __init__(self, since: datetime | None = None) -> None:
        """`since` is when this operator began to listen; None if that was before any job began."""
        self.hearing = Hearing(since)
        self._newest: dict[Key, dict[str, Received]] = {}
        # When gangs were last heard of, those first that have been silent for longest.
        self._heard: dict[tuple[Key, str], datetime] = {}

    def put(self, key: Key, received: Received) -> bool:
        """Keep a Report unless a newer one of the same pod is known; says whether it was kept.

        Of a gang only rank 0 reports. A Job that starts its pod again has the sequence begin anew.
        """
        self.hearing.heard(key, received.time)
        jobs = self._newest.setdefault(key, {})
        known = jobs.get(received.job_uid)
        if (
            known is not None
            and known.pod == received.pod
            and known.report.sequence >= received.report.sequence
        ):
            return False
        self._drop(key, received.job_uid)
        if len(jobs) >= MAX_GANGS:
            self._drop(key, next(iter(jobs)))
        jobs[received.job_uid] = received
        self._heard[key, received.job_uid] = received.time
        return True

    def newest(self, key: Key, job_uid: str) -> Received | None:
        """The newest Report from the pods of a batch/v1 Job."""
        return self._newest.get(key, {}).get(job_uid)

    def forget(self, key: Key) -> None:
        """Drop what is known of a FineTuneJob, of which nothing more need be heard."""
        self.hearing.rests(key)
        for job_uid in self._newest.pop(key, {}):
            self._heard.pop((key, job_uid), None)

    def active(self, now: datetime) -> int:
        """Number of gangs that were heard of lately."""
        while self._heard:
            longest_silent = next(iter(self._heard))
            # A clock that was put back has left times that are still to come.
            if abs(now - self._heard[longest_silent]) < ACTIVE_FOR:
                break
            del self._heard[longest_silent]
        return len(self._heard)

    def _drop(self, key: Key, job_uid: str) -> None:
        self._newest[key].pop(job_uid, None)
        self._heard.pop((key, job_uid), None)
