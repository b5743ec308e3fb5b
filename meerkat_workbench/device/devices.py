"""The device that this process computes on, and the precision it computes in. No other module chooses either.

The precision is that of matrix products: "bf16", "fp16" or "fp32". Hardware without bf16 emulates it: on a CPU with AVX2 a
training step in bf16 takes 27 times as long as in fp32 (benchmarks/results/precision.md). `COMPUTE_DTYPE` overrides the
choice.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import platform
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from meerkat_workbench.core.errors import UserError, one_line
from meerkat_workbench.core.runs import Run, read_in_progress, read_manifest

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
Precision = Literal["bf16", "fp16", "fp32"]
ComputeDtype = Literal["auto", "bf16", "fp16", "fp32"]  # values of COMPUTE_DTYPE
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
# encoders of metrics always compute in fp32, because a score must not depend on the machine
SCORING_PRECISION: Precision = "fp32"
BYTES: dict[Precision, int] = {"bf16": 2, "fp16": 2, "fp32": 4}  # per element


def device() -> torch.device:
    """This process's CUDA GPU (by LOCAL_RANK), else Apple's GPU if `mps_fault` finds no fault, else the CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if has_mps() and not mps_fault():
        return torch.device("mps")
    return torch.device("cpu")


def has_mps() -> bool:
    """Whether this machine has an Apple GPU that torch can use."""
    import torch

    return bool(torch.backends.mps.is_available())


@functools.cache
def mps_fault(kind: str = "mps") -> str:
    """Why Apple's GPU cannot be used by this project; empty if it can.

    Tries the operations that the scripts need and compares their results with the CPU's: attention, the random draws of
    decoding (64-bit integers), and the backward pass of a 4-bit layer.

    Args:
        kind: torch's name of the device type to try.
    """
    import torch

    trials = {"attention": _try_attention, "64-bit integers": _try_integers, "a 4-bit layer": _try_nf4}
    for name, trial in trials.items():
        try:
            expected, result = trial(torch.device("cpu")), trial(torch.device(kind)).cpu()
        except Exception as error:  # a backend may raise anything for an operation that it lacks
            return f"{name}: {one_line(error)}"
        if not torch.allclose(expected.float(), result.float(), rtol=1e-2, atol=1e-3):
            return f"{name}: its result differs from the CPU's"
    return ""


def _try_attention(target: torch.device) -> torch.Tensor:
    import torch

    query = torch.linspace(-1, 1, 2 * 4 * 8 * 16).view(2, 4, 8, 16).to(target).requires_grad_()
    output = torch.nn.functional.scaled_dot_product_attention(query, query, query, is_causal=True)
    (gradient,) = torch.autograd.grad(output.square().sum(), query)
    return gradient


def _try_integers(target: torch.device) -> torch.Tensor:
    import torch

    numbers = torch.arange(1, 9, dtype=torch.int64, device=target) * -0x61C8864680B583EB
    return ((numbers ^ (numbers >> 30)) & 0xFFFF).float()


def _try_nf4(target: torch.device) -> torch.Tensor:
    import bitsandbytes
    import torch

    layer = bitsandbytes.nn.modules.Linear4bit(64, 64, bias=False, compute_dtype=torch.float32, quant_type="nf4")
    layer.weight.data = torch.linspace(-1, 1, 64 * 64).view(64, 64)
    layer = layer.to(target)
    inputs = torch.linspace(-1, 1, 2 * 64).view(2, 64).to(target).requires_grad_()
    layer(inputs).square().sum().backward()
    assert inputs.grad is not None
    return inputs.grad


def describe() -> str:
    """A description of the device, for plans and manifests."""
    import torch

    kind = device().type
    if kind == "cuda":
        return f"{torch.cuda.get_device_name()} x {torch.cuda.device_count()}"
    if kind == "mps":
        return f"Apple GPU of {platform.processor() or platform.machine()}"
    return f"CPU, {torch.get_num_threads()} threads"


def announce() -> None:
    """Print one line if this Mac's GPU is not used, with the reason."""
    import torch

    if not torch.cuda.is_available() and has_mps() and (fault := mps_fault()):
        print(f"  using the CPU; the GPU of this Mac cannot be used: {fault}", flush=True)


def synchronize() -> None:
    """Wait until the device has finished its work, so that measured times include it."""
    import torch

    if device().type != "cpu":
        torch.accelerator.synchronize()


def free_cpu_memory() -> int:
    """Bytes of the machine's memory that this process can still take without swapping, if its siblings take as much."""
    import psutil

    return int(psutil.virtual_memory().available) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def free_memory() -> None:
    """Free unreferenced memory, on the GPU too. Call it where no frame or exception still references a batch."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class MemoryExhaustedError(Exception):
    """Memory ran out at the smallest allowed size."""


def halve_on_oom(
    size: int, attempt: Callable[[int], T], *, minimum: int = 1, halved: Callable[[int], None] = lambda _: None,
    failed: Callable[[int, int], None] = lambda _, __: None,
) -> T:  # fmt: skip
    """Call `attempt` with `size`; each time memory runs out, call it again with half the size, down to `minimum`.

    Args:
        halved: called with the new size before it is tried.
        failed: called with size and minimum each time memory runs out; it may raise its own error.

    Returns:
        What `attempt` returns.

    Raises:
        MemoryExhaustedError: memory ran out at `minimum` too.
    """
    import torch

    while True:
        try:
            return attempt(size)
        except (torch.OutOfMemoryError, MemoryError) as error:
            message = f"out of memory: {error}"[:200]
        # outside the handler the exception is gone, and with it the tensors that its frames referenced
        failed(size, minimum)
        free_memory()
        if size <= minimum:
            raise MemoryExhaustedError(message)
        size = max(minimum, (size + 1) // 2)
        halved(size)


def native_precision() -> Precision:
    """The precision in which this device multiplies fastest: bf16 with hardware support, fp16 on a GPU without it, else fp32.

    The hardware reports its support: GPUs from Ampere on, CPUs with AVX512-BF16 or AMX, and Arm CPUs with the bf16
    extension have it. Apple's GPU computes in fp32, because torch cannot tell whether it emulates bf16.
    """
    import torch

    kind = device().type
    if kind == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if kind == "cpu" and _cpu_multiplies_bf16():
        return "bf16"
    return "fp32"


def _cpu_multiplies_bf16() -> bool:
    import torch

    if platform.machine().lower() in ("x86_64", "amd64"):
        # mkldnn also reports support for AVX512 without the BF16 extension, where it emulates bf16
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def resolve_precision(wanted: ComputeDtype, *, encoder_decoder: bool = False) -> Precision:
    """The precision that `COMPUTE_DTYPE` asks for.

    "auto" is the device's native precision, except that encoder-decoders such as T5 use fp32 on a GPU without bf16: their
    feed-forward layers overflow in fp16. (For that reason transformers keeps some of their weights in fp32, which autocast
    undoes.)

    Raises:
        UserError: fp16 without a GPU: training in fp16 needs loss scaling, which accelerate does not do on a CPU.
    """
    if wanted == "auto":
        native = native_precision()
        return "fp32" if native == "fp16" and encoder_decoder else native
    if not can_compute(wanted):
        remedy = f"Use COMPUTE_DTYPE={native_precision()}, which is the fastest here, or auto."
        raise UserError("is for GPUs, and this run is on a CPU", where="COMPUTE_DTYPE=fp16", remedy=remedy)
    return wanted


def as_precision(name: str) -> Precision | None:
    """The precision of that name; None if there is no such precision."""
    return next((precision for precision in PRECISIONS if precision == name), None)


def run_precision(run: Run[Any], wanted: ComputeDtype, fingerprint: Callable[[Precision], str], *, own: Precision) -> Precision:
    """The precision of a run: `COMPUTE_DTYPE` (`wanted`), or with "auto" the precision in which the same run was started.

    A run resumes in the precision in which it was started, even on another machine, so that it never mixes two
    precisions. If this machine would choose another one, a line is printed. With `--fresh` an unfinished run is set aside,
    so nothing is resumed.

    Args:
        fingerprint: gives the run's fingerprint for a precision.
        own: the precision that this device would use for the model in a new run.

    Raises:
        UserError: the run was started in a precision that this device does not support.
    """
    return run.ranks.agree(lambda: _run_precision(run, wanted, fingerprint, own))


def _run_precision(run: Run[Any], wanted: ComputeDtype, fingerprint: Callable[[Precision], str], own: Precision) -> Precision:
    if wanted != "auto":
        return resolve_precision(wanted)
    unfinished = read_in_progress(run.folder)
    existing = unfinished or read_manifest(run.folder)
    dtype = as_precision(existing.compute_dtype) if existing else None
    if existing is None or dtype is None or (run.fresh and unfinished) or fingerprint(dtype) != existing.fingerprint:
        return own
    if unfinished and dtype != own:
        if not can_compute(dtype):
            remedy = f"Resume it there, or add --fresh to start again in {own}."
            raise UserError(f"was started in {dtype}, on a GPU", where=run.folder, remedy=remedy)
        print(f"  resumes in {dtype}, as it was started; a new run on this machine would use {own}", flush=True)
    return dtype


def can_compute(precision: Precision) -> bool:
    """Whether this device supports the precision, natively or by emulation."""
    return precision != "fp16" or device().type != "cpu"


def describe_precision(precision: Precision) -> str:
    """The precision, with a warning if this device only emulates it."""
    if precision == "bf16" != native_precision() and device().type != "mps":
        return f"{precision}, which this device emulates: {native_precision()} is faster"
    return precision


def torch_dtype(precision: Precision) -> torch.dtype:
    """torch's dtype of a precision."""
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]


def precision_of(model: Any) -> Precision:
    """The precision that a loaded model computes in: that of its embeddings, which stay unpacked in a 4-bit model."""
    precisions = {torch_dtype(precision): precision for precision in PRECISIONS}
    return precisions[model.get_input_embeddings().weight.dtype]


def autocast(model: Any) -> contextlib.AbstractContextManager[Any]:
    """A context in which a loaded model computes in its own precision, whatever the dtype of its adapters."""
    import torch

    precision = precision_of(model)
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(model.device.type, dtype=torch_dtype(precision))


def mixed_precision(precision: Precision) -> str:
    """accelerate's name of the precision: "no" for fp32."""
    return "no" if precision == "fp32" else precision
