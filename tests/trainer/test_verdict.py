"""From exceptions to exit codes."""

import errno
import os
import subprocess
import sys

import pytest
import torch
from torch.distributed import DistNetworkError

from finetune_api.failure import ExitCode
from finetune_trainer.errors import InvalidDataError, TerminatedError
from finetune_trainer.verdict import explain
from trainer.gangs import free_port


def system(number: int) -> OSError:
    return OSError(number, os.strerror(number), "/volumes/storage/run/x")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InvalidDataError("line 3"), ExitCode.INVALID_DATA, "line 3"),
        (TerminatedError("asked to stop"), ExitCode.TERMINATED, "asked to stop"),
        (system(errno.ENOSPC), ExitCode.STORAGE_FULL, "the storage volume is full"),
        (system(errno.EDQUOT), ExitCode.STORAGE_FULL, "the storage volume is full"),
        # As safetensors, written in Rust, says it.
        (RuntimeError("I/O error: No space left on device (os error 28)"), ExitCode.STORAGE_FULL, "is full"),
        (system(errno.EACCES), ExitCode.ACCESS_DENIED, "/volumes/storage/run/x"),
        (system(errno.EIO), ExitCode.ERROR, "Input/output error"),
        (torch.OutOfMemoryError("CUDA out of memory"), ExitCode.OUT_OF_MEMORY, "CUDA out of memory"),
        (torch.AcceleratorError("uncorrectable ECC error"), ExitCode.GPU_ERROR, "ECC"),
        (DistNetworkError("failed to recv"), ExitCode.COLLECTIVE_TIMEOUT, "another process of the gang"),
        (
            RuntimeError(
                "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer"
            ),
            ExitCode.COLLECTIVE_TIMEOUT,
            "another process of the gang",
        ),
        (ZeroDivisionError("oh\nmore"), ExitCode.ERROR, "ZeroDivisionError: oh"),
    ],
)
def test_the_cause_of_an_exception(error: BaseException, code: ExitCode, said: str) -> None:
    found, message = explain(error)
    assert found is code
    assert said in message
    assert "\n" not in message


def test_the_cause_may_stand_behind_another_exception() -> None:
    wrapped = ValueError("a checkpoint failed")
    wrapped.__cause__ = system(errno.ENOSPC)
    assert explain(wrapped)[0] is ExitCode.STORAGE_FULL


# Both processes join; then one never comes to the collective.
_HANGING = """
import os, sys, time
from datetime import timedelta
import torch
from finetune_trainer import distributed
from finetune_trainer.verdict import explain
distributed.COLLECTIVE_TIMEOUT = timedelta(seconds=2)
gang = distributed.Gang(use_gpu=False)
gang.meet()
if gang.rank == 1:
    time.sleep(60)
try:
    gang.gather(torch.zeros(1))
except RuntimeError as error:
    code, message = explain(error)
    print(message, flush=True)
    os._exit(code)
"""


def test_a_peer_that_hangs_ends_the_wait() -> None:
    common = os.environ | {
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", _HANGING],
            env=common | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        said, _ = ranks[0].communicate(timeout=120)
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    assert ranks[0].returncode == ExitCode.COLLECTIVE_TIMEOUT, said
    assert "another process of the gang" in said
