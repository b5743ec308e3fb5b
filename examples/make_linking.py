#!/usr/bin/env python3
"""Write the sample of the entity linker: a vocabulary, its types, and annotated documents, from linking_concepts.csv.

Everything is written for this project: the concepts are real, their ids are ours, and the patients are invented. Documents name concepts by the vocabulary's
names, by names that it lacks (`other_names`), and by abbreviations that several concepts share, so that context is needed. The output never changes:

    python examples/make_linking.py
"""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE / "linking"
DOCUMENTS, SEED = 320, 7
TYPES = [
    ("clinical", "Clinical concept", ""), ("disorder", "Disorder", "clinical"), ("disease", "Disease", "disorder"),
    ("heart_disease", "Heart disease", "disease"), ("lung_disease", "Lung disease", "disease"), ("nerve_disease", "Disease of the nervous system", "disease"),
    ("joint_disease", "Joint disease", "disease"), ("blood_disease", "Blood disease", "disease"), ("hormone_disease", "Hormonal disease", "disease"),
    ("kidney_disease", "Kidney disease", "disease"), ("gut_disease", "Digestive disease", "disease"), ("infection", "Infection", "disease"),
    ("pregnancy_disease", "Disease of pregnancy", "disease"), ("mind_disease", "Mental disease", "disease"), ("skin_disease", "Skin disease", "disease"),
    ("symptom", "Symptom", "disorder"), ("treatment", "Treatment", "clinical"), ("drug", "Drug", "treatment"), ("procedure", "Procedure", "treatment"),
]  # fmt: skip
WHO = ("woman", "man", "patient", "teacher", "retired nurse", "farmer", "student")
SENTENCES = {
    "disorder": (
        "A {age}-year-old {who} had {mention}; the record notes {clue}.", "Findings of {mention} included {clue}.",
        "The history of {mention} was long, with {clue}.", "Because of {clue}, {mention} was suspected.", "After {clue}, the diagnosis was {mention}.",
        "The {who} was followed for {mention}, and {clue} was recorded.",
    ),
    "treatment": (
        "The {who} received {mention}: {clue}.", "With {mention} there was {clue}.", "{mention} was chosen, with {clue}.",
        "The notes on {mention} mention {clue}.", "After {mention} the team recorded {clue}.",
    ),
}  # fmt: skip
TITLES = (
    "{first} and {second} in one patient",
    "{first} after {second}: a report",
    "A case of {first} with {second}",
    "{first}, {second} and what followed",
)


def read_concepts() -> list[dict[str, str]]:
    with (HERE / "linking_concepts.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def split(cell: str) -> list[str]:
    return [part for part in cell.split("|") if part]


def name_of(concept: dict[str, str], draw: random.Random) -> str:
    """A name for a mention: half of the time one of the vocabulary, often an abbreviation, and else one that it lacks."""
    synonyms, others = split(concept["synonyms"]), split(concept["other_names"])
    kind = draw.random()
    if kind < 0.35 and others:
        return draw.choice(others)
    name = draw.choice([concept["name"], *synonyms, *synonyms])
    return name if name.isupper() or any(letter.isdigit() for letter in name) else name.lower() if draw.random() < 0.8 else name


def document(number: int, concepts: list[dict[str, str]], draw: random.Random) -> str:
    """One PubTator document with two to four concepts, of which the first comes again."""
    chosen = draw.sample(concepts, draw.choice((2, 3, 3, 4)))
    text, mentions = "", list[tuple[int, int, str, dict[str, str]]]()

    def add(template: str, values: dict[str, str], marked: dict[str, dict[str, str]]) -> None:
        """Append a sentence, and note where its mentions stand."""
        nonlocal text
        sentence = template
        for key, value in values.items():
            sentence = sentence.replace("{" + key + "}", f"\0{key}\0{value}\0" if key in marked else value)
        parts = sentence.split("\0")
        place = 0
        while place < len(parts):
            if parts[place] in marked and place + 1 < len(parts):
                mentions.append((len(text), len(text) + len(parts[place + 1]), parts[place + 1], marked[parts[place]]))
                text += parts[place + 1]
                place += 2
            else:
                text += parts[place]
                place += 1

    first, second = chosen[:2]
    add(draw.choice(TITLES), {"first": name_of(first, draw), "second": name_of(second, draw)}, {"first": first, "second": second})
    title_end = len(text)
    text += " "
    for place, concept in enumerate([*chosen, *draw.sample(chosen, 1)]):
        kind = "treatment" if concept["type"] in ("drug", "procedure") else "disorder"
        values = {
            "mention": name_of(concept, draw),
            "clue": draw.choice(split(concept["clues"])),
            "who": draw.choice(WHO),
            "age": str(draw.randint(3, 91)),
        }
        text += " " if place else ""
        add(draw.choice(SENTENCES[kind]), values, {"mention": concept})
    identifier = str(90_000_000 + number)
    lines = [f"{identifier}|t|{text[:title_end]}", f"{identifier}|a|{text[title_end + 1 :]}"]
    lines += [
        f"{identifier}\t{start}\t{end}\t{name}\t{concept['type']}\t{concept['id']}" for start, end, name, concept in mentions
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    concepts, draw = read_concepts(), random.Random(SEED)
    FOLDER.mkdir(exist_ok=True)
    rows = [
        json.dumps({"id": one["id"], "name": one["name"], "synonyms": split(one["synonyms"]), "types": [one["type"]]})
        for one in concepts
    ]
    (FOLDER / "concepts.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    table = ["type_id,name,parent_id", *(",".join(one) for one in TYPES)]
    (FOLDER / "types.csv").write_text("\n".join(table) + "\n", encoding="utf-8")
    corpus = "\n".join(document(number, concepts, draw) for number in range(DOCUMENTS))
    (FOLDER / "corpus.PubTator").write_text(corpus, encoding="utf-8")
    print(f"{FOLDER}: {len(concepts)} concepts, {DOCUMENTS} documents")


if __name__ == "__main__":
    main()
