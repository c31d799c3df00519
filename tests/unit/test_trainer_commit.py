"""Directories that exist wholly or not at all."""

from pathlib import Path

import pytest

from finetune_trainer import commit


def nothing() -> None:
    pass


def write(final: Path, *, uid: str = "mine", text: str = "hello") -> commit.Manifest:
    directory = commit.start(final)
    (directory / "a").write_text(text)
    (directory / "b").write_text("")
    return commit.publish(
        final, uid=uid, files=commit.sealed(directory.iterdir(), nothing), facts={"step": 3, "x": 0.1}
    )


def test_what_was_published_is_found_again(tmp_path: Path) -> None:
    written = write(tmp_path / "made" / "step-1")
    read = commit.read(tmp_path / "made" / "step-1", uid="mine")
    assert read == written
    assert read.bytes == 5
    assert read.facts == {"step": 3, "x": 0.1}
    assert commit.intact(tmp_path / "made" / "step-1", read.files, nothing)


def test_nothing_is_to_be_seen_before_it_is_published(tmp_path: Path) -> None:
    directory = commit.start(tmp_path / "step-1")
    (directory / "a").write_text("x")
    assert not (tmp_path / "step-1").exists()
    assert commit.read(directory, uid="mine") is None


def test_leftovers_of_an_earlier_trial_are_gone(tmp_path: Path) -> None:
    (commit.start(tmp_path / "step-1") / "old").write_text("x")
    assert list(commit.start(tmp_path / "step-1").iterdir()) == []


def test_what_was_never_finished_gives_its_space_back(tmp_path: Path) -> None:
    write(tmp_path / "step-1")
    commit.start(tmp_path / "step-2")
    commit.remove_incomplete(tmp_path)
    commit.remove_incomplete(tmp_path / "never-made")
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]


def test_an_incomplete_directory_under_the_final_name_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "step-1").mkdir()
    (tmp_path / "step-1" / "stray").write_text("x")
    write(tmp_path / "step-1")
    assert not (tmp_path / "step-1" / "stray").exists()


@pytest.mark.parametrize(
    "damage", ["missing file", "other size", "no manifest", "torn manifest", "other run"]
)
def test_what_is_not_complete_or_not_ours_is_not_read(tmp_path: Path, damage: str) -> None:
    final = tmp_path / "step-1"
    write(final)
    match damage:
        case "missing file":
            (final / "a").unlink()
        case "other size":
            (final / "a").write_text("hell")
        case "no manifest":
            (final / commit.MANIFEST).unlink()
        case "torn manifest":
            text = (final / commit.MANIFEST).read_text()
            (final / commit.MANIFEST).write_text(text[: len(text) // 2])
    assert commit.read(final, uid="another" if damage == "other run" else "mine") is None


def test_a_changed_byte_is_seen(tmp_path: Path) -> None:
    manifest = write(tmp_path / "step-1", text="hello")
    (tmp_path / "step-1" / "a").write_text("jello")
    assert commit.read(tmp_path / "step-1", uid="mine") == manifest
    assert not commit.intact(tmp_path / "step-1", manifest.files, nothing)
