"""Stopping and going on: nothing is lost, nothing is done twice, nothing comes out differently."""

from safetensors import safe_open

from finetune_api import names
from finetune_api.failure import ExitCode
from finetune_api.report import Report, Stage
from trainer.conftest import STEPS, STEPS_PER_EPOCH, Run
from trainer.gangs import losses


def last_step(run: Run, attempt: int) -> int:
    """The last step of an attempt."""
    metrics = run.ends[attempt - 1].report.metrics
    assert metrics is not None
    return metrics.step


def test_a_stopped_run_says_so_and_where(parts: Run) -> None:
    for attempt in (1, 2):
        end, step = parts.ends[attempt - 1], last_step(parts, attempt)
        assert end.exit_code == ExitCode.TERMINATED, end.output
        assert end.reason == f"asked to stop; the state after step {step} is saved"
        newest = end.report.checkpoints[-1]
        assert (newest.kind, newest.step) == ("resume", step)


def test_it_stopped_once_in_the_first_epoch_and_once_in_a_later_one(parts: Run) -> None:
    assert 0 < last_step(parts, 1) < STEPS_PER_EPOCH < last_step(parts, 2) < STEPS


def test_every_attempt_goes_on_from_where_the_last_one_stopped(parts: Run) -> None:
    first, second, third = (end.report for end in parts.ends)
    assert first.resumed_from_step is None
    assert second.resumed_from_step == last_step(parts, 1)
    assert third.resumed_from_step == last_step(parts, 2)
    assert third.stage is Stage.FINISHED
    assert first.initial_loss == second.initial_loss == third.initial_loss


def test_the_result_is_the_same_to_the_last_bit(whole: Run, parts: Run) -> None:
    assert losses(parts.storage) == losses(whole.storage)
    assert len(losses(parts.storage)) == STEPS
    first, second = (run.storage / "output" / "model.safetensors" for run in (whole, parts))
    assert first.read_bytes() == second.read_bytes()
    with safe_open(str(first), framework="pt") as found:
        assert len(found.keys()) > 20


def test_its_course_is_drawn_the_same_but_for_its_speed(whole: Run, parts: Run) -> None:
    drawn = []
    for run in (whole, parts):
        curve = Report.from_json((run.storage / names.REPORT_FILE).read_bytes()).curve
        assert curve is not None
        drawn.append(curve.model_copy(update={"tokens_per_second": []}))
    assert drawn[0] == drawn[1]
    assert drawn[0].steps == list(range(1, STEPS + 1))
    assert drawn[0].loss == losses(whole.storage)


def test_data_are_prepared_once_for_all_runs(whole: Run, parts: Run, two: Run) -> None:
    [directory] = (parts.storage.parent / names.PREPARED_DATA_DIR).iterdir()
    for run in (whole, parts, two):
        dataset = run.ends[-1].report.dataset
        assert dataset is not None
        assert dataset.path == f"{names.PREPARED_DATA_DIR}/{directory.name}"


def test_data_that_were_prepared_beforehand_are_not_read_again(parts: Run) -> None:
    assert "prepared" not in parts.ends[1].output


def test_data_that_were_prepared_beforehand_and_are_gone_are_prepared_anew(parts: Run) -> None:
    assert "gone or damaged; they are prepared anew" in parts.ends[2].output
    assert "prepared earlier" in parts.ends[2].output


def test_state_for_restarts_is_gone_once_there_is_a_result(parts: Run) -> None:
    assert not (parts.storage / "resume").exists()
    assert parts.ends[-1].report.checkpoints == []


def test_models_of_epochs_are_kept_only_if_wanted(whole: Run, parts: Run) -> None:
    assert len(list((whole.storage / "checkpoints").iterdir())) == 2
    assert not (parts.storage / "checkpoints").exists()


def test_a_killed_process_ends_both_nodes(two: Run) -> None:
    first, second = two.attempts[0]
    assert second.exit_code == ExitCode.KILLED, second.output
    assert second.reason == "the training process of rank 1 was ended by SIGKILL"
    # It said nothing itself; what the node printed last tells where it was.
    assert second.report.failure is not None
    assert second.report.failure.log is not None
    assert second.report.failure.log in second.output
    assert first.exit_code == ExitCode.COLLECTIVE_TIMEOUT, first.output
    assert "another process of the gang went away" in first.reason
    assert first.report.failure is not None
    assert first.report.failure.log is not None
    assert first.report.failure.log.splitlines()[-1].startswith("RuntimeError: ")


def test_after_a_crash_the_gang_goes_on_from_the_last_epoch(two: Run) -> None:
    assert two.ends[1].report.resumed_from_step == STEPS_PER_EPOCH


def test_one_node_that_is_asked_to_stop_stops_both_at_the_same_step(two: Run) -> None:
    first, second = two.attempts[1]
    assert first.exit_code == second.exit_code == ExitCode.TERMINATED, first.output
    assert (
        first.reason == second.reason == f"asked to stop; the state after step {last_step(two, 2)} is saved"
    )


def test_another_number_of_nodes_can_go_on(two: Run) -> None:
    end = two.ends[2]
    assert end.exit_code == 0, end.output
    assert end.report.resumed_from_step == last_step(two, 2)
    assert end.report.stage is Stage.FINISHED
