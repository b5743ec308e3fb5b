"""Cross-encoders: one model reads query and document together and gives a logit of relevance.

Three backends score the same folder: torch, ONNX in 32 bits, and ONNX in 8 bits. All share tokenisation and batching, so that they differ in
arithmetic alone. Ranking is by logit. The probability that people see is its sigmoid, applied once, in 64 bits: two documents of
logits 40 and 41 are shown alike, but not ranked alike.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from meerkat_workbench.core import artifacts, console
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.device import devices, hub
from meerkat_workbench.device.devices import ComputeDtype, Precision

Backend = Literal["torch", "onnx", "onnx-int8"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
Pair = tuple[str, str]  # query and document
ONNX_FOLDER = "onnx"
EXAMPLE = "cross-encoder/ms-marco-MiniLM-L6-v2"  # for messages
# tokens of a batch, with padding: small batches stay in a CPU's cache, a GPU needs large ones
MAX_BATCH_TOKENS = {"cpu": 2048, "cuda": 65536}
MAX_TOKENS = 512  # of a pair, where neither the model nor the user sets a limit
MAX_BATCH, CHUNK = 256, 4096  # pairs of a batch, and pairs whose tokens are in memory at once


class ExportedModel(artifacts.Artifact, frozen=True, kw_only=True):
    """`onnx/onnx_export.json`: what is needed to run the exported models, and what the check against torch found.

    Attributes:
        max_length: tokens of a pair; longer documents are cut.
        inputs: names of the graph's inputs.
        pad_id: of the tokenizer.
        weights: hash of the torch weights that were exported.
        largest_difference: of the logits of real pairs between torch and each exported model.
        rank_correlation: Spearman's, of the same logits.
        ndcg_at_10: of torch and each exported model, over the queries of these pairs.
    """

    FILE: ClassVar[str] = "onnx_export.json"
    MODELS: ClassVar[dict[Backend, str]] = {"onnx": "model.onnx", "onnx-int8": "model-int8.onnx"}

    max_length: int
    inputs: list[str]
    pad_id: int
    weights: str
    pairs_checked: int = 0
    largest_difference: dict[str, float] = {}
    rank_correlation: dict[str, float] = {}
    ndcg_at_10: dict[str, float] = {}


class CrossEncoder:
    """A trained cross-encoder that scores pairs; the base class of the backends, which implement `_forward`.

    Attributes:
        max_length: tokens of a pair. Of longer pairs the longer text is cut at its end.
        truncated: pairs that were cut so far.
        batch_size: pairs at a time, at most; None takes what suits the device.
    """

    def __init__(self, tokenizer: Any, max_length: int, pad_id: int, max_batch_tokens: int) -> None:
        self.batch_size: int | None = None
        self._tokenizer = tokenizer  # a `tokenizers.Tokenizer`
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)
        self.max_length, self.truncated, self.pad_id, self._max_batch_tokens = max_length, 0, pad_id, max_batch_tokens

    def logits(self, pairs: Sequence[Pair], *, batch_size: int | None = None, what: str = "") -> NDArray[np.float64]:
        """(pairs,) logits.

        Args:
            batch_size: pairs at a time, at most; None takes the attribute's.
            what: name of the step, for its progress; empty reports nothing.
        """
        parts = [np.zeros(0)]
        with console.Progress(what, len(pairs), "pairs") if what else contextlib.nullcontext() as progress:
            for start in range(0, len(pairs), CHUNK):  # the tokens of a pair take 66 KB at 256 tokens
                chunk = pairs[start : start + CHUNK]
                parts.append(self._logits_of_chunk(chunk, batch_size or self.batch_size, progress))
        return np.concatenate(parts)

    def _logits_of_chunk(
        self, pairs: Sequence[Pair], batch_size: int | None, progress: console.Progress | None
    ) -> NDArray[np.float64]:
        encodings = self._tokenizer.encode_batch([(query, document) for query, document in pairs])
        self.truncated += sum(bool(encoding.overflowing) for encoding in encodings)
        result = np.zeros(len(pairs))
        for rows in self._batches([len(encoding.ids) for encoding in encodings], batch_size):
            result[rows] = self._forward(*_padded([encodings[row] for row in rows], self.pad_id))
            if progress:
                progress.advance(len(rows))
        return result

    def _batches(self, lengths: Sequence[int], batch_size: int | None) -> Iterator[list[int]]:
        """Rows of each batch, the longest first, so that pairs of a batch are about equally long and memory runs out early if it does."""
        order, batch = sorted(range(len(lengths)), key=lambda row: -lengths[row]), list[int]()
        for row in order:
            most = batch_size or max(1, min(MAX_BATCH, self._max_batch_tokens // lengths[batch[0]])) if batch else 1
            if batch and len(batch) >= most:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _forward(self, ids: NDArray[np.int64], mask: NDArray[np.int64], types: NDArray[np.int64]) -> NDArray[np.float64]:
        """(batch,) logits of (batch, tokens) token ids, mask of real tokens, and types (0 for the query, 1 for the document)."""
        raise NotImplementedError


def _padded(encodings: Sequence[Any], pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    longest = max(len(encoding.ids) for encoding in encodings)
    ids = np.full((len(encodings), longest), pad_id, np.int64)
    mask, types = np.zeros_like(ids), np.zeros_like(ids)
    for row, encoding in enumerate(encodings):
        count = len(encoding.ids)
        ids[row, :count], mask[row, :count], types[row, :count] = encoding.ids, 1, encoding.type_ids
    return ids, mask, types


class TorchCrossEncoder(CrossEncoder):
    """A loaded `sentence_transformers.CrossEncoder`, run by torch.

    Args:
        precision: of the encoder's matrix products: "fp32", or "bf16" for a model whose head is a module of its own. The head always computes in fp32,
            because bf16 has eight significant bits, so that different scores would become equal.

    Raises:
        UserError: it has no fast tokenizer.
    """

    def __init__(self, model: Any, precision: Precision = "fp32") -> None:
        from tokenizers import Tokenizer

        backend = getattr(model.tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise UserError("has no fast tokenizer", where="MODEL", remedy="Save the model with a tokenizer.json.")
        most = MAX_BATCH_TOKENS.get(devices.device().type, MAX_BATCH_TOKENS["cuda"])
        # a copy, because padding and truncation are set on it
        super().__init__(Tokenizer.from_str(backend.to_str()), input_length(model), model.tokenizer.pad_token_id or 0, most)
        self.model, self.input_names, self.precision = model.eval(), input_names(model), precision

    def _forward(self, ids: NDArray[np.int64], mask: NDArray[np.int64], types: NDArray[np.int64]) -> NDArray[np.float64]:
        import torch

        arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        features = {name: torch.from_numpy(arrays[name]).to(self.model.device) for name in self.input_names}
        with torch.inference_mode():
            found = self._in_bf16(features) if self.precision == "bf16" else self.model(features)
            scores: NDArray[np.float64] = found["scores"].float().reshape(-1).cpu().numpy().astype(np.float64)
        return scores

    def _in_bf16(self, features: dict[str, Any]) -> dict[str, Any]:
        """The model's output with its encoder in bf16 and its head in fp32."""
        import torch

        encoder, *head = self.model
        with torch.autocast(self.model.device.type, torch.bfloat16):
            features = encoder(features)
        features["token_embeddings"] = features["token_embeddings"].float()
        for module in head:
            features = module(features)
        return features


def scoring_precision(model: Any, wanted: ComputeDtype = "auto") -> Precision:
    """The precision in which a model's encoder is run for scoring: bf16 where the device multiplies it fastest and the head is a module of its own,
    else fp32. Of 2,000 pairs, bf16 moved no logit by more than .05 (EXPERIMENTS.md, "scoring in bf16").

    Args:
        wanted: the setting COMPUTE_DTYPE; "fp32" and "fp16" give fp32.
    """
    precision = devices.native_precision() if wanted == "auto" else wanted
    return "bf16" if precision == "bf16" and len(list(model)) > 1 else "fp32"


class OnnxCrossEncoder(CrossEncoder):
    """A cross-encoder that `export` wrote, run by onnxruntime."""

    def __init__(self, location: Path, backend: Backend) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        folder = location / ONNX_FOLDER
        exported = artifacts.read(ExportedModel, folder / ExportedModel.FILE)
        if exported.weights != identity(location):
            raise UserError(
                "was exported from other weights than it holds now",
                where=location,
                remedy="Run `export` again.",
            )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        file = folder / ExportedModel.MODELS[backend]
        # any error of the parser is one about the file
        self._session: Any = hub.load(
            str(folder), lambda: onnxruntime.InferenceSession(str(file), options, providers=_providers()), any_error=True
        )
        tokenizer = hub.load(str(location), lambda: Tokenizer.from_file(str(location / "tokenizer.json")), any_error=True)
        super().__init__(tokenizer, exported.max_length, exported.pad_id, MAX_BATCH_TOKENS["cpu"])
        self.input_names = exported.inputs

    def _forward(self, ids: NDArray[np.int64], mask: NDArray[np.int64], types: NDArray[np.int64]) -> NDArray[np.float64]:
        arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        [scores] = self._session.run(["scores"], {name: arrays[name] for name in self.input_names})
        result: NDArray[np.float64] = np.asarray(scores, np.float64).reshape(-1)
        return result


def _providers() -> list[str]:
    import onnxruntime

    return [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in onnxruntime.get_available_providers()]


def load(name: str, backend: Backend = "torch", compute: ComputeDtype = "auto") -> CrossEncoder:
    """Load a cross-encoder for scoring.

    Args:
        name: a folder, or for torch also a Hub name.
        compute: see `scoring_precision`, for torch alone.

    Raises:
        UserError: the folder is no cross-encoder, or was not exported for this backend.
    """
    location = hub.locate(name, EXAMPLE)
    if backend == "torch":
        model = load_torch(location)
        return TorchCrossEncoder(model, scoring_precision(model, compute))
    if not (Path(location) / ONNX_FOLDER / ExportedModel.MODELS[backend]).is_file():
        raise UserError(f"has no {ONNX_FOLDER}/{ExportedModel.MODELS[backend]}", where=location, item=f"BACKEND={backend}",
                        remedy="Run `export` of reranking.py or entity_linking.py first.")  # fmt: skip
    return OnnxCrossEncoder(Path(location), backend)


def identity(name: str | Path) -> str:
    """Hash of a reranker: its weights, those of its head, and its fusions; the revision of a model of the Hub."""
    from meerkat_workbench.core import files
    from meerkat_workbench.retrieval.fusion import Fusions

    folder = Path(name)
    if not folder.is_dir():
        return hub.weights_hash(str(name))
    parts = [*sorted(folder.rglob("*.safetensors")), folder / Fusions.FILE]
    return files.sha256_of([(str(path.relative_to(folder)), files.sha256_file(path)) for path in parts if path.is_file()])


def load_torch(location: str) -> Any:
    """A `sentence_transformers.CrossEncoder` with its trained head.

    Raises:
        UserError: the folder cannot be loaded, or has no head for one score. transformers would give it a random one, with a warning.
    """
    check_head(location)
    from sentence_transformers import CrossEncoder as Model

    from meerkat_workbench.retrieval import heads

    device = str(devices.device())
    if heads.compares_halves(Path(location)):
        model = hub.load(location, lambda: heads.load_comparing(Path(location), device), any_error=True)
    else:
        model = hub.load(location, lambda: Model(location, device=device), any_error=True)
    if model.num_labels != 1:
        raise UserError(f"gives {model.num_labels} scores for a pair, not one", where=location, remedy="Name a reranker.")
    return model


def check_head(location: str) -> None:
    """Raise UserError if the model is a plain encoder or a language model, which has no trained score of relevance."""
    if (Path(location) / "modules.json").is_file():
        modules = (Path(location) / "modules.json").read_text(encoding="utf-8")
        if (
            '"scores"' not in "".join(path.read_text(encoding="utf-8") for path in Path(location).glob("*/config.json"))
            and "Pooling" in modules
        ):
            raise UserError(
                "is a bi-encoder without a head for relevance",
                where=location,
                remedy=f"Name a trained reranker, such as {EXAMPLE}.",
            )
        return
    names = getattr(hub.load_config(location), "architectures", None) or []
    if not any(name.endswith("ForSequenceClassification") for name in names):
        fault = f"has no head for relevance (it is {', '.join(names) or 'of unknown kind'})"
        raise UserError(fault, where=location, remedy=f"Name a trained reranker, such as {EXAMPLE}, or train this model first.")


def input_length(model: Any) -> int:
    """Tokens of a pair that a loaded model takes."""
    length = model.max_seq_length
    return int(length) if length and math.isfinite(length) and length < 1_000_000 else MAX_TOKENS


def input_names(model: Any) -> list[str]:
    """The inputs of a loaded model's encoder. BERT and its kin tell query and document apart by token types."""
    config = model.config
    typed = (getattr(config, "type_vocab_size", 0) or 0) > 1
    return ["input_ids", "attention_mask", *(["token_type_ids"] if typed else [])]


def probability(logit: float | NDArray[np.float64]) -> Any:
    """The sigmoid of a logit, in [0, 1]."""
    from scipy.special import expit

    return expit(logit)
