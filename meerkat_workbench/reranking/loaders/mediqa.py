"""MEDIQA 2019 task 3 (Ben Abacha et al. 2019)."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from meerkat_workbench.core import input_files
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.retrieval.documents import Document, JudgedQueries, Judgements, Query, Run, Scored
from meerkat_workbench.text import texts

MEDIQA_RELEVANT = 2  # grades 1 to 4 are kept as relevance 0 to 3; "correct" is grade 3 or more


def read_mediqa(path: Path) -> JudgedQueries:
    """One XML file or a folder of them. Grades 1 to 4 become relevance 0 to 3.

    The answers of a question are its candidates, in the order of the system that found them. A file without grades (the test set) is refused.
    """
    queries, documents, judgements, candidates = dict[str, Query](), dict[str, Document](), Judgements(), Run()
    paths = [path] if path.is_file() else sorted(path.glob("*.xml"))
    for file in paths:
        try:
            root = ElementTree.fromstring(input_files.read_bytes(file))
        except ElementTree.ParseError as error:
            raise UserError(f"is not valid XML ({error})", where=file) from None
        for question in root.iter("Question"):
            query = f"{file.stem.rsplit('-', 1)[-1]}-{question.get('QID')}"
            text = texts.clean(question.findtext("QuestionText") or "")
            where = f"{file.name}, question {question.get('QID')}"
            if texts.is_blank(text):
                raise UserError("has no QuestionText", where=where)
            queries[query] = Query(id=query, text=text)
            ranks: list[tuple[int, str]] = []
            for answer in question.iter("Answer"):
                name = f"{query}-{answer.get('AID', '').rpartition('_')[2]}"
                body = texts.clean(answer.findtext("AnswerText") or "")
                try:
                    rank, grade = int(answer.get("SystemRank", "")), int(answer.get("ReferenceScore", ""))
                except ValueError:
                    fault = "has no whole number as SystemRank and ReferenceScore"
                    raise UserError(
                        fault, where=f"{where}, answer {answer.get('AID')}", remedy="Use the training or validation files."
                    ) from None
                if not 1 <= grade <= 4 or rank < 1:
                    raise UserError(
                        f"has the grade {grade} and the rank {rank}; grades are 1 to 4, ranks 1 and more",
                        where=f"{where}, answer {answer.get('AID')}",
                    )
                if texts.is_blank(body):
                    raise UserError("has no AnswerText", where=f"{where}, answer {answer.get('AID')}")
                documents[name] = Document(id=name, text=body)
                judgements.setdefault(query, {})[name] = grade - 1
                ranks.append((rank, name))
            candidates[query] = [Scored(name, 1 / rank) for rank, name in sorted(ranks)]
    return JudgedQueries(queries, documents, judgements, MEDIQA_RELEVANT, candidates)
