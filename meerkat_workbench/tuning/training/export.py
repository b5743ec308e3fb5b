"""Merges an adapter into its base, and adds what makes the model usable elsewhere: template, stop ids, model card."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from meerkat_workbench.core import files
from meerkat_workbench.core.errors import CheckFailedError
from meerkat_workbench.device import devices
from meerkat_workbench.device.devices import Precision
from meerkat_workbench.output import tables
from meerkat_workbench.tuning import llm
from meerkat_workbench.tuning.artifacts import (
    HEADLINE_METRICS,
    DatasetManifest,
    EvaluationManifest,
    Likeness,
    MetricComparison,
    Sizes,
    Split,
    TrainingResult,
)

LICENCES = {llm.MEERKAT: "cc-by-nc-4.0"}
# An export fails if a smaller fraction of its next tokens equals the adapter's. Rounding decides between nearly equal tokens:
# merging changes hardly any, and replacing 4-bit weights by unquantised ones changes more (measured: EXPERIMENTS.md, 2026-11-26)
MIN_MERGE, MIN_AS_TRAINED = 0.9, 0.5
CARD_TEMPLATE = "model_card.md.j2"


def merge(base: str, adapter: Path, target: Path, precision: Precision, choices: Callable[[Any], list[int]]) -> list[int]:
    """Write base plus adapter to the folder `target` as an ordinary Hugging Face model, in place of what is there.

    The adapter is never merged into 4-bit weights, because rounding the sum again would lose part of what was learnt. The base is
    therefore loaded unquantised, which takes 16 GB of memory and of disk for 8B in bf16 or fp16, and 32 GB in fp32.

    Args:
        precision: of the addition and of the stored weights.
        choices: called with base and adapter before they are merged.

    Returns:
        What `choices` returned.
    """
    model: Any = llm.load_adapter(llm.load_base(base, load_in_4bit=False, precision=precision), adapter)
    unmerged = choices(model)
    if hasattr(model.get_input_embeddings(), "base_layer"):
        untie(llm.base_model(model))
    merged: Any = model.merge_and_unload(safe_merge=True)
    tokenizer = llm.load_tokenizer(str(adapter))
    files.remove(target)
    merged.save_pretrained(str(target), safe_serialization=True)
    tokenizer.save_pretrained(str(target))
    llm.write_generation_config(target, tokenizer)
    del merged, model
    devices.free_memory()
    return unmerged


def untie(model: Any) -> None:
    """Give the head its own copy of the weights that it shares with the embeddings.

    An adapter on the embeddings does not apply to the head, but merging it into shared weights would change the head too.
    """
    import torch

    if not llm.text_config(model.config).tie_word_embeddings:
        return
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    model.config.tie_word_embeddings = llm.text_config(model.config).tie_word_embeddings = False


def fraction_equal(one: Sequence[int], other: Sequence[int]) -> float:
    """Fraction of positions at which two lists of tokens are equal; 1 for empty lists."""
    return sum(a == b for a, b in zip(one, other, strict=True)) / len(one) if one else 1.0


def answer_overlap(before: Sequence[str], after: Sequence[str]) -> tuple[float, float]:
    """Similarity of two lists of answers: fraction of equal answers, and mean overlap of their words (Jaccard)."""
    equal = sum(a == b for a, b in zip(before, after, strict=True)) / len(before)
    overlap = 0.0
    for one, other in zip(before, after, strict=True):
        left, right = set(one.split()), set(other.split())
        overlap += len(left & right) / max(1, len(left | right))
    return round(equal, 4), round(overlap / len(before), 4)


def check(likeness: Likeness, written: Path, target: Path) -> None:
    """Refuse an export that does not answer as the adapter does, and move it beside `target`, to a name that ends in ".failed".

    Raises:
        CheckFailedError: `merge` is below MIN_MERGE, or `as_trained` below MIN_AS_TRAINED.
    """
    if likeness.merge >= MIN_MERGE and likeness.as_trained >= MIN_AS_TRAINED:
        return
    failed = target.with_name(f"{target.name}.failed")
    files.remove(failed)
    os.replace(written, failed)
    raise CheckFailedError(
        f"the merged model does not answer as the adapter does. It predicts the same next token as the adapter on the same base "
        f"{100 * likeness.merge:.0f}% of the time (at least {100 * MIN_MERGE:.0f}% is required), and the same as the adapter on "
        f"the base of its training {100 * likeness.as_trained:.0f}% of the time (at least {100 * MIN_AS_TRAINED:.0f}% is required). "
        f"The model is in {failed}; nothing was uploaded. Use the adapter itself, or try COMPUTE_DTYPE=fp32."
    )


def model_card(
    training: TrainingResult, data: DatasetManifest, sizes: Sizes, scores: Sequence[MetricComparison], likeness: Likeness
) -> str:
    """The README.md of an exported model.

    Args:
        sizes: records by split and specialty, of the iteration that the adapter was trained on.
        scores: rows of the holdout; empty if the adapter was not evaluated.
    """
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True, keep_trailing_newline=True)
    return environment.get_template(CARD_TEMPLATE).render(
        base=training.base_model,
        licence=LICENCES.get(training.base_model, "other"),
        settings=training.settings,
        training=training,
        data=data,
        specialties=sorted(sizes.train),
        totals={str(split): sizes.total(split) for split in Split},
        hashes={str(split): training.inputs.splits.of(split) for split in Split},
        scores=[row for row in scores if row.metric in HEADLINE_METRICS and not row.missing],
        likeness=likeness,
    )


def scores_of(evaluation: Path, adapter_hash: str) -> list[MetricComparison]:
    """Holdout rows of an evaluation; empty if it evaluated another adapter."""
    done = EvaluationManifest.find(evaluation) if evaluation.is_dir() else None
    if done is None or done.inputs.adapter != adapter_hash:
        return []
    rows = tables.read_rows(evaluation / MetricComparison.FILE, MetricComparison)
    return tables.where(rows, split=Split.HOLDOUT)
