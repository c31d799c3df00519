"""A real Prometheus server that scrapes an operator, and promtool."""

import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.kube import eventually
from clusters.binaries import ensure
from clusters.ports import free_ports

ALERTS = Path(__file__).resolve().parents[2] / "charts" / "finetune-operator" / "files" / "alerts.yaml"
Sample = dict[str, Any]


class Prometheus:
    """Its HTTP API."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1/"

    def ask(self, what: str, **query: str) -> Any:
        """The data of an answer; one that is no success raises."""
        url = f"{self._url}{what}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            body = json.loads(answer.read())
        assert body["status"] == "success", body
        return body["data"]

    def query(self, expression: str) -> list[Sample]:
        """What an expression yields now."""
        try:
            found: list[Sample] = self.ask("query", query=expression)["result"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode()}") from error
        return found


@contextmanager
def prometheus(directory: Path, target: str) -> Iterator[Prometheus]:
    """A server that scrapes `target` every second and evaluates the chart's alerts."""
    [port] = free_ports(1)
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [
            {
                "job_name": "finetune-operator",
                "honor_labels": True,
                "static_configs": [{"targets": [target]}],
            }
        ],
    }
    # JSON is YAML.
    (directory / "prometheus.yml").write_text(json.dumps(configuration))
    command = [
        str(ensure(["prometheus"])["prometheus"]),
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    server = Prometheus(port)
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            eventually(lambda: _scrapes(server, process, directory / "prometheus.log"), seconds=60)
            yield server
        finally:
            process.terminate()
            process.wait(timeout=30)


def _scrapes(server: Prometheus, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    try:
        return bool(server.query("finetune_build_info"))
    except urllib.error.URLError:
        return False


def promtool(*arguments: str, stdin: str | None = None) -> str:
    """What promtool says; a failure fails the test."""
    command = [str(ensure(["promtool"])["promtool"]), *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done.stdout + done.stderr
