"""The head of a cross-encoder that starts from a bi-encoder: it compares the two halves of a pair.

A bi-encoder was trained so that the cosine of two mean vectors measures relatedness. This head keeps that knowledge: query and document are
read together, the tokens of each are averaged apart, and the first score is the cosine of the two means. A new head over the whole pair has
to learn relatedness from nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.base.modules.module import Module
from torch import Tensor

from meerkat_workbench.core.errors import UserError

LOGIT_SCALE = 20.0  # of the first cosine: the inverse temperature that bi-encoders are trained with
USUAL_COSINE = 0.75  # of the halves of a pair, which gets the first logit 0: the halves read each other, and so are alike


class CompareHalves(Module):
    """From token vectors to one vector of a pair: the product of the halves' means, each of length 1, and the mean of all tokens.

    Args:
        width: of the token vectors.
        separator_id: the token that ends the query.
    """

    config_keys = ["width", "separator_id"]

    def __init__(self, width: int, separator_id: int) -> None:
        super().__init__()
        self.width, self.separator_id = width, separator_id

    def forward(self, features: dict[str, Tensor | Any], **_: Any) -> dict[str, Tensor | Any]:
        """Add `sentence_embedding`, (batch, 2 x width)."""
        vectors, mask = features["token_embeddings"], features["attention_mask"]
        in_query = (features["input_ids"] == self.separator_id).cumsum(dim=1) == 0
        halves = [_mean(vectors, mask * chosen) for chosen in (in_query, ~in_query)]
        query, document = (torch.nn.functional.normalize(half, dim=-1) for half in halves)
        features["sentence_embedding"] = torch.cat([query * document, _mean(vectors, mask)], dim=-1)
        return features

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        self.save_config(output_path)


def _mean(vectors: Tensor, mask: Tensor) -> Tensor:
    weights = mask.unsqueeze(-1).to(vectors.dtype)
    return (vectors * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def with_comparing_head(location: str, max_length: int, device: str) -> CrossEncoder:
    """A new cross-encoder from a bi-encoder's folder. Its first logits order pairs by the cosine of their halves."""
    encoder = Transformer(location, max_seq_length=max_length)
    width, separator = encoder.get_embedding_dimension(), encoder.tokenizer.sep_token_id
    if separator is None:
        raise UserError(
            "has no token that separates query and document", where=location, item="HEAD=compare", remedy="Set HEAD=mean."
        )
    score = Dense(2 * width, 1, activation_function=torch.nn.Identity(), module_output_name="scores")
    linear = cast(torch.nn.Linear, score.linear)
    with torch.no_grad():
        linear.weight.zero_()
        linear.weight[:, :width] = LOGIT_SCALE
        linear.bias.fill_(-LOGIT_SCALE * USUAL_COSINE)
    return CrossEncoder(modules=[encoder, CompareHalves(width, separator), score], device=device)


def load_comparing(folder: Path, device: str) -> CrossEncoder:
    """A saved cross-encoder with this head. sentence-transformers itself loads modules of other packages only with `trust_remote_code`,
    which would also run code of the folder."""
    modules: list[torch.nn.Module] = []
    for entry in json.loads((folder / "modules.json").read_text(encoding="utf-8")):
        kind = {"Transformer": Transformer, "CompareHalves": CompareHalves, "Dense": Dense}[entry["type"].rsplit(".", 1)[-1]]
        modules.append(kind.load(str(folder), subfolder=entry["path"]))
    return CrossEncoder(modules=modules, device=device)


def compares_halves(folder: Path) -> bool:
    """Whether a folder holds a model with this head."""
    path = folder / "modules.json"
    return path.is_file() and f"{CompareHalves.__module__}.{CompareHalves.__name__}" in path.read_text(encoding="utf-8")
