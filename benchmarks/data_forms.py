"""What the preparation makes of public data sets and of office files that a user brings unchanged.

    python benchmarks/data_forms.py

Each is rebuilt small, in the form in which it is published, with texts of our own. Then `dataset_preparation.py` is run on it. The output
on a named day is in benchmarks/results/data_forms.md.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
COUNT = 40  # records of a data set
NAMED = "dataset_with_answers_"  # a file with this prefix is read under the name that follows
TOPICS = ("asthma", "gout", "anaemia", "migraine", "eczema", "hernia", "angina", "cataract", "scabies", "sepsis")
ASPECTS = ("treated", "diagnosed", "prevented", "followed up")


def pairs() -> list[tuple[str, str]]:
    """Questions and answers."""
    return [
        (f"How is {topic} {aspect} in adults of group {number}?", f"In group {number}, {topic} is {aspect} by plan {place * 7 + number}, and reviewed in {place + 2} weeks.")
        for place, topic in enumerate(TOPICS)
        for number, aspect in enumerate(ASPECTS)
    ]  # fmt: skip


def rows(question: str = "question", answer: str = "answer", **more: Any) -> list[dict[str, Any]]:
    """The pairs as objects with these names of fields, and more fields."""
    return [{question: q, answer: a} | more for q, a in pairs()]


def whole(value: Any) -> bytes:
    """A JSON file of one value."""
    return json.dumps(value, ensure_ascii=False).encode()


def lines(values: Sequence[Any]) -> bytes:
    """A JSON-lines file."""
    return "\n".join(json.dumps(value, ensure_ascii=False) for value in values).encode()


def table(header: Sequence[str], more: Sequence[str] = (), delimiter: str = ",", end: str = "\n") -> str:
    """The pairs as a CSV file, each with `more` cells."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, lineterminator=end)
    writer.writerows([header, *([q, a, *more] for q, a in pairs())])
    return file.getvalue()


@dataclass(frozen=True)
class Form:
    """A data set, how it is published, and its files by name."""

    name: str
    form: str
    files: dict[str, bytes]


def turns(*messages: tuple[str, str], role: str = "role", text: str = "content") -> list[dict[str, str]]:
    """A conversation of (speaker, text) as objects with these names of fields."""
    return [{role: speaker, text: content} for speaker, content in messages]


XML = b"<Document><QAPairs><QAPair><Question>q</Question><Answer>a</Answer></QAPair></QAPairs></Document>"
FORMS = (
    Form("MedQuAD", "XML, one file per document", {"0000001.xml": XML, "0000002.xml": XML}),
    Form("MedQuAD on Kaggle", "CSV: question, answer, source, focus_area", {"medquad.csv": table(["question", "answer", "source", "focus_area"], ["NIH", "lungs"]).encode()}),
    Form("MedMCQA", "JSON lines: question, opa to opd, cop, exp", {f"{NAMED}medmcqa.json": lines([{"question": q, "opa": a, "opb": "b", "opc": "c", "opd": "d", "cop": 1, "exp": a} for q, a in pairs()])}),
    Form("MedQA (USMLE)", "JSON lines: question, answer, options, answer_idx", {f"{NAMED}usmle.jsonl": lines(rows(options={"A": "x", "B": "y"}, answer_idx="A"))}),
    Form("PubMedQA, ori_pqal", "JSON: one object per PubMed number, QUESTION, CONTEXTS, LONG_ANSWER", {f"{NAMED}pubmedqa.json": whole({str(n): {"QUESTION": q, "CONTEXTS": ["c"], "LONG_ANSWER": a, "final_decision": "yes"} for n, (q, a) in enumerate(pairs())})}),
    Form("PubMedQA on the Hub", "parquet", {"train-00000-of-00001.parquet": b"PAR1"}),
    Form("BioASQ", "JSON: {questions: [{body, ideal_answer, snippets}]}", {f"{NAMED}bioasq.json": whole({"questions": [{"body": q, "ideal_answer": [a], "snippets": []} for q, a in pairs()]})}),
    Form("BioASQ as SQuAD", "JSON: {version, data: [{title, paragraphs}]}", {f"{NAMED}bioasq.json": whole({"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": "c", "qas": []}]}] * 2})}),
    Form("HealthCareMagic-100k (ChatDoctor)", "JSON: [{instruction, input, output}]", {f"{NAMED}healthcaremagic.json": whole([{"instruction": "If you are a doctor, please answer the medical questions.", "input": q, "output": a} for q, a in pairs()])}),
    Form("iCliniq (ChatDoctor)", "JSON: [{input, answer_icliniq, answer_chatgpt}]", {f"{NAMED}icliniq.json": whole([{"input": q, "answer_icliniq": a, "answer_chatgpt": a} for q, a in pairs()])}),
    Form("Alpaca, medical flashcards", "JSON: [{instruction, input: '', output}]", {f"{NAMED}flashcards.json": whole(rows("instruction", "output", input=""))}),
    Form("Dolly", "JSON lines: instruction, context, response, category", {f"{NAMED}dolly.jsonl": lines(rows("instruction", "response", context="A passage.", category="closed_qa"))}),
    Form("ShareGPT, one turn", "JSON: [{id, conversations: [{from, value}]}]", {f"{NAMED}sharegpt.json": whole([{"id": str(n), "conversations": turns(("human", q), ("gpt", a), role="from", text="value")} for n, (q, a) in enumerate(pairs())])}),
    Form("ShareGPT, several turns", "the same with more turns in a quarter of the rows", {f"{NAMED}sharegpt.json": whole([{"conversations": turns(("human", q), ("gpt", a), *([("human", "And then?"), ("gpt", a)] if n % 4 == 0 else []), role="from", text="value")} for n, (q, a) in enumerate(pairs())])}),
    Form("OpenAI, TRL (messages)", "JSON lines: messages of system, user, assistant", {f"{NAMED}messages.jsonl": lines([{"messages": turns(("system", "Be brief."), ("user", q), ("assistant", a))} for q, a in pairs()])}),
    Form("TRL (prompt, completion)", "JSON lines, gzip", {f"{NAMED}trl.jsonl.gz": gzip.compress(lines(rows("prompt", "completion")))}),
    Form("Axolotl (completion)", "JSON lines: text", {f"{NAMED}axolotl.jsonl": lines([{"text": f"{q}\n{a}"} for q, a in pairs()])}),
    Form("MedDialog", "JSON: [{description, utterances}]", {f"{NAMED}meddialog.json": whole([{"description": q, "utterances": [f"patient: {q}", f"doctor: {a}"]} for q, a in pairs()])}),
    Form("Huatuo-26M", "JSON lines in Chinese: questions, answers, as lists", {f"{NAMED}huatuo.jsonl": lines([{"questions": [f"{n}号患者发热怎么办？"], "answers": [f"休息{n}天。"]} for n in range(COUNT)])}),
    Form("cMedQA2", "two CSV files: question_id, content; answer", {"question.csv": "question_id,content\n1,头痛怎么办？\n".encode(), "answer.csv": "ans_id,question_id,content\n1,1,休息。\n".encode()}),
    Form("pandas, to_json()", "JSON by column: {question: {0: …}, answer: {0: …}}", {f"{NAMED}pandas.json": whole({"question": {str(n): q for n, (q, _) in enumerate(pairs())}, "answer": {str(n): a for n, (_, a) in enumerate(pairs())}})}),
    Form("datasets, to_json()", "JSON lines under the ending .json", {f"{NAMED}hub.json": lines(rows())}),
    Form("German Excel, CSV", "semicolons, Windows-1252, Question;Answer", {"Kardiologie.csv": table(["Question", "Answer"], delimiter=";", end="\r\n").replace("asthma", "Übelkeit").encode("cp1252")}),
    Form("German Excel, CSV UTF-8", "semicolons, byte-order mark, Question;Answer", {"Kardiologie.csv": table(["Question", "Answer"], delimiter=";", end="\r\n").encode("utf-8-sig")}),
    Form("German Excel, own headings", "semicolons, Frage;Antwort", {"Kardiologie.csv": table(["Frage", "Antwort"], delimiter=";", end="\r\n").encode("utf-8-sig")}),
    Form("Excel, Unicode text", "tabs, UTF-16", {"cardiology.tsv": table(["question", "answer"], delimiter="\t", end="\r\n").encode("utf-16")}),
    Form("Excel workbook", ".xlsx", {"cardiology.xlsx": b"PK\x03\x04"}),
    Form("A zip made on a Mac, unpacked", "CSV beside ._ files and __MACOSX", {"cardiology.csv": table(["question", "answer"]).encode(), "._cardiology.csv": b"\0\5\x16\7", "__MACOSX/._cardiology.csv": b"\0\5\x16\7", ".DS_Store": b"\0"}),
    Form("The zip itself", ".zip", {"cardiology.zip": b"PK\x03\x04"}),
    Form("A notebook's CSV", "commas not quoted", {"cardiology.csv": ("question,answer\n" + "".join(f"{q},{a}\n" for q, a in pairs())).encode()}),
    Form("Anki export", "tabs, no header", {"anki.tsv": "\n".join("\t".join(pair) for pair in pairs()).encode()}),
    Form("Arabic spreadsheet", "CSV: السؤال, الإجابة", {"القلب.csv": table(["السؤال", "الإجابة"]).encode()}),
    Form("A folder of folders", "the files of each specialty in a folder of its own", {"cardiology/data.json": whole(dict(pairs())), "urology/data.json": whole(dict(pairs()))}),
    Form("A mixed folder", "one file as expected, others as published", {f"{NAMED}cardiology.json": whole(dict(pairs())), "neurology.json": whole(dict(pairs())), "renal.jsonl": lines(rows()), "notes.docx": b"PK", "urology.CSV": table(["question", "answer"]).replace("asthma", "croup").encode()}),
)  # fmt: skip


def outcome(form: Form) -> tuple[str, str]:
    """What the preparation did ("read" with the number of records, or "refused"), and what it printed about it."""
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "data", Path(folder) / "out"
        for name, content in form.files.items():
            (data / name).parent.mkdir(parents=True, exist_ok=True)
            (data / name).write_bytes(content)
        done = subprocess.run([sys.executable, "dataset_preparation.py", f"DATA_DIR={data}", f"OUTPUT_DIR={out}"], capture_output=True,
                              text=True, encoding="utf-8", cwd=ROOT)  # fmt: skip
        notes = [line.strip() for line in done.stdout.splitlines() if "not read" in line or "equal" in line]
        if done.returncode == 0:
            count = next(line.strip() for line in done.stdout.splitlines() if " specialties, " in line)
            return f"read: {count}", "; ".join(notes)
        faults = [line.strip() for line in done.stderr.replace(str(data), "FOLDER").splitlines()]
        shown = faults[1:3] + [f"… and {len(faults) - 3} more"] * (len(faults) > 3) if len(faults) > 1 else faults
        return ("refused" if done.returncode == 2 else f"FAILED ({done.returncode})"), "; ".join([*notes, *shown])


def main() -> None:
    print("| data set | form | result | what is said |\n|---|---|---|---|")
    for form in FORMS:
        result, printed = outcome(form)
        cells = (form.name, form.form, result, printed.replace("|", "\\|"))
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
