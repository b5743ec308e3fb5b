"""Asking an OpenAI-compatible server (vLLM, transformers serve, a fleet behind one address)."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from meerkat_workbench.core.errors import UserError
from meerkat_workbench.tuning.artifacts import Finish
from meerkat_workbench.tuning.generation.questions import Question

TIMEOUT_S = 600.0
RETRIES = 6  # with back-off, about a minute in all


@dataclass(frozen=True, slots=True)
class ServerDecoding:
    """How a server is asked to answer. Above temperature 0 its draws are its own: two runs may differ."""

    max_new_tokens: int
    temperature: float
    seed: int


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered: text, how it ended, its tokens, and the error of a request that failed."""

    text: str
    finish: Finish
    tokens: int
    error: str = ""


class Endpoint:
    """A model behind an address.

    Args:
        address: of the API, with or without "/v1".
        model: the name under which the server knows it.
    """

    def __init__(self, address: str, model: str) -> None:
        from openai import OpenAI

        self.address, self.model = address.rstrip("/").removesuffix("/v1"), model
        # a local server asks for no key, and the client refuses to start without one
        key = os.environ.get("OPENAI_API_KEY") or "none"
        self.client = OpenAI(base_url=f"{self.address}/v1", api_key=key, timeout=TIMEOUT_S, max_retries=RETRIES)

    def stay_or_leave(self) -> str:
        """Whether what is sent there stays on this machine, in words."""
        host = urlsplit(self.address).hostname or ""
        try:
            here = ipaddress.ip_address(host).is_loopback
        except ValueError:
            here = host == "localhost" or host.endswith(".localhost")
        return "stay on this machine" if here else "leave this machine"

    def check(self) -> None:
        """UserError where no server answers, or it says that it does not know the model."""
        from openai import APIConnectionError, OpenAIError

        try:
            known = [model.id for model in self.client.with_options(max_retries=1, timeout=30.0).models.list()]
        except APIConnectionError as error:
            raise UserError(
                f"{self.address}: nothing answers there ({' '.join(str(error).split())[:160]}). Start the server, or leave it out."
            ) from error
        except OpenAIError:  # some servers keep no list; the first question will tell
            return
        if known and self.model not in known:
            raise UserError(f"{self.address}: serves {', '.join(known[:8])}, but not {self.model!r}.")

    def answer(self, question: Question, decoding: ServerDecoding) -> Reply:
        """The server's answer; a request that fails is a failed answer."""
        messages: Any = [{"role": role, "content": content} for role, content in question.messages]
        try:
            reply = self.client.chat.completions.create(
                model=self.model, messages=messages, max_tokens=decoding.max_new_tokens, temperature=decoding.temperature,
                seed=decoding.seed,
            )  # fmt: skip
            choice = reply.choices[0]
            finish = Finish.LENGTH if choice.finish_reason == "length" else Finish.STOP
            return Reply((choice.message.content or "").strip(), finish, reply.usage.completion_tokens if reply.usage else 0)
        except Exception as error:  # the client has tried again; whatever a server does, one question is one failure
            return Reply("", Finish.FAILED, 0, " ".join(f"{type(error).__name__}: {error}".split())[:200])

    def answers(self, questions: Sequence[Question], decoding: ServerDecoding, at_once: int) -> Iterator[tuple[int, Reply]]:
        """Each question's number and answer, as they come; at most `at_once` are asked at a time."""
        with ThreadPoolExecutor(at_once) as pool:
            asked = {pool.submit(self.answer, question, decoding): number for number, question in enumerate(questions)}
            try:
                for done in as_completed(asked):
                    yield asked[done], done.result()
            finally:  # stopped half-way: what was not begun is not asked any more
                pool.shutdown(wait=False, cancel_futures=True)
