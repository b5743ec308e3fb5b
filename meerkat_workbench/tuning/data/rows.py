"""The rows of a specialty file, and the question and the answer in each row.

A JSON file is one object `{question: answer}`, a list of rows, an object with a list of rows, an object of rows by number, or columns.
A row has a question and an answer under one of the names below, or `instruction`, `input` and `output` as in Alpaca's files, or a
conversation of one question and one answer. It may also name its specialty.
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
# fields that a record may have besides a conversation
OTHER_NAMES = {SPECIALTY, "input", "id", "source", "system", "history", "url", "title", "category", "type", "text", "context",
               "explanation"}  # fmt: skip
# names of a list of rows, and of the other entries of the object that holds it
LIST_NAMES = {"data", "train", "questions", "items", "records", "rows", "examples", "dataset", "results", "qa", "pairs"}
METADATA_NAMES = {"version", "name", "title", "source", "license", "licence", "description", "date", "author", "url", "count", "total", "split", "info",
                  "language"}  # fmt: skip
ROW_NUMBER = re.compile(r"[a-z]{0,3}[-_]?\d+", re.IGNORECASE)  # "17", "q-17"
KEY_FIELD = "(its key)"  # extra field for the key of a row in an object, if the key is not just a number
NEEDED_FIELDS = "it needs question and answer (or response, or instruction and output, or messages)"
ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant",
         "chatbot": "assistant", "system": "system", "developer": "system"}  # fmt: skip
TURN_NAMES = {"role", "from", "content", "value", "text", "name", "weight"}


@dataclass
class Pair:
    """The question and the answer of a row as they are in the file; `specialty` is empty if the row names none."""

    question: Any
    answer: Any
    specialty: Any = ""
    unread: tuple[str, ...] = ()  # names of fields that are not empty and not read


class RowError(Exception):
    """What is wrong with one row, as a clause that follows "record N: "."""


def pairs_of_json(text: str, *, lines: bool) -> Iterator[Pair | str]:
    """Each pair in a JSON text, or a clause that describes what is wrong with a record; UserError if the text cannot be read at all.

    Args:
        lines: whether the file is named as JSON lines.
    """
    value = input_files.json_value(text, lines=lines)
    rows = _rows_in(value)
    if rows is None:
        assert isinstance(value, dict)
        for question, answer in value.items():
            yield Pair(question, answer)
        return
    fields = {name for row in rows if isinstance(row, dict) for name in map(input_files.normalized_field, row)}
    has_question, has_answer = fields & set(QUESTION_NAMES), fields & set(ANSWER_NAMES)
    complete = fields & set(CONVERSATION_NAMES) or (has_question and has_answer)
    # a field that only one row lacks is a fault of this row; if all rows lack it, the file has another form
    if fields and not complete and (len(rows) > 1 or not (has_question or has_answer)):
        raise UserError(f"has the fields {input_files.shorten_list(sorted(fields))}; {NEEDED_FIELDS}")
    for row in rows:
        yield _pair_or_fault(row)


def _rows_in(value: Any) -> list[Any] | None:
    """The rows in a JSON value; None for an object of questions and answers. UserError for anything else."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        raise UserError(f"holds a {type(value).__name__}, not an object {{question: answer}} or a list of objects")
    names = {input_files.normalized_field(name): name for name in value}
    question = next((names[name] for name in QUESTION_NAMES if name in names), None)
    answer = next((names[name] for name in ANSWER_NAMES if name in names), None)
    if question and answer:
        return _rows_of_columns(value, question)
    if any(
        isinstance(value[names[name]], list) and set(names) <= {name} | OTHER_NAMES
        for name in CONVERSATION_NAMES
        if name in names
    ):
        raise UserError(f"is one conversation {{{input_files.shorten_list(list(value))}}}; put conversations into a list")
    if value and all(isinstance(row, dict) for row in value.values()):
        return [row if ROW_NUMBER.fullmatch(str(key)) else {**row, KEY_FIELD: key} for key, row in value.items()]
    return _rows_of_named_list(value)


def _rows_of_columns(value: Mapping[str, Any], question: str) -> list[Any]:
    """The rows of an object with columns; `question` is the name of its question column."""
    if rows := _transposed(value):
        return rows
    if isinstance(value[question], list | dict):
        raise UserError(f"holds columns ({input_files.shorten_list(list(value))}) that do not have the same rows")
    raise UserError(f"is one record {{{input_files.shorten_list(list(value))}}}; put records into a list")


def _transposed(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of columns that are lists or objects by row number (pandas' to_json); empty for any other object."""
    columns = list(value.values())
    if all(isinstance(column, list) for column in columns) and len({len(column) for column in columns}) == 1:
        return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
    if all(isinstance(column, dict) and column.keys() == columns[0].keys() for column in columns):
        return [{name: column[number] for name, column in value.items()} for number in columns[0]]
    return []


def _rows_of_named_list(value: Mapping[str, Any]) -> list[Any] | None:
    """The rows of an object that holds them as a list next to metadata; None if it holds no list of rows."""
    lists = {
        name: entry
        for name, entry in value.items()
        if isinstance(entry, list) and entry and all(isinstance(row, dict) for row in entry)
    }
    if not lists:
        return None
    if len(lists) > 1:
        raise UserError(
            f"holds several lists ({input_files.shorten_list(list(lists))}); put each into a file of its own, or all rows into one list"
        )
    [(name, rows)] = lists.items()
    others = [other for other in value if other != name]
    others_are_metadata = all(
        input_files.normalized_field(other) in METADATA_NAMES and not isinstance(value[other], dict) for other in others
    )
    if input_files.normalized_field(name) not in LIST_NAMES or not others_are_metadata:
        raise UserError(f"holds a list under {name!r}{' beside other things' if others else ''}; put only the list into the file")
    return list(rows)


def pairs_of_table(text: str, *, tabs: bool) -> Iterator[Pair | str]:
    """Each pair in a table, or a clause that describes what is wrong with a row; UserError if the table cannot be read at all.

    Args:
        tabs: whether the file is named as tab-separated.
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
        empty_is_absent: whether to ignore empty fields, as in a table, where every row has every field.
    """
    fields = _fields_of(row, empty_is_absent=empty_is_absent)
    specialty = "" if fields.get(SPECIALTY) is None else fields[SPECIALTY]
    question_name, answer_name = _field_used(fields, QUESTION_NAMES), _field_used(fields, ANSWER_NAMES)
    conversation_name = next((name for name in CONVERSATION_NAMES if isinstance(fields.get(name), list)), None)
    question, answer = fields.get(question_name), fields.get(answer_name)
    if isinstance(question, list) and isinstance(answer, list):  # TRL's prompt and completion as messages
        conversation_name = CONVERSATION_NAMES[0]
        fields |= {question_name: None, answer_name: None, conversation_name: [*question, *answer]}
        question = answer = None
    if conversation_name and not (question and answer):
        turns = fields[conversation_name]
        question, answer = _question_and_answer(turns)
        used = {conversation_name}
        fields |= _unread_in(turns)
    else:
        if fields.get("answer") and fields.get("response") and fields["answer"] != fields["response"]:
            raise RowError('has both "answer" and "response", and they differ; keep one of them')
        used = {question_name, answer_name, "answer", "response"}
        if question_name == "instruction" and isinstance(fields.get("input"), str):  # Alpaca's format
            used.add("input")
            question = _with_input(question, fields["input"])
    return Pair(question, answer, specialty, _unread_names(fields, used))


def _fields_of(row: Any, *, empty_is_absent: bool) -> dict[str, Any]:
    """The fields of a row by their normalised names."""
    if not isinstance(row, dict):
        raise RowError(f'"question" is missing: the record is a {type(row).__name__}, not an object')
    fields = {input_files.normalized_field(name): value for name, value in row.items()}
    if len(fields) < len([name for name in row if input_files.normalized_field(name)]):
        raise RowError("has a field twice, with names that differ only in capitals or spaces")
    if empty_is_absent:
        fields = {name: value for name, value in fields.items() if value or name in (*QUESTION_NAMES, *ANSWER_NAMES)}
    return fields


def _field_used(fields: Mapping[str, Any], names: Sequence[str]) -> str:
    """The first of the names whose field is not empty, else the first that exists, else the first."""
    return next((name for name in names if fields.get(name)), next((name for name in names if name in fields), names[0]))


def _with_input(instruction: Any, text: str) -> Any:
    """An instruction followed by the text that it refers to."""
    if not isinstance(instruction, str) or texts.is_blank(text):
        return instruction
    return f"{instruction.strip()}\n\n{text.strip()}"


def _unread_names(fields: Mapping[str, Any], used: set[str]) -> tuple[str, ...]:
    return tuple(
        name
        for name, value in fields.items()
        if name and name not in used and name != SPECIALTY and value not in (None, "", [], {})
    )


def _question_and_answer(turns: list[Any]) -> tuple[str, str]:
    """Question and answer of a conversation with one of each."""
    messages = [message for message in map(_role_and_text, turns) if message[0] != "system"]
    if [role for role, _ in messages] != ["user", "assistant"]:
        raise RowError(f"is a conversation of {len(messages)} turns; only one question with one answer is read")
    return messages[0][1], messages[1][1]


def _unread_in(turns: list[Any]) -> dict[str, str]:
    """What is not read in the turns of a conversation: fields other than role and text, and the system message."""
    unread = {name: "…" for turn in turns if isinstance(turn, dict) for name in turn if name not in TURN_NAMES}
    if "system" in map(_role, turns):
        unread["system"] = "message"
    return unread


def _role_and_text(turn: Any) -> tuple[str, str]:
    role = _role(turn)
    content = next((turn[name] for name in ("content", "value", "text") if turn.get(name) is not None), None) if role else None
    if isinstance(content, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
        content = "\n".join(part["text"] for part in content)
    if role is None or not isinstance(content, str):
        raise RowError("is a conversation with a turn that has no known role and text (role and content, or from and value)")
    return role, content


def _role(turn: Any) -> str | None:
    return ROLES.get(str(turn.get("role") or turn.get("from")).lower()) if isinstance(turn, dict) else None
