"""Reports on their way to the operator: a thread of its own, so that nothing there ever holds up training."""

import http.client
import logging
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ValidationError

from finetune_api import names
from finetune_api.report import MAX_REPORT_BYTES, SHORTEST_REPORT_INTERVAL_SECONDS, ReportReply
from finetune_api.runconfig import RunConfig

_log = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 10
# Between Reports while the operator has not said, or does not answer.
_DEFAULT_INTERVAL = 10.0
# Nor does it keep anybody waiting for longer.
_LONGEST_RETRY_AFTER = 300.0
# What says that the operator will take the same Report later.
_COME_AGAIN = (http.client.TOO_MANY_REQUESTS, http.client.SERVICE_UNAVAILABLE)


@dataclass(frozen=True)
class _Outcome:
    """What became of a Report that was sent."""

    interval: float = _DEFAULT_INTERVAL
    """Seconds after which the next one is wanted."""
    again: bool = False
    """It has not arrived, and would be taken later."""
    retry_after: float = 0.0
    """Seconds for which the operator wants to hear nothing at all."""


class Poster:
    """Sends the newest Report whenever the operator wants one. Older ones that were not sent are dropped."""

    def __init__(self, url: str, *, ca: Path, token: Path) -> None:
        self._url = urlsplit(url)
        self._ca = ca
        self._token = token
        self._changed = threading.Condition()
        self._newest: str | None = None
        self._urgent = False
        self._closing_time: float | None = None
        self._complaints: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="reports", daemon=True)
        self._thread.start()

    @classmethod
    def of(cls, config: RunConfig, file: Path) -> "Poster | None":
        """The way to the operator from a pod whose RunConfig is `file`; None where nobody listens."""
        if not config.report_url:
            return None
        token = Path(names.TOKEN_DIR) / names.TOKEN_FILE
        return cls(config.report_url, ca=file.parent / names.REPORT_CA_FILE, token=token)

    def offer(self, report: str, *, urgent: bool) -> None:
        """Hand over a Report as JSON. An urgent one does not wait for the interval to pass."""
        with self._changed:
            self._newest = report
            self._urgent = self._urgent or urgent
            self._changed.notify()

    def close(self, within: float = _TIMEOUT_SECONDS) -> None:
        """Send what is left, if that is done within so many seconds."""
        with self._changed:
            self._closing_time = time.monotonic() + within
            self._changed.notify()
        self._thread.join(timeout=within)

    def _run(self) -> None:
        interval, last, not_before = _DEFAULT_INTERVAL, -_DEFAULT_INTERVAL, 0.0
        while (report := self._next(interval, last, not_before)) is not None:
            last = time.monotonic()
            outcome = self._post(report)
            interval, not_before = outcome.interval, time.monotonic() + outcome.retry_after
            if outcome.again:
                self._put_back(report, urgent=outcome.retry_after > 0)

    def _next(self, interval: float, last: float, not_before: float) -> str | None:
        """Wait for the next Report to send; None when there is none left that can be sent, and none will come."""
        with self._changed:
            while True:
                closing = self._closing_time
                if self._newest is not None:
                    pause = SHORTEST_REPORT_INTERVAL_SECONDS if self._urgent else interval
                    due = max(not_before, last + pause if closing is None else 0.0)
                    wait = due - time.monotonic()
                    if wait <= 0:
                        report, self._newest, self._urgent = self._newest, None, False
                        return report
                    if closing is not None and due > closing:
                        return None
                elif closing is not None:
                    return None
                else:
                    wait = None
                self._changed.wait(wait)

    def _put_back(self, report: str, *, urgent: bool) -> None:
        """Have a Report sent again, unless there is a newer one by now: that has it all."""
        with self._changed:
            # In the end nobody waits for an operator that does not answer.
            if self._closing_time is None or urgent:
                self._newest = self._newest or report
                self._urgent = self._urgent or urgent

    def _post(self, report: str) -> _Outcome:
        """Send one Report."""
        body = report.encode()
        if len(body) > MAX_REPORT_BYTES:
            self._complain(f"a Report of {len(body)} bytes is longer than the endpoint takes")
            return _Outcome()
        try:
            # Both are read every time: the token is replaced before it expires.
            context = ssl.create_default_context(cafile=str(self._ca))
            token = self._token.read_text().strip()
            connection = http.client.HTTPSConnection(
                self._url.hostname or "", self._url.port, timeout=_TIMEOUT_SECONDS, context=context
            )
            try:
                headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
                connection.request("POST", self._url.path, body, headers)
                response = connection.getresponse()
                answer = response.read(MAX_REPORT_BYTES)
            finally:
                connection.close()
            if response.status != http.client.OK:
                self._complain(f"{response.status} {response.reason}")
                if response.status in _COME_AGAIN:
                    return _Outcome(again=True, retry_after=_retry_after(response))
                return _Outcome()
            return _Outcome(ReportReply.model_validate_json(answer).next_report_seconds)
        except (OSError, http.client.HTTPException) as error:
            self._complain(f"{type(error).__name__}: {error}")
            return _Outcome(again=True)
        except ValidationError as error:
            self._complain(f"an answer that is no ReportReply: {error.errors()[0]['msg']}")
            return _Outcome()

    def _complain(self, what: str) -> None:
        """Log each kind of trouble once; training goes on without being watched."""
        if what not in self._complaints:
            self._complaints.add(what)
            _log.warning("the operator does not take Reports: %s", what)


def _retry_after(response: http.client.HTTPResponse) -> float:
    """How long the operator wants to be left alone."""
    told = response.headers.get("Retry-After", "")
    return min(float(told), _LONGEST_RETRY_AFTER) if told.isdecimal() else _DEFAULT_INTERVAL
