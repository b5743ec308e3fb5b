"""A client for an OpenAI-compatible server (vLLM, transformers serve, several servers behind one address)."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from meerkat_workbench.core.errors import UserError, one_line
from meerkat_workbench.tuning.artifacts import Finish
from meerkat_workbench.tuning.generation.questions import Question

TIMEOUT_S = 600.0
RETRIES = 6  # with back-off, about a minute in all
MODEL_LIST_TIMEOUT_S, MODEL_LIST_RETRIES = 30.0, 1
MAX_ERROR_CHARACTERS = 200  # of a failed request's error
MAX_CONNECTION_ERROR_CHARACTERS = 160
MAX_MODEL_NAMES = 8  # served models that an error lists


@dataclass(frozen=True, slots=True)
class ServerDecoding:
    """Decoding settings of a request. Above temperature 0 the server draws the tokens, so two runs may differ."""

    max_new_tokens: int
    temperature: float
    seed: int


@dataclass(frozen=True, slots=True)
class Reply:
    """A server's answer: its text, how it ended, its number of tokens, and the error if the request failed."""

    text: str
    finish: Finish
    tokens: int
    error: str = ""


class Endpoint:
    """A model on a server.

    Args:
        address: of the API, with or without "/v1".
        model: the model's name on the server.
    """

    def __init__(self, address: str, model: str) -> None:
        from openai import OpenAI

        self.address, self.model = address.rstrip("/").removesuffix("/v1"), model
        # a local server needs no key, but the client does not start without one
        key = os.environ.get("OPENAI_API_KEY") or "none"
        self.client = OpenAI(base_url=f"{self.address}/v1", api_key=key, timeout=TIMEOUT_S, max_retries=RETRIES)

    @classmethod
    def parse(cls, setting: str, *, where: str) -> Endpoint:
        """The server of a setting such as "http://HOST:PORT MODEL".

        Raises:
            UserError: the setting does not have both parts; `where` is its name.
        """
        parts = setting.split()
        if len(parts) != 2 or not setting.startswith(("http://", "https://")):
            remedy = f"For example {where}='http://HOST:PORT MODEL'."
            raise UserError("is not an address and a model", where=f"{where}={setting}", remedy=remedy)
        return cls(*parts)

    def stay_or_leave(self) -> str:
        """A phrase that says whether data sent to the server stays on this machine."""
        host = urlsplit(self.address).hostname or ""
        try:
            is_local = ipaddress.ip_address(host).is_loopback
        except ValueError:
            is_local = host == "localhost" or host.endswith(".localhost")
        return "stay on this machine" if is_local else "leave this machine"

    def check(self) -> None:
        """Check that the server answers and serves the model.

        Raises:
            UserError: no server answers, it refuses the key, or its list of models lacks this one.
        """
        from openai import APIConnectionError, AuthenticationError, OpenAIError, PermissionDeniedError

        try:
            client = self.client.with_options(max_retries=MODEL_LIST_RETRIES, timeout=MODEL_LIST_TIMEOUT_S)
            served = [model.id for model in client.models.list()]
        except APIConnectionError as error:
            reason = one_line(error, MAX_CONNECTION_ERROR_CHARACTERS)
            remedy = "Start the server, or leave it out."
            raise UserError(f"nothing answers there ({reason})", where=self.address, remedy=remedy) from error
        except (AuthenticationError, PermissionDeniedError) as error:
            remedy = "Set OPENAI_API_KEY to a key that it accepts."
            raise UserError(
                f"refuses this key ({one_line(error, MAX_CONNECTION_ERROR_CHARACTERS)})", where=self.address, remedy=remedy
            ) from error
        except OpenAIError:  # some servers have no list of models; then the first question shows whether it works
            return
        if served and self.model not in served:
            fault = f"serves {', '.join(served[:MAX_MODEL_NAMES])}, but not {self.model!r}"
            raise UserError(fault, where=self.address, remedy="Name a model that it serves.")

    def answer(self, question: Question, decoding: ServerDecoding) -> Reply:
        """Ask one question. A failed request returns a reply with `Finish.FAILED`; it does not raise."""
        messages: Any = [{"role": role, "content": content} for role, content in question.messages]
        try:
            reply = self.client.chat.completions.create(
                model=self.model, messages=messages, max_tokens=decoding.max_new_tokens, temperature=decoding.temperature,
                seed=decoding.seed,
            )  # fmt: skip
            choice = reply.choices[0]
            finish = Finish.LENGTH if choice.finish_reason == "length" else Finish.STOP
            return Reply((choice.message.content or "").strip(), finish, reply.usage.completion_tokens if reply.usage else 0)
        except Exception as error:  # the client has retried; whatever the server does, only this question fails
            return Reply("", Finish.FAILED, 0, " ".join(f"{type(error).__name__}: {error}".split())[:MAX_ERROR_CHARACTERS])

    def answers(self, questions: Sequence[Question], decoding: ServerDecoding, concurrency: int) -> Iterator[tuple[int, Reply]]:
        """Ask several questions, at most `concurrency` at a time.

        Yields:
            The index of a question and its reply, in the order in which the replies arrive.
        """
        with ThreadPoolExecutor(concurrency) as pool:
            index_of = {pool.submit(self.answer, question, decoding): index for index, question in enumerate(questions)}
            try:
                for future in as_completed(index_of):
                    yield index_of[future], future.result()
            finally:  # if stopped half-way, requests that have not started are cancelled
                pool.shutdown(wait=False, cancel_futures=True)
