"""The operator as a process that starts at once, behind a proxy that breaks things."""

import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path

from chaos.faults import Rule
from chaos.proxy import FaultProxy, Request
from cluster.kube import Kube, eventually
from cluster.operators import Operator

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["chaos.operators", "finetune_operator.main"])

# Long, for what is waited for may have to come through dozens of restarts on a busy machine.
PATIENCE = 300.0


@dataclass(frozen=True)
class Tuning:
    """In what the operator differs from one that is installed. Travels by pickle."""

    patrol_seconds: float = 2.0
    tolerance_seconds: float = 5.0
    request_timeout_seconds: float | None = None
    """How long it waits for an answer of the API server, if not for as long as it does."""
    clock_ahead_seconds: float = 0.0
    clock_jump_seconds: float = 0.0
    """By how much more it is once `set_clock` is called."""
    mutation: Callable[[], None] | None = None
    """Done in its process before it starts: to see what a rule is good for, break it. A function of a module."""


class Forked:
    """A process that was forked from one that has imported everything."""

    def __init__(self, log: Path, environment: Mapping[str, str], tuning: Tuning) -> None:
        self._process: BaseProcess = FORKS.Process(
            target=_operate, args=(str(log), dict(environment), tuning), daemon=True
        )
        self._process.start()

    def poll(self) -> int | None:
        """The exit status, or minus the signal; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int, /) -> None:
        """Unless it has ended."""
        pid = self._process.pid
        if pid is not None and self._process.exitcode is None:
            os.kill(pid, number)

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, or minus the signal, once it has ended."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, "the operator does not end"
        return self._process.exitcode


class ChaosOperator(Operator):
    """The real operator, for these namespaces only. Every start is a new process behind a new proxy."""

    def __init__(self, kube: Kube, directory: Path, *namespaces: str, tuning: Tuning = Tuning()) -> None:
        directory.mkdir(exist_ok=True)
        super().__init__(directory / "kubeconfig", directory)
        self.environment |= {"FINETUNE_NAMESPACES": ",".join(namespaces), "FINETUNE_PAGE": "false"}
        self.tuning = tuning
        self.proxies: list[FaultProxy] = []
        """That of each process that there was, oldest first; only that of the last one serves."""
        self._kube = kube
        self._rules: tuple[Rule, ...] = ()
        self._keeping: threading.Thread | None = None
        self._closing = threading.Event()

    @property
    def proxy(self) -> FaultProxy:
        """Of the process that runs."""
        return self.proxies[-1]

    @property
    def requests(self) -> list[Request]:
        """Of all processes that there were, oldest first."""
        return [request for proxy in self.proxies for request in list(proxy.requests)]

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def status(self) -> int | None:
        """The exit status of its process, or minus the signal; None while it runs."""
        return None if self._process is None else self._process.poll()

    def start(self, *rules: Rule, wait: bool = True) -> None:
        """Start it, with these faults from the first request on, and wait until it answers."""
        self._rules = rules
        if wait:
            super().start()
        else:
            self._process = self._spawn()

    def wait_for_crash(self, *, seconds: float = PATIENCE) -> None:
        """Wait until a fault has killed it."""
        eventually(lambda: not self.alive, seconds=seconds)

    def keep_up(self, plans: Iterable[Sequence[Rule]]) -> None:
        """From now on, start it again whenever it is killed, with the next of these plans, and in the end with none."""
        left = iter(plans)

        def keep() -> None:
            while not self._closing.is_set():
                if not self.alive:
                    self.start(*next(left, ()), wait=False)
                self._closing.wait(0.01)

        self._keeping = threading.Thread(target=keep, name="keeping the operator up")
        self._keeping.start()

    def stop(self) -> int:
        """SIGTERM, as Kubernetes stops a pod; returns the exit status."""
        self._closing.set()
        if self._keeping is not None:
            self._keeping.join()
            self._keeping = None
        self._closing.clear()
        status = super().stop()
        self._shut()
        return status

    def set_clock(self) -> None:
        """Have the clock of the process jump."""
        assert self._process is not None
        self._process.send_signal(signal.SIGUSR1)

    def _spawn(self) -> Forked:
        self._shut()
        proxy = FaultProxy(self._kube, self._rules, on_crash=self._kill_now)
        proxy.start()
        self.proxies.append(proxy)
        proxy.write_kubeconfig(Path(self.environment["KUBECONFIG"]))
        return Forked(self.log, self.environment, self.tuning)

    def _kill_now(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)

    def _shut(self) -> None:
        if self.proxies:
            self.proxy.close()


def _operate(log: str, environment: Mapping[str, str], tuning: Tuning) -> None:
    """What the command `finetune-operator` does."""
    from finetune_operator import api, main
    from finetune_operator.clock import utc_now

    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(handle, standard)
    os.environ.update(environment)
    if tuning.request_timeout_seconds is not None:
        vars(api)["REQUEST_TIMEOUT_SECONDS"] = tuning.request_timeout_seconds
    if tuning.mutation is not None:
        tuning.mutation()
    ahead = [timedelta(seconds=tuning.clock_ahead_seconds)]
    jump = timedelta(seconds=tuning.clock_jump_seconds)
    signal.signal(signal.SIGUSR1, lambda *_: ahead.append(jump))

    def clock() -> datetime:
        return utc_now() + sum(ahead, timedelta())

    vars(main)["run"] = functools.partial(
        main.run,
        patrol_seconds=tuning.patrol_seconds,
        tolerance_seconds=tuning.tolerance_seconds,
        now=clock,
    )
    main.main()
