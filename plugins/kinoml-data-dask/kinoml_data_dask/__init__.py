"""The plugin `kinoml-data-dask`: an executor whose tasks run on the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from pathlib import Path
from typing import Any

from kinoml_data.errors import SpecError, quoted
from kinoml_data.plugin import hookimpl

__all__ = ["DaskExecutor", "register_executors"]


class DaskExecutor(Executor):
    """Runs tasks on the workers of a Dask cluster, in any order.

    A task whose worker is lost is run again on another worker, so a task may run more than once. If more workers are
    lost during a task than Dask's setting `distributed.scheduler.allowed-failures` allows (3 by default), the task
    fails with Dask's `KilledWorker`. All workers need the same packages, in the same versions, as the process that
    submits tasks.

    Args:
        address: the scheduler: an address such as `tcp://10.0.0.5:8786`, or the path of the `.json` file that
            `dask scheduler --scheduler-file` writes. None takes the address from Dask's configuration, such as the
            environment variable `DASK_SCHEDULER_ADDRESS`.

    Raises:
        SpecError: there is no address, or no scheduler answers there.
    """

    name = "dask"

    def __init__(self, address: str | None = None) -> None:
        import dask.config
        from distributed import Client

        address = address or dask.config.get("scheduler-address", None)
        if not address:  # Dask would start a cluster on this machine, which the option `workers` does as well
            raise SpecError("the executor 'dask' needs the address of a scheduler: --address tcp://HOST:8786")
        where = {"address": address}
        if address.endswith(".json"):
            if not Path(address).is_file():  # Dask would wait for it
                raise SpecError(f"there is no scheduler file {quoted(address)}")
            where = {"scheduler_file": address}
        try:
            connect: Any = Client  # Dask does not declare its types
            self._client = connect(**where, set_as_default=False)
        except (OSError, ValueError) as error:
            raise SpecError(f"no Dask scheduler answers at {quoted(address)}: {error}") from error
        self._executor = self._client.get_executor(pure=False)  # equal tasks are different tasks

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = self._executor.submit(partial(fn, *args, **kwargs))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Disconnect from the scheduler, which goes on running."""
        self._executor.shutdown(wait=wait and not cancel_futures)
        self._client.close()


@hookimpl
def register_executors() -> tuple[type[Executor], ...]:
    """The executors of this plugin."""
    return (DaskExecutor,)
