"""This machine in the place of a cluster: it carries out what the operator's reconcile decides, and tells what is."""

import shutil
import tempfile
from datetime import datetime
from pathlib import Path

from finetune_api import names
from finetune_api.runconfig import Locations, RunConfig
from finetune_api.spec import FineTuneJob
from finetune_operator.cli.local.gang import Gang
from finetune_operator.cli.local.report_file import ReportFile
from finetune_operator.lifecycle import steps
from finetune_operator.lifecycle.outcome import Outcome
from finetune_operator.objects.pods import Manifest
from finetune_operator.observation import reading
from finetune_operator.observation.observed import GangJob, Observed, Received


class Machine:
    """Runs what one FineTuneJob has run: the preparation of its data, its gang, and what follows that."""

    def __init__(
        self,
        job: FineTuneJob,
        locations: Locations,
        trainer: list[str],
        devices: list[list[str]],
        lock: int,
    ) -> None:
        """`trainer` is its command, `devices` has the GPUs of each node, and the file descriptor `lock` stays open
        as long as any node runs."""
        self._job = job
        self._locations = locations
        self._trainer = trainer
        self._devices = devices
        self._lock = lock
        self._report = ReportFile(Path(locations.storage) / names.REPORT_FILE)
        self._gang: Gang | None = None
        self.directory = Path(tempfile.mkdtemp(prefix=f"finetune-{job.metadata.name}-"))
        """What the nodes print, and what passes between them and this process."""

    def clean(self) -> None:
        """Remove the run's directory, when nobody will want to read in it."""
        shutil.rmtree(self.directory)

    @property
    def idle(self) -> bool:
        """Whether no node runs."""
        return self._gang is None or self._gang.over

    def stop(self, now: datetime, *, at_once: bool) -> None:
        """Ask the nodes to save their state and end, or end them at once."""
        if self._gang is not None:
            self._gang.kill() if at_once else self._gang.terminate(now)

    def observe(self, now: datetime) -> Observed:
        """What there is of the job."""
        if self._gang is not None:
            self._gang.poll(now)
            if self._gang.deleting and self._gang.over:
                self._gang = None
        if self._gang is None:
            return Observed()
        job = reading.gang_job(self._gang.job_wire(), self._job.metadata.uid)
        pods = [reading.pod(wire, self._job.metadata.name) for wire in self._gang.pods_wire()]
        return Observed(
            jobs=(job,) if job else (),
            pods=tuple(pod for pod in pods if pod),
            report=self._received(job, self._gang) if job else None,
        )

    def _received(self, job: GangJob, gang: Gang) -> Received | None:
        """The newest Report, if one of these processes wrote it; until then it is that of the ones before."""
        newest = self._report.newest()
        if newest is None or newest[0].attempt != job.attempt:
            return None
        return Received(newest[0], gang.uid, gang.newest.pod, newest[1])

    def carry_out(self, outcome: Outcome, now: datetime) -> None:
        """Start or end the gang. Of all objects, processes need the Job and the RunConfig only."""
        if self._gang is not None and outcome.delete:
            self._gang.delete(now)
        applied = {manifest["kind"]: manifest for manifest in outcome.apply}
        if applied:
            self._start(applied["Job"], applied["ConfigMap"])

    def _start(self, job: Manifest, config_map: Manifest) -> None:
        name = job["metadata"]["name"]
        config = RunConfig.model_validate_json(config_map["data"][names.RUN_CONFIG_FILE])
        here = config.model_copy(update={"locations": self._locations, "report_url": None})
        file = self.directory / f"{name}.json"
        file.write_text(here.to_json())
        [container] = job["spec"]["template"]["spec"]["containers"]
        command = [*self._trainer, container["args"][0], "--config", str(file)]
        alone = name in [names.attempt_job_name(self._job.metadata.name, step) for step in steps.BY_NUMBER]
        if name == names.attempt_job_name(self._job.metadata.name, names.PUBLISHING):
            # Who waits for an upload sees that it failed, and may try again.
            job = job | {"spec": job["spec"] | {"backoffLimit": 0}}
        devices: list[list[str]] = [[]] if alone else self._devices
        self._gang = Gang(job, command, self.directory, devices, self._lock)
