"""MLflow: a run on the tracking server that MLFLOW_TRACKING_URI names."""

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from finetune_trainer.trackers.tracker import Ending, Point, Run

if TYPE_CHECKING:
    from mlflow import MlflowClient

_URI = "MLFLOW_TRACKING_URI"
_EXPERIMENT = "MLFLOW_EXPERIMENT_NAME"
# MLflow's own.
_DEFAULT_EXPERIMENT = "Default"
# By it a later attempt finds the run.
_UID = "finetune.uid"
# The client's defaults keep trying for many minutes; we try again ourselves.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
_STATUS = {Ending.FINISHED: "FINISHED", Ending.STOPPED: "KILLED", Ending.FAILED: "FAILED"}


def is_wanted() -> bool:
    """Whether the environment names a tracking server."""
    return bool(os.environ.get(_URI))


class Mlflow:
    """One run for all attempts."""

    name = "MLflow"

    def __init__(self, run: Run) -> None:
        self._run = run
        self._client: MlflowClient
        self._id: str

    def begin(self, first_step: int) -> None:
        """Find the run of an earlier attempt, or make one. Steps that come again are there twice."""
        os.environ |= {name: value for name, value in _PATIENCE.items() if name not in os.environ}
        # The address that it would print has the password, if the URI has one.
        os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
        # It logs every attempt at a connection; we say once that there is none.
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
        # Takes seconds, and most runs do without.
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient()
        experiment = self._experiment()
        found = self._client.search_runs([experiment], f"tags.`{_UID}` = '{self._run.uid}'", max_results=1)
        if found:
            run = found[0]
            self._client.update_run(run.info.run_id, status="RUNNING")
        else:
            run = self._client.create_run(experiment, run_name=self._run.name, tags={_UID: self._run.uid})
        self._id = run.info.run_id
        # They cannot be changed, and an attempt on other nodes has another plan.
        if not run.data.params:
            parameters = [Param(name, str(value)) for name, value in self._run.parameters.items()]
            self._client.log_batch(self._id, params=parameters)

    def log(self, points: Sequence[Point]) -> None:
        """As few requests as possible: the client divides what is too much for one."""
        from mlflow.entities import Metric

        metrics = [
            Metric(name, value, round(point.time * 1000), point.step)
            for point in points
            for name, value in point.values.items()
        ]
        self._client.log_batch(self._id, metrics=metrics)

    def end(self, ending: Ending) -> None:
        """Say how the attempt ended."""
        self._client.set_terminated(self._id, _STATUS[ending])

    def _experiment(self) -> str:
        name = os.environ.get(_EXPERIMENT) or _DEFAULT_EXPERIMENT
        found = self._client.get_experiment_by_name(name)
        return found.experiment_id if found else self._client.create_experiment(name)
