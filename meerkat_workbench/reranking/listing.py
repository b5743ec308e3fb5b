"""What the verbs print: a training's result, an index, passages, and the rerankers that were trained."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from meerkat_workbench.core import console, files
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.core.runs import MANIFEST
from meerkat_workbench.reranking.artifacts import MODEL, RerankerManifest
from meerkat_workbench.retrieval.index import Change, DocumentIndex
from meerkat_workbench.retrieval.pipeline import Passage

WIDTH, MAX_CHARACTERS = 110, 300  # of a passage's text


def print_training(folder: Path, result: RerankerManifest) -> None:
    """Print the measures on the validation queries: first stage, before training, the weights that were kept, and fused."""
    names = list(result.kept.measures)
    rows = [["first stage", *(f"{result.kept.first_stage[name]:.3f}" for name in names)],
            ["reranker before training", *(f"{result.before.measures[name]:.3f}" for name in names)],
            [f"reranker, step {result.kept.step}", *(f"{result.kept.measures[name]:.3f}" for name in names)]]  # fmt: skip
    if result.fused:
        rows.append(["fused (fitted on these queries)", *(f"{result.fused[name]:.3f}" for name in names)])
    auroc = "" if result.kept.auroc is None else f"AUROC {result.kept.auroc:.3f}, "
    console.print_table([f"{result.kept.queries} validation queries", *names], rows)
    print(f"  {auroc}F1 {result.kept.f1:.3f}, loss {result.kept.loss:.3f}; {result.seconds:.0f} s")
    print(f"{folder / MODEL}: the reranker")


def caution_alone(output: Path, measure: str) -> str:
    """A caution if the reranker of a training, without its first stage's scores, ordered its validation queries worse than the first stage."""
    trained = RerankerManifest.find(output)
    if trained is None or trained.kept.measures.get(measure, 1.0) >= trained.kept.first_stage.get(measure, 0.0):
        return ""
    alone, first = trained.kept.measures[measure], trained.kept.first_stage[measure]
    return f"Caution: alone, as here, the reranker orders its validation queries worse than their first stage ({measure} {alone:.3f} against {first:.3f})."


def print_index(folder: Path, index: DocumentIndex, change: Change) -> None:
    print(
        f"{folder}: {change.added:,} documents added, {change.replaced:,} replaced, {change.unchanged:,} unchanged; {len(index.documents):,} in all"
    )
    described = index.description
    parts = [
        f"first stage {described.first_stage}",
        *([f"encoder {described.encoder}, vectors in {described.store}"] if described.encoder else []),
    ]
    print(f"  {', '.join(parts)}; {'reranker ' + described.reranker if described.reranker else 'no reranker'}")


def check_settings(index: DocumentIndex, first_stage: str, encoder: str, store: str) -> None:
    """Raise UserError if an index was made with other settings than these, which it cannot take on any more."""
    made = index.description
    wanted: dict[str, tuple[str, str]] = {"FIRST_STAGE": (first_stage, made.first_stage)}
    if made.encoder:
        wanted |= {"ENCODER": (encoder, made.encoder), "VECTOR_STORE": (store, made.store)}
    for name, (asked, present) in wanted.items():
        if asked != present:
            remedy = f"Leave {name} as it was, or name another INDEX_DIR."
            raise UserError(f"was made with {name}={present}", where=index.folder, item=f"{name}={asked}", remedy=remedy)


def print_passages(passages: Sequence[Passage], reranked: bool) -> None:
    """Print passages with the ranks and scores of both stages."""
    if not passages:
        print("No document shares a word with the query.")
    for one in passages:
        scores = f"probability {one.probability:.3f}, logit {one.logit:+.2f}; " if reranked else ""
        print(f"{one.rank}. {one.document.id}  ({scores}first stage: rank {one.first_rank}, score {one.first_score:.4f})")
        text = " ".join(one.document.content.split())
        shown = text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]} …"
        print(textwrap.indent(textwrap.fill(shown, WIDTH), "   "))


def print_rerankers(folder: Path) -> None:
    """Print every trained reranker below a folder, the newest first, with its measures on its own validation queries."""
    # other programs' folders lie beside them
    folders = [path.parent for path in sorted(folder.rglob(MANIFEST)) if _is_of_reranker(path)]
    found = [(one, RerankerManifest.require(one)) for one in folders]
    if not found:
        print(f"{folder}: no trained reranker")
        return
    found.sort(key=lambda pair: pair[1].finished, reverse=True)
    names = list(dict.fromkeys(name for _, one in found for name in one.kept.measures))
    rows = [
        [str(path), one.finished[:16], str(one.settings.get("LOSS", "")), *(_cell(one, name) for name in names), one.data[:8]]
        for path, one in found
    ]
    console.print_table(["reranker", "finished", "loss", *names, "data"], rows, texts=3)
    print(
        "  reranker alone → fused with the first stage, on the validation queries of its data; compare only where data are the same"
    )


def _is_of_reranker(path: Path) -> bool:
    value = files.read_json(path)
    return isinstance(value, dict) and value.get("stage") == RerankerManifest.STAGE


def _cell(one: RerankerManifest, name: str) -> str:
    alone = f"{one.kept.measures[name]:.3f}" if name in one.kept.measures else "–"
    return f"{alone} → {one.fused[name]:.3f}" if name in one.fused else alone
