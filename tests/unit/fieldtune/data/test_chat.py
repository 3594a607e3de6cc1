import re
from collections.abc import Sequence

import pytest

from fieldtune.data.chat import Message, render
from fieldtune.errors import InvalidData

TURNS = (Message(role="user", content="a < b & 'ü'"), Message(role="assistant", content="  yes\n"))
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
TEMPLATES = {
    "blocks and spaces": (
        "{{ bos_token }}\n  {% for message in messages %}\n    {%- if loop.index > 5 %}{% break %}{% endif %}\n"
        "{{ message['role'] }}: {{ message.content | trim }}{{ eos_token }}\n  {% endfor %}\n"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    ),
    "json": "{{ messages | tojson }}{{ messages | tojson(indent=2) }}",
    "generation": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}"
        "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    ),
    "namespace": (
        "{% set ns = namespace(count=0) %}{% for m in messages %}{% set ns.count = ns.count + 1 %}{% endfor %}"
        "{{ ns.count }}{% if tools is not none %}tools{% endif %}{{ unknown }}"
    ),
}


def test_what_a_template_sees() -> None:
    template = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}|{{ m['content'] }}]{% endfor %}"
        "{{ add_generation_prompt }}{{ eos_token }}"
    )
    assert render(template, TURNS, TOKENS, True) == "<s>[user|a < b & 'ü'][assistant|  yes\n]True</s>"


def test_json_is_not_escaped_for_html() -> None:
    assert render("{{ messages[0] | tojson }}", TURNS, {}, False) == '{"role": "user", "content": "a < b & \'ü\'"}'


def test_generation_blocks_render_their_body() -> None:
    assert render(TEMPLATES["generation"], TURNS, TOKENS, False) == "a < b & 'ü'  yes\n</s>"


def test_the_date() -> None:
    assert re.fullmatch(r"20\d\d-\d\d", render("{{ strftime_now('%Y-%m') }}", TURNS, {}, False))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('Roles must alternate') }}", "refuses these messages: Roles must alternate"),
        ("a\n{% for %}", "has a fault in line 2"),
        ("{{ messages[0].content + 1 }}", "refuses these messages: can only concatenate str"),
        ("{{ messages[0].tool.name }}", "refuses these messages: .*has no attribute 'tool'"),
        ("{{ ''.__class__.__mro__ }}", "refuses these messages: access to attribute '__class__'"),
        ("{{ messages.append(1) }}", "refuses these messages: .*not safely callable|access to attribute 'append'"),
    ],
)
def test_a_template_that_refuses(template: str, message: str) -> None:
    with pytest.raises(InvalidData, match=message):
        render(template, TURNS, TOKENS, False)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("turns", [TURNS, TURNS[:1]], ids=["answered", "open"])
def test_it_renders_what_transformers_renders(template: str, turns: Sequence[Message]) -> None:
    utilities = pytest.importorskip("transformers.utils.chat_template_utils")
    conversation = [{"role": turn.role, "content": turn.content} for turn in turns]
    for prompt in (False, True):
        (expected,), _ = utilities.render_jinja_template(
            [conversation], chat_template=template, add_generation_prompt=prompt, **TOKENS
        )
        assert render(template, turns, TOKENS, prompt) == expected
