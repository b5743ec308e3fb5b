"""Splits on disk, as Hugging Face datasets that `datasets.load_from_disk` opens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from meerkat_workbench.core import console, files
from meerkat_workbench.core.commands import command_of
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.tuning import chat
from meerkat_workbench.tuning.artifacts import FIXED, DatasetManifest, Split
from meerkat_workbench.tuning.data.records import Record

if TYPE_CHECKING:
    from datasets import Dataset

FOLDERS = {Split.HOLDOUT: "holdout_dataset", Split.EVAL: "eval_dataset", Split.TRAIN: "train_dataset",
           Split.POOL: "eval_pool_dataset"}  # fmt: skip
ROWS_AT_ONCE = 2000  # rows that are read or written together
DATA_FILE = "data-00000-of-00001.arrow"
MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
SCHEMA = pa.schema(
    [("id", pa.string()), ("specialty", pa.string()), ("question", pa.string()), ("response", pa.string()),
     ("messages", pa.list_(MESSAGE)), ("formatted_prompt", pa.string()), ("formatted_chat", pa.string())]
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PreparedRecord:
    """A record of a split. The fields are the columns of `SCHEMA`.

    Attributes:
        messages: the conversation as the list of role and content that TRL and chat servers read.
        formatted_prompt: the prompt for a model.
        formatted_chat: the prompt followed by the answer and the end of the turn.
    """

    id: str
    specialty: str
    question: str
    response: str
    messages: list[dict[str, str]]
    formatted_prompt: str
    formatted_chat: str

    @property
    def name(self) -> str:
        """Specialty and the first digits of the id, for messages."""
        return f"{self.specialty} {self.id[:8]}"


class PreparedSplit(Sequence[PreparedRecord]):
    """The records of a split, read from disk on access."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return PreparedRecord(**self.dataset[index])

    def __iter__(self) -> Iterator[PreparedRecord]:
        for start in range(0, len(self), ROWS_AT_ONCE):
            for row in self.dataset.data.slice(start, ROWS_AT_ONCE).to_pylist():
                yield PreparedRecord(**row)

    def ids(self) -> list[str]:
        """The ids of the records, in their order."""
        ids: list[str] = self.dataset.data.column("id").to_pylist()
        return ids


def render(records: Sequence[Record], chat_format: chat.ChatFormat) -> pa.Table:
    """A table of records with the conversation, prompt and chat that the format renders."""
    rows = [
        PreparedRecord(
            record.id, record.specialty, record.question, record.response,
            chat.messages(record.question, record.response, chat_format.system_message),
            chat_format.prompt(record.question), chat_format.conversation(record.question, record.response),
        )
        for record in records
    ]  # fmt: skip
    return pa.table({name: [getattr(row, name) for row in rows] for name in SCHEMA.names}, SCHEMA)


def write_split(folder: Path, records: Sequence[Record], chat_format: chat.ChatFormat) -> str:
    """Write a split; returns the SHA-256 of its data file."""
    from datasets import Dataset
    from datasets.arrow_writer import ArrowWriter
    from datasets.features import Features

    folder.mkdir(parents=True)
    path = folder / DATA_FILE
    features = Features.from_arrow_schema(SCHEMA)
    with (
        ArrowWriter(path=str(path), features=features) as writer,
        console.Progress(f"writing {folder.name}", len(records), "records") as progress,
    ):
        for start in range(0, len(records), ROWS_AT_ONCE):
            table = render(records[start : start + ROWS_AT_ONCE], chat_format)
            writer.write_table(table)
            progress.advance(table.num_rows)
        if not records:
            writer.write_table(SCHEMA.empty_table())
        writer.finalize()
    digest = files.sha256_file(path)
    dataset = Dataset.from_file(str(path))
    dataset.info.write_to_directory(str(folder))
    # the keys that Dataset.save_to_disk writes; it would also write the data a second time
    state: dict[str, Any] = {"_data_files": [{"filename": DATA_FILE}], "_fingerprint": digest[:16], "_format_columns": None,
             "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False, "_split": None}  # fmt: skip
    files.write_json(folder / "state.json", state)
    return digest


def load_dataset(folder: Path, split: Split) -> Dataset:
    """A split of a prepared folder, as a Hugging Face dataset."""
    from datasets import load_from_disk

    path = folder / FOLDERS[split]
    try:
        return load_from_disk(str(path))
    except (FileNotFoundError, pa.ArrowException, ValueError) as error:
        remedy = f"Run `{command_of(DatasetManifest.SCRIPT, '--fresh')}` to make it again."
        raise UserError(f"cannot be read ({error})", where=path, remedy=remedy) from None


def read_split(folder: Path, split: Split) -> PreparedSplit:
    """The records of a split of a prepared folder."""
    return PreparedSplit(load_dataset(folder, split))


def hash_of_ids(folder: Path, split: Split) -> str:
    """Hash of the record ids of a split, independent of their order."""
    return files.sha256_of(sorted(read_split(folder, split).ids()))


def read_fixed_records(folder: Path) -> list[Record]:
    """The records of holdout and eval, without the texts that were rendered from them."""
    return [record for split in FIXED for record in read_records(folder, split)]


def read_records(folder: Path, split: Split) -> list[Record]:
    """The records of a split, without the texts that were rendered from them."""
    columns = load_dataset(folder, split).select_columns(["id", "specialty", "question", "response"]).to_dict()
    return [Record(*row) for row in zip(*columns.values(), strict=True)]
