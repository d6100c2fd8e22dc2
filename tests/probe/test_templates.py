"Chat templates of all kinds: spans are found in what a template really makes, or refused."
import copy

import pytest
import transformers as tf

from conftest import REPO
from mmtmerge.core import UserError
from mmtmerge.prompts import answers, prompts, turns
from mmtmerge.probe.spans import examples
from mmtmerge.settings import load
from mmtmerge.translate import ask

SOURCES = ["The cat sat here", "A dog ran away ", " \tIt rains. \u00a0"]
TARGETS = ["बिल्ली यहाँ बैठी", "कुत्ता भाग गया", "बारिश है"]
CONTENT = "m['content']"


@pytest.fixture
def tokenizer():
    return tf.AutoTokenizer.from_pretrained(REPO / "mmtmerge/data/miniature")


def with_content(tokenizer, written):
    "The tokenizer with a template that writes the content so."
    other = copy.deepcopy(tokenizer)
    other.chat_template = tokenizer.chat_template.replace(CONTENT, written)
    assert other.chat_template != tokenizer.chat_template
    return other


KEEPING = {
    "trim": f"({CONTENT} | trim)",
    "line breaks become spaces": f"({CONTENT} | replace('\\n', ' '))",
    "windows line breaks": f"({CONTENT} | replace('\\n', '\\r\\n'))",
    "spaces around": f"(' ' + {CONTENT} + ' ')",
    "trimmed after a word": f"('user: ' + ({CONTENT} | trim))",
}


@pytest.mark.parametrize("kind", KEEPING)
def test_spans_hold_the_sentence(tokenizer, kind):
    other = with_content(tokenizer, KEEPING[kind])
    for example, source, target in zip(examples(other, "Translate", SOURCES, TARGETS), SOURCES, TARGETS):
        assert other.decode([example.ids[i] for i in example.source]).strip() == source.strip()
        assert other.decode([example.ids[i] for i in example.target]).strip() == target.strip()


def test_a_template_that_keeps_its_content_gives_the_usual_spans(tokenizer):
    plain = examples(tokenizer, "Translate", SOURCES[:1], TARGETS[:1])
    trimmed = examples(with_content(tokenizer, KEEPING["trim"]), "Translate", SOURCES[:1], TARGETS[:1])
    assert plain == trimmed


CHANGING = {
    "upper case": f"({CONTENT} | upper)",
    "a sentence cut short": f"{CONTENT}[:12]",
    "a word between": f"({CONTENT} | replace('\\n', ' this: '))",
    "no content": "'hello'",
    "small letters": f"({CONTENT} | lower)",
    "letters for JSON": f"({CONTENT} | tojson)",
    "line breaks that are lost": f"({CONTENT} | replace('\\n', ''))",
}


@pytest.mark.parametrize("kind", CHANGING)
def test_a_template_that_changes_the_sentence_is_refused(tokenizer, kind):
    with pytest.raises(UserError, match="does not repeat the sentence 'The cat sat here'"):
        examples(with_content(tokenizer, CHANGING[kind]), "Translate", SOURCES, TARGETS)


TURNS = "{% for m in messages %}<u>" + f"{{{{ {CONTENT} }}}}" + "</u>{% endfor %}"
EXAMPLE = "<s>Translate\nThe cat sat here</s>"


def test_an_example_in_the_system_text_is_not_recorded(tokenizer):
    "Of the turn, not of the first text that looks like it."
    tokenizer.chat_template = EXAMPLE + TURNS
    text, first, last = turns(tokenizer, "Translate", SOURCES[:1])[0]
    assert (text[first:last], first) == (SOURCES[0], text.rindex(SOURCES[0]))
    example, = examples(tokenizer, "Translate", SOURCES[:1], TARGETS[:1])
    before = tokenizer.decode(example.ids[: example.source.start])
    assert before.startswith(EXAMPLE)


TYPED = {
    "all parts": "{% for m in messages %}{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endfor %}",
    "the first part": "{{ messages[0]['content'][0]['text'] | trim }}",
    "its type": "{% for c in messages[0]['content'] %}{{ c.type + ': ' + c.text }}{% endfor %}",
}


@pytest.mark.parametrize("kind", TYPED)
def test_templates_of_models_that_see(tokenizer, kind):
    tokenizer.chat_template = TYPED[kind]
    for ids, example, source in zip(
        prompts(tokenizer, "Translate", SOURCES), examples(tokenizer, "Translate", SOURCES, TARGETS), SOURCES
    ):
        assert example.ids[: len(ids)] == ids
        assert tokenizer.decode([ids[i] for i in example.source]).strip() == source.strip()


def test_a_template_that_takes_both_gets_text(tokenizer):
    either = "{% if messages[0].content is string %}text {% endif %}{{ messages[0].content }}"
    tokenizer.chat_template = either
    assert turns(tokenizer, "Translate", ["a b"])[0][0] == "text Translate\na b"


def test_a_tokenizer_without_offsets(tokenizer, monkeypatch):
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    with pytest.raises(UserError, match="does not tell where its tokens stand"):
        examples(tokenizer, "Translate", SOURCES, TARGETS)


@pytest.mark.parametrize(
    "template, said",
    [
        (None, "has no chat template: write `turn = START END`"),
        ("{{ raise_exception('only systems speak') }}", "cannot be filled in .*only systems speak"),
        ("{% for m in messages %}", "cannot be filled in"),
        ("{{ tools | length }}", "cannot be filled in .TypeError"),
        ("{{ messages + 1 }}", "cannot be filled in .TypeError"),
        ("{{ 1 / 0 }}", "cannot be filled in .ZeroDivisionError"),
        ("{% for i in range(10**9) %}{% endfor %}", "cannot be filled in .OverflowError"),
        ([dict(name="default", template="x")], "cannot be filled in .TypeError"),
        ({"rag": "x"}, "cannot be filled in .ValueError"),
    ],
)
def test_templates_that_take_no_turn(tokenizer, template, said):
    tokenizer.chat_template = template
    for asked in (
        lambda: examples(tokenizer, "Translate", SOURCES, TARGETS),
        lambda: ask(tokenizer, "Translate", SOURCES, load("smoke").p),
        lambda: prompts(tokenizer, ["Translate"] * 3, SOURCES),
    ):
        with pytest.raises(UserError, match=said):
            asked()


def test_no_end_of_sequence(tokenizer):
    tokenizer.eos_token = None
    for asked in (
        lambda: examples(tokenizer, "Translate", SOURCES, TARGETS),
        lambda: ask(tokenizer, "Translate", SOURCES, load("smoke").p),
        lambda: answers(tokenizer, TARGETS),
    ):
        with pytest.raises(UserError, match="no end-of-sequence token: name one as eos_token"):
            asked()
