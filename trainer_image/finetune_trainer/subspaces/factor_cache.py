"""Factors of matrices on the storage volume, found again by what the matrices contain.

A decomposition takes much longer than it takes to read its result, and it is the same for every rank ratio, every job
and every restart that begins with the same weights. So a model's name, its file or its data type do not matter here.
"""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from finetune_trainer import commit
from finetune_trainer.ends import symptoms
from finetune_trainer.subspaces.subspace import Factors

_log = logging.getLogger(__name__)

_FILE = "factors.safetensors"


class FactorCache:
    """A directory with a subdirectory for each matrix, named by the digest of its content; shared by all jobs."""

    def __init__(self, directory: Path, writer: str, tick: Callable[[], None]) -> None:
        """`writer` names this process among all who write there. `tick` is called all along."""
        self.directory = directory
        self._writer, self._tick = writer, tick
        self._full = False
        # A process that was killed while it wrote comes back under the same name.
        commit.remove_incomplete(directory, writer)

    def find(self, digest: str, device: torch.device) -> Factors | None:
        """The factors that were kept, verified to the last byte; None if there are none. Damaged ones are removed."""
        place = self.directory / digest
        there = place.exists()
        manifest = commit.read(place, uid=None)
        if manifest and commit.intact(place, manifest.files, self._tick):
            try:
                return self._load(place / _FILE, device)
            except FileNotFoundError:
                # Somebody is clearing away; what was verified is no longer there to be read.
                return None
        if there:
            _log.warning("%s is damaged: the matrix is decomposed anew", place)
            commit.remove_shared(place, manifest, writer=self._writer)
        return None

    def keep(self, digest: str, factors: Factors) -> Factors:
        """Keep factors; returns those that are kept, which are another's if he was faster with the same matrix.

        For a restart finds them, and what it goes on with must be what it began with, to the bit. On a volume that is
        full nothing is kept, which is told once: all that is lost is time.
        """
        if self._full:
            return factors
        place = self.directory / digest
        try:
            files = self._write(place, factors)
        except (OSError, SafetensorError) as error:
            words = symptoms.full(str(error))
            if not words:
                raise
            self._full = True
            _log.warning(
                "%s: the volume is full (%s): decompositions are no longer kept there, so a restart will have to "
                "make those that are missing again. Free or enlarge the claim.",
                self.directory,
                words,
            )
            return factors
        kept = commit.read(place, uid=None)
        if kept is None or kept.files == files:
            return factors
        return self.find(digest, factors.s.device) or factors

    def _write(self, place: Path, factors: Factors) -> dict[str, commit.FileRecord]:
        try:
            directory = commit.start(place, self._writer)
            save_file({"u": factors.u, "s": factors.s, "v": factors.v}, directory / _FILE)
            self._tick()
            files = commit.sealed([directory / _FILE], self._tick)
            commit.publish_shared(place, files=files, writer=self._writer)
        except BaseException:
            shutil.rmtree(commit.temporary(place, self._writer), ignore_errors=True)
            raise
        return files

    def _load(self, file: Path, device: torch.device) -> Factors:
        with safe_open(file, framework="pt") as opened:

            def tensor(name: str) -> Tensor:
                # A copy: what is opened is a part of the file, which need not outlast this, at an odd address, from
                # which products may come out with other roundings.
                copied: Tensor = opened.get_tensor(name).to(device, copy=True)
                self._tick()
                return copied

            return Factors(tensor("u"), tensor("s"), tensor("v"))
