"""Reports on their way to the operator: a thread of its own, so that nothing there ever holds up training."""

import http.client
import logging
import ssl
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ValidationError

from finetune_api import names
from finetune_api.report import MAX_REPORT_BYTES, ReportReply
from finetune_api.runconfig import RunConfig

_log = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 10
# Between Reports while the operator has not said, or does not answer.
_DEFAULT_INTERVAL = 10.0
# Even what is urgent does not come more often.
_SHORTEST_INTERVAL = 0.5


class Poster:
    """Sends the newest Report whenever the operator wants one. Older ones that were not sent are dropped."""

    def __init__(self, url: str, *, ca: Path, token: Path) -> None:
        self._url = urlsplit(url)
        self._ca = ca
        self._token = token
        self._changed = threading.Condition()
        self._newest: str | None = None
        self._urgent = False
        self._closing = False
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
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout=within)

    def _run(self) -> None:
        interval, last = _DEFAULT_INTERVAL, -_DEFAULT_INTERVAL
        while (report := self._next(interval, last)) is not None:
            last = time.monotonic()
            interval = self._post(report)

    def _next(self, interval: float, last: float) -> str | None:
        """Wait for the next Report to send; None when there is none left and none will come."""
        with self._changed:
            while True:
                if self._newest is not None:
                    pause = _SHORTEST_INTERVAL if self._urgent else interval
                    wait = 0.0 if self._closing else last + pause - time.monotonic()
                    if wait <= 0:
                        report, self._newest, self._urgent = self._newest, None, False
                        return report
                elif self._closing:
                    return None
                else:
                    wait = None
                self._changed.wait(wait)

    def _post(self, report: str) -> float:
        """Send one Report; returns the seconds after which the next one is wanted."""
        body = report.encode()
        if len(body) > MAX_REPORT_BYTES:
            return self._complain(f"a Report of {len(body)} bytes is longer than the endpoint takes")
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
                return self._complain(f"{response.status} {response.reason}")
            return ReportReply.model_validate_json(answer).next_report_seconds
        except (OSError, http.client.HTTPException) as error:
            return self._complain(f"{type(error).__name__}: {error}")
        except ValidationError as error:
            return self._complain(f"an answer that is no ReportReply: {error.errors()[0]['msg']}")

    def _complain(self, what: str) -> float:
        """Log each kind of trouble once; training goes on without being watched."""
        if what not in self._complaints:
            self._complaints.add(what)
            _log.warning("the operator does not take Reports: %s", what)
        return _DEFAULT_INTERVAL
