"""Splits on disk, as Hugging Face datasets that `datasets.load_from_disk` opens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from workbench import chat, console, files
from workbench.data.records import Record
from workbench.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

HOLDOUT, EVAL, TRAIN, POOL = "holdout_dataset", "eval_dataset", "train_dataset", "eval_pool_dataset"
FIXED = ("holdout", "eval")
SPLITS = {"holdout": HOLDOUT, "eval": EVAL, "train": TRAIN, "pool": POOL}
BATCH = 2000
DATA_FILE = "data-00000-of-00001.arrow"
MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
SCHEMA = pa.schema(
    [("id", pa.string()), ("specialty", pa.string()), ("question", pa.string()), ("response", pa.string()),
     ("messages", pa.list_(MESSAGE)), ("formatted_prompt", pa.string()), ("formatted_chat", pa.string())]
)  # fmt: skip


def render(records: Sequence[Record], chat_format: chat.ChatFormat) -> pa.Table:
    """Records with their conversation, prompt and chat as the format renders them."""
    prompts = [chat_format.prompt(record.question) for record in records]
    chats = [chat_format.conversation(record.question, record.response) for record in records]
    columns = {
        "id": [record.id for record in records],
        "specialty": [record.specialty for record in records],
        "question": [record.question for record in records],
        "response": [record.response for record in records],
        "messages": [chat.messages(record.question, record.response, chat_format.system_message) for record in records],
        "formatted_prompt": prompts,
        "formatted_chat": chats,
    }
    return pa.table(columns, SCHEMA)


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
        for start in range(0, len(records), BATCH):
            table = render(records[start : start + BATCH], chat_format)
            writer.write_table(table)
            progress.advance(table.num_rows)
        if not records:
            writer.write_table(SCHEMA.empty_table())
        writer.finalize()
    digest = files.sha256_file(path)
    dataset = Dataset.from_file(str(path))
    dataset.info.write_to_directory(str(folder))
    # the keys that Dataset.save_to_disk writes; doing so here saves a second copy of the data
    state: dict[str, Any] = {"_data_files": [{"filename": DATA_FILE}], "_fingerprint": digest[:16], "_format_columns": None,
             "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False, "_split": None}  # fmt: skip
    files.write_json(folder / "state.json", state)
    return digest


def read_split(folder: Path, split: str) -> Dataset:
    """A split of a prepared folder, as a Dataset; `split` is holdout, eval, train or pool."""
    from datasets import load_from_disk

    path = folder / SPLITS[split]
    try:
        return load_from_disk(str(path))
    except (FileNotFoundError, pa.ArrowException, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}). `python dataset_preparation.py --fresh` makes it anew.") from None


def read_ids(folder: Path, split: str) -> list[str]:
    """The ids of a split's records, in their order."""
    ids: list[str] = read_split(folder, split).data.column("id").to_pylist()
    return ids


def hash_of_ids(folder: Path, split: str) -> str:
    """The hash of the records that lie in a split, in whatever order."""
    return files.sha256_of(sorted(read_ids(folder, split)))


def read_records(folder: Path, split: str) -> list[Record]:
    """The records of a split, without what was rendered from them."""
    columns = read_split(folder, split).select_columns(["id", "specialty", "question", "response"]).to_dict()
    return [Record(*row) for row in zip(*columns.values(), strict=True)]
