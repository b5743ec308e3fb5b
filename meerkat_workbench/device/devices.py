"""The device that this process computes on, and the precision that it computes in. One place decides; everything asks it.

Precision is what matrix products are computed in: "bf16", "fp16" or "fp32". Without hardware for it bf16 is emulated: on a
CPU with AVX2 a training step takes 27 times as long as in fp32 (benchmarks/results/precision.md). `COMPUTE_DTYPE` overrides the choice.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import platform
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from meerkat_workbench.core.errors import UserError
from meerkat_workbench.core.runs import Run, read_in_progress, read_manifest

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
Precision = Literal["bf16", "fp16", "fp32"]
ComputeDtype = Literal["auto", "bf16", "fp16", "fp32"]  # values of COMPUTE_DTYPE
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
# encoders of metrics always compute in fp32: a score must not depend on the machine that computed it
SCORING_PRECISION: Precision = "fp32"
BYTES: dict[Precision, int] = {"bf16": 2, "fp16": 2, "fp32": 4}


def device() -> torch.device:
    """This process's GPU (by LOCAL_RANK), Apple's GPU where `mps_fault` finds none, or the CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if has_mps() and not mps_fault():
        return torch.device("mps")
    return torch.device("cpu")


def has_mps() -> bool:
    """Whether this machine has a GPU of Apple Silicon that torch can use."""
    import torch

    return bool(torch.backends.mps.is_available())


@functools.cache
def mps_fault(kind: str = "mps") -> str:
    """Why Apple's GPU cannot do this project's work; empty where it can.

    The operations that the scripts rest on are tried on it and compared with the CPU: attention, the random draws of decoding
    (64-bit integers), and the backward pass of a 4-bit layer. Another `kind` of device can be tried instead.
    """
    import torch

    trials = {"attention": _try_attention, "64-bit integers": _try_integers, "a 4-bit layer": _try_nf4}
    for name, trial in trials.items():
        try:
            expected, found = trial(torch.device("cpu")), trial(torch.device(kind)).cpu()
        except Exception as error:  # whatever a backend says of an operation that it lacks
            return f"{name}: {' '.join(str(error).split())[:160]}"
        if not torch.allclose(expected.float(), found.float(), rtol=1e-2, atol=1e-3):
            return f"{name}: its result is not the CPU's"
    return ""


def _try_attention(where: torch.device) -> torch.Tensor:
    import torch

    query = torch.linspace(-1, 1, 2 * 4 * 8 * 16).view(2, 4, 8, 16).to(where).requires_grad_()
    mixed = torch.nn.functional.scaled_dot_product_attention(query, query, query, is_causal=True)
    (gradient,) = torch.autograd.grad(mixed.square().sum(), query)
    return gradient


def _try_integers(where: torch.device) -> torch.Tensor:
    import torch

    numbers = torch.arange(1, 9, dtype=torch.int64, device=where) * -0x61C8864680B583EB
    return ((numbers ^ (numbers >> 30)) & 0xFFFF).float()


def _try_nf4(where: torch.device) -> torch.Tensor:
    import bitsandbytes
    import torch

    layer = bitsandbytes.nn.modules.Linear4bit(64, 64, bias=False, compute_dtype=torch.float32, quant_type="nf4")
    layer.weight.data = torch.linspace(-1, 1, 64 * 64).view(64, 64)
    layer = layer.to(where)
    inputs = torch.linspace(-1, 1, 2 * 64).view(2, 64).to(where).requires_grad_()
    layer(inputs).square().sum().backward()
    assert inputs.grad is not None
    return inputs.grad


def describe() -> str:
    """The device in words, for plans and manifests."""
    import torch

    where = device()
    if where.type == "cuda":
        return f"{torch.cuda.get_device_name()} x {torch.cuda.device_count()}"
    if where.type == "mps":
        return f"Apple GPU of {platform.processor() or platform.machine()}"
    return f"CPU, {torch.get_num_threads()} threads"


def announce() -> None:
    """One line where a GPU of this machine is left unused, with the reason."""
    import torch

    if not torch.cuda.is_available() and has_mps() and (fault := mps_fault()):
        print(f"  the GPU of this Mac is not used, the CPU is: {fault}", flush=True)


def synchronize() -> None:
    """Wait until the device has done what it was given, so that a clock measures it."""
    import torch

    if device().type != "cpu":
        torch.accelerator.synchronize()


def free_memory() -> None:
    """Give back what nothing holds any more, on the GPU too; call it where no frame or exception holds a batch."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class MemoryExhaustedError(Exception):
    """Memory ran out at the smallest size that was allowed."""


def halve_on_oom(
    size: int, attempt: Callable[[int], T], *, minimum: int = 1, halved: Callable[[int], None] = lambda _: None,
    failed: Callable[[int, int], None] = lambda _, __: None,
) -> T:  # fmt: skip
    """What `attempt` returns at the largest size that memory holds: `size`, or half of it, and so on down to `minimum`.

    Args:
        halved: told the new size before it is tried.
        failed: told size and minimum each time that memory ran out; it may raise an error of its own.

    Raises:
        MemoryExhaustedError: memory ran out at `minimum` too.
    """
    import torch

    while True:
        try:
            return attempt(size)
        except (torch.OutOfMemoryError, MemoryError) as error:
            said = f"out of memory: {error}"[:200]
        # here the exception is gone, and with it what its frames held
        failed(size, minimum)
        free_memory()
        if size <= minimum:
            raise MemoryExhaustedError(said)
        size = max(minimum, (size + 1) // 2)
        halved(size)


def native_precision() -> Precision:
    """What this device multiplies fastest: bf16 where its hardware does, fp16 on a GPU without bf16, fp32 elsewhere.

    By what the hardware reports: Ampere and newer; CPUs with AVX512-BF16 or AMX; Arm with its bf16 extension. Apple's GPU computes in
    fp32: whether its bf16 is emulated cannot be asked.
    """
    import torch

    where = device()
    if where.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if where.type == "cpu" and _cpu_multiplies_bf16():
        return "bf16"
    return "fp32"


def _cpu_multiplies_bf16() -> bool:
    import torch

    if platform.machine().lower() in ("x86_64", "amd64"):
        # mkldnn alone also says yes to AVX512 without the BF16 extension, where it emulates
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def resolve_precision(wanted: ComputeDtype, *, encoder_decoder: bool = False) -> Precision:
    """The precision that `COMPUTE_DTYPE` asks for. "auto" is the device's own, but fp32 for T5 and its kin on a GPU without bf16.

    Their feed-forward layers overflow in fp16 (transformers keeps some of their weights in fp32 for that reason, which autocast undoes).

    Raises:
        UserError: fp16 without a GPU: training in fp16 needs a scaled loss, and accelerate scales none on a CPU.
    """
    if wanted == "auto":
        native = native_precision()
        return "fp32" if native == "fp16" and encoder_decoder else native
    if not can_compute(wanted):
        remedy = f"Use COMPUTE_DTYPE={native_precision()}, which is the fastest here, or auto."
        raise UserError("is for GPUs, and this run is on a CPU", where="COMPUTE_DTYPE=fp16", remedy=remedy)
    return wanted


def as_precision(name: str) -> Precision | None:
    """A precision by its name; None where the name is none."""
    return next((precision for precision in PRECISIONS if precision == name), None)


def run_precision(run: Run[Any], wanted: ComputeDtype, fingerprint: Callable[[Precision], str], *, own: Precision) -> Precision:
    """What a run computes in: what COMPUTE_DTYPE (`wanted`) says, or with "auto" what the same run was begun with.

    A run resumes as it began, though the machine may be another now; half of it in another precision would be neither. One line says
    so where this machine would choose otherwise. With `--fresh` an unfinished run is set aside, so nothing is resumed.

    Args:
        fingerprint: of this run, for a precision.
        own: what this device takes for the model.

    Raises:
        UserError: the run was begun in a precision that this device does not have.
    """
    return run.ranks.agree(lambda: _run_precision(run, wanted, fingerprint, own))


def _run_precision(run: Run[Any], wanted: ComputeDtype, fingerprint: Callable[[Precision], str], own: Precision) -> Precision:
    if wanted != "auto":
        return resolve_precision(wanted)
    unfinished = read_in_progress(run.folder)
    begun = unfinished or read_manifest(run.folder)
    dtype = as_precision(begun.compute_dtype) if begun else None
    if begun is None or dtype is None or (run.fresh and unfinished) or fingerprint(dtype) != begun.fingerprint:
        return own
    if unfinished and dtype != own:
        if not can_compute(dtype):
            remedy = f"Resume it there, or add --fresh to begin anew in {own}."
            raise UserError(f"was begun in {dtype}, on a GPU", where=run.folder, remedy=remedy)
        print(f"  resumes in {dtype}, as it was begun; begun on this machine it would be {own}", flush=True)
    return dtype


def can_compute(precision: Precision) -> bool:
    """Whether this device computes in it at all, natively or not."""
    return precision != "fp16" or device().type != "cpu"


def describe_precision(precision: Precision) -> str:
    """A precision, with a warning where this device only emulates it."""
    if precision == "bf16" != native_precision() and device().type != "mps":
        return f"{precision}, which this device emulates: {native_precision()} is faster"
    return precision


def torch_dtype(precision: Precision) -> torch.dtype:
    """torch's name of a precision."""
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]


def precision_of(model: Any) -> Precision:
    """The precision that a loaded model computes in: its embeddings are stored in it, also where its layers are packed in 4 bits."""
    names = {torch_dtype(name): name for name in PRECISIONS}
    return names[model.get_input_embeddings().weight.dtype]


def autocast(model: Any) -> contextlib.AbstractContextManager[Any]:
    """A context in which a loaded model computes in its own precision, whatever its adapters are stored in."""
    import torch

    precision = precision_of(model)
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(model.device.type, dtype=torch_dtype(precision))


def mixed_precision(precision: Precision) -> str:
    """accelerate's and the Trainer's word for it."""
    return "no" if precision == "fp32" else precision
