"""Several processes of one run: a GPU each on one machine, or whatever a launcher starts."""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from workbench import devices
from workbench.errors import UserError

if TYPE_CHECKING:
    from accelerate import PartialState


def join() -> PartialState:
    """This process and its kin; UserError where a launcher started several that do not see each other."""
    from accelerate import PartialState

    # one may wait for another that answers questions; NCCL gives up after ten minutes unless it is told otherwise
    patience = {"timeout": datetime.timedelta(days=1)} if int(os.environ.get("WORLD_SIZE", "1")) > 1 else {}
    # without cpu=True accelerate takes each CPU process of torchrun for a run of its own
    processes = PartialState(cpu=True, **patience) if devices.device().type == "cpu" else PartialState(**patience)
    if processes.num_processes != int(os.environ.get("WORLD_SIZE", "1")):
        raise UserError(
            f"the launcher started {os.environ['WORLD_SIZE']} processes, but they do not see each other. Use torchrun."
        )
    return processes


def decided(here: PartialState, decide: Callable[[], Any]) -> Any:
    """What `decide` returns in the first process, known to all; a UserError of it is raised in all."""
    from accelerate.utils import broadcast_object_list

    found: list[Any] = [None]
    if here.is_main_process:
        try:
            found = [decide()]
        except UserError as error:
            found = [error]
    if here.num_processes > 1:
        broadcast_object_list(found)
    if isinstance(found[0], UserError):
        raise found[0]
    return found[0]


def least(here: PartialState, number: int) -> int:
    """The smallest of the processes' numbers."""
    from accelerate.utils import gather_object

    return min(gather_object([number])) if here.num_processes > 1 else number


def use_every_gpu(wanted: int | None) -> None:
    """Start this script again under accelerate, a process a GPU, unless a launcher did so already.

    Call it before anything asks a GPU: the number of visible ones cannot be changed after that.

    Args:
        wanted: GPUs to use; None takes all of this machine.
    """
    import torch

    count = torch.cuda.device_count()
    chosen = count if wanted is None else min(wanted, count)
    if chosen <= 1 or "LOCAL_RANK" in os.environ:
        if count > 1 and "LOCAL_RANK" not in os.environ:
            os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        return
    command = launch_command(chosen, sys.argv)
    print(f"{count} GPUs are visible: starting again on {chosen} (NUM_GPUS=1 for one):\n  {' '.join(command)}", flush=True)
    os.execv(command[0], command)


def launch_command(processes: int, argv: list[str]) -> list[str]:
    """The accelerate command that runs this script in `processes` processes of one machine; the trainer sets its precision itself."""
    return [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1",
        "--num_processes", str(processes), "--mixed_precision", "no", "--dynamo_backend", "no", *argv,
    ]  # fmt: skip
