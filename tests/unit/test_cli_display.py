"""What is shown of a job's statuses, one after the other."""

from itertools import pairwise

from finetune_api.status import FineTuneJobStatus
from finetune_operator.cli.display import news
from world import INLINE, World, checkpoint, report


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
        ("Resumed", "attempt 2: its pods are about to be created"),
        ("Started", "attempt 2"),
        ("Starting", "0 of 2 pods run"),
    ]
    assert list(news(seen[-1], seen[-1])) == []
    assert list(news(FineTuneJobStatus(), FineTuneJobStatus())) == []
