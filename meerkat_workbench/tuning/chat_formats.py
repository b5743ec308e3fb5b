"""From the setting CHAT_TEMPLATE to a checked chat format."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from meerkat_workbench.core import runs
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.tuning import chat, smollm2


def template_of(name: str, llama3: chat.Template, series_start: str) -> tuple[chat.Template, Path | None]:
    """The template that CHAT_TEMPLATE names, and the file or folder that it comes from (None for a template of this project).

    Args:
        llama3: the template of the script, which the user may have edited.
        series_start: when the series of iterations started; empty for the present time. A template that writes a date writes
            this one, so that the prompts of later iterations stay the same.
    """
    if name == "llama3":
        return llama3, None
    if name == "plain":
        return chat.render_plain, None
    source = smollm2.ensure() if name == smollm2.NAME else Path(name)
    if not source.exists():
        fault = 'is neither "llama3", "smollm2" nor "plain", nor a file or folder that exists'
        raise UserError(fault, where=f"CHAT_TEMPLATE={source}")
    return chat.JinjaTemplate.read(source, datetime.strptime(series_start or runs.now(), runs.TIME_FORMAT)).render, source


def checked_format(
    template: chat.Template, source: Path | None, system_message: str
) -> tuple[chat.ChatFormat, chat.ControlTokens]:
    """The format of a template with a system message, and the control tokens that no text may contain.

    Prints a note if the format is unusual.

    Raises:
        UserError: the system message contains a control token.
    """
    chat_format = chat.ChatFormat.of(template, system_message)
    control_tokens = chat.ControlTokens.of_format(chat_format, source)
    if token := control_tokens.in_text(system_message):
        fault = f"contains {token}, a control token of chat templates"
        raise UserError(fault, where="SYSTEM_MESSAGE", item=token, remedy="Write it as plain text.")
    if note := chat_format.note():
        print(f"  {note}", flush=True)
    return chat_format, control_tokens
