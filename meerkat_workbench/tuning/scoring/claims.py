"""Claims: what a reference says and an answer does too, and what an answer says without support from the reference.

A judge cuts each reference and each answer into claims, sentence by sentence and with their conditions, and may find that a
text has no verifiable claim (MedScore, arXiv 2505.18452; cutting without conditions, as in FActScore, takes medical statements
apart). Of each claim of a reference it is asked what the answer says about it, and of each claim of an answer what the
reference says about it: the text entails it, contradicts it, or does neither. Entailed and contradicted are OLAPH's terms
(arXiv 2405.12701); a contradiction is what the judge calls one, never a distance of embeddings.

A request to cut holds one text, so it has no order. A request for a verdict holds a claim and a text. It is asked in both
orders, and a verdict that changes with the order is undecided. What is undecided or cannot be read is counted and never scored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from meerkat_workbench.core import files
from meerkat_workbench.text import texts
from meerkat_workbench.tuning.artifacts import ClaimOf, ClaimRow, ClaimScore, ClaimVerdict, Finish, Split
from meerkat_workbench.tuning.generation.questions import JUDGE, Question
from meerkat_workbench.tuning.scoring.answer_table import AnsweredQuestion, AnswerTable
from meerkat_workbench.tuning.scoring.judge_requests import MAX_ANSWER_CHARACTERS, Judge, object_in

VERSION = "claims v1"
CUT_TOKENS, VERDICT_TOKENS = 2048, 512
CUT_SYSTEM = (
    "You list the medical claims of a text. Go through the text sentence by sentence. A claim is one statement that can be checked "
    "without reading the text: it names its subject, and it keeps every condition of the sentence (for whom, when, at which dose or "
    "stage, how likely). Do not separate a statement from its condition, and add nothing. Leave out greetings, questions, feelings and "
    "offers of help. Copy numbers and units as they are, and keep the language of the text. Reply with one JSON object and nothing "
    'else: {"claims": ["…", "…"]}. If the text has no verifiable claim, the list is empty.'
)
VERDICT_SYSTEM = (
    "You compare a claim with a text. Go by the text alone, not by what you know. Reply with one JSON object and nothing else: "
    '{"verdict": "entailed"}, {"verdict": "contradicted"} or {"verdict": "neither"}. entailed: the text says it, or it follows from '
    "the text. contradicted: what the text says and the claim cannot both be true. neither: for example because the text does not "
    "mention it."
)


class _Claims(msgspec.Struct):
    """The judge's reply to a request to cut."""

    claims: list[str]


class _Verdict(msgspec.Struct):
    """The judge's reply to a request for a verdict."""

    verdict: Literal["entailed", "contradicted", "neither"]


@dataclass(frozen=True)
class Passage:
    """A reference or an answer, with its question."""

    question: str
    text: str


@dataclass(frozen=True)
class Check:
    """A claim, and the passage that is asked about it."""

    claim: str
    passage: Passage


@dataclass
class ReplyCounts:
    """What became of the judge's replies.

    Attributes:
        passages: texts that were cut; `uncut` of them have no list that can be read, and `without_claims` have no verifiable
            claim.
        checks: pairs of claim and text; `unread` have a reply that cannot be read, and the verdict of `undecided` changed with
            the order.
        unanswered: requests without a reply; another run asks them again.
    """

    passages: int = 0
    uncut: int = 0
    without_claims: int = 0
    checks: int = 0
    unread: int = 0
    undecided: int = 0
    unanswered: int = 0


@dataclass(frozen=True)
class ClaimFindings:
    """The claims of every reference and answer, and the measures of each answer.

    Attributes:
        claims: a row for each claim, system and question.
        scores: a row for each system and question.
    """

    claims: list[ClaimRow] = field(default_factory=list)
    scores: list[ClaimScore] = field(default_factory=list)
    replies: ReplyCounts = field(default_factory=ReplyCounts)


def judge_claims(judge: Judge, tables: Mapping[str, AnswerTable], split: Split = Split.HOLDOUT) -> ClaimFindings:
    """Cut the references and answers of a split into claims, and ask what each says about the other's.

    Equal texts and equal pairs of claim and text are asked about once, whichever system they come from. Failed answers are left
    out.

    Args:
        tables: answers by system.

    Raises:
        UserError: no request was answered.
    """
    answered = {system: [row for row in table.of_split(split) if row.finish != Finish.FAILED] for system, table in tables.items()}
    replies = ReplyCounts()
    rows = [row for of_system in answered.values() for row in of_system]
    claims = cut(judge, [passage for row in rows for passage in (_reference(row), _answer(row))], replies)
    wanted = [check for row in rows for _, check in _checks(row, claims)]
    verdicts = check_claims(judge, wanted, replies)
    findings = ClaimFindings(replies=replies)
    for system, of_system in answered.items():
        for row in of_system:
            found = [
                ClaimRow(id=str(row.id), specialty=row.specialty, system=system, claim_of=claim_of, claim=check.claim,
                         verdict=verdicts[check])
                for claim_of, check in _checks(row, claims)
            ]  # fmt: skip
            findings.claims.extend(found)
            findings.scores.append(_score(row, system, claims, found))
    return findings


def _reference(row: AnsweredQuestion) -> Passage:
    return Passage(row.question, row.reference[:MAX_ANSWER_CHARACTERS])


def _answer(row: AnsweredQuestion) -> Passage:
    return Passage(row.question, row.prediction[:MAX_ANSWER_CHARACTERS])


def _checks(row: AnsweredQuestion, claims: Mapping[Passage, tuple[str, ...] | None]) -> Iterator[tuple[ClaimOf, Check]]:
    """The claims of the reference with the answer, then those of the answer with the reference."""
    reference, answer = _reference(row), _answer(row)
    for claim_of, one, other in ((ClaimOf.REFERENCE, reference, answer), (ClaimOf.ANSWER, answer, reference)):
        for claim in claims[one] or ():
            yield claim_of, Check(claim, other)


# --- requests and replies


def cut_request(passage: Passage) -> Question:
    """The request for the claims of a text. The question is in it, because its conditions are those of the answer."""
    text = f"The question that the text answers, for context only: {passage.question}\n\nText:\n{passage.text}"
    return _request(CUT_SYSTEM, text, passage.question)


def verdict_requests(check: Check) -> tuple[Question, Question]:
    """The two requests for the verdict on a claim: the text first, then the claim first."""
    question = f"The question, for context only: {check.passage.question}"
    text, claim = f"Text:\n{check.passage.text}", f"Claim:\n{check.claim}"
    first, second = (_request(VERDICT_SYSTEM, "\n\n".join((question, *parts)), check.passage.question)
                     for parts in ((text, claim), (claim, text)))  # fmt: skip
    return first, second


def _request(system: str, text: str, question: str) -> Question:
    name = files.sha256_of([system, text])[:16]
    return Question(name, JUDGE, "", question, "", text, (), (("system", system), ("user", text)))


def read_claims(reply: str) -> tuple[str, ...] | None:
    """The claims of a reply, without blank ones and repetitions; None if it cannot be read."""
    try:
        found = msgspec.json.decode(object_in(reply), type=_Claims).claims
    except (msgspec.MsgspecError, UnicodeError):
        return None
    return tuple(dict.fromkeys(texts.clean(claim) for claim in found if not texts.is_blank(claim)))


def read_verdict(reply: str) -> ClaimVerdict:
    """The verdict of a reply; `ClaimVerdict.UNREAD` if it cannot be read."""
    try:
        return ClaimVerdict(msgspec.json.decode(object_in(reply), type=_Verdict).verdict)
    except (msgspec.MsgspecError, UnicodeError):
        return ClaimVerdict.UNREAD


def cut(judge: Judge, passages: Sequence[Passage], replies: ReplyCounts) -> dict[Passage, tuple[str, ...] | None]:
    """The claims of each text; None if the judge's list is missing or cannot be read.

    A blank text has no claim and is not asked about.

    Args:
        replies: counts what became of the replies.
    """
    distinct = list(dict.fromkeys(passages))
    asked = [passage for passage in distinct if not texts.is_blank(passage.text)]
    found = judge.ask([cut_request(passage) for passage in asked], VERSION, CUT_TOKENS, f"to cut {len(asked)} texts into claims")
    claims: dict[Passage, tuple[str, ...] | None] = dict.fromkeys(distinct, ())
    claims |= {passage: None if reply is None else read_claims(reply) for passage, reply in zip(asked, found, strict=True)}
    replies.passages += len(distinct)
    replies.unanswered += found.count(None)
    replies.uncut += sum(claims[passage] is None for passage in distinct)
    replies.without_claims += sum(claims[passage] == () for passage in distinct)
    return claims


def check_claims(judge: Judge, checks: Sequence[Check], replies: ReplyCounts) -> dict[Check, ClaimVerdict]:
    """The verdict on each pair of claim and text.

    A blank text entails and contradicts nothing and is not asked about.

    Args:
        replies: counts what became of the replies.
    """
    distinct = list(dict.fromkeys(checks))
    asked = [check for check in distinct if not texts.is_blank(check.passage.text)]
    requests = [request for check in asked for request in verdict_requests(check)]
    purpose = f"for verdicts on {len(asked)} pairs of claim and text, each in both orders"
    found = judge.ask(requests, VERSION, VERDICT_TOKENS, purpose)
    verdicts = dict.fromkeys(distinct, ClaimVerdict.NEITHER)
    for check, both in zip(asked, zip(found[::2], found[1::2], strict=True), strict=True):
        first, second = (ClaimVerdict.UNREAD if reply is None else read_verdict(reply) for reply in both)
        is_unread = ClaimVerdict.UNREAD in (first, second)
        verdicts[check] = ClaimVerdict.UNREAD if is_unread else first if first == second else ClaimVerdict.UNDECIDED
    replies.checks += len(distinct)
    replies.unanswered += found.count(None)
    replies.unread += sum(verdict is ClaimVerdict.UNREAD for verdict in verdicts.values())
    replies.undecided += sum(verdict is ClaimVerdict.UNDECIDED for verdict in verdicts.values())
    return verdicts


# --- measures


def _score(
    row: AnsweredQuestion, system: str, claims: Mapping[Passage, tuple[str, ...] | None], found: Sequence[ClaimRow]
) -> ClaimScore:
    """The measures of one answer; without a claim that has a verdict there is no value."""
    of_reference, of_answer = ([claim.verdict for claim in found if claim.claim_of is claim_of and claim.verdict.is_decided]
                               for claim_of in ClaimOf)  # fmt: skip
    in_reference, in_answer = (claims[passage] for passage in (_reference(row), _answer(row)))
    # of claims that exist but have no verdict it is not known how many are unsupported
    is_known = in_answer is not None and (bool(of_answer) or not in_answer)
    return ClaimScore(
        id=str(row.id), specialty=row.specialty, system=system, reference_claims=_count(in_reference), reference_decided=len(of_reference),
        answer_claims=_count(in_answer), answer_decided=len(of_answer),
        claim_recall=_fraction(of_reference, ClaimVerdict.ENTAILED),
        claim_contradicted=_fraction(of_reference, ClaimVerdict.CONTRADICTED),
        claim_precision=_fraction(of_answer, ClaimVerdict.ENTAILED),
        unsupported_claims=sum(verdict is not ClaimVerdict.ENTAILED for verdict in of_answer) if is_known else math.nan,
    )  # fmt: skip


def _count(claims: tuple[str, ...] | None) -> float:
    return math.nan if claims is None else len(claims)


def _fraction(verdicts: Sequence[ClaimVerdict], of: ClaimVerdict) -> float:
    return verdicts.count(of) / len(verdicts) if verdicts else math.nan
