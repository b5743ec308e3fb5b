"""WordNet 3.0 for METEOR, from nltk's data, else from Debian's packages, else from a download."""

from __future__ import annotations

import functools
import io
import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nltk
from nltk.corpus.reader.wordnet import WordNetCorpusReader
from nltk.corpus.util import LazyCorpusLoader

from meerkat_workbench.core import files

DEBIAN = Path("/usr/share/wordnet")  # folder of Debian's wordnet packages
DOWNLOAD_TIMEOUT_S = 15
NEEDED = ("data.noun", "data.verb", "data.adj", "data.adv", "index.noun", "index.verb", "index.adj", "index.adv",
          "index.sense", "noun.exc", "verb.exc", "adj.exc", "adv.exc")  # fmt: skip
REMEDY = (
    "WordNet is missing. Run `python -m nltk.downloader wordnet` with a network connection, or "
    "`apt-get install wordnet-base wordnet-sense-index` on Debian and Ubuntu; then run the evaluation with --rescore and your settings"
)
# WordNet's 45 lexicographer files (lexnames(5WN)): name and part of speech (1 noun, 2 verb, 3 adjective, 4 adverb)
LEXNAMES = (
    "adj.all 3,adj.pert 3,adv.all 4,noun.Tops 1,noun.act 1,noun.animal 1,noun.artifact 1,noun.attribute 1,noun.body 1,"
    "noun.cognition 1,noun.communication 1,noun.event 1,noun.feeling 1,noun.food 1,noun.group 1,noun.location 1,"
    "noun.motive 1,noun.object 1,noun.person 1,noun.phenomenon 1,noun.plant 1,noun.possession 1,noun.process 1,"
    "noun.quantity 1,noun.relation 1,noun.shape 1,noun.state 1,noun.substance 1,noun.time 1,verb.body 2,verb.change 2,"
    "verb.cognition 2,verb.communication 2,verb.competition 2,verb.consumption 2,verb.contact 2,verb.creation 2,"
    "verb.emotion 2,verb.motion 2,verb.perception 2,verb.possession 2,verb.social 2,verb.stative 2,verb.weather 2,"
    "adj.ppl 3"
)


def _cache() -> Path:
    return files.cache_folder() / "nltk_data"


class WordNetMissingError(Exception):
    """WordNet is not available on this machine; the text is the reason and the remedy."""


def reader() -> Any:
    """nltk's WordNet reader with its data loaded. Each process looks for WordNet only once.

    Raises:
        WordNetMissingError: WordNet is not available.
    """
    wordnet = _reader()
    if wordnet is None:
        raise WordNetMissingError(REMEDY)
    return wordnet


@functools.cache
def _reader() -> Any | None:
    if str(_cache()) not in nltk.data.path:
        nltk.data.path.append(str(_cache()))
    if not _present():
        _copy_from_debian() or _download()
    if not _present():
        return None
    wordnet = LazyCorpusLoader("wordnet", EnglishReader, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it knows no other language
        wordnet.ensure_loaded()
    return wordnet


class EnglishReader(WordNetCorpusReader):
    """nltk's reader without the table that other languages need: building it takes longer than all the rest."""

    def map_wn(self, version: str = "wordnet") -> None:
        return None


@dataclass(frozen=True)
class Lemma:
    """The part of nltk's lemma that METEOR reads."""

    text: str

    def name(self) -> str:
        return self.text


@dataclass(frozen=True)
class Synonyms:
    """All synsets of a word as one, because METEOR merges their lemmas anyway."""

    words: tuple[Lemma, ...]

    def lemmas(self) -> tuple[Lemma, ...]:
        return self.words


class CachedSynonyms:
    """WordNet as METEOR uses it, with a cache, because a look-up takes a fifth of a millisecond."""

    def __init__(self, wordnet: Any) -> None:
        self.wordnet = wordnet
        self.synsets = functools.lru_cache(maxsize=65536)(self._synsets)

    def _synsets(self, word: str) -> tuple[Synonyms, ...]:
        names = {lemma.name() for synset in self.wordnet.synsets(word) for lemma in synset.lemmas()}
        return (Synonyms(tuple(map(Lemma, sorted(names)))),)


@functools.cache
def cached_synonyms() -> CachedSynonyms:
    return CachedSynonyms(reader())


def _present() -> bool:
    for name in ("corpora/wordnet", "corpora/wordnet.zip"):
        try:
            nltk.data.find(name)
            return True
        except LookupError:
            continue
    return False


def _copy_from_debian() -> bool:
    """Copy Debian's WordNet files; nltk rejects links that lead out of its data path. Returns whether they are installed."""
    if not all((DEBIAN / name).is_file() for name in NEEDED):
        return False
    target = _cache() / "corpora" / "wordnet"
    temporary = target.with_name(f".wordnet.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    for name in NEEDED:
        shutil.copyfile(DEBIAN / name, temporary / name)
    lines = (f"{number:02d}\t{entry.split()[0]}\t{entry.split()[1]}" for number, entry in enumerate(LEXNAMES.split(",")))
    (temporary / "lexnames").write_text("\n".join(lines) + "\n")
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    return True


def _download() -> bool:
    import socket

    original_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        return bool(nltk.download("wordnet", download_dir=str(_cache()), quiet=True, print_error_to=io.StringIO()))
    except OSError:
        return False
    finally:
        socket.setdefaulttimeout(original_timeout)
