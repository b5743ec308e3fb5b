"""Several processes of one run: one for each GPU of a machine, or those that a launcher starts."""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from meerkat_workbench.core.errors import UserError
from meerkat_workbench.device import devices

if TYPE_CHECKING:
    from accelerate import PartialState

T = TypeVar("T")


class Processes:
    """This process and the others of its run; implements `core.runs.Ranks`."""

    def __init__(self, state: PartialState) -> None:
        self.state = state

    @property
    def is_main(self) -> bool:
        return bool(self.state.is_main_process)

    @property
    def is_local_main(self) -> bool:
        """Whether this is the first process of its machine."""
        return bool(self.state.is_local_main_process)

    @property
    def rank(self) -> int:
        return int(self.state.process_index)

    @property
    def count(self) -> int:
        return int(self.state.num_processes)

    def wait(self) -> None:
        self.state.wait_for_everyone()

    def agree(self, decide: Callable[[], T]) -> T:
        """See `core.runs.Ranks.agree`."""
        from accelerate.utils import broadcast_object_list

        outcome: list[Any] = [None]
        if self.is_main:
            try:
                outcome = [decide()]
            except UserError as error:
                outcome = [error]
        if self.count > 1:
            broadcast_object_list(outcome)
        if isinstance(outcome[0], UserError):
            raise outcome[0]
        decided: T = outcome[0]
        return decided

    def smallest(self, number: int) -> int:
        """The smallest of the processes' numbers."""
        from accelerate.utils import gather_object

        return min(gather_object([number])) if self.count > 1 else number


def join() -> Processes:
    """Join the processes of this run. A process that is alone uses the first GPU only.

    Raises:
        UserError: a launcher started several processes that do not see each other.
    """
    from accelerate import PartialState

    if "LOCAL_RANK" not in os.environ:
        _hide_other_gpus()
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    # a process may wait for another that answers questions, and by default NCCL gives up after ten minutes
    options = {"timeout": datetime.timedelta(days=1)} if launched > 1 else {}
    # without cpu=True accelerate treats each CPU process of torchrun as a run of its own
    state = PartialState(cpu=True, **options) if devices.device().type == "cpu" else PartialState(**options)
    if state.num_processes != launched:
        fault = f"the launcher started {launched} processes, but they do not see each other"
        raise UserError(fault, where="WORLD_SIZE", remedy="Use torchrun.")
    return Processes(state)


def launch_on_all_gpus(wanted: int | None) -> None:
    """Restart this script under accelerate with one process for each GPU, unless a launcher already did so.

    Args:
        wanted: number of GPUs to use; None takes all of this machine.
    """
    import torch

    count = torch.cuda.device_count()
    chosen = count if wanted is None else min(wanted, count)
    if chosen <= 1 or "LOCAL_RANK" in os.environ:
        return
    command = launch_command(chosen, sys.argv)
    print(f"{count} GPUs are visible: starting again on {chosen} (NUM_GPUS=1 for one):\n  {' '.join(command)}", flush=True)
    os.execv(command[0], command)


def _hide_other_gpus() -> None:
    """Hide all GPUs but one, because transformers' trainer would copy a model to all that it sees (DataParallel)."""
    import torch

    if torch.cuda.device_count() > 1 and not torch.cuda.is_initialized():
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]


def launch_command(processes: int, argv: list[str]) -> list[str]:
    """The accelerate command that runs this script in several processes of one machine. The trainer sets its precision itself."""
    return [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1",
        "--num_processes", str(processes), "--mixed_precision", "no", "--dynamo_backend", "no", *argv,
    ]  # fmt: skip
