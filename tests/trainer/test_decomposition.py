"""Singular value decompositions of weight matrices, each made once and kept on the storage volume."""

import logging
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor

from finetune_trainer import commit
from finetune_trainer.ends.errors import InvalidConfigurationError
from finetune_trainer.subspaces.decomposition import Decomposer
from finetune_trainer.subspaces.factor_cache import FactorCache
from finetune_trainer.subspaces.subspace import Factors
from trainer.faults import Fault, Moment
from trainer.forked import FORKS
from trainer.gangs import PATIENCE, needs_mount, small_volume

FILE = "factors.safetensors"


def nothing() -> None:
    pass


def decomposer(directory: Path, writer: str = "me", tick: Callable[[], None] = nothing) -> Decomposer:
    return Decomposer(directory / "kept", writer, tick)


def cache(directory: Path, writer: str) -> FactorCache:
    return FactorCache(directory / "kept", writer, nothing)


def random(rows: int, columns: int, rank: int | None = None, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if rank is None:
        return torch.randn(rows, columns, generator=generator)
    return torch.randn(rows, rank, generator=generator) @ torch.randn(rank, columns, generator=generator)


def expect_same(ours: Factors, theirs: Factors) -> None:
    """Equal to the bit, and laid out alike: products may be rounded otherwise if they are not."""
    for mine, other in ((ours.u, theirs.u), (ours.s, theirs.s), (ours.v, theirs.v)):
        assert mine.equal(other)
        assert mine.stride() == other.stride()


def expect_decomposition(factors: Factors, matrix: Tensor) -> None:
    directions = torch.eye(min(matrix.shape))
    error = ((factors.u * factors.s) @ factors.v - matrix).norm()
    assert error <= 1e-6 * matrix.norm()
    torch.testing.assert_close(factors.u.T @ factors.u, directions, rtol=0, atol=1e-5)
    torch.testing.assert_close(factors.v @ factors.v.T, directions, rtol=0, atol=1e-5)
    assert (factors.s >= 0).all()
    assert factors.s.equal(factors.s.sort(descending=True).values)
    assert {factors.u.dtype, factors.s.dtype, factors.v.dtype} == {torch.float32}


def expect_nothing_left_over(directory: Path) -> None:
    """All that is there is whole."""
    for path in (directory / "kept").glob("*"):
        manifest = commit.read(path, uid=None)
        assert manifest, path
        assert commit.intact(path, manifest.files, nothing)


MATRIX = random(12, 8)
MATRICES = {
    "tall": random(48, 20),
    "wide": random(20, 48),
    "square": random(32, 32),
    "a row": random(1, 40),
    "a column": random(40, 1),
    "a number": random(1, 1),
    "of rank 3": random(24, 40, rank=3),
    "zero": torch.zeros(24, 40),
    "of small numbers": random(20, 30) * 1e-12,
}


@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
def test_factors_make_the_matrix_and_are_the_same_when_they_are_found(tmp_path: Path, matrix: Tensor) -> None:
    first, second = decomposer(tmp_path, "first"), decomposer(tmp_path, "second")
    digest, made = first.factors("w", matrix)
    expect_decomposition(made, matrix)
    again, found = second.factors("w", matrix)
    assert again == digest
    expect_same(found, made)
    assert (first.computed, first.found, second.computed, second.found) == (1, 0, 0, 1)


def test_what_was_found_outlasts_the_file(tmp_path: Path) -> None:
    digest, made = decomposer(tmp_path).factors("w", MATRIX)
    _, found = decomposer(tmp_path).factors("w", MATRIX)
    file = tmp_path / "kept" / digest / FILE
    with file.open("r+b") as opened:
        opened.write(bytes(file.stat().st_size))
    expect_same(found, made)


def next_number(matrix: Tensor) -> Tensor:
    """The same but for the last bit of one of its numbers."""
    bits = matrix.clone().view(torch.int32)
    bits[0, 0] ^= 1
    return bits.view(torch.float32)


@pytest.mark.parametrize(
    ("kept", "wanted", "found"),
    [
        (MATRIX.bfloat16(), MATRIX.bfloat16().float(), True),
        (MATRIX, MATRIX.T.contiguous().T, True),
        (MATRIX, next_number(MATRIX), False),
        (MATRIX, MATRIX.reshape(8, 12), False),
        (MATRIX, MATRIX.T, False),
    ],
    ids=["another data type", "another layout", "another bit", "another shape", "transposed"],
)
def test_a_matrix_is_known_by_its_content(tmp_path: Path, kept: Tensor, wanted: Tensor, found: bool) -> None:
    digest, _ = decomposer(tmp_path).factors("model.layers.0.mlp.up_proj.weight", kept)
    later = decomposer(tmp_path)
    other, factors = later.factors("transformer.h.3.attn.c_attn.weight", wanted)
    assert (other == digest, later.found) == (found, int(found))
    expect_decomposition(factors, wanted.float())


def flip_a_bit(place: Path) -> None:
    content = bytearray((place / FILE).read_bytes())
    content[-5] ^= 1
    (place / FILE).write_bytes(content)


def cut_off(place: Path) -> None:
    content = (place / FILE).read_bytes()
    (place / FILE).write_bytes(content[: len(content) // 2])


def take_the_factors(place: Path) -> None:
    (place / FILE).unlink()


def take_the_manifest(place: Path) -> None:
    (place / commit.MANIFEST).unlink()


@pytest.mark.parametrize("damage", [flip_a_bit, cut_off, take_the_factors, take_the_manifest])
def test_what_is_damaged_is_decomposed_anew_and_replaced(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    digest, made = decomposer(tmp_path).factors("w", MATRIX)
    damage(tmp_path / "kept" / digest)
    second, third = decomposer(tmp_path), decomposer(tmp_path)
    expect_same(second.factors("w", MATRIX)[1], made)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'kept' / digest} is damaged: the matrix is decomposed anew"
    ]
    expect_same(third.factors("w", MATRIX)[1], made)
    assert (second.computed, third.computed) == (1, 0)
    expect_nothing_left_over(tmp_path)


def mirrored(factors: Factors) -> Factors:
    """Factors of the same matrix that another machine may come to."""
    return Factors(-factors.u, factors.s, -factors.v)


def test_what_another_was_faster_to_keep_is_what_is_used(tmp_path: Path) -> None:
    digest, made = decomposer(tmp_path / "elsewhere").factors("w", MATRIX)
    ours = commit.temporary(tmp_path / "kept" / digest, "slow")

    def meanwhile() -> None:
        if (ours / FILE).exists():
            cache(tmp_path, "fast").keep(digest, mirrored(made))

    slow = decomposer(tmp_path, "slow", meanwhile)
    expect_same(slow.factors("w", MATRIX)[1], mirrored(made))
    assert (slow.computed, slow.found) == (1, 0)
    expect_same(decomposer(tmp_path).factors("w", MATRIX)[1], mirrored(made))
    expect_nothing_left_over(tmp_path)


def test_what_another_has_repaired_meanwhile_is_left_to_who_reads_it(tmp_path: Path) -> None:
    digest, made = decomposer(tmp_path).factors("w", MATRIX)
    place = tmp_path / "kept" / digest
    flip_a_bit(place)
    calls: list[None] = []

    def meanwhile() -> None:
        calls.append(None)
        # The first is of the matrix that was hashed, the second of the file: it is known to be damaged then.
        if len(calls) == 2:
            shutil.rmtree(place)
            cache(tmp_path, "other").keep(digest, mirrored(made))

    slow = decomposer(tmp_path, "slow", meanwhile)
    expect_same(slow.factors("w", MATRIX)[1], mirrored(made))
    expect_same(decomposer(tmp_path).factors("w", MATRIX)[1], mirrored(made))


def take_part(directory: Path, writer: str, seeds: range, beforehand: Callable[[int], None] | None) -> None:
    """Decompose matrices; for a process of its own."""
    torch.set_num_threads(1)
    if beforehand:
        beforehand(0)
    for seed in seeds:
        decomposer(directory, writer).factors("w", random(12, 8, seed=seed))


def end_of(*given: object) -> int | None:
    process = FORKS.Process(target=take_part, args=given, daemon=True)
    process.start()
    process.join(PATIENCE)
    return process.exitcode


class InMidFile:
    """Has the system end the process when its file comes to some bytes; called as a Fault is."""

    def __call__(self, rank: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (256, resource.RLIM_INFINITY))


MOMENTS = [Moment.START, Moment.MANIFEST, Moment.RENAME, Moment.VISIBLE]


@pytest.mark.parametrize("moment", [*MOMENTS, None], ids=str)
def test_who_is_killed_leaves_nothing_that_is_taken_for_whole(tmp_path: Path, moment: Moment | None) -> None:
    fault = Fault(tmp_path, moment) if moment else InMidFile()
    code = -signal.SIGKILL if moment else -signal.SIGXFSZ
    assert end_of(tmp_path, "me", range(1), fault) == code
    others = commit.start(tmp_path / "kept" / "of-another", "another")
    later = decomposer(tmp_path)
    assert list((tmp_path / "kept").glob("*.incomplete")) == [others]
    expect_decomposition(later.factors("w", random(12, 8, seed=0))[1], random(12, 8, seed=0))
    assert later.found == (moment is Moment.VISIBLE)
    # What another is about to write is his.
    others.rmdir()
    expect_nothing_left_over(tmp_path)


def test_many_may_decompose_the_same_at_the_same_time(tmp_path: Path) -> None:
    writers = [
        FORKS.Process(target=take_part, args=(tmp_path, f"me-{rank}", range(30), None), daemon=True)
        for rank in range(3)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(PATIENCE)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert len(list((tmp_path / "kept").iterdir())) == 30
    expect_nothing_left_over(tmp_path)


FULL = """
import logging, sys
from pathlib import Path
import torch
from finetune_trainer.subspaces.decomposition import Decomposer

logging.basicConfig(format="%(levelname)s %(message)s")
directory = Path(sys.argv[1]) / "kept"
decomposer = Decomposer(directory, "me", lambda: None)
torch.manual_seed(0)
for rows, columns in ((8, 8), (200, 200), (200, 201), (4, 4)):
    matrix = torch.randn(rows, columns)
    _, factors = decomposer.factors("w", matrix)
    torch.testing.assert_close((factors.u * factors.s) @ factors.v, matrix, rtol=0, atol=1e-4)
print(decomposer.computed, *(len(list(path.iterdir())) for path in directory.iterdir()))
"""


@needs_mount
def test_a_full_volume_is_told_once_and_costs_time_alone(tmp_path: Path) -> None:
    command = [
        *small_volume(tmp_path / "volume", "128k"),
        sys.executable,
        "-c",
        FULL,
        str(tmp_path / "volume"),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 0, ended.stderr
    # Of four only the first is kept, with a manifest, and nothing half-written is left.
    assert ended.stdout.split() == ["4", "2"]
    [warning] = ended.stderr.splitlines()
    assert warning == (
        f"WARNING {tmp_path / 'volume' / 'kept'}: the volume is full (No space left on device): decompositions are "
        "no longer kept there, so a restart will have to make those that are missing again. Free or enlarge the claim."
    )


def test_other_errors_of_the_volume_are_raised(tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    with pytest.raises(NotADirectoryError):
        decomposer(tmp_path).factors("w", MATRIX)


def test_what_failed_to_be_written_gives_its_space_back(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256, hard))
    try:
        with pytest.raises(SafetensorError, match="File too large"):
            decomposer(tmp_path).factors("w", MATRIX)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "kept").iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused_by_its_name(tmp_path: Path, value: float) -> None:
    matrix = MATRIX.clone()
    matrix[3, 2] = matrix[7, 0] = value
    with pytest.raises(InvalidConfigurationError) as refused:
        decomposer(tmp_path).factors("model.layers.0.mlp.up_proj.weight", matrix)
    assert str(refused.value).startswith(
        "model.layers.0.mlp.up_proj.weight: 2 of its 96 values are not finite"
    )
    assert not (tmp_path / "kept").exists()


def test_what_does_not_converge_is_tried_in_double_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # No matrix is known with which LAPACK fails on every machine.
    svd = torch.linalg.svd

    def fails(matrix: Tensor, **options: bool) -> object:
        if matrix.dtype == torch.float32:
            raise torch.linalg.LinAlgError("The algorithm failed to converge.")
        return svd(matrix, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch.linalg, "svd", fails)
        _, factors = decomposer(tmp_path).factors("some.weight", MATRIX)
    expect_decomposition(factors, MATRIX)
    expect_same(decomposer(tmp_path).factors("w", MATRIX)[1], factors)
    assert caplog.messages == [
        "some.weight: The algorithm failed to converge. Once more in double precision."
    ]


def test_signs_of_life_come_all_along(tmp_path: Path) -> None:
    ticks: list[None] = []
    one = decomposer(tmp_path, tick=partial(ticks.append, None))
    matrix = torch.ones(1, 5 << 20)
    one.factors("w", matrix)
    # Two for the matrix and two for the file, which are hashed; the file is written; it is done.
    assert len(ticks) >= 6
    ticks.clear()
    one.factors("w", matrix)
    # Two for each, and one for each of the tensors that are read.
    assert len(ticks) >= 8


def test_what_was_done_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    decomposer(tmp_path).factors("known", MATRIX)
    later = decomposer(tmp_path)
    for seed in range(2):
        later.factors(f"w{seed}", random(12, 8, seed=seed))
    place = tmp_path / "kept"
    assert later.summary() == f"decomposed 1 matrix in 0 s, 1 found in {place}"
    assert [message.split(":")[0] for message in caplog.messages] == ["known", "w0", "w1"]
