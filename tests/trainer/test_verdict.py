"""From exceptions to exit codes."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from traceback import StackSummary

import pytest
import torch
from torch.distributed import DistBackendError, DistNetworkError, DistStoreError
from torch.distributed.checkpoint.api import CheckpointException

from finetune_api.failure import ExitCode
from finetune_trainer.ends.errors import InvalidDataError, StorageFullError, TerminatedError
from finetune_trainer.ends.verdict import explain, said
from trainer.gangs import PATIENCE, config, free_port


def system(number: int, file: str = "/volumes/storage/run/x") -> OSError:
    return OSError(number, os.strerror(number), file)


# As torch, NCCL and gloo word them.
NCCL = (
    "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:77, unhandled cuda error, NCCL version 2.27.3\n"
    "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure {}"
)
NCCL_SHM = (
    "NCCL error in: ProcessGroupNCCL.cpp:5, unhandled system error\nLast error:\n"
    "Error while creating shared memory segment /dev/shm/nccl-x (size 9637888), error: No space left on device (28)"
)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InvalidDataError("line 3"), ExitCode.INVALID_DATA, "line 3"),
        (TerminatedError("asked to stop"), ExitCode.TERMINATED, "asked to stop"),
        (system(errno.ENOSPC), ExitCode.STORAGE_FULL, "the storage volume is full (No space left on device)"),
        (system(errno.EDQUOT), ExitCode.STORAGE_FULL, "the storage volume is full (Disk quota exceeded)"),
        # As safetensors, written in Rust, says it.
        (RuntimeError("I/O error: No space left on device (os error 28)"), ExitCode.STORAGE_FULL, "is full"),
        (system(errno.EACCES), ExitCode.ACCESS_DENIED, "/volumes/storage/run/x"),
        (system(errno.EIO), ExitCode.ERROR, "Input/output error"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), ExitCode.OUT_OF_MEMORY, "CUDA out of memory"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
            ),
            ExitCode.OUT_OF_MEMORY,
            "can't allocate memory",
        ),
        (torch.AcceleratorError("CUDA error: out of memory"), ExitCode.OUT_OF_MEMORY, "memory ran out"),
        (DistBackendError(NCCL.format("2 'out of memory'")), ExitCode.OUT_OF_MEMORY, "memory ran out"),
        (
            torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered\nCompile with"),
            ExitCode.GPU_ERROR,
            "the GPU failed: AcceleratorError: CUDA error: uncorrectable ECC",
        ),
        (torch.AcceleratorError("CUDA error: unknown error"), ExitCode.GPU_ERROR, "the GPU failed"),
        (RuntimeError("No CUDA GPUs are available"), ExitCode.GPU_ERROR, "the GPU failed"),
        (RuntimeError("NVML: GPU has fallen off the bus (Xid 79)"), ExitCode.GPU_ERROR, "fallen off"),
        (
            DistBackendError(NCCL.format("214 'uncorrectable ECC error encountered'")),
            ExitCode.GPU_ERROR,
            "the GPU failed",
        ),
        (
            torch.AcceleratorError("CUDA error: device-side assert triggered"),
            ExitCode.ERROR,
            "the program failed on the GPU: AcceleratorError: CUDA error: device-side assert triggered",
        ),
        (
            DistBackendError(NCCL.format("700 'an illegal memory access was encountered'")),
            ExitCode.ERROR,
            "the program failed on the GPU",
        ),
        (
            DistBackendError(NCCL_SHM),
            ExitCode.INVALID_CONFIGURATION,
            "spec.resources.sharedMemory is too small",
        ),
        # Words that only mean something in an error of native code.
        (ValueError("the column ECC timed out: gloo"), ExitCode.ERROR, "ValueError: the column ECC"),
        (DistNetworkError("failed to recv, got 0 bytes"), ExitCode.COLLECTIVE_TIMEOUT, "lost one another"),
        (
            RuntimeError(
                "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [::1]:9"
            ),
            ExitCode.COLLECTIVE_TIMEOUT,
            "another process of the gang went away: RuntimeError: Connection closed by peer [::1]:9",
        ),
        (
            RuntimeError(
                "[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 600000ms for recv operation"
            ),
            ExitCode.COLLECTIVE_TIMEOUT,
            "did not answer in time: RuntimeError: Timed out waiting 600000ms for recv operation",
        ),
        (
            DistStoreError("wait timeout after 300000ms, keys: /gang/meeting-3"),
            ExitCode.COLLECTIVE_TIMEOUT,
            "did not answer in time: DistStoreError: wait timeout after 300000ms, keys: /gang/meeting-3",
        ),
        (
            CheckpointException("save", {3: (system(errno.ENOSPC), StackSummary())}),
            ExitCode.STORAGE_FULL,
            "the storage volume is full",
        ),
        (
            CheckpointException("save", {3: (torch.OutOfMemoryError("CUDA out of memory"), StackSummary())}),
            ExitCode.OUT_OF_MEMORY,
            "OutOfMemoryError: CUDA out of memory",
        ),
        (
            CheckpointException("save", {3: (KeyError("x"), StackSummary())}),
            ExitCode.ERROR,
            "rank 3: KeyError: 'x'",
        ),
        (ZeroDivisionError("oh\nmore"), ExitCode.ERROR, "ZeroDivisionError: oh"),
    ],
)
def test_the_cause_of_an_exception(error: BaseException, code: ExitCode, said: str) -> None:
    found, message = explain(error)
    assert (found, said in message) == (code, True), message
    assert "\n" not in message


def test_the_cause_may_stand_behind_another_exception() -> None:
    wrapped = ValueError("a checkpoint failed")
    wrapped.__cause__ = system(errno.ENOSPC)
    assert explain(wrapped)[0] is ExitCode.STORAGE_FULL


def test_that_peers_are_gone_explains_nothing_where_there_is_anything_else() -> None:
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    lost.__context__ = system(errno.ENOSPC)
    assert explain(lost)[0] is ExitCode.STORAGE_FULL
    lost.__context__ = KeyError("unexplained")
    assert explain(lost)[0] is ExitCode.COLLECTIVE_TIMEOUT


def test_a_full_claim_is_named_as_in_the_spec(tmp_path: Path) -> None:
    run = config(tmp_path, name="demo")
    inside = explain(system(errno.ENOSPC, str(tmp_path / "demo" / "resume" / "x")), run)
    assert inside == (
        ExitCode.STORAGE_FULL,
        f'spec.storage: "demo" on claim "runs" (here "{tmp_path}/demo") is full (No space left on device); what was '
        "complete on it is still there. Free or enlarge the claim.",
    )
    relayed = explain(StorageFullError("rank 3: the storage volume is full (Disk quota exceeded)"), run)
    assert relayed[1].startswith('spec.storage: "demo" on claim "runs"')
    assert "is full (Disk quota exceeded)" in relayed[1]
    elsewhere = explain(system(errno.ENOSPC, "/tmp/x"), run)
    assert elsewhere == (ExitCode.ERROR, "OSError: [Errno 28] No space left on device: '/tmp/x'")


def test_a_traceback_is_told_without_the_stacks_of_native_code() -> None:
    text = "it failed\nException raised from f at x.cpp:5 (most recent call first):\nframe #0: a + 0x5\nframe #1: b"
    assert said(RuntimeError(text)) == "RuntimeError: it failed"


# Both processes join; then one never comes to the collective.
_HANGING = """
import os, sys, time
from datetime import timedelta
import torch
from finetune_trainer import distributed
from finetune_trainer.ends.verdict import explain
distributed.COLLECTIVE_TIMEOUT = timedelta(seconds=15)
gang = distributed.Gang(use_gpu=False)
gang.join()
gang.meet()
if gang.rank == 1:
    time.sleep(120)
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
        said, _ = ranks[0].communicate(timeout=PATIENCE)
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    assert ranks[0].returncode == ExitCode.COLLECTIVE_TIMEOUT, said
    assert "another process of the gang did not answer in time" in said
