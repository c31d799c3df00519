"""Signals to training processes at a point of their course: they come from inside, so they hit it every time.

Nothing of the product is prepared for that. What a process does to files is told by Python's audit events, which come
just before it is done; steps and micro-batches are told by torch's hooks.
"""

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

_INCOMPLETE = ".incomplete"
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_FILE_EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree")


class Moment(StrEnum):
    """A point in the course of a training process."""

    MICRO_BATCH = "before a micro-batch"
    GRADIENTS = "before an optimizer step"
    STEP = "after an optimizer step"
    BEGUN = "once a save is begun"
    CHANGE = "at any change to a file"
    # Of directories that are made whole, of the kinds in `DIRECTORIES`:
    START = "before the temporary directory"
    FILE = "before a file"
    MANIFEST = "before the manifest"
    RENAME = "before the rename"
    VISIBLE = "after the rename"
    REMOVE = "before a removal"
    REMOVING = "in the middle of a removal"


STATE, WEIGHTS, OUTPUT = DIRECTORIES = ("resume", "checkpoints", "output")
OF_DIRECTORIES = (
    Moment.START,
    Moment.FILE,
    Moment.MANIFEST,
    Moment.RENAME,
    Moment.VISIBLE,
    Moment.REMOVE,
    Moment.REMOVING,
)


@dataclass(frozen=True)
class Fault:
    """A signal that a process sends itself; called in each process of a gang before it begins."""

    root: Path
    """The directory in which changes to files count: the run's own, most of the time."""
    moment: Moment
    directory: str = ""
    """For the moments of directories: the kind that is meant, or a part of its name."""
    nth: int = 1
    """How many times the moment comes before."""
    rank: int = 0
    """Whom it hits."""
    number: signal.Signals = signal.SIGKILL

    def __str__(self) -> str:
        return f"{self.number.name} to {self.rank} {self.moment} {self.directory} ({self.nth})"

    def __call__(self, rank: int) -> None:
        """Lie in wait."""
        if rank != self.rank:
            return
        passed = itertools.count(1)

        def pass_by(event: str = "", given: tuple[Any, ...] = ()) -> None:
            if next(passed) != self.nth:
                return
            if event == "open" and self.number == signal.SIGKILL:
                # As far as it can come without anything being written.
                os.close(os.open(given[0], given[2], 0o644))
            os.kill(os.getpid(), self.number)

        if self.moment in (Moment.MICRO_BATCH, Moment.GRADIENTS, Moment.STEP, Moment.BEGUN):
            _watch_training(self.moment, pass_by)
        else:
            sys.addaudithook(_Files(self, pass_by))


def slowly(rank: int) -> None:
    """Have steps take long enough for what happens outside to happen in their midst; called as a Fault is."""
    from torch.nn.modules.module import register_module_forward_pre_hook

    from finetune_trainer.model import TrainableModel

    def on_forward(module: Any, _: Any) -> None:
        if isinstance(module, TrainableModel):
            time.sleep(0.02)

    register_module_forward_pre_hook(on_forward)


def _watch_training(moment: Moment, pass_by: Callable[[], None]) -> None:
    from torch.nn.modules.module import register_module_forward_pre_hook
    from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

    from finetune_trainer.checkpoints.checkpoint import Checkpoints
    from finetune_trainer.model import TrainableModel

    def on_forward(module: Any, _: Any) -> None:
        if isinstance(module, TrainableModel):
            pass_by()

    def on_step(*_: Any) -> None:
        pass_by()

    begin = Checkpoints.begin

    def begin_and_pass(*given: Any, **named: Any) -> None:
        begin(*given, **named)
        pass_by()

    match moment:
        case Moment.MICRO_BATCH:
            register_module_forward_pre_hook(on_forward)
        case Moment.GRADIENTS:
            register_optimizer_step_pre_hook(on_step)
        case Moment.STEP:
            register_optimizer_step_post_hook(on_step)
        case Moment.BEGUN:
            Checkpoints.begin = begin_and_pass  # type: ignore[method-assign]


class _Files:
    """Finds the moments in what a process does to files below the run's directory."""

    def __init__(self, fault: Fault, pass_by: Callable[[str, tuple[Any, ...]], None]) -> None:
        self._fault, self._pass_by = fault, pass_by
        # What a thread is in the middle of: after a rename, in a removal.
        self._thread = threading.local()

    def __call__(self, event: str, given: tuple[Any, ...]) -> None:
        if event not in _FILE_EVENTS:
            return
        moments = {moment for moment, path in self._seen(event, given) if self._meant(moment, path)}
        if self._fault.moment in moments:
            self._pass_by(event, given)

    def _meant(self, moment: Moment, path: Path) -> bool:
        return moment is Moment.CHANGE or self._fault.directory in str(path.relative_to(self._fault.root))

    def _seen(self, event: str, given: tuple[Any, ...]) -> list[tuple[Moment, Path]]:
        renamed: Path | None = vars(self._thread).pop("renamed", None)
        removed: Path | None = vars(self._thread).get("removed")
        found = [(Moment.VISIBLE, renamed)] if renamed else []
        path = self._path(given[0])
        if path is None:
            # Removals of trees name their files as seen from the directory that they are in.
            if removed and event in ("os.remove", "os.rmdir"):
                found += [(Moment.REMOVING, removed), (Moment.CHANGE, removed)]
            return found
        whole = _INCOMPLETE not in str(path)
        match event:
            case "open" if not given[2] & _WRITING:
                return found
            case "open" if path.name == "manifest.json":
                found.append((Moment.MANIFEST, path))
            case "open" if not whole:
                found.append((Moment.FILE, path))
            case "os.mkdir" if not whole:
                found.append((Moment.START, path))
            case "os.rename" if path.is_dir() and whole:
                found.append((Moment.REMOVE, path))
            case "os.rename" if path.is_dir():
                found.append((Moment.RENAME, path))
                vars(self._thread)["renamed"] = path
            case "shutil.rmtree" if path.exists():
                vars(self._thread)["removed"] = path
            case "os.rmdir":
                vars(self._thread).pop("removed", None)
        return [*found, (Moment.CHANGE, path)]

    def _path(self, given: Any) -> Path | None:
        if not isinstance(given, str | os.PathLike):
            return None
        path = Path(given)
        return path if path.is_relative_to(self._fault.root) else None
