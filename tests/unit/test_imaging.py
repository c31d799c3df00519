"""Names of images follow their content, and only their own."""

import re
import shutil
from pathlib import Path

import pytest

from imaging.content import IMAGES, ROOT, Image, files, superseded

OPERATOR, TRAINER = IMAGES["operator"], IMAGES["trainer"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of all that the images are made of."""
    for image in IMAGES.values():
        for file in files(ROOT, image.sources):
            copy = tmp_path / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    return tmp_path


def test_the_same_content_has_the_same_name_anywhere(checkout: Path) -> None:
    assert OPERATOR.reference(checkout) == OPERATOR.reference(ROOT)
    assert re.fullmatch(r"localhost/finetune-operator:[0-9a-f]{12}", OPERATOR.reference(checkout))


@pytest.mark.parametrize(
    ("changed", "operator", "trainer"),
    [
        ("uv.lock", True, True),
        ("Dockerfile", True, True),
        ("crds/finetune_api/names.py", True, True),
        ("operator/finetune_operator/__init__.py", True, False),
        ("trainer_image/finetune_trainer/added.py", False, True),
        ("trainer_image/finetune_trainer/__pycache__/added.cpython-311.pyc", False, False),
        ("README.md", False, False),
    ],
)
def test_a_change_renames_the_images_that_it_goes_into(
    checkout: Path, changed: str, operator: bool, trainer: bool
) -> None:
    before = [OPERATOR.reference(checkout), TRAINER.reference(checkout)]
    file = checkout / changed
    file.parent.mkdir(exist_ok=True)
    with file.open("a") as opened:
        opened.write("# changed\n")
    after = [OPERATOR.reference(checkout), TRAINER.reference(checkout)]
    assert [new != old for new, old in zip(after, before, strict=True)] == [operator, trainer]


@pytest.mark.parametrize("after", [("xz", ""), ("x", "y"), ("", "xy")])
def test_a_change_that_keeps_the_total_size_is_a_change(checkout: Path, after: tuple[str, str]) -> None:
    first, second = checkout / "crds/finetune_api/a.py", checkout / "crds/finetune_api/b.py"
    first.write_text("xy")
    second.write_text("")
    before = OPERATOR.reference(checkout)
    first.write_text(after[0])
    second.write_text(after[1])
    assert OPERATOR.reference(checkout) != before


def test_a_missing_source_is_named(checkout: Path) -> None:
    (checkout / "LICENSE").unlink()
    with pytest.raises(FileNotFoundError, match="LICENSE goes into an image, but does not exist"):
        OPERATOR.reference(checkout)


@pytest.mark.parametrize("image", IMAGES.values(), ids=lambda image: image.target)
def test_the_dockerfile_copies_exactly_what_the_name_is_made_of(image: Image) -> None:
    """A file that is copied but not part of the name would be changed without a new image."""
    stages = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    target = image.target
    mine = [
        stage for stage in stages if re.match(rf"\S+ AS (requirements|{target}-wheel|{target})$", stage, re.M)
    ]
    copied = {
        source
        for stage in mine
        for line in re.findall(r"^COPY (?!--from)(.*)$", stage, flags=re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert len(mine) == 3
    assert {*copied, "Dockerfile", ".dockerignore"} == set(image.sources)


def test_superseded_keeps_the_current_and_the_newest_other() -> None:
    assert superseded(["c", "b", "a"], "c") == ["a"]
    # An older image can become current again; then it is not the oldest that goes.
    assert superseded(["c", "b", "a"], "a") == ["b"]
    assert superseded(["a"], "a") == []
