"""Several processes of one run: one for each GPU of a machine, or whatever a launcher starts."""

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
    """The processes of a run, of which this is one (see `core.runs.Ranks`)."""

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
        """What `decide` returns in the main process, in all of them; a UserError of it is raised in all."""
        from accelerate.utils import broadcast_object_list

        found: list[Any] = [None]
        if self.is_main:
            try:
                found = [decide()]
            except UserError as error:
                found = [error]
        if self.count > 1:
            broadcast_object_list(found)
        if isinstance(found[0], UserError):
            raise found[0]
        decided: T = found[0]
        return decided

    def smallest(self, number: int) -> int:
        """The smallest of the processes' numbers."""
        from accelerate.utils import gather_object

        return min(gather_object([number])) if self.count > 1 else number


def join() -> Processes:
    """This process and the others of its run; one that is alone uses the first GPU only.

    Raises:
        UserError: a launcher started several processes that do not see each other.
    """
    from accelerate import PartialState

    if "LOCAL_RANK" not in os.environ:
        _hide_other_gpus()
    # one may wait for another that answers questions; NCCL gives up after ten minutes unless it is told otherwise
    patience = {"timeout": datetime.timedelta(days=1)} if int(os.environ.get("WORLD_SIZE", "1")) > 1 else {}
    # without cpu=True accelerate takes each CPU process of torchrun for a run of its own
    state = PartialState(cpu=True, **patience) if devices.device().type == "cpu" else PartialState(**patience)
    if state.num_processes != int(os.environ.get("WORLD_SIZE", "1")):
        fault = f"the launcher started {os.environ['WORLD_SIZE']} processes, but they do not see each other"
        raise UserError(fault, remedy="Use torchrun.")
    return Processes(state)


def launch_on_all_gpus(wanted: int | None) -> None:
    """Start this script again under accelerate, one process for each GPU, unless a launcher did so already.

    Args:
        wanted: GPUs to use; None takes all of this machine.
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
    """Let this process see one GPU; transformers' trainer would spread a model over all that it sees (DataParallel)."""
    import torch

    if torch.cuda.device_count() > 1 and not torch.cuda.is_initialized():
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]


def launch_command(processes: int, argv: list[str]) -> list[str]:
    """The accelerate command that runs this script in `processes` processes of one machine; the trainer sets its precision itself."""
    return [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1",
        "--num_processes", str(processes), "--mixed_precision", "no", "--dynamo_backend", "no", *argv,
    ]  # fmt: skip
