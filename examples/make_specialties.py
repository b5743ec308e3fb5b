"""Write the sample specialties, `examples/specialties/`, from the table of facts, `examples/facts.csv`.

    python examples/make_specialties.py [OUTPUT_FOLDER]

Every condition has seven facts (what it is, signs, causes, diagnosis, treatment, prevention, outlook). There is a question
about each fact, and about four pairs of facts, in one of several wordings. A hash of the condition chooses the wording, so
that the files are the same wherever they are made. Illustration for software, not medical advice.
"""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FACTS = HERE / "facts.csv"

# {c} is the condition, {C} the same at the start of a sentence, and each fact is filled in under its own name
QUESTIONS = {
    ("definition",): [
        "What is {c}?",
        "Can you explain {c} in simple terms?",
        "My doctor mentioned {c}. What does that mean?",
        "How would you define {c}?",
        "What exactly is meant by {c}?",
    ],
    ("symptoms",): [
        "What are the symptoms of {c}?",
        "How can I recognize {c}?",
        "Which signs point to {c}?",
        "What does someone with {c} usually notice?",
        "What are the typical complaints in {c}?",
    ],
    ("causes",): [
        "What causes {c}?",
        "Why do people get {c}?",
        "What lies behind {c}?",
        "Where does {c} come from?",
        "Which factors lead to {c}?",
    ],
    ("diagnosis",): [
        "How is {c} diagnosed?",
        "Which tests confirm {c}?",
        "How do doctors find out that it is {c}?",
        "What is needed to diagnose {c}?",
        "Which findings prove {c}?",
    ],
    ("treatment",): [
        "How is {c} treated?",
        "What is the usual treatment for {c}, with doses?",
        "Which medicines or procedures help against {c}?",
        "What can be done about {c}?",
        "What would a doctor prescribe for {c}?",
    ],
    ("prevention",): [
        "How can {c} be prevented?",
        "What lowers the risk of {c} or its complications?",
        "Is there a way to avoid {c}?",
        "What can I do to protect myself from {c}?",
        "Which preventive measures exist for {c}?",
    ],
    ("outlook",): [
        "What is the outlook for {c}?",
        "What is the prognosis of {c}?",
        "How does {c} develop over the years?",
        "What should someone with {c} expect in the long run?",
        "Does {c} get better?",
    ],
    ("symptoms", "diagnosis"): [
        "I think I may have {c}. Which signs matter, and how would it be confirmed?",
        "How does {c} show itself and how is it diagnosed?",
        "When should {c} be suspected, and which tests settle it?",
    ],
    ("causes", "prevention"): [
        "Why does {c} arise, and can anything be done to prevent it?",
        "What are the causes of {c} and how can they be countered?",
        "Where does {c} come from, and how can I lower my risk?",
    ],
    ("treatment", "outlook"): [
        "How is {c} managed, and what happens afterwards?",
        "What is the therapy for {c} and what are the prospects?",
        "Someone in my family has {c}. How is it treated and what can we expect?",
    ],
    ("definition", "symptoms"): [
        "Could you give me an overview of {c} and its signs?",
        "I have just been told about {c}. What is it and what does one feel?",
        "Please describe {c} and how it presents.",
    ],
}

ANSWERS = {
    "definition": ["{C} is {definition}.", "In short, {c} is {definition}.", "Doctors use the term {c} for {definition}."],
    "symptoms": ["The typical signs of {c} are {symptoms}.", "Typical features of {c} include {symptoms}.",
                 "{C} usually shows itself through {symptoms}."],
    "causes": ["The usual causes of {c} are {causes}.", "Common causes of {c} are {causes}.",
               "{C} can usually be traced to {causes}."],
    "diagnosis": ["{C} is confirmed with {diagnosis}.", "The diagnosis of {c} rests on {diagnosis}.",
                  "To recognize {c}, doctors look for {diagnosis}."],
    "treatment": ["Treatment of {c} consists of {treatment}.", "{C} is usually treated with {treatment}.",
                  "The mainstays of treatment for {c} are {treatment}."],
    "prevention": ["The risk of {c} is lowered by {prevention}.", "What helps against {c} is {prevention}.",
                   "Useful measures against {c} are {prevention}."],
    "outlook": ["With {c}, in the long run, {outlook}.", "As for the outlook of {c}, {outlook}.",
                "For people with {c}, {outlook}."],
}  # fmt: skip


def read_facts(path: Path = FACTS) -> list[dict[str, str]]:
    """Rows of the table in the order of the file: specialty, condition and its seven facts."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def choose(wordings: list[str], *key: str) -> str:
    """One of the wordings, always the same for the same key."""
    return wordings[int(hashlib.sha256("|".join(key).encode()).hexdigest(), 16) % len(wordings)]


def capitalised(text: str) -> str:
    return text[0].upper() + text[1:]


def pairs_of(row: dict[str, str]) -> dict[str, str]:
    """The eleven question-answer pairs of one condition."""
    words = {**row, "c": row["condition"], "C": capitalised(row["condition"])}
    pairs = {}
    for facts, wordings in QUESTIONS.items():
        question = choose(wordings, row["condition"], *facts).format(**words)
        parts = [choose(ANSWERS[fact], "answer", row["condition"], *facts, fact).format(**words) for fact in facts]
        pairs[question] = " ".join(parts)
    return pairs


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    specialties: dict[str, dict[str, str]] = {}
    for row in read_facts():
        specialties.setdefault(row["specialty"], {}).update(pairs_of(row))
    for specialty, pairs in specialties.items():
        text = json.dumps(pairs, ensure_ascii=False, indent=1) + "\n"
        (folder / f"dataset_with_answers_{specialty}.json").write_text(text, encoding="utf-8")
    print(f"{len(specialties)} specialties, {sum(map(len, specialties.values()))} pairs, in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "specialties")
