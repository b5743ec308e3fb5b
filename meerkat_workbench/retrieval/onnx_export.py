"""Cross-encoders for CPUs: ONNX in 32 bits by torch's exporter, and a copy in 8 bits by onnxruntime, both held against torch.

sentence-transformers' own export needs optimum-onnx, which cannot be installed beside transformers 5.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from meerkat_workbench.core import artifacts, console, files
from meerkat_workbench.core.errors import CheckFailedError
from meerkat_workbench.device import devices
from meerkat_workbench.retrieval import cross_encoder
from meerkat_workbench.retrieval.cross_encoder import ONNX_FOLDER, Backend, ExportedModel, Pair

MAX_FP32_DIFFERENCE = 1e-3  # of a logit, from torch
MIN_INT8_CORRELATION = 0.98  # Spearman's, with torch's logits; below it a warning is printed
OPSET = 20


def export(model_folder: Path, pairs: Sequence[Pair]) -> ExportedModel:
    """Write `onnx/` into a cross-encoder's folder, and compare the logits of real pairs.

    Raises:
        CheckFailedError: the 32-bit model does not score as torch does.
    """
    torch_scorer = cross_encoder.load(str(model_folder), compute="fp32")
    assert isinstance(torch_scorer, cross_encoder.TorchCrossEncoder)
    target, building = model_folder / ONNX_FOLDER, model_folder / f".{ONNX_FOLDER}.tmp"
    files.remove(building)
    building.mkdir(parents=True)
    with console.working("exporting to ONNX"), _without_advice():
        _write_onnx(torch_scorer, building / ExportedModel.MODELS["onnx"])
    with console.working("quantising to 8 bits"), _without_advice():
        _write_int8(building / ExportedModel.MODELS["onnx"], building / ExportedModel.MODELS["onnx-int8"])
    described = ExportedModel(
        max_length=torch_scorer.max_length, inputs=torch_scorer.input_names, pad_id=torch_scorer.pad_id,
        weights=cross_encoder.identity(model_folder),
    )  # fmt: skip
    artifacts.write(building / ExportedModel.FILE, described)
    files.remove(target)
    building.rename(target)
    torch_scorer.model.to(devices.device())
    checked = _compare(model_folder, torch_scorer.logits(pairs, what="torch"), described, pairs)
    artifacts.write(target / ExportedModel.FILE, checked)
    if not checked.largest_difference["onnx"] <= MAX_FP32_DIFFERENCE:  # NaN too
        files.remove(target)
        raise CheckFailedError(f"the ONNX model's logits differ from torch's by up to {checked.largest_difference['onnx']}")
    return checked


def _compare(folder: Path, wanted: NDArray[np.float64], described: ExportedModel, pairs: Sequence[Pair]) -> ExportedModel:
    from scipy import stats

    differences, correlations = {}, {}
    for name in ExportedModel.MODELS:
        exported: Backend = name
        given = cross_encoder.load(str(folder), exported).logits(pairs, what=name)
        differences[name] = float(f"{np.abs(given - wanted).max():.3g}")
        correlations[name] = round(float(stats.spearmanr(given, wanted).statistic), 6) if len(wanted) > 2 else 1.0
    return msgspec.structs.replace(
        described, pairs_checked=len(wanted), largest_difference=differences, rank_correlation=correlations
    )


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Without the libraries' remarks on torchvision, deprecations and preprocessing, on which a user of the script cannot act."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _write_onnx(scorer: cross_encoder.TorchCrossEncoder, path: Path) -> None:
    import torch

    class Scores(torch.nn.Module):
        """The model as a function from tensors to logits, (batch, 1)."""

        def __init__(self, model: Any, names: Sequence[str]) -> None:
            super().__init__()
            self.model, self.names = model, list(names)

        def forward(self, *tensors: Any) -> Any:
            return self.model(dict(zip(self.names, tensors, strict=True)))["scores"]

    model = scorer.model.to("cpu").float()
    example = tuple(torch.ones((2, 16), dtype=torch.int64) for _ in scorer.input_names)
    batch, tokens = torch.export.Dim("batch", min=1, max=4096), torch.export.Dim("tokens", min=2, max=max(17, scorer.max_length))
    program = torch.onnx.export(
        Scores(model, scorer.input_names).eval(), example, input_names=scorer.input_names, output_names=["scores"], opset_version=OPSET,
        dynamo=True, dynamic_shapes=(tuple({0: batch, 1: tokens} for _ in scorer.input_names),), verbose=False,
    )  # fmt: skip
    assert program is not None
    program.save(str(path), external_data=False)


def _write_int8(source: Path, target: Path) -> None:
    """Weights of linear layers in 8 bits, one scale a channel; activations are quantised as they come.

    The layer that gives the score stays in 32 bits: it costs nothing, and what it reads has parts of very different sizes (`heads.py`), which
    one scale cannot hold.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(str(source))
    del graph.graph.value_info[:]  # shapes that torch wrote stop the quantiser
    plain = source.with_suffix(".plain.onnx")
    onnx.save(graph, str(plain))
    one_wide = {tensor.name for tensor in graph.graph.initializer if len(tensor.dims) == 2 and 1 in tensor.dims}
    head = [node.name for node in graph.graph.node if node.op_type in ("MatMul", "Gemm") and one_wide & set(node.input)]
    whole = [*head, *(f"{name}_MatMul" for name in head)]  # onnxruntime divides a Gemm into MatMul and Add before it looks
    quantize_dynamic(str(plain), str(target), weight_type=QuantType.QInt8, per_channel=True, nodes_to_exclude=whole)
    plain.unlink()


def print_export(folder: Path, exported: ExportedModel) -> None:
    """Print sizes and agreement, and a warning if the 8-bit model orders otherwise."""
    for backend, name in ExportedModel.MODELS.items():
        size = (folder / ONNX_FOLDER / name).stat().st_size / 2**20
        quality = (
            f", nDCG@10 {exported.ndcg_at_10[backend]:.4f} (torch {exported.ndcg_at_10['torch']:.4f})"
            if exported.ndcg_at_10
            else ""
        )
        print(f"  {name}: {size:.0f} MB; on {exported.pairs_checked} pairs logits differ from torch's by at most "
              f"{exported.largest_difference[backend]:.2g}, rank correlation {exported.rank_correlation[backend]:.4f}{quality}")  # fmt: skip
    if exported.rank_correlation["onnx-int8"] < MIN_INT8_CORRELATION:
        print(
            "  the 8-bit model orders pairs otherwise than torch: compare `evaluate BACKEND=onnx-int8` with `evaluate` before you use it"
        )
