"""Files of training data that are not what they should be: told in words, in bounded memory, and in bounded time."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_api.failure import ExitCode
from finetune_trainer.ends.errors import InvalidDataError
from finetune_trainer.prepare import read
from finetune_trainer.prepare.faults import Fault, FaultyRowError
from finetune_trainer.prepare.read import parse, rows
from tiny import conversation, save_tiny_model

ORIGIN = "spec.dataset.train: here"
GOOD = b"".join(json.dumps(conversation(f"é😀 {n}", "y")).encode() + b"\n" for n in range(8))
OBJECTS = [json.loads(line) for line in GOOD.splitlines()]

# What turns up in files that went through editors, databases and broken copies.
PIECES = st.sampled_from(
    [
        *(
            b"\x00",
            b"\xff",
            b"\xc3",
            b"\xed\xa0\x80",
            b"\xef\xbb\xbf",
            b"\r",
            b"\r\n",
            b"\n",
            b"\x1a",
            b"\x85",
        ),
        *(b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b'"\\ud800"', b"NaN", b"-Infinity", b"1e999"),
        *(b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, b'"messages": 1, "messages": [', b"\xe2\x80\xa8"),
    ]
)
PLACES = st.integers(0, len(GOOD) - 1)
DAMAGE = st.one_of(
    st.tuples(st.just("flip"), PLACES, st.integers(0, 7)),
    st.tuples(st.just("cut"), PLACES, PLACES),
    st.tuples(st.just("put"), PLACES, PIECES),
    st.tuples(st.just("end"), PLACES, st.none()),
)


def damaged(content: bytes, damages: list[Any]) -> bytes:
    for kind, place, what in damages:
        place = min(place, max(0, len(content) - 1))
        match kind:
            case "flip" if content:
                changed = content[place] ^ (1 << what)
                content = content[:place] + bytes([changed]) + content[place + 1 :]
            case "cut":
                content = content[:place] + content[max(place, what) :]
            case "put":
                content = content[:place] + what + content[place:]
            case "end":
                content = content[:place]
    return content


def told(file: Path) -> tuple[list[Any], list[str]]:
    """The objects in a file, and what is said of the other rows."""
    objects, faults = [], []
    for raw in rows(file, ORIGIN):
        try:
            objects.append(parse(raw))
        except FaultyRowError as error:
            faults.append(str(Fault.at(raw.place, error)))
    return objects, faults


FUZZ = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@FUZZ
@given(damages=st.lists(DAMAGE, min_size=1, max_size=4))
def test_of_damaged_lines_each_is_a_row_or_a_fault_with_its_number(
    tmp_path: Path, damages: list[Any]
) -> None:
    content = damaged(GOOD, damages)
    file = tmp_path / "a.jsonl"
    file.write_bytes(content)
    objects, faults = told(file)
    lines = content.split(b"\n")
    lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
    assert len(objects) + len(faults) == sum(bool(line.strip()) for line in lines), "a row was lost"
    # What was not touched is read, and as it stands there.
    whole = [json.loads(line) for line in GOOD.splitlines() if line in lines]
    assert [row for row in objects if row in whole] == [row for row in whole if row in objects]
    assert all(row in objects for row in whole)
    for fault in faults:
        assert fault.startswith("line ")
        assert "\n" not in fault
        fault.encode()


@FUZZ
@given(damages=st.lists(DAMAGE, min_size=1, max_size=4), suffix=st.sampled_from([".json", ".csv"]))
def test_of_a_damaged_list_or_table_nothing_else_is_raised(
    tmp_path: Path, damages: list[Any], suffix: str
) -> None:
    content = json.dumps(OBJECTS).encode() if suffix == ".json" else b"prompt,completion\n" + b"a,b\n" * 99
    file = tmp_path / f"a{suffix}"
    file.write_bytes(damaged(content, damages))
    words = ""
    try:
        told(file)
    except InvalidDataError as error:
        words = str(error)
    assert words == "" or words.startswith(ORIGIN)
    assert "\n" not in words


@pytest.mark.parametrize(("name", "start"), [("a.jsonl", b"{}\n"), ("a.json", b"[{},")])
@pytest.mark.parametrize("filling", ["nothing", "text"])
def test_a_line_without_an_end_is_told_before_it_fills_the_memory(
    tmp_path: Path, name: str, start: bytes, filling: str
) -> None:
    file = tmp_path / name
    file.write_bytes(start + (b'"' if filling == "text" else b""))
    # A hole, as a copy that was cut off leaves it.
    os.truncate(file, 1 << 30)
    script = (
        "import resource, sys; from pathlib import Path; from finetune_trainer.prepare import read\n"
        "read.MAX_ROW_BYTES = 16 << 20\n"
        "try:\n    list(read.rows(Path(sys.argv[1]), 'here'))\n"
        "except Exception as error:\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10, error)"
    )
    # The kernel counts the peak of whoever started it, too, unless there is a program in between.
    done = subprocess.run(
        ["/bin/sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-c", script, str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    peak, words = done.stdout.split(maxsplit=1)
    place = "line 2" if name == "a.jsonl" else "row 2"
    assert words.startswith(f"here: {place} is longer than 16 MiB: is a line break missing"), words
    assert int(peak) < 250, f"{peak} MiB"


def test_what_follows_a_list_is_not_read_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(b"[{}] x")
    os.truncate(file, 1 << 30)
    with pytest.raises(InvalidDataError, match="something follows the end of the list, after row 1"):
        list(rows(file, ORIGIN))


def test_a_long_row_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "MAX_ROW_BYTES", 3 << 20)
    text = "x" * ((3 << 20) - 20)
    for name, content in (("a.jsonl", f'{{"a": "{text}"}}\n'), ("a.json", f'[{{"a": "{text}"}}]')):
        file = tmp_path / name
        file.write_text(content)
        assert told(file) == ([{"a": text}], [])


@pytest.mark.parametrize("kind", ["pipe", "device", "circle"])
def test_what_is_no_file_is_told_at_once(tmp_path: Path, kind: str) -> None:
    save_tiny_model(tmp_path / "model")
    data = tmp_path / "train.jsonl"
    match kind:
        case "pipe":
            os.mkfifo(data)
        case "device":
            data.symlink_to("/dev/zero")
        case "circle":
            data.symlink_to(data)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "finetune_trainer", "prepare"),
            *("--model", str(tmp_path / "model"), "--data", str(data), "--output", str(tmp_path / "made")),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == ExitCode.INVALID_CONFIGURATION, done.stderr
    assert str(data) in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "made").exists()
