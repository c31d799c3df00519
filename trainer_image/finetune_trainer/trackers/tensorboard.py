"""TensorBoard: event files in the job's own directory, written by every run."""

from collections.abc import Sequence

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import text

from finetune_trainer.trackers.tracker import Ending, Point, Run


class TensorBoard:
    """A file for each attempt; TensorBoard shows all of a directory as one run."""

    name = "TensorBoard"

    def __init__(self, run: Run) -> None:
        self._run = run
        self._writer: EventsWriter | None = None

    def begin(self, first_step: int) -> None:
        """Start a file. Its first event takes what earlier ones have from `first_step` on out of the charts."""
        directory = self._run.tensorboard
        directory.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(directory / "events"), f".attempt-{self._run.attempt}")
        self._writer.write_event(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))
        rows = "".join(f"| {name} | {value} |\n" for name, value in self._run.parameters.items())
        table = f"| parameter | value |\n|---|---|\n{rows}"
        self._writer.write_event(Event(step=first_step, summary=text("parameters", table)))

    def log(self, points: Sequence[Point]) -> None:
        """One event per step."""
        assert self._writer is not None
        for point in points:
            values = [Summary.Value(tag=tag, simple_value=value) for tag, value in point.values.items()]
            self._writer.write_event(
                Event(step=point.step, wall_time=point.time, summary=Summary(value=values))
            )
        self._writer.flush()

    def end(self, ending: Ending) -> None:
        """Close the file. How a run ended has no place in it."""
        assert self._writer is not None
        self._writer.close()
