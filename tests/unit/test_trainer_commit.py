"""Directories that exist wholly or not at all."""

import os
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


def share(final: Path, writer: str, text: str = "hello") -> None:
    directory = commit.start(final, writer)
    (directory / "a").write_text(text)
    commit.publish_shared(final, files=commit.sealed(directory.iterdir(), nothing), writer=writer)


def test_of_two_who_make_the_same_the_first_to_be_done_gives_it_to_both(tmp_path: Path) -> None:
    slow = commit.start(tmp_path / "data", "slow")
    (slow / "a").write_text("slow")
    share(tmp_path / "data", "fast", "fast")
    with (tmp_path / "data" / "a").open() as reader:
        commit.publish_shared(tmp_path / "data", files=commit.sealed(slow.iterdir(), nothing), writer="slow")
        # Whoever reads it goes on reading the same.
        assert os.fstat(reader.fileno()).st_nlink == 1
    assert (tmp_path / "data" / "a").read_text() == "fast"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_what_is_shared_is_no_run_s_own_and_the_other_way_round(tmp_path: Path) -> None:
    share(tmp_path / "data", "mine")
    write(tmp_path / "step-1", uid="mine")
    assert commit.read(tmp_path / "data", uid=None)
    assert commit.read(tmp_path / "data", uid="mine") is None
    assert commit.read(tmp_path / "step-1", uid=None) is None


def test_a_damaged_shared_directory_is_replaced(tmp_path: Path) -> None:
    share(tmp_path / "data", "mine")
    (tmp_path / "data" / "a").write_text("")
    share(tmp_path / "data", "other", "hello again")
    assert (tmp_path / "data" / "a").read_text() == "hello again"


def test_what_was_found_damaged_is_removed_unless_it_was_replaced_since(tmp_path: Path) -> None:
    final = tmp_path / "data"
    for damaged in ("same size", "cut off"):
        share(final, "mine", "x" * 9)
        (final / "a").write_text("y" * (9 if damaged == "same size" else 3))
        seen = commit.read(final, uid=None)
        commit.remove_shared(final, seen, writer="faster")
        share(final, "faster", damaged)
        commit.remove_shared(final, seen, writer="slower")
        assert (final / "a").read_text() == damaged
        commit.remove_shared(final, commit.read(final, uid=None), writer="slower")
        # Nor does it matter who is the first to remove it.
        commit.remove_shared(final, None, writer="faster")
        assert list(tmp_path.iterdir()) == []


def test_what_one_was_killed_removing_is_cleared_away_by_himself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share(tmp_path / "data", "mine")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", killed)
        with pytest.raises(KeyboardInterrupt):
            commit.remove_shared(tmp_path / "data", commit.read(tmp_path / "data", uid=None), writer="me")
    assert commit.visible(tmp_path) == []
    commit.remove_incomplete(tmp_path, "other")
    assert len(list(tmp_path.iterdir())) == 1
    commit.remove_incomplete(tmp_path, "me")
    assert list(tmp_path.iterdir()) == []


def test_writers_clear_away_only_what_they_left_themselves(tmp_path: Path) -> None:
    mine, other, nobodys = (commit.start(tmp_path / "data", writer) for writer in ("me[1]", "other", ""))
    commit.remove_incomplete(tmp_path, "me[1]")
    assert (mine.exists(), other.exists(), nobodys.exists()) == (False, True, True)


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


def test_what_is_removed_is_gone_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "step-1")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", killed)
        with pytest.raises(KeyboardInterrupt):
            commit.remove(tmp_path / "step-1")
    assert commit.visible(tmp_path) == []
    commit.remove_incomplete(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_one_process_fails_to_write_gives_its_space_back(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), commit.writing(tmp_path / "step-1") as directory:
        (directory / "a" / "b").write_text("x")
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_gone_are_not_intact(tmp_path: Path) -> None:
    manifest = write(tmp_path / "step-1")
    (tmp_path / "step-1" / "a").unlink()
    assert not commit.intact(tmp_path / "step-1", manifest.files, nothing)


def test_the_manifest_of_a_damaged_directory_still_tells_whose_it_is(tmp_path: Path) -> None:
    manifest = write(tmp_path / "step-1")
    (tmp_path / "step-1" / "a").unlink()
    assert commit.of_run(tmp_path / "step-1", uid="mine") == manifest
    assert commit.of_run(tmp_path / "step-1", uid="another") is None


def test_a_changed_byte_is_seen(tmp_path: Path) -> None:
    manifest = write(tmp_path / "step-1", text="hello")
    (tmp_path / "step-1" / "a").write_text("jello")
    assert commit.read(tmp_path / "step-1", uid="mine") == manifest
    assert not commit.intact(tmp_path / "step-1", manifest.files, nothing)
