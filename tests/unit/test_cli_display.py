"""What is shown of a job's statuses, one after the other."""

import io
from itertools import pairwise

from rich.console import Console

from finetune_api.report import Stage
from finetune_api.status import FineTuneJobStatus, Progress, Subspaces
from finetune_operator.cli.display import Display, details, news
from world import ADAPTER, INLINE, MERGES, SUBSPACES, World, checkpoint, merged, merging, report


def test_a_suspension_is_told_once_from_its_beginning_to_its_end() -> None:
    world = World(spec={"dataset": INLINE})
    world.settle()
    world.run_pods()
    world.post(report(checkpoints=[checkpoint(1, "resume")]))
    world.settle()
    seen = [world.status]
    for suspend in (True, False):
        world.edit(suspend=suspend)
        for _ in range(5):
            world.turn()
            seen.append(world.status)
            if suspend:
                world.collect()
    shown = [line for old, new in pairwise(seen) for line in news(old, new)]
    assert shown[:5] == [
        ("Suspending", "saving the state; 2 pods are ending"),
        (
            "Suspended",
            "nothing runs, and the state of step 1 is saved; spec.resources may be changed, "
            "and spec.suspend: false goes on",
        ),
        ("Resumed", "attempt 2: its pods are being created"),
        ("Started", "attempt 2 begins"),
        ("Starting", "attempt 2: its pods are being created"),
    ]
    assert list(news(seen[-1], seen[-1])) == []
    assert list(news(FineTuneJobStatus(), FineTuneJobStatus())) == []


def test_numbers_of_osft_stand_beside_those_of_every_method() -> None:
    progress = Progress(summary="12/36 (33%)", loss=1.25)
    leaking = SUBSPACES.model_copy(update={"leak": 1.2e-7})
    assert details(progress) == "12/36 (33%)  loss 1.2500"
    assert details(progress, SUBSPACES) == "12/36 (33%)  loss 1.2500  50.0% trained"
    assert details(progress, leaking) == "12/36 (33%)  loss 1.2500  50.0% trained  leak 1.2e-07"


def test_a_decomposition_is_followed_matrix_by_matrix_and_then_the_steps() -> None:
    world = World(spec={"dataset": INLINE})
    world.settle()
    world.run_pods()
    written = io.StringIO()
    with Display(Console(file=written, width=120)) as display:
        told = [
            report(1, 1, None, stage=Stage.LOADING),
            report(1, 2, None, stage=Stage.LOADING, subspaces=Subspaces(decomposed=1, of=14)),
            report(1, 3, 3, subspaces=SUBSPACES),
        ]
        for posted in told:
            world.post(posted)
            world.settle()
            display.show(world.status)
            display._plain_time = -1e9  # as if there had been time between the two
    lines = [line[10:].split(maxsplit=1) for line in written.getvalue().splitlines()]
    assert lines[-4:] == [
        ["Running", "the model is being loaded"],
        ["Progress", "decomposing weight matrices: 1 of 14"],
        ["Running", "training"],
        ["Progress", "3/36 (8%)  loss 1.9700  50.0% trained"],
    ]


def test_a_merging_is_told_from_its_beginning_to_its_end_and_not_as_steps() -> None:
    world = World(spec=MERGES | {"dataset": INLINE})
    world.settle()
    world.run_pods()
    world.post(report())
    world.settle()
    seen = [world.status]
    written = io.StringIO()
    with Display(Console(file=written, width=120, force_terminal=True)) as display:
        world.succeed(report(step=36, output=ADAPTER))
        for turn in range(8):
            world.turn()
            seen.append(world.status)
            if turn == 3:
                world.run_pods()
                world.post(merging())
                world.turn()
                seen.append(world.status)
                written.truncate(0)
                display.show(world.status)
            if turn == 5:
                world.succeed(merged())
    assert "the adapter is being merged into the model" in written.getvalue()
    assert "36/36" not in written.getvalue()
    assert [line for old, new in pairwise(seen) for line in news(old, new)] == [
        ("Merging", "the adapter is in demo/output on claim runs"),
        ("Merging", "the pod that merges the adapter is about to be created"),
        ("Merging", "the adapter is about to be merged"),
        ("Merging", "the adapter is being merged into the model"),
        (
            "Succeeded",
            "the merged model is in demo/merged, and the adapter in demo/output, on claim runs",
        ),
    ]
