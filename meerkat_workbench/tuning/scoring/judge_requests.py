"""Asks a judge: requests at a time, replies stored like answers, and none asked twice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from meerkat_workbench.core import files
from meerkat_workbench.tuning.artifacts import Finish
from meerkat_workbench.tuning.generation import generator
from meerkat_workbench.tuning.generation.endpoint import Endpoint, ServerDecoding
from meerkat_workbench.tuning.generation.prediction_store import PredictionStore, archived_files, strip_thinking
from meerkat_workbench.tuning.generation.questions import JUDGE, Question

MAX_ANSWER_CHARACTERS = 6000  # of each text in a request
OBJECT = re.compile(r"\{.*\}", re.DOTALL)  # models write words or a code fence around the object that they are asked for


@dataclass(frozen=True)
class Judge:
    """A judge, and where its replies are stored.

    Attributes:
        requests: requests at a time.
        stored_only: use stored replies only, and ask nothing.
    """

    endpoint: Endpoint
    store: PredictionStore
    requests: int
    stored_only: bool

    @property
    def name(self) -> str:
        """Address and model, on which the key of a reply depends."""
        return f"{self.endpoint.address} {self.endpoint.model}"

    def ask(self, asked: Sequence[Question], version: str, max_tokens: int, purpose: str) -> list[str | None]:
        """Ask what has no stored reply, and store each reply as soon as it comes.

        Args:
            version: of the requests' form; another version is asked again.
            max_tokens: of a reply.
            purpose: completes the sentence "asking ADDRESS …", which is printed with the number of requests before the first.

        Returns:
            The reply to each question, without the block of thinking that a reasoning model begins with; None if there is none.

        Raises:
            UserError: every request failed, and none had an earlier reply.
        """
        keys = [key_of(question, self.name, version) for question in asked]
        for path in archived_files(self.store.path.parent):
            self.store.adopt(path, set(keys))
        questions = dict(zip(keys, asked, strict=True))  # one of those that are the same
        lacking = sum(map(self.store.lacks, questions))
        if lacking and not self.stored_only:
            place = self.endpoint.stay_or_leave()
            print(f"asking {self.endpoint.address} {purpose}: {lacking} requests, answers {place}", flush=True)
            decoding = ServerDecoding(max_tokens, 0.0, 0)
            generator.generate_remote(
                self.endpoint, JUDGE, list(questions.values()), list(questions), self.store, decoding, self.requests
            )
        return [self._reply(key) for key in keys]

    def _reply(self, key: str) -> str | None:
        reply = self.store.records.get(key)
        return None if reply is None or reply.finish == Finish.FAILED else strip_thinking(reply, "").text


def key_of(question: Question, judge: str, version: str) -> str:
    """The key of a reply; `judge` is address and model."""
    return files.sha256_of([question.messages, judge, version])[:32]


def object_in(reply: str) -> str:
    """The JSON object in a reply, or "null"."""
    found = OBJECT.search(reply)
    return found.group() if found else "null"
