#!/usr/bin/env python3
"""How fast does an exported reranker score, and does it still rank as well? torch, ONNX, ONNX in 8 bits, and FlashRank's runtime.

All score the same pairs of a prepared folder's test queries with the same weights, in one process after another. Pairs of a batch are about
equally long. FlashRank (pip install flashrank) takes all pairs of a query as one batch and pads them to its longest.

    python benchmarks/reranking.py --data datasets/demo_reranking --model results/demo_reranking/model
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import side_by_side

from meerkat_workbench.device import hub
from meerkat_workbench.reranking import candidates as lists
from meerkat_workbench.reranking import corpus_index
from meerkat_workbench.reranking.candidates import Candidates
from meerkat_workbench.reranking.prepared import PreparedData
from meerkat_workbench.reranking.splits import RankingSplit
from meerkat_workbench.retrieval import cross_encoder, measures
from meerkat_workbench.retrieval.cross_encoder import BACKENDS, ONNX_FOLDER, ExportedModel, Pair
from meerkat_workbench.retrieval.documents import JudgedQueries
from meerkat_workbench.retrieval.pipeline import RERANKER

FLASHRANK = "flashrank"
FLASHRANK_NAME, FLASHRANK_FILE = (
    "ms-marco-TinyBERT-L-2-v2",
    "flashrank-TinyBERT-L-2-v2.onnx",
)  # FlashRank loads only names that it knows
BATCHES = (1, 32, 64)


def pairs_of(found: Sequence[Candidates], judged: JudgedQueries) -> list[Pair]:
    return [(judged.queries[one.query_id].text, judged.documents[name].content) for one in found for name in one.document_ids]


def seconds(call: Callable[[], object], repeats: int) -> float:
    """The fastest of several calls, after one that is not counted."""
    call()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return min(taken)


def quality(found: Sequence[Candidates], judged: JudgedQueries, logits: np.ndarray) -> float:
    bounds = np.cumsum([0, *(len(one.document_ids) for one in found)])
    scored = [one.with_scores(RERANKER, logits[start:end]) for one, start, end in zip(found, bounds, bounds[1:], strict=False)]
    return measures.score(lists.run_of(scored, RERANKER), judged.of(one.query_id for one in found), ["nDCG@10"]).mean("nDCG@10")


def flashrank_scorer(model: Path, max_length: int) -> Any:
    """FlashRank's Ranker on our 8-bit model, under a name that it knows."""
    from flashrank import Ranker

    cache = Path(tempfile.mkdtemp())
    folder = cache / FLASHRANK_NAME
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (model / name).is_file():
            shutil.copyfile(model / name, folder / name)
    if not (folder / "special_tokens_map.json").is_file():
        (folder / "special_tokens_map.json").write_text("{}", encoding="utf-8")
    shutil.copyfile(model / ONNX_FOLDER / ExportedModel.MODELS["onnx-int8"], folder / FLASHRANK_FILE)
    return Ranker(model_name=FLASHRANK_NAME, cache_dir=str(cache), max_length=max_length)


def arm(arguments: argparse.Namespace) -> None:
    hub.silence_libraries()
    judged = PreparedData.open(arguments.data).judged(RankingSplit.TEST)
    index = corpus_index.of(judged.documents.values(), "bm25", "")
    found = lists.of_first_stage(judged.of(sorted(judged.queries)[: arguments.queries]), index, arguments.depth)
    pairs = pairs_of(found, judged)
    if arguments.arm == FLASHRANK:
        side_by_side.report(flashrank_arm(arguments, found, judged, len(pairs)))
        return
    model = cross_encoder.load(str(arguments.model), arguments.arm)
    rates = {f"pairs/s, batch {size}": round(len(pairs) / seconds(lambda size=size: model.logits(pairs, batch_size=size), arguments.repeats), 1)
             for size in BATCHES}  # fmt: skip
    side_by_side.report({"pairs": len(pairs), **rates, "nDCG@10": round(quality(found, judged, model.logits(pairs)), 4)})


def flashrank_arm(
    arguments: argparse.Namespace, found: Sequence[Candidates], judged: JudgedQueries, count: int
) -> dict[str, Any]:
    from flashrank import RerankRequest

    ranker = flashrank_scorer(arguments.model, cross_encoder.load(str(arguments.model), "onnx-int8").max_length)

    def score_all() -> np.ndarray:
        scores = []
        for one in found:
            passages = [{"id": name, "text": judged.documents[name].content} for name in one.document_ids]
            answered = {
                row["id"]: row["score"]
                for row in ranker.rerank(RerankRequest(query=judged.queries[one.query_id].text, passages=passages))
            }
            scores += [float(answered[name]) for name in one.document_ids]
        return np.array(scores)

    rate = round(count / seconds(score_all, arguments.repeats), 1)
    return {
        "pairs": count,
        f"pairs/s, a query of {arguments.depth} at a time": rate,
        "nDCG@10": round(quality(found, judged, score_all()), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder that reranking.py prepare wrote")
    parser.add_argument("--model", type=Path, required=True, help="a reranker that is exported")
    parser.add_argument("--queries", type=int, default=30)
    parser.add_argument("--depth", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--arm", choices=[*BACKENDS, FLASHRANK])
    arguments = parser.parse_args()
    arguments.data, arguments.model = arguments.data.resolve(), arguments.model.resolve()
    if arguments.arm:
        arm(arguments)
        return
    print(side_by_side.machine())
    arms = [*BACKENDS, *([FLASHRANK] if importlib.util.find_spec("flashrank") else [])]
    for name, figures in side_by_side.run(__file__, arms):
        print(f"{name}: {figures}", flush=True)


if __name__ == "__main__":
    main()
