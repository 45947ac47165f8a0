"""An engine of a Ray cluster, whose machines share the folder of results or copy them to an address."""

import logging
import socket
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..errors import UserError, UserNotice, first_line
from .addresses import AtAddress
from .engines import Engine, Outcome, Outcomes, run_job
from .needs import Needs
from .processes import OUT_OF_MEMORY, Processes

RETRIES = 5  # of a run whose worker is lost
AHEAD = 512  # runs that are given to Ray at a time
TIMEOUT = 5  # seconds for the head to answer
GIB = 2**30


def ray_engine(workers: int | None = None, address: str | None = None) -> Engine:
    """An engine of a Ray cluster. A run that loses its worker goes on at another.

    Args:
        workers: runs at a time at most; None: as many as the cluster has room for.
        address: of the cluster: auto, HOST:PORT or ray://HOST:PORT; None starts one on this machine.

    Raises:
        UserError: Ray is not installed, or the cluster cannot be reached.
    """
    ray = connect(address)

    def run_all(jobs: Sequence[Any], out: Path) -> Outcomes:
        warn_of_missing(ray, [job.needs for job in jobs])
        task, here = ray.remote(run_on_worker), version("stamina-lite")
        waiting = list(reversed(jobs))
        running: dict[Any, Any] = {}
        try:
            while waiting or running:
                while waiting and len(running) < (workers or AHEAD):
                    job = waiting.pop()
                    running[task.options(**options(job.needs)).remote(job, out, here)] = job
                (ready,), _ = ray.wait([*running], num_returns=1)
                yield running.pop(ready), outcome(ray, ready)
        finally:
            for ref in running:
                ray.cancel(ref, force=True)
            ray.shutdown()

    return run_all


def connect(address: str | None):
    """The module ray, connected to the cluster."""
    try:
        import ray
    except ModuleNotFoundError:
        raise UserError('Ray is not installed: pip install "stamina-lite[cluster]", or use --engine local') from None
    advice = f"no Ray cluster answers at {address}: start its head (ray start --head), or give another --address"
    if address and ":" in address:
        host, _, port = address.removeprefix("ray://").rpartition(":")
        try:
            socket.create_connection((host, int(port)), TIMEOUT).close()
        except (OSError, ValueError):
            raise UserError(advice) from None
    try:
        ray.init(address, ignore_reinit_error=True, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError):  # nobody there, or no address
        raise UserError(advice) from None
    except RuntimeError as error:  # other versions of Ray or Python there
        raise UserError(f"the Ray cluster at {address} cannot be used: {' '.join(str(error).split())}") from None
    except Exception as error:
        if type(error) is not Exception:  # the class that Ray raises itself
            raise
        why = "Ray did not start here in time: stop what keeps this machine busy, or give --engine local"
        raise UserError(f"{why} ({first_line(error)})") from None
    return ray


def options(needs: Needs) -> dict:
    """What a task asks of its node, and how often it is begun again if it loses it."""
    asked = {"num_cpus": needs.cpu, "num_gpus": needs.gpu, "memory": int(needs.memory * GIB)}
    return asked | {"max_retries": RETRIES}


def warn_of_missing(ray, needs: list[Needs]) -> None:
    """Warn in one line of runs that no present node has room for: they wait until one joins the cluster."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for need in dict.fromkeys(needs):
        asked = {"CPU": need.cpu, "GPU": need.gpu, "memory": need.memory * GIB}
        if not any(all(node.get(key, 0) >= amount for key, amount in asked.items()) for node in nodes):
            message = f"no node of the cluster has {need.cpu} CPU, {need.gpu} GPU and {need.memory} GiB: its runs wait"
            warnings.warn(message, UserNotice, stacklevel=2)


def outcome(ray, ref) -> Outcome:
    """The outcome of a task that has ended. Raises UserError if its node cannot do any."""
    try:
        return ray.get(ref)
    except ray.exceptions.OutOfMemoryError:
        return Outcome(f"killed by Ray {RETRIES + 1} times, {OUT_OF_MEMORY}", 0)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError):
        return Outcome(f"its worker was lost {RETRIES + 1} times", 0)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from None
        raise


def run_on_worker(job: Any, out: Path, expected: str) -> Outcome:
    """Run a job on a node of the cluster, with as many threads as it has CPUs.

    Raises:
        UserError: the node has another version of this package, or does not see the folder of results.
    """
    node, here = socket.gethostname(), version("stamina-lite")
    if here != expected:
        raise UserError(f"node {node} has stamina-lite {here}, the head has {expected}: install the same on both")
    if not isinstance(job, AtAddress) and not (out / ".lock").exists():
        raise UserError(f"node {node} does not see {out}: give --out a folder that all nodes share, or an address")
    return run_job(job, out, max(1, int(job.needs.cpu)), Processes())
