"""Processes of runs: their output in a log, their end in one line. They end when the process that began them does."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

PATIENCE = 10  # seconds in which an interrupted process may store what it has
LOG_LIMIT = 2**28  # bytes of a log, beyond which its process is stopped: it would fill the disk
WATCH = 1.0  # seconds between two looks at a log
TAIL = 8192  # bytes at the end of a log, where an error is
OUT_OF_MEMORY = "as a system does that is out of memory: give it more, or run fewer at a time"


class Interrupted(Exception):
    """A process was ended by `Processes.stop`."""


class Processes:
    """The running processes of this process."""

    def __init__(self):
        self.lock = threading.Lock()
        self.running: set[subprocess.Popen] = set()
        self.stopped = False

    def run(
        self, module: str, arguments: list[str], log: Path, environment: dict[str, str], folder: Path | None = None
    ) -> str:
        """Run `python -m MODULE ARGUMENTS` to its end, with its output in `log`.

        Returns:
            Why it failed, in one line; empty if it did not.

        Raises:
            Interrupted: `stop` was called.
        """
        command = [sys.executable, "-m", f"{__package__}.child", str(os.getpid()), module, *arguments]
        with open(log, "wb") as file:
            with self.lock:
                if self.stopped:
                    raise Interrupted
                process = subprocess.Popen(command, env=environment, cwd=folder, stdout=file, stderr=file)
                self.running.add(process)
            over = threading.Event()
            threading.Thread(target=watch, args=(process, log, over), daemon=True).start()
            code = process.wait()
            over.set()
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


def watch(process: subprocess.Popen, log: Path, over: threading.Event) -> None:
    """Kill a process whose log is too large."""
    while not over.wait(WATCH):
        if log.stat().st_size > LOG_LIMIT:
            process.kill()


def reason(code: int, log: Path) -> str:
    """Why a process with this exit code failed, in one line; empty if it did not."""
    if code == 0:
        return ""
    if log.stat().st_size > LOG_LIMIT:
        return f"stopped, as it printed more than {LOG_LIMIT / 2**20:.0f} MiB: let it print less"
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
