"""The life of one job of the soak, from its creation until nothing of it is left."""

import json
import shutil
import time
from enum import Enum, auto
from pathlib import Path

from benchmarks.soak import story
from benchmarks.soak.manifests import manifest
from benchmarks.soak.place import Place, RefusedError, Wire
from benchmarks.soak.plan import Ending, JobPlan
from benchmarks.soak.verdict import End, problems
from finetune_api import names

# Forty times what a job takes when nothing happens to it: others may use the same CPUs.
LATE_SECONDS = 1800
# For pods that are given their time to save, and a node that is down for a while.
REMOVAL_SECONDS = 240


class _Stage(Enum):
    UNDER_WAY = auto()
    SUSPENDING = auto()
    GOES_ON = auto()
    REMOVED = auto()
    OVER = auto()


class Life:
    """One job; `look` is called every second or so."""

    def __init__(self, place: Place, plan: JobPlan) -> None:
        self.plan = plan
        self.problems: list[str] = []
        """What was not as it was meant to be, once it is over."""
        self.attempts = 0
        self._place = place
        self._stage = _Stage.UNDER_WAY
        self._since = time.monotonic()
        self._trains_since: float | None = None
        self._end: End | None = None
        try:
            place.ask("POST", place.job_path(), manifest(plan))
        except RefusedError as error:
            if error.status == 409:  # an earlier try came through, but not its answer
                return
            self._come_to(End("Refused", str(error)))
            self._stage = _Stage.OVER

    @property
    def is_over(self) -> bool:
        """Whether nothing of it is left, or has been waited for in vain."""
        return self._stage is _Stage.OVER

    def look(self, found: Wire | None) -> None:
        """What is there of it: do what is to be done to it now."""
        now = time.monotonic()
        if self._stage is _Stage.REMOVED:
            self._look_at_removed(found, now)
        elif self._stage is not _Stage.OVER:
            self._look_at_living(found, now)

    def _look_at_living(self, found: Wire | None, now: float) -> None:
        if found is None:
            self._remove(End("Vanished"), {})
            return
        status = found.get("status", {})
        self.attempts = len(status.get("attempts", []))
        phase = status.get("phase", "Pending")
        if self.plan.ending is Ending.DELETED and now - self._since > self.plan.moment:
            self._remove(End("Deleted"), found)
        elif phase in ("Succeeded", "Failed"):
            self._remove(self._found_end(status), found)
        elif now - self._since > LATE_SECONDS:
            self._remove(End("Late", f"{phase} after {LATE_SECONDS} s"), found)
        elif self.plan.ending is Ending.RESUMED:
            self._suspend_or_resume(status, phase, now)

    def _suspend_or_resume(self, status: Wire, phase: str, now: float) -> None:
        if self._trains_since is None and status.get("progress", {}).get("step", 0) > 0:
            self._trains_since = now
        if self._stage is _Stage.UNDER_WAY:
            if self._trains_since is not None and now - self._trains_since > self.plan.moment:
                self._set_suspended(True, _Stage.SUSPENDING)
        elif self._stage is _Stage.SUSPENDING and phase == "Suspended":
            self._set_suspended(False, _Stage.GOES_ON)

    def _set_suspended(self, truth: bool, stage: _Stage) -> None:
        self._place.ask("PATCH", self._place.job_path(self.plan.name), {"spec": {"suspend": truth}})
        self._stage = stage

    def _remove(self, end: End, found: Wire) -> None:
        self._come_to(end)
        if self.problems:
            story.save(self._place, self.plan, self.problems, found)
        try:
            self._place.ask("DELETE", self._place.job_path(self.plan.name))
        except RefusedError as error:
            if error.status != 404:
                raise
        self._stage, self._since = _Stage.REMOVED, time.monotonic()

    def _look_at_removed(self, found: Wire | None, now: float) -> None:
        left = [] if found is None else [f"finetunejobs/{self.plan.name}"]
        for kind, objects in self._place.children(self.plan.name).items():
            left += [f"{kind}/{each['metadata']['name']}" for each in objects]
        if left and now - self._since < REMOVAL_SECONDS:
            return
        if left:
            assert self._end is not None
            self._come_to(End(**vars(self._end) | {"left": left}))
            story.save(self._place, self.plan, self.problems, found or {})
        # The result is the user's, who is done with it here.
        shutil.rmtree(self._place.runs / self.plan.name, ignore_errors=True)
        self._stage = _Stage.OVER

    def _come_to(self, end: End) -> None:
        self._end = end
        self.problems = problems(self.plan, end)

    def _found_end(self, status: Wire) -> End:
        [succeeded] = [each for each in status["conditions"] if each["type"] == "Succeeded"] or [{}]
        return End(
            phase=status["phase"],
            reason=succeeded.get("reason", ""),
            total_steps=status.get("plan", {}).get("totalSteps", 0),
            last_step=status.get("progress", {}).get("step", 0),
            steps=_steps(self._place.runs / self.plan.name / names.METRICS_FILE),
            missing_files=self._missing_files(status),
        )

    def _missing_files(self, status: Wire) -> list[str]:
        output = status.get("output")
        if not output:
            return ["status.output"]
        paths = [Path(output["path"]) / _weights(output["format"])]
        if self.plan.merged:
            merged = output.get("merged")
            if not merged:
                return ["status.output.merged"]
            paths.append(Path(merged["path"]) / _weights("model"))
        return [str(path) for path in paths if not (self._place.runs / path).is_file()]


def _weights(format_: str) -> str:
    return "adapter_model.safetensors" if format_ == "adapter" else "model.safetensors"


def _steps(file: Path) -> list[int]:
    if not file.exists():
        return []
    return [json.loads(line)["step"] for line in file.read_text().splitlines()]
