"""Where the processes of a local run meet."""

import socket
from pathlib import Path

from finetune_operator.cli.local.gang import Gang


def test_processes_meet_on_a_port_that_no_connection_is_given(tmp_path: Path) -> None:
    """Seconds lie between its choice and the first process that listens; meanwhile others connect to somewhere."""
    container = {"env": [{"name": "PET_NNODES", "value": "1"}]}
    job = {"metadata": {"name": "demo-1"}, "spec": {"template": {"spec": {"containers": [container]}}}}
    [node] = Gang(job, ["env"], tmp_path, [[]], inherited=0).nodes
    assert node.process.wait(30) == 0
    lines = dict(line.partition("=")[::2] for line in node.console.read_text().splitlines())
    port = int(lines["PET_MASTER_PORT"])
    with socket.create_server(("127.0.0.1", port)):
        pass
    first_of_connections = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert 1024 <= port < first_of_connections
