"""The rows of a specialty file, and the question and answer in each.

JSON is one object `{question: answer}`, a list of rows, rows under one name or by their number, or columns. A row has a question and an answer
under one of the names below, `instruction`, `input` and `output` as in Alpaca's files, or a conversation of one question and one answer; it may
name its specialty.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meerkat_workbench.core import input_files
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.text import texts

QUESTION_NAMES = ("question", "query", "prompt", "instruction")
ANSWER_NAMES = ("answer", "response", "output", "completion", "long_answer")
CONVERSATION_NAMES = ("messages", "conversations", "conversation")
SPECIALTY = "specialty"
# what may stand beside a conversation in one record
OTHER_NAMES = {SPECIALTY, "input", "id", "source", "system", "history", "url", "title", "category", "type", "text", "context",
               "explanation"}  # fmt: skip
# what a list of rows may be called, and what may stand beside it
LIST_NAMES = {"data", "train", "questions", "items", "records", "rows", "examples", "dataset", "results", "qa", "pairs"}
ABOUT_NAMES = {"version", "name", "title", "source", "license", "licence", "description", "date", "author", "url", "count", "total", "split", "info",
               "language"}  # fmt: skip
ROW_NUMBER = re.compile(r"[a-z]{0,3}[-_]?\d+", re.IGNORECASE)  # "17", "q-17"
KEY = "(its key)"  # what a row stands under, where that says more than a number
NEEDS = "it needs question and answer (or response, or instruction and output, or messages)"
ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant",
         "chatbot": "assistant", "system": "system", "developer": "system"}  # fmt: skip
TURN_NAMES = {"role", "from", "content", "value", "text", "name", "weight"}


@dataclass
class Pair:
    """A row as it stands in a file; `specialty` is empty where the row names none."""

    question: Any
    answer: Any
    specialty: Any = ""
    unread: tuple[str, ...] = ()  # names of fields that hold something and are not read


class RowError(Exception):
    """What is wrong with one row; the text follows "record N: "."""


def pairs_of_json(text: str, *, lines: bool) -> Iterator[Pair | str]:
    """Each record of a JSON text in turn, or what is wrong with it; UserError where it cannot be read at all.

    Args:
        lines: whether its name says that it holds JSON lines.
    """
    value = input_files.json_value(text, lines=lines)
    rows = _rows_in(value)
    if rows is None:
        assert isinstance(value, dict)
        for question, answer in value.items():
            yield Pair(question, answer)
        return
    there = {name for row in rows if isinstance(row, dict) for name in map(input_files.normalized_field, row)}
    conversations = there & set(CONVERSATION_NAMES)
    complete = conversations or (there & set(QUESTION_NAMES) and there & set(ANSWER_NAMES))
    # one row without is a fault of that row; all without is a file of another form
    if there and not complete and (len(rows) > 1 or not there & {*QUESTION_NAMES, *ANSWER_NAMES}):
        raise UserError(f"has the fields {input_files.shorten_list(sorted(there))}; {NEEDS}")
    for row in rows:
        yield _pair_or_fault(row)


def _rows_in(value: Any) -> list[Any] | None:
    """The rows that a JSON value holds; None for a map of questions to answers. UserError for anything else."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        raise UserError(f"holds a {type(value).__name__}, not an object {{question: answer}} or a list of objects")
    names = {input_files.normalized_field(name): name for name in value}
    question = next((names[name] for name in QUESTION_NAMES if name in names), None)
    answer = next((names[name] for name in ANSWER_NAMES if name in names), None)
    if question and answer:
        if columns := _columns(value):
            return columns
        if isinstance(value[question], list | dict):
            raise UserError(f"holds columns ({input_files.shorten_list(list(value))}) that do not have the same rows")
        raise UserError(f"is one record {{{input_files.shorten_list(list(value))}}}; put records into a list")
    if any(
        isinstance(value[names[name]], list) and set(names) <= {name} | OTHER_NAMES
        for name in CONVERSATION_NAMES
        if name in names
    ):
        raise UserError(f"is one conversation {{{input_files.shorten_list(list(value))}}}; put conversations into a list")
    if value and all(isinstance(one, dict) for one in value.values()):  # rows by their number
        return [row if ROW_NUMBER.fullmatch(str(name)) else {**row, KEY: name} for name, row in value.items()]
    lists = {
        name: one for name, one in value.items() if isinstance(one, list) and one and all(isinstance(row, dict) for row in one)
    }
    if not lists:
        return None
    if len(lists) > 1:
        raise UserError(
            f"holds several lists ({input_files.shorten_list(list(lists))}); put each into a file of its own, or all rows into one list"
        )
    [(name, rows)] = lists.items()
    others = [other for other in value if other != name]
    known = all(input_files.normalized_field(other) in ABOUT_NAMES and not isinstance(value[other], dict) for other in others)
    if input_files.normalized_field(name) not in LIST_NAMES or not known:
        raise UserError(
            f"holds a list under {name!r}{' beside other things' if others else ''}; put the list itself into the file"
        )
    return list(rows)


def _columns(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of an object that holds columns, as lists or by row number (pandas' to_json); none where it holds something else."""
    columns = list(value.values())
    if all(isinstance(column, list) for column in columns) and len({len(column) for column in columns}) == 1:
        return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
    if all(isinstance(column, dict) and column.keys() == columns[0].keys() for column in columns):
        return [{name: column[number] for name, column in value.items()} for number in columns[0]]
    return []


def pairs_of_table(text: str, *, tabs: bool) -> Iterator[Pair | str]:
    """The same of a table.

    Args:
        tabs: whether its name says that tabs separate its fields.
    """
    table = input_files.Table.of(text, wanted=(QUESTION_NAMES, ANSWER_NAMES), tabs=tabs, needs="question and answer")
    for row in table.rows():
        yield row if isinstance(row, str) else _pair_or_fault(row, empty_is_absent=True)


def _pair_or_fault(row: Any, *, empty_is_absent: bool = False) -> Pair | str:
    try:
        return _pair_of(row, empty_is_absent=empty_is_absent)
    except RowError as error:
        return str(error)


def _pair_of(row: Any, *, empty_is_absent: bool) -> Pair:
    """The pair in a row of a list or table.

    Args:
        empty_is_absent: whether an empty field is as good as none, as in a table, which has all fields in all rows.
    """
    if not isinstance(row, dict):
        raise RowError(f'"question" is missing: the record is a {type(row).__name__}, not an object')
    named = {input_files.normalized_field(name): value for name, value in row.items()}
    if len(named) < len([name for name in row if input_files.normalized_field(name)]):
        raise RowError("has a field twice, but for capitals or spaces in its name")
    if empty_is_absent:
        named = {name: value for name, value in named.items() if value or name in (*QUESTION_NAMES, *ANSWER_NAMES)}
    specialty = "" if named.get(SPECIALTY) is None else named[SPECIALTY]
    question_name, answer_name = _field_used(named, QUESTION_NAMES), _field_used(named, ANSWER_NAMES)
    conversation = next((name for name in CONVERSATION_NAMES if isinstance(named.get(name), list)), None)
    question: Any
    answer: Any
    asked, answered = named.get(question_name), named.get(answer_name)
    if isinstance(asked, list) and isinstance(answered, list):  # TRL's prompt and completion as messages
        named |= {question_name: None, answer_name: None, CONVERSATION_NAMES[0]: [*asked, *answered]}
        conversation, asked = CONVERSATION_NAMES[0], None
    if conversation and not (asked and answered):
        question, answer = _turns(named[conversation])
        used = {conversation}
        named |= {name: "…" for turn in named[conversation] if isinstance(turn, dict) for name in turn if name not in TURN_NAMES}
        if "system" in map(_role, named[conversation]):
            named["system"] = "message"
    else:
        if named.get("answer") and named.get("response") and named["answer"] != named["response"]:
            raise RowError('has both "answer" and "response", and they differ; keep one of them')
        question, answer = asked, answered
        used = {question_name, answer_name, "answer", "response"}
        if question_name == "instruction" and isinstance(named.get("input"), str):
            used.add("input")  # Alpaca's form: the instruction, then what it is about
            if isinstance(question, str) and not texts.is_blank(named["input"]):
                question = f"{question.strip()}\n\n{named['input'].strip()}"
    unread = tuple(
        name
        for name, value in named.items()
        if name and name not in used and name != SPECIALTY and value not in (None, "", [], {})
    )
    return Pair(question, answer, specialty, unread)


def _field_used(named: Mapping[str, Any], names: Sequence[str]) -> str:
    """The first of the names that holds something, else the first that is there, else the first."""
    return next((name for name in names if named.get(name)), next((name for name in names if name in named), names[0]))


def _turns(conversation: list[Any]) -> tuple[str, str]:
    """Question and answer of a conversation of one turn."""
    said = [turn for turn in map(_turn, conversation) if turn[0] != "system"]
    if [role for role, _ in said] != ["user", "assistant"]:
        raise RowError(f"is a conversation of {len(said)} turns; only one question with one answer is read")
    return said[0][1], said[1][1]


def _turn(turn: Any) -> tuple[str, str]:
    """Who speaks, and the text."""
    role = _role(turn)
    content = next((turn[name] for name in ("content", "value", "text") if turn.get(name) is not None), None) if role else None
    if isinstance(content, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
        content = "\n".join(part["text"] for part in content)
    if role is None or not isinstance(content, str):
        raise RowError("is a conversation with a turn that has no known role and text (role and content, or from and value)")
    return role, content


def _role(turn: Any) -> str | None:
    return ROLES.get(str(turn.get("role") or turn.get("from")).lower()) if isinstance(turn, dict) else None
