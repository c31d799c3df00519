"""Stories that once went wrong, and some that tell most, told again."""

from pathlib import Path

import pytest

from chaos import steps
from chaos.finish import finish
from chaos.story import Story
from cluster.kube import Kube

SEQUENCES = sorted(Path(__file__).with_name("sequences").glob("*.json"))


def tell(file: Path, story: Story) -> None:
    """Do what the file says, and what follows from it; raises ViolationError."""
    with story.telling():
        for step in steps.from_json(file.read_text()):
            story.do(step)
        finish(story)


@pytest.mark.parametrize("file", SEQUENCES, ids=[file.stem for file in SEQUENCES])
def test_a_story_comes_to_a_good_end(file: Path, kube: Kube, tmp_path: Path) -> None:
    tell(file, Story(kube, tmp_path))
