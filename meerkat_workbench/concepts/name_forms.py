"""Forms of a name for comparing: its key, its words, its numbers, and American spelling."""

from __future__ import annotations

import functools
import re

from nltk.stem.porter import PorterStemmer

from meerkat_workbench.text import texts

UNCOUNTED = ("of", "the", "and")  # words of a name that make no difference
AMERICAN = {"aemi": "emi", "haem": "hem", "oedem": "edem", "tumour": "tumor", "oesoph": "esoph", "paed": "ped", "gynaec": "gynec", "caec": "cec",
            "coeli": "celi", "anaes": "anes", "orrhoea": "orrhea", "leuco": "leuko", "foet": "fet", "fibre": "fiber", "colour": "color"}  # fmt: skip
BRITISH = re.compile("|".join(AMERICAN))
ARTICLE_AFTER = (*UNCOUNTED, "in", "with", "by", "from", "for", "to", "as", "or", "is")  # words after which "a" is an article
EDGES = re.compile(
    rf"^(?:{'|'.join(UNCOUNTED)})\b|\b(?:{'|'.join(UNCOUNTED)})$", re.IGNORECASE
)  # a mention neither begins nor ends with them
_stemmer = PorterStemmer()


@functools.lru_cache(maxsize=200_000)
def _stem(word: str) -> str:
    return str(_stemmer.stem(american(word))) if word.isascii() and word.isalpha() else word


def american(text: str) -> str:
    """A text in lower case with American spelling of the word parts that medicine spells in two ways: "tumour" and "haemophilia"."""
    return BRITISH.sub(lambda match: AMERICAN[match[0]], text.lower())


def comparable(name: str) -> str:
    """A name whose character n-grams are compared."""
    return american(texts.comparable(name))


@functools.lru_cache(maxsize=200_000)
def key(name: str) -> str:
    """A name without case, punctuation and word order, its words stemmed: equal for "Breast Cancers" and "cancer, breast". Empty for a name of symbols
    alone. In scripts without spaces the order of characters counts."""
    return " ".join(sorted(_stem(word) for word in texts.runs(name) if word not in UNCOUNTED))


@functools.lru_cache(maxsize=200_000)
def words(name: str) -> frozenset[str]:
    """The stemmed words of a name; single characters in scripts without spaces."""
    return frozenset(_stem(word) for word in texts.tokens(name) if word not in UNCOUNTED)


ROMAN = {name: str(value) for value, name in enumerate(
    ["i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x", "xi", "xii", "xiii", "xiv", "xv"], start=1)}  # fmt: skip
NUMBER_AND_LETTER = re.compile(r"(\d+|[ivx]+)([a-h]?)")
LETTERS = tuple("abcdefgh")


@functools.lru_cache(maxsize=200_000)
def numbers(name: str) -> frozenset[str]:
    """Numbers and letters of a name, which tell types of a disease apart: "2" and "b" of "type IIb". "X-linked" has none, nor has the article "a"."""
    found: set[str] = set()
    before = ""
    for word in texts.tokens(texts.compatible(name)):
        match = NUMBER_AND_LETTER.fullmatch(word)
        if match and word != "x" and (match[1].isdigit() or match[1] in ROMAN):
            found |= {str(int(match[1])) if match[1].isdigit() else ROMAN[match[1]], match[2]} - {""}
        else:
            article = word == "a" and (not before or before in ARTICLE_AFTER)
            if (word in LETTERS and not article) or any(letter.isdigit() for letter in word):
                found.add(word)
        before = word
    return frozenset(found)
