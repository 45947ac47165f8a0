"""Processes of runs: their output in a log, their end in one line. They end when the process that began them does."""

import ctypes
import signal
import subprocess
import sys
import threading
from pathlib import Path

PATIENCE = 10  # seconds in which an interrupted process may store what it has
TAIL = 8192  # bytes at the end of a log, where an error is
OUT_OF_MEMORY = "as a system does that is out of memory: give it more, or run fewer at a time"
PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


class Interrupted(Exception):
    """A process was ended by `Processes.stop`."""


class Processes:
    """The running processes of this process."""

    def __init__(self):
        self.lock = threading.Lock()
        self.running: set[subprocess.Popen] = set()
        self.stopped = False

    def run(self, command: list[str], log: Path, environment: dict[str, str], folder: Path | None = None) -> str:
        """Run a command to its end, with its output in `log`.

        Returns:
            Why it failed, in one line; empty if it did not.

        Raises:
            Interrupted: `stop` was called.
        """
        with open(log, "wb") as file:
            with self.lock:
                if self.stopped:
                    raise Interrupted
                process = subprocess.Popen(
                    command, env=environment, cwd=folder, stdout=file, stderr=file, preexec_fn=PRCTL and end_with_parent
                )
                self.running.add(process)
            code = process.wait()
        with self.lock:
            self.running.discard(process)
            if self.stopped:
                raise Interrupted
        return reason(code, log)

    def stop(self) -> None:
        """Interrupt all processes and wait for them; those that do not end are killed."""
        with self.lock:
            self.stopped, running = True, [*self.running]
        for process in running:
            process.send_signal(signal.SIGINT)
        for process in running:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


def end_with_parent() -> None:
    """Let the system kill this process when the one that began it ends, so that no orphan holds a run's lock."""
    PRCTL(1, signal.SIGKILL)  # type: ignore[misc]  # 1: PR_SET_PDEATHSIG


def reason(code: int, log: Path) -> str:
    """Why a process with this exit code failed, in one line; empty if it did not."""
    if code == 0:
        return ""
    lines = tail(log)
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (f", {OUT_OF_MEMORY}" if name == "SIGKILL" else "")
    if any("DeadKernelError" in line for line in lines):
        return f"its kernel was killed, {OUT_OF_MEMORY}"
    return lines[-1] if lines else f"exit code {code}, no output"


def tail(log: Path) -> list[str]:
    """The last lines of a log that are not empty."""
    with open(log, "rb") as file:
        file.seek(max(0, file.seek(0, 2) - TAIL))
        text = file.read().decode("utf-8", "replace")
    return [line.strip() for line in text.splitlines() if line.strip()]
