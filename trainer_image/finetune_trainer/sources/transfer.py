"""Files that come over the network: resumed where they were cut, checked, and visible only when they are whole.

What is there already goes on from its last byte, in a later process too. Every run has a file of its own to write to,
so that two that fetch the same can do one another no harm, on volumes whose locks do not work either.
"""

import fcntl
import glob
import hashlib
import logging
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from finetune_api import report
from finetune_trainer import commit
from finetune_trainer.ends.errors import StorageFullError, TrainerError

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

# How long the other side may be away, while nothing comes, before the Job is let try again.
PATIENCE = 300.0
_LONGEST_PAUSE = 15.0
# What a Report takes.
_LABEL = 256
# Files at the same time.
_WORKERS = 6
# Parts that nobody has written to for so long are of runs that are gone.
_ABANDONED = 24 * 3600.0
_PART = ".part"
_READ_AT_ONCE = 16 << 20


class Progress:
    """How far it has come, shown now and then. Threads may share it."""

    def __init__(self, of: str, total: int, show: Callable[[report.Transfer], None]) -> None:
        self._of = of[-_LABEL:]
        self._total = total
        self._show = show
        self._lock = threading.Lock()
        self._bytes = 0
        self._stopped = threading.Event()

    def add(self, count: int) -> None:
        """So many bytes more are there, or fewer."""
        with self._lock:
            self._bytes += count
        self.tick()

    def tick(self) -> None:
        """Show that something happens. Ends the thread that calls it where the others have ended."""
        if self._stopped.is_set():
            raise _OthersEndedError
        with self._lock:
            done = report.Transfer(of=self._of, bytes=max(self._bytes, 0), total_bytes=self._total)
        self._show(done)

    def pause(self, seconds: float) -> None:
        """Wait, and show that this is what happens."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.tick()
            time.sleep(min(left, 1.0))

    def stop(self) -> None:
        """End the threads that share it."""
        self._stopped.set()


class _OthersEndedError(Exception):
    pass


class _CutError(Exception):
    pass


class Patience:
    """How long to try again while the other side is away."""

    def __init__(self, what: str, transient: Callable[[Exception], bool], progress: Progress) -> None:
        """`what` begins the message of the error that it ends with; `transient` tells which errors may pass."""
        self._what = what
        self._transient = transient
        self._progress = progress
        self.reset()

    def reset(self) -> None:
        """Something came."""
        self._since = time.monotonic()
        self._pause = 0.5

    def wait(self, error: Exception) -> None:
        """Wait before another trial. Raises the error if it will not pass, or a TrainerError if it took too long."""
        if not (isinstance(error, _CutError) or self._transient(error)):
            raise error
        if time.monotonic() - self._since > PATIENCE:
            raise TrainerError(
                f"{self._what}: nothing came for {PATIENCE:.0f} seconds, and the last trial ended with: "
                f"{type(error).__name__}: {error}. What is there already is kept, and the next trial goes on from it"
            ) from error
        _log.warning("%s: %s: %s; trying again", self._what, type(error).__name__, error)
        self._progress.pause(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def call(self, function: Callable[[], _T]) -> _T:
        """What the function answers, once it does."""
        while True:
            try:
                return function()
            except Exception as error:  # noqa: BLE001 - raised again unless it may pass
                self.wait(error)


@dataclass(frozen=True)
class Wanted:
    """A file to fetch."""

    final: Path
    """Where it is visible once it is whole."""
    size: int
    read: Callable[[int], Iterator[bytes]]
    """What it has from this byte on."""
    lock: Path
    """Held meanwhile, so that two do not fetch the same; where locks do not work, both do."""
    what: str
    """What messages call it."""
    digest: str | None = None
    """What its content must have, in hexadecimal, where that is known."""
    hasher: Callable[[], "hashlib._Hash"] = hashlib.sha256
    """How that is made."""
    confirm: Callable[[], None] | None = None
    """Raises unless what was read, be it by an earlier process, is all of one version; where no digest tells that."""

    def is_there(self) -> bool:
        """Whether it is whole: it becomes visible only then."""
        try:
            return self.final.stat().st_size == self.size
        except FileNotFoundError:
            return False


def fetch_all(
    wanted: Sequence[Wanted], writer: str, transient: Callable[[Exception], bool], progress: Progress
) -> None:
    """Fetch files, several at a time. `writer` names who does it, so that nobody else writes to the same part.

    Raises what reading raises, a TrainerError, OSError of the volume.
    """
    _check_space([one for one in wanted if not one.is_there()], writer)
    waiting = deque(wanted)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            while not failures:
                try:
                    one = waiting.popleft()
                except IndexError:
                    return
                _fetch(one, writer, Patience(one.what, transient, progress), progress)
        except _OthersEndedError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised by the thread that waits for this one
            failures.append(error)

    # No executor: its threads would hold up the end of a process that is asked to stop while the network hangs.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(_WORKERS, len(waiting)))]
    for thread in threads:
        thread.start()
    try:
        while not failures and any(thread.is_alive() for thread in threads):
            progress.tick()
            for thread in threads:
                thread.join(0.2 / len(threads))
        if failures:
            raise failures[0]
    except BaseException:
        progress.stop()
        raise


def _check_space(missing: Sequence[Wanted], writer: str) -> None:
    """Tell at once what would be found out after hours. Volumes with quotas may have less than they say."""
    for directory in {one.final.parent for one in missing}:
        directory.mkdir(parents=True, exist_ok=True)
    if not missing:
        return
    there = sum(part.stat().st_size for one in missing if (part := _part(one.final, writer)).exists())
    needed, free = sum(one.size for one in missing) - there, shutil.disk_usage(missing[0].final.parent).free
    if needed > free:
        message = f"{missing[0].what}: {needed} bytes are to be downloaded, and {free} are free"
        _log.error("%s", message)
        raise StorageFullError(message)


def discard(final: Path, writer: str) -> None:
    """Give back the space of what this writer has of a file that nobody wants any more."""
    _part(final, writer).unlink(missing_ok=True)


def _part(final: Path, writer: str) -> Path:
    return final.with_name(f"{final.name}.{writer}{_PART}")


def _fetch(one: Wanted, writer: str, patience: Patience, progress: Progress) -> None:
    with _alone(one, progress):
        if one.is_there():
            progress.add(one.size)
            return
        part = _part(one.final, writer)
        if _receive(one, part, patience, progress) or _receive(one, part, patience, progress):
            if one.confirm is not None:
                # To write it all to the disk may have taken long.
                patience.reset()
                patience.call(one.confirm)
            part.chmod(0o644)
            part.replace(one.final)
            commit.flush(one.final.parent)
            _remove_abandoned(one.final)
            return
    raise TrainerError(f"{one.what}: twice, what came has not the digest {one.digest} that it should have")


def _receive(one: Wanted, part: Path, patience: Patience, progress: Progress) -> bool:
    """Write the rest of the file; False, with nothing left of it, if it is not what it should be."""
    with part.open("ab+") as file:
        if file.tell() > one.size:
            file.truncate(0)
        digest, received = one.hasher(), 0
        file.seek(0)
        while before := file.read(_READ_AT_ONCE):
            digest.update(before)
            received += len(before)
            progress.add(len(before))
        for block in _rest(one, received, patience):
            file.write(block)
            digest.update(block)
            received += len(block)
            progress.add(len(block))
        file.flush()
        os.fsync(file.fileno())
    if one.digest in (None, digest.hexdigest()):
        return True
    _log.warning("%s: its content is damaged; once more from the beginning", one.what)
    part.unlink()
    progress.add(-received)
    return False


def _rest(one: Wanted, start: int, patience: Patience) -> Iterator[bytes]:
    """What a file has from this byte on, however often it is cut."""
    # Waiting for others, and reading what is there, may have taken long.
    patience.reset()
    while start < one.size:
        try:
            for block in one.read(start):
                start += len(block)
                if start > one.size:
                    raise TrainerError(f"{one.what}: more came than the {one.size} bytes that it has")
                patience.reset()
                yield block
            if start < one.size:
                raise _CutError(f"it ended after {start} of {one.size} bytes")
        except Exception as error:  # noqa: BLE001 - raised again unless it may pass
            patience.wait(error)


@contextmanager
def _alone(one: Wanted, progress: Progress) -> Iterator[None]:
    """Hold the lock, or wait until whoever holds it is done; after a while go on without, which does no harm."""
    one.lock.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + PATIENCE
    with one.lock.open("ab") as lock:
        while not one.is_there() and time.monotonic() < until:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                progress.pause(1.0)
            except OSError as error:
                _log.info("%s: locks do not work there: %s", one.lock, error)
                break
        yield


def _remove_abandoned(final: Path) -> None:
    for part in final.parent.glob(f"{glob.escape(final.name)}.*{_PART}"):
        with suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime > _ABANDONED:
                part.unlink()
