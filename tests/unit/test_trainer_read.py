"""Files of training data, read row by row: what stands in them, and what is said of those that are damaged."""

import csv
import io
import json
import random
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_api.sources import DATA_SUFFIXES, Columns
from finetune_trainer.ends.errors import InvalidDataError
from finetune_trainer.prepare import pipeline, read
from finetune_trainer.prepare.faults import FaultyRowError
from finetune_trainer.prepare.read import RawRow, parse, rows
from finetune_trainer.prepare.rows import conversation

ORIGIN = "spec.dataset.train: here"
TALK: list[dict[str, Any]] = [
    {"role": "user", "content": 'Say "[{,}]" and \\ in é and 😀.'},
    {"role": "assistant", "content": "Line one.\r\nLine two.", "reasoning_content": "They ask."},
]


def written(directory: Path, name: str, content: bytes | str) -> Path:
    file = directory / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def found(file: Path) -> list[Any]:
    return [parse(raw) for raw in rows(file, ORIGIN)]


def refusal(file: Path) -> str:
    with pytest.raises(InvalidDataError) as caught:
        list(rows(file, ORIGIN))
    return str(caught.value)


def fault(raw: RawRow) -> str:
    with pytest.raises(FaultyRowError) as caught:
        parse(raw)
    assert caught.value.field == ""
    return caught.value.reason


def table(file: Path, found: Sequence[dict[str, Any]], **options: Any) -> Path:
    pq.write_table(pa.Table.from_pylist(list(found)), file, **options)
    return file


# What all formats have in common


def in_every_format(directory: Path, objects: list[dict[str, Any]]) -> list[Path]:
    as_text = [{key: json.dumps(value) for key, value in each.items()} for each in objects]
    cells = io.StringIO()
    writer = csv.DictWriter(cells, list(objects[0]))
    writer.writeheader()
    writer.writerows(as_text)
    return [
        written(directory, "a.jsonl", "".join(f"{json.dumps(each)}\n" for each in objects)),
        written(directory, "a.JSON", json.dumps(objects, indent=2, ensure_ascii=False)),
        written(directory, "lines.json", "".join(f"{json.dumps(each)}\n" for each in objects)),
        table(directory / "a.parquet", objects),
        written(directory, "a.csv", cells.getvalue()),
    ]


def test_every_format_holds_the_same_conversations(tmp_path: Path) -> None:
    objects = [{"messages": TALK}, {"messages": [{"role": "user", "content": "x"}, TALK[1]]}]
    files = in_every_format(tmp_path, objects)
    assert {file.suffix.lower() for file in files} == set(DATA_SUFFIXES)
    for file in files:
        taken = [conversation(row, Columns()).messages for row in found(file)]
        assert taken == [each["messages"] for each in objects], file


def test_what_a_process_is_handed_at_a_time_is_bounded_in_every_format(tmp_path: Path) -> None:
    long, bound = 100_000, pipeline._BYTES_AT_A_TIME
    talk = [
        {"role": "user", "content": "x" * (long // 2)},
        {"role": "assistant", "content": "y" * (long // 2)},
    ]
    for file in in_every_format(tmp_path, [{"messages": talk}] * 25):
        chunks = list(pipeline._chunks(rows(file, ORIGIN)))
        # A chunk is full with the row that reaches the bound.
        assert [len(chunk.rows) for chunk in chunks] == [1 + bound // long, 1 + bound // long, 3], file
        assert [chunk.first for chunk in chunks] == [0, 11, 22]
    short = table(tmp_path / "short.parquet", [{"messages": TALK}] * 600)
    assert [len(chunk.rows) for chunk in pipeline._chunks(rows(short, ORIGIN))] == [256, 256, 88]


def test_a_name_that_tells_no_format_is_refused_with_those_that_do(tmp_path: Path) -> None:
    for name in ("train.txt", "train", "train.jsonl.gz", ".jsonl"):
        said = refusal(written(tmp_path, name, "{}"))
        assert said.startswith(f"{ORIGIN}: the name must end in .jsonl, .json, .parquet or .csv")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet", "a.csv"])
def test_a_file_that_is_not_there_is_said_so_by_the_system(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError):
        list(rows(tmp_path / name, ORIGIN))
    (tmp_path / name).mkdir()
    with pytest.raises(IsADirectoryError):
        list(rows(tmp_path / name, ORIGIN))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet", "a.csv"])
def test_a_disk_that_fails_is_no_fault_of_the_data(tmp_path: Path, name: str) -> None:
    # Where nothing is mapped, reading fails as it does from a broken disk; and this file has no end to seek from.
    (tmp_path / name).symlink_to("/proc/self/mem")
    with pytest.raises(OSError, match=r"\[Errno \d+\]"):
        list(rows(tmp_path / name, ORIGIN))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
@pytest.mark.parametrize("content", ["", " \n\n", "\ufeff"])
def test_nothing_has_no_rows(tmp_path: Path, name: str, content: str) -> None:
    assert list(rows(written(tmp_path, name, content), ORIGIN)) == []


# JSONL


def test_lines_are_counted_as_editors_count_them(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbf{"a": 1}\r\n\n  \t\n{"a": "x\xe2\x80\xa8y"}\n\n{"a": 3}'
    raws = list(rows(written(tmp_path, "a.jsonl", content), ORIGIN))
    assert [raw.place for raw in raws] == ["line 1", "line 4", "line 6"]
    assert [raw.end for raw in raws] == [13, 33, len(content)]
    assert [parse(raw) for raw in raws] == [{"a": 1}, {"a": "x\u2028y"}, {"a": 3}]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "is not JSON (Expecting property name"),
        (b"{} {}", "is not JSON (Extra data"),
        (b"[" * 100_000, "is nested too deeply"),
        (b'{"a": ' * 100_000, "is nested too deeply"),
        (b'{"messages": "\xff"}', "is not UTF-8 (invalid start byte at byte 14)"),
        ("{}".encode("utf-16"), "is not UTF-8 ("),
        (b'{"a": %s}' % (b"1" * 5000), "is not JSON (Exceeds the limit"),
        (b"[1]", "must be an object, not a list"),
        (b"null", "must be an object, not null"),
        (b'"text"', "must be an object, not a string"),
    ],
)
def test_a_line_that_is_no_object_is_a_fault_of_that_line_alone(
    tmp_path: Path, line: bytes, said: str
) -> None:
    before, wrong, after = rows(written(tmp_path, "a.jsonl", b"{}\n" + line + b"\n{}\n"), ORIGIN)
    assert (parse(before), parse(after)) == ({}, {})
    assert wrong.place == "line 2"
    assert fault(wrong).startswith(said)


# JSON

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
ENOUGH = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@ENOUGH
@given(
    items=st.lists(st.dictionaries(st.text(max_size=3), JSON, max_size=3), max_size=5),
    indent=st.none() | st.integers(0, 2),
    ascii_only=st.booleans(),
    chunk=st.integers(5, 64),
    cut=st.integers(0, 1 << 16),
)
def test_a_list_is_read_item_by_item_however_it_is_written(
    tmp_path: Path, items: list[Any], indent: int | None, ascii_only: bool, chunk: int, cut: int
) -> None:
    text = json.dumps(items, indent=indent, ensure_ascii=ascii_only)
    content = b"\xef\xbb\xbf\n" + text.encode(errors="surrogatepass") + b"\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read, "_CHUNK_BYTES", chunk)
        raws = list(rows(written(tmp_path, "a.json", content), ORIGIN))
    assert [parse(raw) for raw in raws] == items
    assert [raw.place for raw in raws] == [f"row {number}" for number in range(1, len(items) + 1)]
    ends = [raw.end for raw in raws]
    assert ends == sorted(set(ends))
    assert not ends or ends[-1] == len(content) - 1
    # The same file, cut off somewhere.
    length = content.index(b"[") + 1 + cut % (len(content) - content.index(b"[") - 2)
    assert "is the file complete?" in refusal(written(tmp_path, "a.json", content[:length]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[{}, 7, {}]", "must be an object, not a number"),
        ('[{}, {"a": }, {}]', "is not JSON (Expecting value"),
        ("[{}, {} {}, {}]", "is not JSON (Extra data"),
        ("[{}, , {}]", "is not JSON (Expecting value"),
        ("[{}, [}, {}]", "is not JSON (Expecting value"),
        (f"[{{}}, {'[' * 100_000}{']' * 100_000}, {{}}]", "is nested too deeply"),
    ],
)
def test_an_item_that_is_no_object_is_a_fault_of_that_row_alone(tmp_path: Path, text: str, said: str) -> None:
    before, wrong, after = rows(written(tmp_path, "a.json", text), ORIGIN)
    assert (parse(before), parse(after)) == ({}, {})
    assert wrong.place == "row 2"
    assert fault(wrong).startswith(said)


def test_a_comma_at_the_end_of_a_list_is_a_fault(tmp_path: Path) -> None:
    _, wrong = rows(written(tmp_path, "a.json", "[{}, ]"), ORIGIN)
    assert fault(wrong).startswith("is not JSON")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[{}, {}] {}", "something follows the end of the list, after row 2"),
        ('[{}] "', "something follows the end of the list, after row 1"),
        ("[{}]]", "something follows the end of the list, after row 1"),
        ("[{}}", "the list ends with } after row 1"),
        ("[", "the list ends in the middle of row 1: is the file complete?"),
        ('[{}, {"a": "b', "the list ends in the middle of row 2: is the file complete?"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal(written(tmp_path, "a.json", text))


# Parquet


def test_an_object_lacks_what_it_lacks_although_a_table_has_a_column_for_it(tmp_path: Path) -> None:
    call = {"name": "f", "arguments": {"a": 1}}
    other = {"name": "g", "arguments": {"b": [{"c": 2}, {"d": 3}]}}
    calls: list[dict[str, Any]] = [
        {"messages": [TALK[0], {"role": "assistant", "content": "", "tool_calls": [each]}]}
        for each in (call, other)
    ]
    taken = [conversation(row, Columns()) for row in found(table(tmp_path / "a.parquet", calls))]
    assert [each.messages for each in taken] == [each["messages"] for each in calls]


def test_a_table_is_read_a_few_rows_at_a_time(tmp_path: Path) -> None:
    file = table(tmp_path / "a.parquet", [{"text": f"{n}"} for n in range(2500)], row_group_size=1100)
    raws = list(rows(file, ORIGIN))
    assert [parse(raw)["text"] for raw in raws] == [f"{n}" for n in range(2500)]
    assert (raws[-1].place, raws[-1].end) == ("row 2500", 0)


@pytest.mark.parametrize("name", ["a[1].parquet", "*.parquet", "a::b.parquet", "a b?.parquet", "{a}.csv"])
def test_no_character_of_a_name_is_a_pattern(tmp_path: Path, name: str) -> None:
    file = written(tmp_path, name, "text\nx\n")
    if file.suffix == ".parquet":
        table(file, [{"text": "x"}])
    assert found(file) == [{"text": "x"}]


def test_a_damaged_table_is_refused_in_words(tmp_path: Path) -> None:
    whole = table(tmp_path / "a.parquet", [{"text": f"{n}" * 9} for n in range(500)]).read_bytes()
    damaged = [b"", b"PAR1", b'{"text": "x"}\n', *(whole[:end] for end in range(1, len(whole), 300))]
    for content in damaged:
        said = refusal(written(tmp_path, "b.parquet", content))
        assert said.startswith(f"{ORIGIN}: the file cannot be read: ")
        assert "\n" not in said
    dice = random.Random(1)
    refused = 0
    for _ in range(60):
        scratched = bytearray(whole)
        for place in dice.sample(range(len(scratched)), 4):
            scratched[place] = dice.randrange(256)
        try:
            found(written(tmp_path, "b.parquet", bytes(scratched)))
        except InvalidDataError:
            refused += 1
    assert refused > 10


# CSV


def test_cells_are_the_text_that_they_are(tmp_path: Path) -> None:
    cells = 'instruction,input,output\na,NA,007\n\n"b,\n""x""",,true\nc,1e3,2024-01-01\n'
    for content in (cells, "\ufeff" + cells, cells.replace("\n", "\r\n")):
        read_back = found(written(tmp_path, "a.csv", content))
        assert [row["output"] for row in read_back] == ["007", "true", "2024-01-01"]
        assert [row["input"] for row in read_back] == ["NA", "", "1e3"]
        assert [row["instruction"].replace("\r", "") for row in read_back] == ["a", 'b,\n"x"', "c"]


def test_a_cell_tells_whether_its_row_is_unmasked(tmp_path: Path) -> None:
    cells = "prompt,completion,unmask\n" + "".join(f"a,true,{flag}\n" for flag in ("true", "False", "", "1"))
    flags = [(row["completion"], row["unmask"]) for row in found(written(tmp_path, "a.csv", cells))]
    assert flags == [("true", True), ("true", False), ("true", None), ("true", "1")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "there is nothing in it: the first line is to name the columns"),
        (b"\n\n", "there is nothing in it"),
        (b"a,b\nx,y\nx,y,z\n", "the row that ends in line 3 has 3 cells, and there are 2 columns"),
        (b"a,b\nx,y,z\nx,y,z\n", "the row that ends in line 2 has 3 cells, and there are 2 columns"),
        (b'a,b\nx,"y\n', "line 2 has quotation marks that are not closed"),
        (b'a,b\nx,"he said "no" twice"\n', "line 2 has quotation marks that are not closed, or not doubled"),
        (b"a,b,a,\nx,y,z,\n", "the header names columns twice: a"),
        (b"a,b\nx,\xff\n", "line 2 is not UTF-8 (byte 0xff after 2 characters)"),
        (b"\xff\xfea\x00\n\x00", "line 1 is not UTF-8 (byte 0xff after 0 characters)"),
    ],
)
def test_damaged_cells_are_refused_in_words(tmp_path: Path, content: bytes, said: str) -> None:
    shown = refusal(written(tmp_path, "a.csv", content))
    assert shown.startswith(f"{ORIGIN}: ")
    assert said in shown


def test_rows_may_lack_cells_at_their_end(tmp_path: Path) -> None:
    content = b"prompt,completion,,\nx\n\nx,\x00y,a,b\n"
    assert found(written(tmp_path, "a.csv", content)) == [
        {"prompt": "x", "completion": "", "": ""},
        {"prompt": "x", "completion": "\x00y", "": "b"},
    ]


# The library


@pytest.mark.parametrize("name", ["a.parquet", "a.csv"])
def test_nothing_is_asked_left_behind_or_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(home))
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    asked: list[Any] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *wanted, **_: asked.append(wanted))
    good = table(tmp_path / "a.parquet", [{"text": "x"}])
    if name == "a.csv":
        good = written(tmp_path, name, "text\nx\n")
    assert found(good) == [{"text": "x"}]
    refusal(written(tmp_path, f"b{good.suffix}", b"\xff\x00,\n"))
    # Whoever loses interest on the way leaves nothing either.
    iterator = rows(good, ORIGIN)
    next(iterator)
    iterator.close()  # type: ignore[attr-defined]
    assert asked == []
    assert list(scratch.iterdir()) == []
    assert not home.exists()
    assert capfd.readouterr() == ("", "")
