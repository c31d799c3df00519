"""Files of training data that are not what they should be: told in words, in bounded memory, and in bounded time."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_api.failure import ExitCode
from finetune_api.sources import Columns
from finetune_trainer.ends.errors import InvalidDataError
from finetune_trainer.prepare import damage
from finetune_trainer.prepare import rows as rows_of
from finetune_trainer.prepare.faults import Fault, FaultyRowError
from finetune_trainer.prepare.read import parse, rows
from finetune_trainer.prepare.tokenizer import ChatTokenizer
from tiny import conversation, save_tiny_model, save_tokenizer

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


def damage_of(content: bytes) -> st.SearchStrategy[Any]:
    """What may happen to a file with this content."""
    places = st.integers(0, len(content) - 1)
    return st.one_of(
        st.tuples(st.just("flip"), places, st.integers(0, 7)),
        st.tuples(st.just("cut"), places, places),
        st.tuples(st.just("put"), places, PIECES),
        st.tuples(st.just("end"), places, st.none()),
    )


DAMAGE = damage_of(GOOD)


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


def read_apart(file: Path) -> tuple[int, str]:
    """What a process says that reads rows of up to 16 MiB in groups of up to 64, and the MiB that it took."""
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from finetune_trainer.prepare import damage, parquet_file, read\n"
        "damage.MAX_ROW_BYTES, parquet_file._HARMLESS_BYTES = 16 << 20, 64 << 20\n"
        "said = 0\n"
        "try:\n    for row in read.rows(Path(sys.argv[1]), 'here'): said += 1\n"
        "except Exception as error: said = error\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10, said)"
    )
    # The kernel counts the peak of whoever started it, too, unless there is a program in between.
    done = subprocess.run(
        ["/bin/sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-c", script, str(file)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    peak, words = done.stdout.split(maxsplit=1)
    return int(peak), words.strip()


@pytest.mark.parametrize(
    ("name", "start", "place"),
    [
        ("a.jsonl", b"{}\n", "line 2"),
        ("a.json", b"[{},", "row 2"),
        ("a.csv", b"a,b\n1,2\n", "the row that begins in line 3"),
    ],
)
@pytest.mark.parametrize("filling", ["nothing", "text"])
def test_a_line_without_an_end_is_told_before_it_fills_the_memory(
    tmp_path: Path, name: str, start: bytes, place: str, filling: str
) -> None:
    file = tmp_path / name
    file.write_bytes(start + (b'"' if filling == "text" else b""))
    # A hole, as a copy that was cut off leaves it.
    os.truncate(file, 1 << 30)
    peak, words = read_apart(file)
    assert words.startswith(f"here: {place} is longer than 16 MiB: is a line break missing"), words
    assert peak < 250, f"{peak} MiB"


def test_a_quotation_that_is_never_closed_swallows_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(damage, "MAX_ROW_BYTES", 1 << 20)
    file = tmp_path / "a.csv"
    file.write_text('a,b\n"x,y\n' + "x,y\n" * (1 << 19))
    with pytest.raises(InvalidDataError, match=r"the row that begins in line 2 is longer than 1\.0 MiB"):
        list(rows(file, ORIGIN))


MIB = "x" * (1 << 20)
ONE = pa.array([MIB])
EMPTY = pa.ListArray.from_arrays(pa.array(np.zeros(5_000_001, np.int32)), pa.array([], pa.int64()))
NUMBERS = pa.array(np.zeros(30_000_000, np.int64))
BOMBS: dict[str, tuple[pa.Array, dict[str, Any], str]] = {
    # A gigabyte and a half in a page after the other, all alike.
    "pages": (
        pa.chunked_array([pa.array([MIB] * 50)] * 30),
        {"use_dictionary": False},
        "rows of it would become 1.5 GiB in memory, and the whole file has",
    ),
    # Gigabytes in half a kilobyte: whoever writes them all out at once is lost, but none is too long.
    "references": (pa.DictionaryArray.from_arrays(pa.array([0] * 3000, pa.int32()), ONE), {}, "3000"),
    "a list of them": (
        pa.ListArray.from_arrays(
            pa.array([0, 1, 3001], pa.int32()),
            pa.DictionaryArray.from_arrays(pa.array([0] * 3001, pa.int32()), ONE),
        ),
        {},
        "row 2 would take 2.9 GiB, and a row may take 16 MiB: split it",
    ),
    "a list without end": (
        pa.ListArray.from_arrays(
            pa.array([0, 1, 20_000_001], pa.int32()), pa.array([True] * 1000).take(pa.array([0] * 20_000_001))
        ),
        {},
        "one of rows 1 to 2 would take 76 MiB or more, and a row may take 16 MiB: split it",
    ),
    "numbers without end": (
        pa.ListArray.from_arrays(pa.array([0, len(NUMBERS)], pa.int32()), NUMBERS),
        {},
        "row 1 would take 229 MiB or more, and a row may take 16 MiB: split it",
    ),
    "numbers before others": (
        pa.ListArray.from_arrays(pa.array([0, *[len(NUMBERS)] * 1000], pa.int32()), NUMBERS),
        {},
        "rows of it would become 229 MiB in memory, and the whole file has",
    ),
    "empty lists without end": (
        pa.ListArray.from_arrays(
            pa.array([0, *[len(EMPTY)] * 100], pa.int32()),
            pa.ListArray.from_arrays(pa.array(np.arange(len(EMPTY) + 1, dtype=np.int32)), EMPTY),
        ),
        {},
        "row 1 would take 76 MiB, and a row may take 16 MiB: split it",
    ),
}


@pytest.mark.parametrize("kind", list(BOMBS))
def test_a_table_that_is_much_larger_than_its_file_takes_little_memory(tmp_path: Path, kind: str) -> None:
    column, options, said = BOMBS[kind]
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": column}), file, compression="zstd", **options)
    assert file.stat().st_size < 200_000
    peak, words = read_apart(file)
    assert said in words
    # Its libraries take a hundred of them.
    assert peak < 350, f"{peak} MiB"


def saved_table() -> bytes:
    """The same rows as a table, with checksums of its pages."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(OBJECTS), sink, write_page_checksum=True, compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content


TABLE = saved_table()
FOOTER = len(TABLE) - 8 - int.from_bytes(TABLE[-8:-4], "little")


@FUZZ
@given(damages=st.lists(damage_of(TABLE), min_size=1, max_size=3))
def test_of_a_damaged_table_nothing_else_is_raised(tmp_path: Path, damages: list[Any]) -> None:
    file = tmp_path / "a.parquet"
    file.write_bytes(damaged(TABLE, damages))
    words = ""
    try:
        told(file)
    except InvalidDataError as error:
        words = str(error)
    assert words == "" or words.startswith(f"{ORIGIN}: ")
    assert "\n" not in words
    words.encode()


@FUZZ
@given(place=st.integers(4, FOOTER - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_in_pages_with_checksums_changes_no_row(tmp_path: Path, place: int, bit: int) -> None:
    file = tmp_path / "a.parquet"
    file.write_bytes(damaged(TABLE, [("flip", place, bit)]))
    with suppress(InvalidDataError):
        assert told(file) == (OBJECTS, [])


def test_text_that_is_no_utf_8_is_told_with_its_row(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    text = pa.array([b"good", b"\xff bad"]).view(pa.string())
    pq.write_table(pa.table({"prompt": text}), file)
    with pytest.raises(InvalidDataError, match="here: row 2: 'utf-8' codec can't decode byte 0xff"):
        list(rows(file, ORIGIN))


def test_what_follows_a_list_is_not_read_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(b"[{}] x")
    os.truncate(file, 1 << 30)
    with pytest.raises(InvalidDataError, match="something follows the end of the list, after row 1"):
        list(rows(file, ORIGIN))


def test_a_long_row_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(damage, "MAX_ROW_BYTES", 3 << 20)
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


def test_arguments_that_only_json_can_follow_are_a_fault_of_their_row(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    nested = json.loads('{"a":' * 600 + "1" + "}" * 600)
    call = {"type": "function", "function": {"name": "look", "arguments": nested}}
    row = conversation("hi", "you")
    row["messages"].append({"role": "assistant", "content": "", "tool_calls": [call]})  # type: ignore[dict-item]
    chat = ChatTokenizer(tmp_path)
    found = chat.encode([rows_of.conversation(row, Columns())], unmask=False)
    assert found == ["has tools, or arguments of tool calls, that are nested too deeply"]
