"""Specialty files in every form that people have are read, and whatever is not read is named."""

import csv
import gzip
import io
import itertools
import json
import os
import re
import unicodedata
from pathlib import Path

import hypothesis
import pytest
from conftest import SHARED_DATA, write_specialty
from hypothesis import given
from hypothesis import strategies as st

from meerkat_workbench.core import input_files
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.text import texts as texts_alike
from meerkat_workbench.tuning.chat import LLAMA3_TOKENS, ControlTokens
from meerkat_workbench.tuning.data import specialty_files
from meerkat_workbench.tuning.data.rows import KEY_FIELD


def read(folder, **keywords):
    """Its records, read with Llama-3's control tokens."""
    tokens = ControlTokens(LLAMA3_TOKENS)
    return specialty_files.read_folder(folder, skip_invalid=keywords.get("skip_invalid", False), control_tokens=tokens)


def refusal_of(folder, **keywords):
    """The text of the error with which a folder is refused."""
    with pytest.raises(UserError) as caught:
        read(folder, **keywords)
    return str(caught.value)


def test_the_three_json_and_csv_forms_give_the_same_records(tmp_path):
    pairs = {"What is gout?": "A crystal arthritis.", "What is µg?": "A microgram."}
    forms = {
        "object": pairs,
        "list": [{"question": q, "answer": a} for q, a in pairs.items()],
        "response": [{"question": q, "response": a, "source": "x"} for q, a in pairs.items()],
    }
    found = []
    for name, content in forms.items():
        write_specialty(tmp_path / name, "x", content)
        found.append(read(tmp_path / name).records["x"])
    (tmp_path / "csv").mkdir()
    rows = "".join(f'"{q}","{a}"\n' for q, a in pairs.items())
    (tmp_path / "csv" / "dataset_with_answers_x.csv").write_text("question,answer\n" + rows, encoding="utf-8")
    found.append(read(tmp_path / "csv").records["x"])
    assert all(other == found[0] for other in found)


def test_a_csv_file_with_a_specialty_column_holds_several_and_without_one_is_one(tmp_path):
    (tmp_path / "all.csv").write_text("specialty,question,answer\na,q1,x\nb,q2,y\n")
    (tmp_path / "plain.csv").write_text("question,answer\nq3,z\n")
    assert {name: len(rows) for name, rows in read(tmp_path).records.items()} == {"a": 1, "b": 1, "plain": 1}


def test_all_faults_are_reported_at_once_the_first_twenty_by_name_and_the_rest_by_number(tmp_path):
    write_specialty(tmp_path, "bad", [{"question": f"q{n}", "answer": ""} for n in range(25)])
    text = refusal_of(tmp_path)
    named = re.findall(r"record (\d+)", text)
    assert named == [str(number) for number in range(1, specialty_files.MAX_FAULTS_SHOWN + 1)]
    assert re.search(r"\b25\b", text) and re.search(r"\b5\b", text.splitlines()[-1])
    assert "SKIP_INVALID=True" in text


@pytest.mark.parametrize(
    ("item", "names"),
    [
        ({"question": "q", "answer": ""}, ['"answer"']),
        ({"question": "  ", "answer": "a"}, ['"question"']),
        ({"question": "q", "answer": 5}, ['"answer"', "int"]),
        ({"question": "q"}, ['"answer"']),
        ("text", ['"question"', "str"]),
        ({"question": "q", "answer": "a <|eot_id|> b"}, ['"answer"', "<|eot_id|>"]),
        ({"question": "q", "answer": "\ud800"}, ['"answer"']),
    ],
)
def test_a_bad_record_is_named_by_file_position_and_field_and_can_be_left_out(tmp_path, item, names):
    write_specialty(tmp_path, "x", [{"question": "good", "answer": "yes"}])
    path = tmp_path / "dataset_with_answers_y.json"
    path.write_text(json.dumps([{"question": "also", "answer": "good"}, item]))
    text = refusal_of(tmp_path)
    assert path.name in text and "record 2" in text and all(name in text for name in names)
    reading = read(tmp_path, skip_invalid=True)
    assert reading.invalid_skipped == 1 and len(reading.records["y"]) == 1


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b'{"q": "a"', "line 1 column 10"),
        (b'{"q": "caf\xe9"}', "UTF-8"),
        (b'{"q": "a", "q": "b"}', "'q'"),
        (b'"text"', "str"),
        (b"", "line 1 column 1"),
        (b"[" * 100_000, ""),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_even_when_bad_records_are_skipped(tmp_path, content, cause):
    (tmp_path / "dataset_with_answers_x.json").write_bytes(content)
    text = refusal_of(tmp_path, skip_invalid=True)
    # it is not offered to leave records out of a file that cannot be read
    assert "dataset_with_answers_x.json" in text and cause in text and "SKIP_INVALID" not in text


def test_identical_pairs_are_dropped_and_counted_but_one_question_with_two_answers_stays(tmp_path):
    write_specialty(tmp_path, "x", [{"question": "q", "answer": a} for a in ("one", "one ", "two")])
    reading = read(tmp_path)
    assert len(reading.records["x"]) == 2 and reading.identical_dropped == 1


def test_a_missing_folder_a_file_and_a_folder_without_specialty_files_are_refused_each_in_its_own_words(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    faults = set()
    for name in ("absent", "file", "empty"):
        text = refusal_of(tmp_path / name)
        assert f"DATA_DIR={tmp_path / name}" in text and specialty_files.PREFIX in text
        faults.add(text.replace(name, ""))
    assert len(faults) == 3


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="real data is not on this machine")
def test_real_specialty_files_are_read_whole():
    reading = read(SHARED_DATA / "medquad")
    assert (len(reading.records), sum(map(len, reading.records.values()))) == (36, 15225)
    texts = [record.response for records_of_one in reading.records.values() for record in records_of_one]
    words, bounds = texts_alike.words_of_each(texts)
    assert [words[start:end] for start, end in itertools.pairwise(bounds)] == [texts_alike.words_of(text) for text in texts]


def write(folder, name, text, encoding="utf-8"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(text.encode(encoding))
    return folder


def found_pairs(folder, specialty="x", **keywords):
    return {record.question: record.response for record in read(folder, **keywords).records[specialty]}


PAIRS = {"What is gout?": "A crystal arthritis.", "What is fever?": "Heat,\nand more."}
ROWS = [{"question": q, "answer": a} for q, a in PAIRS.items()]
CSV = "question,answer\n" + "".join(f'"{q}","{a}"\n' for q, a in PAIRS.items())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dataset_with_answers_x.json", json.dumps(PAIRS)),
        ("dataset_with_answers_x.JSON", json.dumps(ROWS)),
        ("dataset_with_answers_x.jsonl", "\n".join(map(json.dumps, ROWS)) + "\n\n"),
        ("dataset_with_answers_x.ndjson", "\r\n".join(map(json.dumps, ROWS))),
        ("dataset_with_answers_x.json", "\n".join(map(json.dumps, ROWS))),  # JSON lines under the other name
        ("dataset_with_answers_x.jsonl", json.dumps(ROWS)),
        ("dataset_with_answers_x.json", json.dumps({"version": "1", "data": ROWS})),
        ("dataset_with_answers_x.json", json.dumps({"7": ROWS[0], "8": ROWS[1]})),
        ("dataset_with_answers_x.json", json.dumps({"question": list(PAIRS), "answer": list(PAIRS.values())})),
        ("dataset_with_answers_x.json", json.dumps({"question": dict(enumerate(PAIRS)), "answer": dict(enumerate(PAIRS.values()))})),
        ("dataset_with_answers_x.json", json.dumps([{" Question ": r["question"], "ANSWER": r["answer"]} for r in ROWS])),
        ("dataset_with_answers_x.json", json.dumps([{"instruction": r["question"], "input": "", "output": r["answer"]} for r in ROWS])),
        ("dataset_with_answers_x.json", json.dumps([{"prompt": r["question"], "completion": r["answer"]} for r in ROWS])),
        ("dataset_with_answers_x.json", json.dumps([{"question": r["question"], "answer": None, "response": r["answer"]} for r in ROWS])),
        ("dataset_with_answers_x.jsonl", "\n".join(json.dumps({"messages": [
            {"role": "system", "content": "s"}, {"role": "user", "content": r["question"]}, {"role": "assistant", "content": r["answer"]}]}) for r in ROWS)),
        ("dataset_with_answers_x.json", json.dumps([{"id": "1", "conversations": [
            {"from": "human", "value": r["question"]}, {"from": "gpt", "value": r["answer"]}]} for r in ROWS])),
        ("x.csv", CSV),
        ("x.CSV", "\ufeff" + CSV.replace("\n", "\r\n")),
        ("x.csv", CSV.replace('","', '";"').replace("n,a", "n;a")),
        ("x.csv", "sep=;\n" + CSV.replace('","', '";"').replace("n,a", "n;a")),
        ("x.tsv", CSV.replace('","', '"\t"').replace("n,a", "n\ta")),
        ("x.csv", CSV.replace("question,answer", ' Question , "Answer"')),
        ("x.csv", CSV.replace('","', '", "') + ",\n , \n\x1a"),
        ("x.csv", "\n , \n" + CSV),
        ("x.tsv", "sep=\t\n" + CSV.replace('","', '"\t"').replace("n,a", "n\ta")),
        ("dataset_with_answers_x.json", json.dumps({"question": {"0": "What is gout?", "1": "What is fever?"}, "answer": {"1": PAIRS["What is fever?"], "0": PAIRS["What is gout?"]}})),
        ("dataset_with_answers_x.jsonl", "\ufeff" + "\n\ufeff".join(map(json.dumps, ROWS))),
        ("x.csv", "id,question,answer\n" + "".join(f'{i},"{q}","{a}"\n' for i, (q, a) in enumerate(PAIRS.items()))),
    ],
)  # fmt: skip
def test_the_same_content_in_any_form_gives_the_same_records(tmp_path, name, text):
    assert found_pairs(write(tmp_path / "plain", name, text)) == PAIRS
    write(tmp_path / "packed", f"{name}.gz", "")
    (tmp_path / "packed" / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    assert found_pairs(tmp_path / "packed") == PAIRS
    assert found_pairs(write(tmp_path / "wide", name, text.removeprefix("\ufeff"), "utf-16")) == PAIRS


@pytest.mark.parametrize(
    ("name", "text", "names"),
    [
        ("dataset_with_answers_x.json", '{"question": "q", "answer": "a"}', ["{question, answer}"]),
        ("dataset_with_answers_x.json", '{"instruction": "q", "input": "", "output": "a"}', ["{instruction, input, output}"]),
        ("dataset_with_answers_x.json", '{"messages": [{"role": "user", "content": "q"}]}', ["{messages}"]),
        ("dataset_with_answers_x.json", f'{{"q": {"1" * 5000}}}', ["4300"]),
        ("dataset_with_answers_x.jsonl", '{"question": "q", "answer": "a"}\n{"question": ', ["line 2"]),
        ("dataset_with_answers_x.json", '[{"question": "q", "opa": "a", "cop": 1}, {"question": "r", "opa": "b", "cop": 2}]', ["cop, opa, question", "answer"]),
        ("dataset_with_answers_x.json", '[{"question": "q", "answer": "a", "response": "b"}]', ["record 1", '"answer"', '"response"']),
        ("dataset_with_answers_x.json", '[{"Question": "q", "question": "r", "answer": "a"}]', ["record 1"]),
        ("dataset_with_answers_x.json", '[{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "r"}]}]', ["record 1", "3"]),
        ("dataset_with_answers_x.json", '[{"question": "q", "answer": "a", "specialty": 5}]', ["record 1", '"specialty"', "int"]),
        ("x.csv", "question,answer\nq,a, b, c\n", ["record 1", "4", "2", "commas"]),
        ("x.csv", "question,answer\nq\n", ["record 1", "1 field", "2"]),
        ("x.csv", "question,answer,Answer\nq,a,b\n", ["'answer'"]),
        ("x.csv", "Frage;Antwort\nq;a\n", ["Frage;Antwort", "question and answer"]),
        ("x.csv", 'question,answer\n"q" x,a\n', ["line 2"]),
        ("x.csv", "question,answer\nq,\u200b\n", ["record 1", '"answer"']),
        ("x.csv", "question,answer,\nq,a, and more\n", ["record 1", "commas"]),
        ("dataset_with_answers_x.json", '{"question": {"0": "q", "1": "r"}, "answer": {"5": "a", "6": "b"}}', ["question, answer"]),
        ("dataset_with_answers_x.json", '{"What?": "a", "more": [{"question": "q", "answer": "a"}]}', ["'more'"]),
        ("dataset_with_answers_x.json", '{"cardiology": [{"question": "q", "answer": "a"}]}', ["'cardiology'"]),
        ("dataset_with_answers_x.json", '{"train": [{"question": "q", "answer": "a"}], "test": [{"question": "r", "answer": "b"}]}', ["train, test"]),
        ("dataset_with_answers_x.json", '{"question": "q", "answer": "a", "id": 3, "tags": "x"}', ["{question, answer, id, tags}"]),
        ("dataset_with_answers_x.json", '[{"question": "q", "answer": "a", "specialty": "Ear/Nose"}, {"question": "r", "answer": ""}]', ["record 1", "'Ear/Nose'", "record 2"]),
        ("dataset_with_answers_x.json", '[{"question": "q", "answer": "a", "specialty": false}]', ["record 1", '"specialty"', "bool"]),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_for_certain_is_refused_with_what_is_at_fault_in_it(tmp_path, name, text, names):
    said = refusal_of(write(tmp_path, name, text))
    assert name in said and all(part in said.partition(name)[2] for part in names)


def test_a_file_in_the_encoding_of_windows_is_refused_with_the_place_and_the_letter(tmp_path):
    text = refusal_of(write(tmp_path, "x.csv", "question,answer\nGrün,a\n", "cp1252"))
    assert all(part in text for part in ("x.csv", "UTF-8", "18", "'ü'"))


def test_an_instruction_and_its_input_are_one_question(tmp_path):
    rows = [{"instruction": "Answer as a doctor.", "input": f"I have pain {n}.", "output": "Rest."} for n in range(3)]
    found = found_pairs(write(tmp_path, "dataset_with_answers_x.json", json.dumps(rows)))
    assert "Answer as a doctor.\n\nI have pain 0." in found


def test_rows_go_to_the_specialty_that_they_name(tmp_path):
    rows = [{"question": "q", "answer": "a", "specialty": "cardiology"}, {"question": "r", "answer": "b"}]
    assert set(read(write(tmp_path, "dataset_with_answers_all.json", json.dumps(rows))).records) == {"cardiology", "all"}


def test_fields_that_are_not_read_are_noted_and_so_is_a_file_that_asks_one_question(tmp_path):
    rows = [
        {"question": "Is the statement right?", "input": f"statement {n}", "answer": f"a{n}", "source": "s"} for n in range(4)
    ]
    unread, equal = read(write(tmp_path, "dataset_with_answers_x.json", json.dumps(rows))).notes
    assert re.search(r"'input'\D*4", unread) and re.search(r"'source'\D*4", unread)
    # once as a field, and once more because a question may mean nothing without it
    assert unread.count("'input'") == 2 and unread.count("'source'") == 1
    assert "x: " in equal and "4" in equal and repr(rows[0]["question"]) in equal


def test_every_file_that_looks_like_data_and_is_not_read_is_named_with_what_to_do(tmp_path):
    write(tmp_path, "dataset_with_answers_x.json", json.dumps(PAIRS))
    for name in ("neurology.json", "renal.jsonl", "._x.csv", "~$x.xlsx", "book.xlsx", "old.zip", "dataset_with_answers_y.txt", "notes.txt",
                 "README.md", ".DS_Store", "all.parquet"):  # fmt: skip
        (tmp_path / name).write_text("x")
    (tmp_path / "dataset_with_answers_z.json").mkdir()
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.csv").write_text("x")
    (tmp_path / "dataset_with_answers_gone.json").symlink_to(tmp_path / "absent")
    found = specialty_files.find_files(tmp_path)
    assert [path.name for path in found.paths] == ["dataset_with_answers_x.json"]
    why = {one.path.name: one.why for one in found.unread}
    assert set(why) == {"neurology.json", "renal.jsonl", "._x.csv", "notes.txt", "book.xlsx", "old.zip", "dataset_with_answers_y.txt", "all.parquet",
                        "dataset_with_answers_z.json", "more", "dataset_with_answers_gone.json"}  # fmt: skip
    assert "dataset_with_answers_neurology.json" in why["neurology.json"] and "DATA_DIR" in why["more"]
    for name in ("book.xlsx", "old.zip", "all.parquet"):
        assert why[name] == input_files.REMEDIES[Path(name).suffix]
    # a broken link, a folder and a Mac's note are not mistaken for one another
    assert len({why[name] for name in ("dataset_with_answers_gone.json", "dataset_with_answers_z.json", "._x.csv")}) == 3


def test_names_hold_letters_of_any_script_with_their_marks(tmp_path):
    for name in ("pédiatrie", "हृदय_रोग", "หัวใจ", "心脏科", "القلب"):
        write(tmp_path, f"dataset_with_answers_{unicodedata.normalize('NFD', name)}.json", json.dumps({f"{name}?": "a"}))
    assert set(read(tmp_path).records) == {"pédiatrie", "हृदय_रोग", "หัวใจ", "心脏科", "القلب"}
    with pytest.raises(UserError) as caught:
        specialty_files.check_specialty_name("心" * 90, "x")  # more bytes than a file's name may have
    assert caught.value.where == "x" and "心" in caught.value.item and str(specialty_files.MAX_NAME_BYTES) in caught.value.remedy


def test_an_html_tag_is_text_and_a_control_token_of_the_tokenizer_in_use_is_refused(tmp_path):
    write(tmp_path, "dataset_with_answers_x.json", json.dumps({"What is <s>this</s>?": "A <pad>."}))
    assert found_pairs(tmp_path) == {"What is <s>this</s>?": "A <pad>."}
    with pytest.raises(UserError, match="</s>"):
        specialty_files.read_folder(tmp_path, skip_invalid=False, control_tokens=ControlTokens(frozenset({"</s>"})))
    write(tmp_path, "dataset_with_answers_x.json", json.dumps({"q": "hi <｜User｜> ho"}))
    with pytest.raises(UserError, match="<｜User｜>"):
        specialty_files.read_folder(tmp_path, skip_invalid=False, control_tokens=ControlTokens(frozenset({"<｜User｜>"})))


# what a spreadsheet or a model may put into a cell, surrogates apart, which no UTF-8 file holds
cells = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn"]), min_size=1, max_size=30).filter(
    lambda text: not texts_alike.is_blank(text)
)


@given(
    st.lists(st.tuples(cells, cells), min_size=1, max_size=5),
    st.sampled_from(["json", "rows", "jsonl", "csv", "tsv", "semicolons"]),
)
def test_records_are_read_as_they_were_written(tmp_path_factory, pairs, form):
    wanted = dict(pairs)
    rows = [{"question": q, "answer": a} for q, a in wanted.items()]
    if form in ("csv", "tsv", "semicolons"):
        file = io.StringIO(newline="")
        writer = csv.writer(file, delimiter={"csv": ",", "tsv": "\t", "semicolons": ";"}[form], quoting=csv.QUOTE_ALL)
        writer.writerows([("question", "answer"), *wanted.items()])
        name, text = f"x.{'tsv' if form == 'tsv' else 'csv'}", file.getvalue()
    else:
        # an object of two pairs called question and answer is one record
        hypothesis.assume(form != "json" or not {"question", "answer"} & {q.strip().lower() for q in wanted})
        name = f"dataset_with_answers_x.{'jsonl' if form == 'jsonl' else 'json'}"
        text = {"json": json.dumps(wanted), "rows": json.dumps(rows), "jsonl": "\n".join(map(json.dumps, rows))}[form]
    folder = write(tmp_path_factory.mktemp("f"), name, text)
    found = [(r.question, r.response) for r in specialty_files.read_folder(folder, skip_invalid=False).records["x"]]
    assert found == list(dict.fromkeys((texts_alike.clean(q), texts_alike.clean(a)) for q, a in wanted.items()))


@given(
    st.binary(max_size=200),
    st.sampled_from(["dataset_with_answers_x.json", "dataset_with_answers_x.jsonl", "x.csv", "x.tsv", "x.csv.gz"]),
)
def test_bytes_of_any_kind_are_read_or_refused_in_one_error(tmp_path_factory, content, name):
    folder = tmp_path_factory.mktemp("f")
    (folder / name).write_bytes(content)
    try:
        assert specialty_files.read_folder(folder, skip_invalid=True).records
    except UserError as error:
        assert str(folder) in str(error)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=8) | st.sampled_from(["question", "answer"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["question", "answer", "response", "messages", "data", "x", "input"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_json_of_any_shape_is_read_or_refused_in_one_error(tmp_path_factory, value):
    folder = write(tmp_path_factory.mktemp("f"), "dataset_with_answers_x.json", json.dumps(value))
    try:
        assert specialty_files.read_folder(folder, skip_invalid=True).records
    except UserError as error:
        assert str(folder) in str(error)


def test_the_keys_of_rows_and_unread_parts_of_a_conversation_are_noted(tmp_path):
    rows = {"gout": {"question": "q1", "answer": "a"}, "fever": {"question": "q2", "answer": "b"}}
    [note] = read(write(tmp_path, "dataset_with_answers_x.json", json.dumps(rows))).notes
    assert re.search(rf"{re.escape(repr(KEY_FIELD))}\D*2", note)
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "reasoning_content": "because"}]
    [note] = read(write(tmp_path, "dataset_with_answers_x.json", json.dumps([{"messages": turns}]))).notes
    assert re.search(r"'reasoning_content'\D*1", note)


def test_a_pipe_and_a_file_that_is_still_in_icloud_are_named_and_not_waited_for(tmp_path):
    write(tmp_path, "x.csv", CSV)
    os.mkfifo(tmp_path / "y.csv")
    (tmp_path / ".dataset_with_answers_z.json.icloud").write_text("x")
    found = specialty_files.find_files(tmp_path)
    assert [path.name for path in found.paths] == ["x.csv"]
    assert {one.path.name for one in found.unread} == {"y.csv", ".dataset_with_answers_z.json.icloud"}


def test_a_file_is_read_also_where_its_name_hides_how_it_is_packed_or_encoded(tmp_path):
    write(tmp_path, "x.csv", "")
    for content in (gzip.compress(CSV.encode()), CSV.encode("utf-32"), CSV.encode("utf-16")):
        (tmp_path / "x.csv").write_bytes(content)
        assert found_pairs(tmp_path) == PAIRS
    (tmp_path / "x.csv").write_bytes(CSV.encode("utf-16-le"))
    text = refusal_of(tmp_path)
    assert "x.csv" in text and "UTF-16" in text and "UTF-8" in text


@pytest.mark.parametrize("change", [lambda t: t + "\u200c", lambda t: "\u200e" + t, lambda t: t.replace("\n", "\u2028"), lambda t: t.replace("\n", "\r\n"),
                                    lambda t: unicodedata.normalize("NFD", t)])  # fmt: skip
def test_a_record_keeps_its_id_when_only_what_cannot_be_seen_changes(tmp_path, change):
    text = "Fièvre,\nand more"
    ids = []
    for answer in (text, change(text)):
        write(tmp_path, "dataset_with_answers_x.json", json.dumps({"q": answer}))
        ids.append(read(tmp_path).records["x"][0].id)
    assert ids[0] == ids[1]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.csv", ",question,answer\n" + "".join(f'{i},"{q}","{a}"\n' for i, (q, a) in enumerate(PAIRS.items()))),  # pandas' to_csv
        ("x.csv", "question,answer\n" + "".join(f'"{q}","{a}",\n' for q, a in PAIRS.items())),
        ("x.csv", "question,answer,\n" + "".join(f'"{q}","{a}"\n' for q, a in PAIRS.items())),
        ("x.csv", "|question|answer|\n|---|---|\n" + "".join(f'|{q}|"{a}"|\n' for q, a in PAIRS.items())),
        ("dataset_with_answers_x.jsonl", ",\n".join(map(json.dumps, ROWS)) + ",\n"),
        ("dataset_with_answers_x.jsonl", json.dumps(PAIRS, indent=1)),
        ("dataset_with_answers_x.json", json.dumps([{"question": None, "prompt": r["question"], "answer": None, "response": r["answer"]} for r in ROWS])),
        ("dataset_with_answers_x.json", json.dumps([{"question": None, "answer": None, "messages": [
            {"role": None, "from": "human", "value": r["question"]}, {"role": "assistant", "content": None, "value": r["answer"]}]} for r in ROWS])),
        ("dataset_with_answers_x.json", json.dumps([{"prompt": [{"role": "developer", "content": "s"}, {"role": "user", "content": r["question"]}],
                                                     "completion": [{"role": "assistant", "content": r["answer"]}]} for r in ROWS])),
    ],
)  # fmt: skip
def test_ordinary_odd_files_are_read(tmp_path, name, text):
    assert found_pairs(write(tmp_path, name, text)) == PAIRS


def test_a_filter_knows_specialties_that_rows_name_in_any_encoding(tmp_path):
    rows = [{"question": "q", "answer": "a", "specialty": "Heart"}]
    write(tmp_path, "dataset_with_answers_cardio.json", json.dumps(rows), "utf-16")
    found = specialty_files.find_files(tmp_path, ["Heart"])
    assert list(specialty_files.read_folder(tmp_path, skip_invalid=False, found=found, only=["Heart"]).records) == ["Heart"]


def test_only_a_text_about_the_data_may_lie_beside_it_unnamed(tmp_path):
    write(tmp_path, "x.csv", CSV)
    for name in ("README", "README.md", "LICENSE.txt", "license_questions.jsonl", "citations.xlsx", "readme_answers.txt"):
        (tmp_path / name).write_text("x")
    assert {one.path.name for one in specialty_files.find_files(tmp_path).unread} == {
        "license_questions.jsonl",
        "citations.xlsx",
        "readme_answers.txt",
    }
