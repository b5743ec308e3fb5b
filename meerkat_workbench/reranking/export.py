"""Exporting a reranker for CPUs, with nDCG@10 of the exported models beside torch's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from meerkat_workbench.core import artifacts
from meerkat_workbench.reranking import candidates as candidate_lists
from meerkat_workbench.reranking.candidates import Candidates
from meerkat_workbench.retrieval import cross_encoder, measures, onnx_export
from meerkat_workbench.retrieval.cross_encoder import BACKENDS, ONNX_FOLDER, ExportedModel
from meerkat_workbench.retrieval.documents import JudgedQueries
from meerkat_workbench.retrieval.pipeline import RERANKER

MEASURE = "nDCG@10"


def export(model_folder: Path, found: Sequence[Candidates], judged: JudgedQueries) -> ExportedModel:
    """Write `onnx/` into a reranker's folder, and compare the logits and nDCG@10 of real candidates; raises what `onnx_export.export` raises."""
    exported = onnx_export.export(model_folder, candidate_lists.pairs_of(found, judged))
    asked = judged.of(one.query_id for one in found)
    quality = {}
    for name in BACKENDS:
        lists = candidate_lists.rerank(found, judged, cross_encoder.load(str(model_folder), name), what=name)
        quality[name] = round(measures.score(candidate_lists.run_of(lists, RERANKER), asked, [MEASURE]).mean(MEASURE), 6)
    checked = msgspec.structs.replace(exported, ndcg_at_10=quality)
    artifacts.write(model_folder / ONNX_FOLDER / ExportedModel.FILE, checked)
    return checked
