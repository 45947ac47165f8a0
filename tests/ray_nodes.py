"""Nodes of a Ray cluster on this machine, started as a user starts them: by `ray start`."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PATIENCE = 300  # seconds for a node to start: processes of Ray start slowly where others have the cores
ATTEMPTS = 3  # of a node, of which another process may have taken a port
SETTINGS = {  # of Ray's processes, most of them time limits for machines whose cores are busy
    "RAY_AUTH_MODE": "disabled",  # with a token in the home folder the head asks for it, and other nodes do not send it
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_gcs_server_request_timeout_seconds": "300",
    "RAY_health_check_timeout_ms": "60000",
    "RAY_py_gcs_connect_timeout_s": "300",
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_worker_niceness": "0",  # Ray's own is 15, with which other processes would have all of a busy core
}
SMALL = ("--object-store-memory", str(100 * 2**20), "--disable-usage-stats", "--include-log-monitor=false")
HEAD = ("--head", "--include-dashboard=false", "--no-monitor")
# Ray waits for the files in which its agents write their ports, and for 15 seconds only (ray-project/ray#65983); not
# for those of these ports, if they are given.
PORTS = ("dashboard-agent-grpc-port", "metrics-export-port", "runtime-env-agent-port")
# The file for which it always waits; without the dashboard there is no such port, and the agent writes this number.
PORT_FILE, NO_PORT = "dashboard_agent_listen_port_{node}", "-1"


class Nodes:
    """A head and the nodes that joined it; they end with the context.

    Attributes:
        address: of the head, HOST:PORT.
    """

    def __init__(self, cpus: int = 1):
        self.home = Path(tempfile.mkdtemp(prefix="ray-"))  # short: paths of sockets have at most 107 bytes
        self.running: list[subprocess.Popen] = []
        self.address = ""
        self.add(cpus)

    def add(self, cpus: int = 1, environment: dict[str, str] | None = None) -> subprocess.Popen:
        """Start a node, the first of which is the head, and wait until it has joined.

        environment: variables of its processes.
        """
        for _ in range(ATTEMPTS):
            port, client, *agents = free_ports(2 + len(PORTS))
            place = [*HEAD, "--port", str(port), "--ray-client-server-port", str(client), "--temp-dir", str(self.home)]
            place = ["--address", self.address] if self.address else place
            given = [f"--{name}={number}" for name, number in zip(PORTS, agents, strict=True)]
            ray, name = Path(sys.executable).with_name("ray"), secrets.token_hex(28)
            log = self.home / f"{name}.log"
            with open(log, "wb") as file:
                node = subprocess.Popen(
                    [ray, "start", "--block", "--num-cpus", str(cpus), *place, *given, *SMALL],
                    env={**os.environ, **SETTINGS, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": name, **(environment or {})},
                    stdout=file, stderr=file, start_new_session=True,
                )  # fmt: skip
            self.running.append(node)
            if self.started(node, name, log):
                self.address = self.address or f"127.0.0.1:{port}"
                return node
            self.remove(node)
        raise RuntimeError(f"no node of Ray has started: {log.read_text(encoding='utf-8')}")

    def started(self, node: subprocess.Popen, name: str, log: Path) -> bool:
        """Wait until a node has started; whether it has."""
        end = time.monotonic() + PATIENCE
        while node.poll() is None and time.monotonic() < end:
            for session in self.home.glob("session_2*"):
                (session / PORT_FILE.format(node=name)).write_text(NO_PORT, encoding="utf-8")
            if b"Ray runtime started" in log.read_bytes():
                return True
            time.sleep(0.1)
        return False

    def remove(self, node: subprocess.Popen) -> None:
        """End a node with all of its processes."""
        self.running.remove(node)
        node.send_signal(signal.SIGTERM)
        try:
            node.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(node.pid, signal.SIGKILL)
            node.wait()

    def __enter__(self) -> "Nodes":
        return self

    def __exit__(self, *error) -> None:
        """End all nodes, the head last."""
        for node in reversed([*self.running]):
            self.remove(node)
        shutil.rmtree(self.home, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Different ports that nothing listens at."""
    sockets = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
