"""Chat templates: messages into the text that a model was trained on, as transformers renders it.

A template is a program from somebody else, so it runs in Jinja's immutable sandbox.
"""

import dataclasses
import datetime as dt
import functools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from fieldtune.errors import InvalidData

if TYPE_CHECKING:
    import jinja2
    import jinja2.nodes
    import jinja2.parser


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


def render(
    template: str, messages: Sequence[Message], special_tokens: Mapping[str, str], add_generation_prompt: bool
) -> str:
    """Render a conversation as transformers' ``apply_chat_template(..., tokenize=False)`` does.

    Args:
        template: Jinja source.
        messages: the conversation.
        special_tokens: bos_token, eos_token, … which the template may name.
        add_generation_prompt: whether the text ends where the assistant's next turn begins.

    Raises:
        InvalidData: the template has a fault, or refuses these messages; its own words are in the message.
    """
    import jinja2

    turns = [{"role": message.role, "content": message.content} for message in messages]
    try:
        return _compiled(template).render(
            messages=turns,
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **special_tokens,
        )
    except jinja2.TemplateSyntaxError as error:
        raise InvalidData(f"the chat template has a fault in line {error.lineno}: {error.message}") from error
    except Exception as error:
        # Whatever the template's expressions can raise: None + str, a missing key, a division by zero.
        detail = str(error) or type(error).__name__
        raise InvalidData(f"the chat template refuses these messages: {detail}") from error


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> "jinja2.Template":
    import jinja2.ext
    import jinja2.nodes
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """``{% generation %}``, by which templates mark assistant turns: renders what it encloses."""

        tags = {"generation"}  # noqa: RUF012 - Jinja declares it as a plain set

        def parse(self, parser: "jinja2.parser.Parser") -> "jinja2.nodes.Node":
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(template)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes <, > and & for HTML, which would change the prompt.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    import jinja2

    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return dt.datetime.now().astimezone().strftime(form)
