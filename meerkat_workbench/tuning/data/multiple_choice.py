"""Reads sets of multiple-choice questions, in the forms in which the well-known ones are published.

The prompt and the continuations of each form are those of lm-evaluation-harness (tasks medqa_4options, medmcqa, pubmedqa and
mmlu, version 0.4.13), without examples and without a chat template:

- MedQA: rows with `question`, `options` and `answer_idx`, or `sent1`, `ending0` to `ending3` and `label` (the harness's copy).
- MedMCQA: `question`, `opa` to `opd` and `cop`. The original files count `cop` from 1, the copy on the Hub from 0, with -1 where
  the answer is not published. The numbers of the whole file decide between them.
- PubMedQA: an object of `QUESTION`, `CONTEXTS` and `final_decision` by article number, or rows with `question`, `context` and
  `final_decision`.
- MMLU: a table without a header (question, four options, letter), or rows with `question`, `choices`, `answer` and `subject`.
- The plain form: `question`, `options` (a list, or an object by letter; in a table also columns A, B, C …), `answer` (a letter, the
  text of an option, or its number, counted from 0) and, if wanted, `subject`. It is asked in MedQA's form.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meerkat_workbench.core import files, input_files
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.text import contamination

SETTING = "BENCHMARKS"
LETTERS = string.ascii_uppercase
MAX_FAULTS_SHOWN = 20
DECISIONS = ("yes", "no", "maybe")  # PubMedQA's options
SPLIT_SUFFIX = re.compile(r"_(?:test|val|dev|train|validation|auxiliary_train)$")  # of MMLU's files: anatomy_test.csv
NEEDED = "It needs the fields of MedQA, MedMCQA, PubMedQA or MMLU, or question, options and answer (docs/evaluation.md describes the forms)."
Row = Mapping[str, Any]  # a row of a file by normalised field names


@dataclass(frozen=True, slots=True)
class ChoiceItem:
    """A multiple-choice question as a model is asked it.

    Attributes:
        file: its file, relative to the folder.
        name: its id in the file, or its number, for messages.
        subject: empty if the file names none.
        context: the text before the answer.
        choices: the continuations, one for each option; a space stands between context and continuation.
        options: the texts of the options.
        answer: index of the right option.
    """

    file: str
    name: str
    subject: str
    question: str
    context: str
    choices: tuple[str, ...]
    options: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class Benchmark:
    """The questions of a folder.

    Attributes:
        unanswered: number of questions by file whose right option is not published; they are not asked.
    """

    folder: Path
    paths: tuple[Path, ...]
    items: tuple[ChoiceItem, ...]
    unanswered: Mapping[str, int]


class ItemFaultError(Exception):
    """What is wrong with one item, as a clause that follows the item's name."""


@dataclass(frozen=True)
class Content:
    """What one form reads from a row; `answer` is None if the right option is not published."""

    question: str
    options: tuple[str, ...]
    answer: int | None
    subject: str
    context: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Form:
    """One form of files.

    Attributes:
        fields: what its rows have; each entry lists the names of which one must be there.
        read: the content of a row; it raises ItemFaultError.
        asks: the field with the question.
    """

    fields: tuple[tuple[str, ...], ...]
    read: Callable[[Row], Content]
    asks: str = "question"

    def matches(self, names: set[str]) -> bool:
        return all(names & set(alternatives) for alternatives in self.fields)


# --- files


def find_files(folder: str) -> list[Path]:
    """The files of the setting BENCHMARKS; an empty list for an empty setting.

    Raises:
        UserError: there is no such folder, or it has a file in a format that is not read.
    """
    return contamination.find_files([folder], setting=SETTING) if folder else []


def content_hashes(folder: str) -> list[str]:
    """Name and SHA-256 of each file, for the fingerprint of an evaluation; an empty list for an empty setting."""
    return [f"{_name_in(Path(folder), path)} {files.sha256_file(path)}" for path in find_files(folder)]


def read(folder: str) -> Benchmark | None:
    """Every question in the files of a folder; None for an empty setting.

    Raises:
        UserError: lists the first twenty faulty files and items, and the number of the others.
    """
    if not folder:
        return None
    paths = find_files(folder)
    faults: list[UserError] = []
    items: list[ChoiceItem] = []
    unanswered: dict[str, int] = {}
    for path in paths:
        name = _name_in(Path(folder), path)
        try:
            found, without_answer = _read_file(path, name, faults)
        except (UserError, ValueError, OSError) as error:  # pyarrow's errors are ValueErrors
            fault, item, remedy = (
                (error.fault, error.item, error.remedy) if isinstance(error, UserError) else (str(error), "", "")
            )
            faults.append(UserError(fault, where=name, item=item, remedy=remedy))
            continue
        items += found
        if without_answer:
            unanswered[name] = without_answer
    if faults:
        shown = "".join(f"\n  {fault}" for fault in faults[:MAX_FAULTS_SHOWN])
        more = f"\n  … and {len(faults) - MAX_FAULTS_SHOWN} more" if len(faults) > MAX_FAULTS_SHOWN else ""
        first = faults[0]
        raise UserError(
            f"{len(faults)} fault{'s' * (len(faults) > 1)}", where=f"{SETTING}={folder}", item=": ".join(filter(None, [first.where, first.item])),
            remedy=f"Correct or remove {'them' if len(faults) > 1 else 'it'}.{shown}{more}",
        )  # fmt: skip
    return Benchmark(Path(folder), tuple(paths), tuple(items), unanswered)


def questions_in(path: Path) -> list[str] | None:
    """The questions of a file in one of the published forms, for the contamination guard; None for any other file.

    Nothing but the question of each row is read, so that a fault elsewhere in a row hides no question.
    """
    with contextlib.suppress(UserError, ValueError, OSError):
        rows = _rows(path)
        form = _form_of([row for _, row in rows])
        if form and form is not PLAIN:
            texts = [row.get(form.asks) for _, row in rows]
            return [text for text in texts if isinstance(text, str)] if all(isinstance(text, str) for text in texts) else None
    return None


def _name_in(folder: Path, path: Path) -> str:
    return path.name if path == folder else path.relative_to(folder).as_posix()


def _read_file(path: Path, name: str, faults: list[UserError]) -> tuple[list[ChoiceItem], int]:
    """The items of a file, and the number of those without a published answer; faults of single items are added to `faults`."""
    rows = _rows(path)
    form = _form_of([row for _, row in rows])
    if form is None:
        fields = sorted({field for _, row in rows for field in row if field})
        raise UserError(f"has the fields {input_files.shorten_list(fields) or 'of none'}", remedy=NEEDED)
    if form is MEDMCQA:
        form = _medmcqa_with_base([row for _, row in rows])
    items, unanswered, subject = [], 0, SPLIT_SUFFIX.sub("", Path(path.name.removesuffix(".gz")).stem)
    for label, row in rows:
        if form is MMLU and not row.get("subject"):
            row = {**row, "subject": subject}
        try:
            content = _checked(form.read(row))
        except ItemFaultError as error:
            faults.append(UserError(str(error), where=name, item=label))
            continue
        if content.answer is None:
            unanswered += 1
            continue
        items.append(ChoiceItem(name, label, content.subject, content.question, content.context, content.choices, content.options,
                                content.answer))  # fmt: skip
    if rows and unanswered == len(rows):
        remedy = "Take the split whose answers are published (the validation split of MedMCQA), or leave it out."
        raise UserError("has no item with a published answer", remedy=remedy)
    return items, unanswered


def _rows(path: Path) -> list[tuple[str, Row]]:
    """The name and the fields of each row; UserError if the file cannot be read."""
    suffix = input_files.suffix_of(path)
    if suffix == ".parquet":
        import pyarrow.parquet as pq

        return _named(pq.read_table(path).to_pylist())
    text = input_files.read_text(path)
    if suffix in (".csv", ".tsv"):
        return _rows_of_table(text, tabs=suffix == ".tsv")
    if suffix == ".txt":
        raise UserError("is a text file, which has no options", remedy="Give JSON, JSON lines, CSV or parquet.")
    value = input_files.json_value(text, lines=suffix != ".json")
    if isinstance(value, dict):
        fields = {input_files.normalized_field(field) for field in value}
        if _form_of([dict.fromkeys(fields)]):  # one item
            return _named([value])
        lists = [entry for entry in value.values() if isinstance(entry, list) and entry and isinstance(entry[0], dict)]
        if len(lists) == 1:
            return _named(lists[0])
        if value and all(isinstance(entry, dict) for entry in value.values()):  # PubMedQA: by article number
            return [(str(key), _normalized(entry)) for key, entry in value.items()]
    if not isinstance(value, list):
        raise UserError(f"holds {type(value).__name__}, and no list or object of items", remedy=NEEDED)
    return _named(value)


def _named(rows: Sequence[Any]) -> list[tuple[str, Row]]:
    """Rows with their names: an id where they have one, else their number."""
    named: list[tuple[str, Row]] = []
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise UserError(f"is {type(row).__name__}, not an object", item=f"item {number}", remedy=NEEDED)
        fields = _normalized(row)
        label = fields.get("id") or fields.get("pubid")
        named.append((str(label) if label else f"item {number}", fields))
    return named


def _normalized(row: Mapping[Any, Any]) -> Row:
    return {input_files.normalized_field(name): value for name, value in row.items()}


def _rows_of_table(text: str, *, tabs: bool) -> list[tuple[str, Row]]:
    """Rows of a table with a header, or of MMLU's, which has none."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if tabs else ",")
    cells = [row for row in reader if any(cell.strip() for cell in row)]
    # as in MMLU's own files: a question, four options and the letter of the right one
    if cells and len(cells[0]) == 6 and cells[0][5].strip() in tuple(LETTERS[:4]):
        if broken := next((number for number, row in enumerate(cells, start=1) if len(row) != 6), None):
            raise UserError(f"has {len(cells[broken - 1])} fields where the first row has 6", item=f"item {broken}")
        return _named([{"question": row[0], "choices": row[1:5], "answer": row[5].strip()} for row in cells])
    table = input_files.Table.of(
        text, wanted=[("question",)], needs="a column question, or MMLU's six columns without a header", tabs=tabs
    )
    rows = []
    for number, row in enumerate(table.rows(), start=1):
        if isinstance(row, str):  # what is wrong with it
            raise UserError(row, item=f"row {number}")
        rows.append(_with_options(row) if "opa" not in row else row)
    return _named(rows)


def _with_options(row: dict[str, str]) -> dict[str, Any]:
    """The row of a plain table with its options as a list or object: from a JSON text, or from the columns A, B, C …"""
    if given := row.get("options", "").strip():
        with contextlib.suppress(json.JSONDecodeError):
            return {**row, "options": json.loads(given)}
        return row
    by_letter = {letter: row[letter.lower()] for letter in LETTERS if row.get(letter.lower(), "").strip()}
    return {**row, "options": by_letter} if by_letter else dict(row)


# --- forms


def _form_of(rows: Sequence[Row]) -> Form | None:
    """The form of the first row; the others must have it too, or they are faulty."""
    return next((form for form in FORMS if rows and form.matches(set(rows[0]))), None)


def _text(row: Row, field: str) -> str:
    value = row.get(field)
    if value is None:
        raise ItemFaultError(f"lacks the field {field}")
    if not isinstance(value, str):
        raise ItemFaultError(f"has a {field} that is no text: {str(value)[:60]!r}")
    return value


def _checked(content: Content) -> Content:
    """The content, if it can be asked: a question, and two to 26 options."""
    if not content.question.strip():
        raise ItemFaultError("has an empty question")
    if not 2 <= len(content.options) <= len(LETTERS):
        raise ItemFaultError(f"has {len(content.options)} options; it needs 2 to {len(LETTERS)}")
    if content.answer is not None and not 0 <= content.answer < len(content.options):
        raise ItemFaultError(
            f"has an answer (number {content.answer}, counted from 0) that is none of its {len(content.options)} options"
        )
    return content


def _lettered(question: str, options: Sequence[str], answer: int | None, subject: str, head: str = "") -> Content:
    """The form of medqa_4options, and with `head` that of medmcqa: options by letter, and the letter as the continuation."""
    letters = LETTERS[: len(options)]
    listed = "".join(f"{letter}. {option}\n" for letter, option in zip(letters, options, strict=False))
    context = f"Question: {question}\n{head}{listed}Answer:"
    return Content(question, tuple(options), answer, subject, context, tuple(letters))


def _options(row: Row) -> tuple[list[str], list[str]]:
    """The texts of `options`, and their letters in the file."""
    given = row.get("options")
    if isinstance(given, list) and all(isinstance(entry, dict) and {"key", "value"} <= set(entry) for entry in given) and given:
        given = {entry["key"]: entry["value"] for entry in given}  # MedQA's form in parquet files on the Hub
    if isinstance(given, dict):
        given = {key: value for key, value in given.items() if value is not None}  # parquet fills what other rows have
        texts, letters = list(given.values()), [str(key).strip().upper() for key in given]
    elif isinstance(given, list):
        texts, letters = given, list(LETTERS[: len(given)])
    else:
        raise ItemFaultError("lacks its options: a list, or an object by letter")
    if not all(isinstance(option, str | int | float) for option in texts):
        raise ItemFaultError("has an option that is no text")
    return [str(option) for option in texts], letters


def _letter(value: object, letters: Sequence[str], field: str) -> int:
    """The index of an option by its letter."""
    wanted = str(value).strip().upper()
    if wanted not in letters:
        raise ItemFaultError(f"has {field} {str(value)[:40]!r}, which is none of the letters {', '.join(letters)}")
    return list(letters).index(wanted)


def _medqa(row: Row) -> Content:
    options, letters = _options(row)
    answer = _letter(row.get("answer_idx"), letters, "answer_idx")
    stated = row.get("answer")
    if isinstance(stated, str) and len(stated) > 1 and stated.strip() != options[answer].strip():
        raise ItemFaultError(f"has answer_idx {row.get('answer_idx')}, but another text as its answer: {str(stated)[:60]!r}")
    return _lettered(_text(row, "question"), options, answer, str(row.get("meta_info") or ""))


def _medqa_of_harness(row: Row) -> Content:
    options = [_text(row, f"ending{place}") for place in range(4)]
    return _lettered(_text(row, "sent1"), options, _number(row.get("label"), "label"), "")


def _medmcqa(first: int) -> Callable[[Row], Content]:
    """The reader of MedMCQA's rows whose `cop` counts from `first`."""

    def read_row(row: Row) -> Content:
        options = [_text(row, name) for name in ("opa", "opb", "opc", "opd")]
        given = row.get("cop")
        number = None if given is None or given == "" else _number(given, "cop")
        answer = None if number is None or number == -1 else number - first
        if answer is not None and not 0 <= answer < len(options):
            raise ItemFaultError(f"has cop {given}, where the file counts from {first}")
        return _lettered(_text(row, "question"), options, answer, str(row.get("subject_name") or ""), head="Choices:\n")

    return read_row


def _medmcqa_with_base(rows: Sequence[Row]) -> Form:
    """MedMCQA's form with `cop` counted as in this file: from 1 if there is a 4, from 0 if there is a 0 or -1.

    Raises:
        UserError: the numbers do not tell, or contradict each other.
    """
    numbers = {str(row.get("cop")).strip() for row in rows} - {"None", ""}
    from_zero, from_one = numbers & {"0", "-1"}, "4" in numbers
    if from_zero and from_one:
        raise UserError(
            f"has cop {min(from_zero)} and cop 4, so it counts neither from 0 nor from 1", item="cop", remedy="Correct it."
        )
    if not from_zero and not from_one and numbers:
        raise UserError(
            f"has only cop {', '.join(sorted(numbers))}, which does not tell whether it counts from 0 (Hub) or from 1 (original)",
            item="cop", remedy="Add an item whose right option is A or D, or give the plain form with letters.",
        )  # fmt: skip
    return Form(MEDMCQA.fields, _medmcqa(1 if from_one else 0))


def _pubmedqa(row: Row) -> Content:
    context = row.get("contexts", row.get("context"))
    if isinstance(context, dict):  # the Hub's form
        context = context.get("contexts")
    if not isinstance(context, list) or not all(isinstance(part, str) for part in context):
        raise ItemFaultError("lacks its contexts, a list of texts")
    decision, question = row.get("final_decision"), _text(row, "question")
    if decision is not None and decision not in DECISIONS:
        raise ItemFaultError(f"has final_decision {str(decision)[:40]!r}, which is none of {', '.join(DECISIONS)}")
    answer = None if decision is None else DECISIONS.index(str(decision))
    text = "Abstract: {}\nQuestion: {}\nAnswer:".format("\n".join(context), question)
    return Content(question, DECISIONS, answer, "", text, DECISIONS)


def _mmlu(row: Row) -> Content:
    options, subject = row.get("choices"), str(row.get("subject") or "")
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise ItemFaultError("has choices that are no list of texts")
    letters, question = LETTERS[: len(options)], _text(row, "question")
    given = row.get("answer")
    answer = (
        _letter(given, letters, "answer") if isinstance(given, str) and not given.strip().isdigit() else _number(given, "answer")
    )
    head = f"The following are multiple choice questions (with answers) about {' '.join(subject.split('_'))}.\n\n"
    listed = "".join(f"{letter}. {option}\n" for letter, option in zip(letters, options, strict=False))
    return Content(question, tuple(options), answer, subject, f"{head}{question.strip()}\n{listed}Answer:", tuple(letters))


def _plain(row: Row) -> Content:
    options, letters = _options(row)
    # an empty option of a published set is asked as it is, as the harness does
    if empty := [letter for letter, option in zip(letters, options, strict=True) if not option.strip()]:
        raise ItemFaultError(f"has an empty option {empty[0]}")
    given = row.get("answer")
    found: set[int] = set()
    if isinstance(given, str):
        text = given.strip()
        found |= {place for place, option in enumerate(options) if option.strip() == text}
        found |= {letters.index(text.upper())} if text.upper() in letters else set()
        found = found or ({int(text)} if text.isdigit() else set())
    elif isinstance(given, int) and not isinstance(given, bool):
        found = {given}
    if len(found) != 1:
        why = "may mean several options" if found else "is no letter, number (counted from 0) or text of an option"
        raise ItemFaultError(f"has an answer, {str(given)[:60]!r}, that {why}")
    return _lettered(_text(row, "question"), options, found.pop(), str(row.get("subject") or ""))


def _number(value: object, field: str) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise ItemFaultError(f"has {field} {str(value)[:40]!r}, which is no whole number") from None


MEDMCQA = Form((("question",), ("opa",), ("opb",), ("opc",), ("opd",)), _medmcqa(0))
MMLU = Form((("question",), ("choices",), ("answer",)), _mmlu)
PLAIN = Form((("question",), ("options",), ("answer",)), _plain)
FORMS = (
    MEDMCQA,
    Form((("question",), ("contexts", "context"), ("final_decision", "long_answer")), _pubmedqa),
    Form((("sent1",), ("ending0",), ("label",)), _medqa_of_harness, asks="sent1"),
    Form((("question",), ("options",), ("answer_idx",)), _medqa),
    MMLU,
    PLAIN,
)
