import itertools
import json

import pytest
from conftest import SHARED_DATA, write_specialty

from workbench import texts as texts_alike
from workbench.chat import LLAMA3_TOKENS, ControlTokens
from workbench.data import specialty_files
from workbench.errors import UserError


def read(folder, **keywords):
    tokens = ControlTokens(LLAMA3_TOKENS)
    return specialty_files.read_folder(folder, skip_invalid=keywords.get("skip_invalid", False), control_tokens=tokens)


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


def test_every_fault_is_named_at_once_twenty_of_them_and_the_rest_counted(tmp_path):
    write_specialty(tmp_path, "bad", [{"question": f"q{n}", "answer": ""} for n in range(25)])
    with pytest.raises(UserError) as error:
        read(tmp_path)
    text = str(error.value)
    assert "25 faults" in text and "record 20:" in text and "record 21:" not in text and "and 5 more" in text
    assert "SKIP_INVALID=True" in text


@pytest.mark.parametrize(
    ("item", "fault"),
    [
        ({"question": "q", "answer": ""}, '"answer" is empty'),
        ({"question": "  ", "answer": "a"}, '"question" is empty'),
        ({"question": "q", "answer": 5}, "is a int, not text"),
        ({"question": "q"}, '"answer" is missing'),
        ("text", '"question" is missing'),
        ({"question": "q", "answer": "a <|eot_id|> b"}, "control token"),
        ({"question": "q", "answer": "\ud800"}, "surrogate"),
    ],
)
def test_a_bad_record_is_named_by_file_position_and_fault_and_can_be_left_out(tmp_path, item, fault):
    write_specialty(tmp_path, "x", [{"question": "good", "answer": "yes"}])
    path = tmp_path / "dataset_with_answers_y.json"
    path.write_text(json.dumps([{"question": "also", "answer": "good"}, item]))
    with pytest.raises(UserError, match=r"dataset_with_answers_y\.json, record 2") as error:
        read(tmp_path)
    assert fault in str(error.value)
    reading = read(tmp_path, skip_invalid=True)
    assert reading.invalid_skipped == 1 and len(reading.records["y"]) == 1


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b'{"q": "a"', "not whole JSON"),
        (b'{"q": "caf\xe9"}', "not UTF-8"),
        (b'{"q": "a", "q": "b"}', "stands twice"),
        (b'"text"', "holds a str"),
        (b"", "not whole JSON"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_even_when_bad_records_are_skipped(tmp_path, content, fault):
    (tmp_path / "dataset_with_answers_x.json").write_bytes(content)
    with pytest.raises(UserError, match=fault):
        read(tmp_path, skip_invalid=True)


def test_identical_pairs_are_dropped_and_counted_but_one_question_with_two_answers_stays(tmp_path):
    write_specialty(tmp_path, "x", [{"question": "q", "answer": a} for a in ("one", "one ", "two")])
    reading = read(tmp_path)
    assert len(reading.records["x"]) == 2 and reading.identical_dropped == 1


def test_a_missing_folder_and_one_without_specialty_files_are_told_apart(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        read(tmp_path / "absent")
    with pytest.raises(UserError, match="no specialty file"):
        read(tmp_path)


def test_words_keep_decimals_signs_and_ranges_and_lose_punctuation():
    assert texts_alike.words_of("Take 2.5 mg daily, -5 °C; x-ray (IgA), 10-20%.") == [
        "take", "2.5", "mg", "daily", "-5", "c", "x-ray", "iga", "10-20%",
    ]  # fmt: skip
    assert texts_alike.key_of_words(texts_alike.words_of("What IS gout ?")) == texts_alike.key_of_words(
        texts_alike.words_of("what is gout")
    )


@pytest.mark.parametrize("texts", [
    ["Take 2.5 mg daily, -5 °C; x-ray (IgA), 10-20%.", "", "  ", "…", "ﬁbrosis\u00a0of\u2003the lung\tand\nliver", "plain ascii"],
    ["only ascii, twice", "only ascii, twice"],
    [""],
])  # fmt: skip
def test_words_of_many_texts_are_those_of_each(texts):
    words, bounds = texts_alike.words_of_each(texts)
    assert [words[start:end] for start, end in itertools.pairwise(bounds)] == [texts_alike.words_of(text) for text in texts]


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="real data is not on this machine")
def test_real_specialty_files_are_read_whole():
    reading = read(SHARED_DATA / "medquad")
    assert (len(reading.records), sum(map(len, reading.records.values()))) == (36, 15225)
    texts = [record.response for records_of_one in reading.records.values() for record in records_of_one]
    words, bounds = texts_alike.words_of_each(texts)
    assert [words[start:end] for start, end in itertools.pairwise(bounds)] == [texts_alike.words_of(text) for text in texts]
