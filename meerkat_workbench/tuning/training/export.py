"""An adapter and its base as one model, with what makes it usable elsewhere: template, stop ids, model card."""

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
    DatasetManifest,
    EvaluationManifest,
    Likeness,
    MetricComparison,
    Sizes,
    Split,
    TrainingResult,
)

LICENCES = {llm.MEERKAT: "cc-by-nc-4.0"}
# fractions of equal choices below which an export has failed. Rounding changes ties: merging itself changes hardly any, and leaving
# 4-bit weights for whole ones more (what was measured: EXPERIMENTS.md, 2026-11-26)
MIN_MERGE, MIN_AS_TRAINED = 0.9, 0.5
CARD_METRICS = ("ROUGE-L", "METEOR", "bertscore_f1", "token_f1", "factual_exact_match", "medical_token_f1")
CARD_TEMPLATE = "model_card.md.j2"


def merge(base: str, adapter: Path, target: Path, precision: Precision, choices: Callable[[Any], list[int]]) -> list[int]:
    """Write base plus adapter to the folder `target` as an ordinary Hugging Face model; what lies there is removed.

    Never into 4-bit weights: rounding the sum anew would lose part of what was learnt. The base is therefore read whole, which for 8B
    takes 16 GB of memory and of disk in bf16 and fp16, and 32 in fp32.

    Args:
        precision: in which weights are added and stored.
        choices: called with the base under its adapter, before they are merged; what it returns is returned.
    """
    model: Any = llm.load_adapter(llm.load_base(base, load_in_4bit=False, precision=precision), adapter)
    before = choices(model)
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
    return before


def untie(model: Any) -> None:
    """Give the head weights of its own where it shares the embeddings': an adapter on the embeddings is none on the head, and merged
    into shared weights it would change the head as well."""
    import torch

    if not llm.text_config(model.config).tie_word_embeddings:
        return
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    model.config.tie_word_embeddings = llm.text_config(model.config).tie_word_embeddings = False


def fraction_equal(one: Sequence[int], other: Sequence[int]) -> float:
    """Fraction of positions at which two lists of tokens agree; 1 where there are none."""
    return sum(a == b for a, b in zip(one, other, strict=True)) / len(one) if one else 1.0


def answer_overlap(before: Sequence[str], after: Sequence[str]) -> tuple[float, float]:
    """How alike two lists of answers to the same questions are: fraction of equal ones, and mean overlap of their words (Jaccard)."""
    equal = sum(a == b for a, b in zip(before, after, strict=True)) / len(before)
    overlap = 0.0
    for one, other in zip(before, after, strict=True):
        left, right = set(one.split()), set(other.split())
        overlap += len(left & right) / max(1, len(left | right))
    return round(equal, 4), round(overlap / len(before), 4)


def check(likeness: Likeness, written: Path, target: Path) -> None:
    """Refuse an export that does not answer as the adapter does: it is kept beside `target`, under a name that says so.

    Raises:
        CheckFailedError: `merge` is below MIN_MERGE, or `as_trained` below MIN_AS_TRAINED.
    """
    if likeness.merge >= MIN_MERGE and likeness.as_trained >= MIN_AS_TRAINED:
        return
    aside = target.with_name(f"{target.name}.failed")
    files.remove(aside)
    os.replace(written, aside)
    raise CheckFailedError(
        f"the merged model does not answer as the adapter does: of the tokens of its answers it would choose "
        f"{100 * likeness.merge:.0f}% as the adapter on the same base does (at least {100 * MIN_MERGE:.0f}% are wanted), and "
        f"{100 * likeness.as_trained:.0f}% as the adapter did on the base as it was trained (at least {100 * MIN_AS_TRAINED:.0f}%). "
        f"It lies in {aside}; nothing was uploaded. Use the adapter itself, or try COMPUTE_DTYPE=fp32."
    )


def model_card(
    training: TrainingResult, data: DatasetManifest, sizes: Sizes, scores: Sequence[MetricComparison], likeness: Likeness
) -> str:
    """README.md of an exported model.

    Args:
        sizes: records by split and specialty of the iteration that it was trained on.
        scores: rows of the holdout; none where the adapter was not evaluated.
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
        scores=[row for row in scores if row.metric in CARD_METRICS and not row.missing],
        likeness=likeness,
    )


def scores_of(evaluation: Path, adapter_hash: str) -> list[MetricComparison]:
    """Holdout rows of an evaluation, if it is of this very adapter."""
    done = EvaluationManifest.find(evaluation) if evaluation.is_dir() else None
    if done is None or done.inputs.adapter != adapter_hash:
        return []
    rows = tables.read_rows(evaluation / MetricComparison.FILE, MetricComparison)
    return tables.where(rows, split=Split.HOLDOUT)
