"""Training rows of groups of candidates, and the losses that read them.

A group is one query (or mention) with documents (or concepts) and a label each. The losses read groups in three forms: single pairs
(bce, weighted-bce, mse), a positive with its negatives (cached-mnrl, margin-mse), or the whole list (lambda, ranknet).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import losses

from meerkat_workbench.trainers.cross_encoder.recipe import CrossEncoderRecipe, Loss
from meerkat_workbench.trainers.pair_groups import Group

MINI_BATCH = 32  # pairs that the cached and listwise losses read at a time


def training_rows(groups: Iterable[Group], recipe: CrossEncoderRecipe) -> Iterator[dict[str, Any]]:
    """Rows in the form of the recipe's loss. Groups that cannot teach it anything are left out."""
    draw = random.Random(recipe.seed)
    for group in groups:
        if recipe.loss in ("bce", "mse"):
            yield from ({"query": group.query, "document": one.document, "label": float(one.label)} for one in group.candidates)
        elif recipe.loss == "weighted-bce":
            for one in group.candidates:
                weight = recipe.hard_weight if one.hard and one.label < 0.5 else 1.0
                yield {"query": group.query, "document": one.document, "weight": weight, "label": float(one.label)}
        elif recipe.loss in ("lambda", "ranknet"):
            if len({one.label for one in group.candidates}) > 1:
                yield {"query": group.query, "documents": [one.document for one in group.candidates],
                       "labels": [float(one.label) for one in group.candidates]}  # fmt: skip
        else:
            yield from _with_negatives(group, recipe, draw)


def _with_negatives(group: Group, recipe: CrossEncoderRecipe, draw: random.Random) -> Iterator[dict[str, Any]]:
    """A row for each positive with `recipe.negatives` candidates of lower labels, some of them twice if there are too few."""
    top = max((one.label for one in group.candidates), default=0.0)
    threshold = 0.5 if 0 < top <= 1 else top
    for positive in group.candidates:
        if positive.label < threshold:
            continue
        lower = [one for one in group.candidates if one.label < min(positive.label, threshold)]
        if not lower:
            continue
        draw.shuffle(lower)
        chosen = [lower[number % len(lower)] for number in range(recipe.negatives)]
        row: dict[str, Any] = {"query": group.query, "positive": positive.document}
        row |= {f"negative_{number}": one.document for number, one in enumerate(chosen, start=1)}
        if recipe.loss == "margin-mse":
            row["label"] = [positive.label - one.label for one in chosen]
        yield row


class WeightedBinaryCrossEntropy(losses.BinaryCrossEntropyLoss):
    """BCE in which each pair has a weight of its own: the columns are query, document, weight and label."""

    def forward(
        self, inputs: list[Any], labels: torch.Tensor, prompt: str | None = None, task: str | None = None
    ) -> torch.Tensor:
        queries, documents, weights = inputs
        features = self.model.preprocess(list(zip(queries, documents, strict=True)), prompt=prompt, task=task)
        features = {name: value.to(self.model.device) if hasattr(value, "to") else value for name, value in features.items()}
        logits = self.model(features)["scores"].view(-1)
        weight = torch.as_tensor(weights, dtype=logits.dtype, device=logits.device)
        nats = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, labels.to(logits), reduction="none", pos_weight=self.pos_weight
        )
        return (nats * weight).sum() / weight.sum()


def make_loss(model: CrossEncoder, recipe: CrossEncoderRecipe) -> torch.nn.Module:
    """The loss of a recipe."""
    pos_weight = torch.tensor(recipe.pos_weight, device=model.device) if recipe.pos_weight != 1 else None
    makers: dict[Loss, Callable[[], torch.nn.Module]] = {
        "bce": lambda: losses.BinaryCrossEntropyLoss(model, pos_weight=pos_weight),
        "weighted-bce": lambda: WeightedBinaryCrossEntropy(model, pos_weight=pos_weight),
        # of probabilities, so that a score of such a model is one: its labels are grades from 0 to 1
        "mse": lambda: losses.MSELoss(model, activation_fn=torch.nn.Sigmoid()),
        "margin-mse": lambda: losses.MarginMSELoss(model, activation_fn=torch.nn.Sigmoid()),
        "cached-mnrl": lambda: losses.CachedMultipleNegativesRankingLoss(
            model, num_negatives=recipe.negatives, mini_batch_size=MINI_BATCH
        ),
        "lambda": lambda: losses.LambdaLoss(model, mini_batch_size=MINI_BATCH),
        "ranknet": lambda: losses.RankNetLoss(model, mini_batch_size=MINI_BATCH),
    }
    return makers[recipe.loss]()
