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
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from workbench.errors import UserError

if TYPE_CHECKING:
    import torch

Precision = Literal["bf16", "fp16", "fp32"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
CHOICES = ("auto", *PRECISIONS)
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


def resolve_precision(wanted: str, *, encoder_decoder: bool = False) -> Precision:
    """The precision that `COMPUTE_DTYPE` asks for. "auto" is the device's own, but fp32 for T5 and its kin on a GPU without bf16.

    Their feed-forward layers overflow in fp16 (transformers keeps some of their weights in fp32 for that reason, which autocast undoes).

    Raises:
        UserError: fp16 without a GPU: training in fp16 needs a scaled loss, and accelerate scales none on a CPU.
    """
    if wanted == "auto":
        native = native_precision()
        return "fp32" if native == "fp16" and encoder_decoder else native
    check_choice(wanted)
    if not can_compute(cast(Precision, wanted)):
        raise UserError(
            f"COMPUTE_DTYPE=fp16: is for GPUs, and this run is on a CPU. Take {native_precision()}, which is the fastest here, or auto."
        )
    return cast(Precision, wanted)


def can_compute(precision: Precision) -> bool:
    """Whether this device computes in it at all, natively or not."""
    return precision != "fp16" or device().type != "cpu"


def check_choice(wanted: str) -> None:
    """UserError unless COMPUTE_DTYPE is one of CHOICES; loads no torch."""
    if wanted not in CHOICES:
        raise UserError(f"COMPUTE_DTYPE must be one of {', '.join(CHOICES)}, not {wanted!r}.")


def in_words(precision: Precision) -> str:
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
