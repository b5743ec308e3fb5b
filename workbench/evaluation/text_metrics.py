"""Text metrics as the reference packages define them: BLEU (nltk), ROUGE (rouge-score), METEOR (nltk), SQuAD's two.

Values agree with those packages; ROUGE is counted here because rouge-score takes a hundredfold the time for the
longest common subsequence.
"""

from __future__ import annotations

import functools
import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence

import nltk
import numpy as np
import sacrebleu
from nltk.stem.porter import PorterStemmer
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from nltk.translate.meteor_score import single_meteor_score
from rapidfuzz.distance import LCSseq
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from workbench.evaluation import wordnet

BLEU_WEIGHTS = [(1.0,), (0.5, 0.5), (1 / 3, 1 / 3, 1 / 3), (0.25, 0.25, 0.25, 0.25)]
ARTICLES = re.compile(r"\b(a|an|the)\b")
NOT_ROUGE = re.compile(r"[^a-z0-9]+")
METEOR_WORD = re.compile(r"\w+(?:[.,'-]\w+)*%?")
_tokenizer_13a = Tokenizer13a()
_smoothing = SmoothingFunction().method1

SIGNATURES = {
    **{f"BLEU-{n}": f"nltk {nltk.__version__} sentence_bleu, smooth:method1, tok:13a, case:lower" for n in range(1, 5)},
    **{f"ROUGE-{n}": "rouge-score 0.1.2, F1, stemmer:no" for n in ("1", "2", "L")},
    "METEOR": f"nltk {nltk.__version__}, WordNet 3.0, Porter stems, tok:words, case:lower",
    "exact_match": "SQuAD 1.1 normalisation",
    "token_f1": "SQuAD 1.1 normalisation",
    "length_ratio": "words of the answer over words of the reference, split at white space",
}


@functools.lru_cache(maxsize=8192)
def tokens_13a(text: str) -> tuple[str, ...]:
    """Lower-case tokens as WMT's mteval-v13a cuts them (sacrebleu)."""
    return tuple(_tokenizer_13a(text.lower()).split())


@functools.lru_cache(maxsize=8192)
def rouge_tokens(text: str) -> tuple[str, ...]:
    """Tokens of rouge-score without a stemmer: runs of ASCII letters and digits."""
    return tuple(NOT_ROUGE.sub(" ", text.lower()).split())


def bleu(reference: str, hypothesis: str) -> list[float]:
    """BLEU-1 to BLEU-4 of one answer (Papineni et al. 2002), smoothed as `SmoothingFunction.method1`."""
    tokens = tokens_13a(hypothesis)
    if not tokens:
        return [0.0] * 4
    scores = sentence_bleu([tokens_13a(reference)], tokens, weights=BLEU_WEIGHTS, smoothing_function=_smoothing)
    return [float(score) for score in scores]


def corpus_bleu(chunks: Iterable[tuple[Sequence[str], Sequence[str]]]) -> tuple[float, str]:
    """Corpus BLEU from 0 to 100 and sacrebleu's signature, from references and hypotheses; not the mean of sentence BLEUs.

    A corpus is counted chunk by chunk: its BLEU rests on sums.
    """
    metric = sacrebleu.BLEU(lowercase=True)
    counts, totals, lengths = np.zeros(4, int), np.zeros(4, int), np.zeros(2, int)
    for references, hypotheses in chunks:
        part = metric.corpus_score(list(hypotheses), [list(references)])
        counts, totals, lengths = counts + part.counts, totals + part.totals, lengths + (part.sys_len, part.ref_len)
    score = sacrebleu.BLEU.compute_bleu(
        counts.tolist(), totals.tolist(), int(lengths[0]), int(lengths[1]), smooth_method="exp"
    ).score
    return float(score), str(metric.get_signature())


def _f1(overlap: int, hypothesis: int, reference: int) -> float:
    if not overlap:
        return 0.0
    precision, recall = overlap / hypothesis, overlap / reference
    return 2 * precision * recall / (precision + recall)


def rouge_n(reference: str, hypothesis: str, n: int) -> float:
    """ROUGE-N F1 (Lin 2004)."""
    grams = [
        Counter(zip(*(tokens[i:] for i in range(n)), strict=False))
        for tokens in (rouge_tokens(hypothesis), rouge_tokens(reference))
    ]
    return _f1((grams[0] & grams[1]).total(), grams[0].total(), grams[1].total())


def rouge_l(reference: str, hypothesis: str) -> float:
    """ROUGE-L F1: the longest common subsequence over the whole answer."""
    left, right = rouge_tokens(hypothesis), rouge_tokens(reference)
    return _f1(LCSseq.similarity(left, right), len(left), len(right)) if left and right else 0.0


def meteor(reference: str, hypothesis: str) -> float:
    """METEOR (Banerjee and Lavie 2005); an identical one-word answer scores 0.5 by its definition."""
    words = [METEOR_WORD.findall(text.lower()) for text in (reference, hypothesis)]
    if not words[0] or not words[1]:
        return 0.0
    return float(single_meteor_score(words[0], words[1], stemmer=_stemmer, wordnet=wordnet.remembering()))


class RememberingStemmer(PorterStemmer):
    """nltk's Porter stemmer, each word stemmed once: answers repeat theirs, and a stem takes 20 µs."""

    @functools.lru_cache(maxsize=65536)  # noqa: B019  there is one stemmer a process
    def stem(self, word: str, to_lowercase: bool = True) -> str:
        return str(super().stem(word, to_lowercase))


_stemmer = RememberingStemmer()


@functools.lru_cache(maxsize=8192)
def squad_tokens(text: str) -> tuple[str, ...]:
    """SQuAD's normalisation: lower case, punctuation and articles off. "2.5 mg" becomes "25 mg", as its script does."""
    plain = "".join(character for character in text.lower() if character not in string.punctuation)
    return tuple(ARTICLES.sub(" ", plain).split())


def exact_match(reference: str, hypothesis: str) -> float:
    return float(squad_tokens(reference) == squad_tokens(hypothesis))


def token_f1(reference: str, hypothesis: str) -> float:
    left, right = Counter(squad_tokens(hypothesis)), Counter(squad_tokens(reference))
    if not left or not right:
        return float(left == right)
    return _f1((left & right).total(), left.total(), right.total())


def length_ratio(reference: str, hypothesis: str) -> float | None:
    """Words of the answer over words of the reference; None for an empty reference. 1 is as long."""
    words = len(reference.split())
    return len(hypothesis.split()) / words if words else None
