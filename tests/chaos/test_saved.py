"""A story that goes wrong is kept, and the command that the failure names tells it again: while the fault is there."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from chaos import mutations, steps
from chaos.story import Story, ViolationError
from chaos.test_replayed import tell
from chaos.test_sequences import Sequences
from cluster.kube import Kube

ROOT = Path(__file__).parents[2]


class Broken(Sequences):
    """Stories of an operator whose pods may do too much."""

    mutation = staticmethod(mutations.pods_may_do_more)

    def live(self) -> None:
        """Train; raises ViolationError."""
        try:
            self.train(job="one", step=3)
        finally:
            self.teardown()


def test_a_story_that_goes_wrong_is_told_again(kube: Kube, tmp_path: Path) -> None:
    machine = type("Machine", (Broken,), {"kube": kube})()
    with pytest.raises(ViolationError) as caught:
        machine.live()
    *notes, happened = caught.value.__notes__
    command, written = (note.split(": ", 1)[1] for note in notes)
    assert " ADDED    FineTuneJob   one " in happened
    file = Path(written)
    try:
        assert steps.from_json(file.read_text())[0] == steps.Apply("one")
        words = shlex.split(command)
        arguments = words[words.index("python") + 1 :]
        # With no test but this one, which is what the command would run.
        found = subprocess.run(
            [sys.executable, *arguments, "--collect-only", "-q"], cwd=ROOT, capture_output=True, text=True
        )
        assert [line for line in found.stdout.splitlines() if "::" in line] == [
            f"tests/chaos/test_replayed.py::test_a_story_comes_to_a_good_end[{file.stem}]"
        ]
        for directory in ("broken", "whole"):
            (tmp_path / directory).mkdir()
        with pytest.raises(ViolationError) as again:
            tell(file, Story(kube, tmp_path / "broken", mutations.pods_may_do_more))
        assert "restricted" in str(caught.value)
        assert "restricted" in str(again.value)
        tell(file, Story(kube, tmp_path / "whole"))
    finally:
        file.unlink()
