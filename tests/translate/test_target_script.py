"Decoding that keeps to a script: nothing else is written, endings stay possible, and free decoding is as before."

import warnings
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from mmtmerge import engines
from mmtmerge.core import UserError, root
from mmtmerge.corpus.embedded import Corpus
from mmtmerge.engines import Engine, open_engine
from mmtmerge.models import load_model
from mmtmerge.settings import Language, load
from mmtmerge.target_script import (
    Excluded, Keep, Rule, Script, decoded, foreign, keep_for, may_write, restrictions, rule_of,
)
from mmtmerge.translate import ask, best_token, generate, translate

MINI = root() / "mmtmerge/data/miniature"
STUDY = load("smoke")
DIRECTIONS = [str(direction) for direction in load("laptop").directions]
LANGUAGES = load("laptop").known


@pytest.fixture(scope="module")
def mini():
    torch.set_num_threads(1)
    return load_model(MINI)


def sources(direction, lines=12):
    return Corpus.open("embedded").test("devtest", direction, lines, 3, 8).source.tolist()


def script_of(direction):
    return LANGUAGES[direction.partition("-")[2]].script


def instruction(direction):
    source, target = direction.split("-")
    return STUDY.prompt.format(source=LANGUAGES[source].name, target=LANGUAGES[target].name)


def wrong_letters(texts, script):
    return [c for text in texts for c in text if foreign(c, script)]


# Nothing else is written


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_no_letter_of_another_script_is_written(mini, direction):
    script = script_of(direction)
    done = translate(*mini, instruction(direction), sources(direction), STUDY.p, keep=Script(script))
    assert wrong_letters(done.texts, script) == []
    assert any(done.texts)


@pytest.mark.parametrize("script", ["Tamil", "Bengali", "Latin"])
def test_a_model_asked_for_hindi_writes_only_what_it_may(mini, script):
    "The instruction asks for another script, so the restriction is what decides."
    done = translate(*mini, instruction("en-hi"), sources("en-hi", 24), STUDY.p, keep=Script(script))
    assert wrong_letters(done.texts, script) == []


def test_a_random_model_cannot_put_other_letters_together(mini):
    "A byte-level vocabulary can spell every letter in parts."
    tokenizer, written = mini[1], []
    for seed in range(3):
        torch.manual_seed(seed)
        config = Qwen2Config(
            vocab_size=len(tokenizer) + 7,  # rows without a token
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            initializer_range=3.0,
            tie_word_embeddings=False,
        )
        model = Qwen2ForCausalLM(config).eval()
        asked, limits, stops = ask(tokenizer, "Translate", sources("en-hi"), STUDY.p)
        for script in ("Bengali", "Devanagari", "Latin"):
            kept = restrictions(Script(script), tokenizer, sources("en-hi"), stops)
            out = generate(model, asked, limits, stops, STUDY.p, keep=kept)
            assert wrong_letters(tokenizer.batch_decode(out, skip_special_tokens=True), script) == []
            assert max(max(ids, default=0) for ids in out) < len(tokenizer)
            written += out
    assert sum(map(len, written)) > 100


# Free decoding is as before


def test_free_decoding_does_not_change(mini):
    free = translate(*mini, instruction("hi-en"), sources("hi-en"), STUDY.p)
    for keep in (None, [None] * 12, Script.parse("", "Latin")):
        again = translate(*mini, instruction("hi-en"), sources("hi-en"), STUDY.p, keep=keep)
        assert again.texts == free.texts


def test_free_decoding_makes_no_matrix():
    excluded = Excluded([None, None], 10)
    assert excluded.rows([0, 1], [[], []]) is None


def test_the_best_token_is_the_same_to_the_last_bit():
    torch.manual_seed(0)
    for size in (1, 1023, 1024, 1025, 5000):
        head, hidden = torch.randn(size, 8), torch.randn(6, 8)
        nothing = torch.zeros(6, size, dtype=torch.bool)
        assert torch.equal(best_token(head, hidden), best_token(head, hidden, excluded=nothing))
        some = torch.rand(6, size) < 0.5
        some[:, 0] = False
        logits = (hidden @ head.T).masked_fill(some, float("-inf"))
        assert torch.equal(best_token(head, hidden, excluded=some), logits.argmax(-1))


# Batches


@pytest.mark.parametrize("rows", [1, 3, 5, 64])
def test_mixed_batches_equal_separate_ones(mini, rows):
    "Rows leave and others take their places, each under its own restriction."
    p = SimpleNamespace(**vars(STUDY.p) | dict(decode_batch=rows))
    keeps = dict(zip(DIRECTIONS, [None, Script("Latin"), Script("Tamil", first=2), Script("Latin", source=True)] * 2))
    texts, instructions, each, alone = [], [], [], []
    for direction, keep in keeps.items():
        lines = sources(direction, 6)
        alone += translate(*mini, instruction(direction), lines, STUDY.p, keep=keep).texts
        texts += lines
        instructions += [instruction(direction)] * 6
        each += [keep] * 6
    assert translate(*mini, instructions, texts, p, keep=each).texts == alone


def test_one_restriction_for_each_source_is_required(mini):
    with pytest.raises(ValueError):
        translate(*mini, instruction("hi-en"), sources("hi-en"), STUDY.p, keep=[Script("Latin")])


# The switches


@pytest.mark.parametrize("first", [1, 2, 5])
def test_first_tokens_only(mini, first):
    "The first tokens are those of the full restriction; what follows is free."
    model, tokenizer = mini
    asked, limits, stops = ask(tokenizer, instruction("en-hi"), sources("en-hi"), STUDY.p)
    rule = rule_of(tokenizer, "Tamil", tuple(stops))
    whole = generate(model, asked, limits, stops, STUDY.p, keep=[Keep(rule)] * len(asked))
    some = generate(model, asked, limits, stops, STUDY.p, keep=[Keep(rule, first)] * len(asked))
    assert [ids[:first] for ids in some] == [ids[:first] for ids in whole]
    for prompt, ids, limit in zip(asked, some, limits):
        if len(ids) > first:
            free = generate(model, [prompt + ids[:first]], [limit - first], stops, STUDY.p)[0]
            assert ids[first:] == free
    assert some != whole


def test_tokens_of_the_source_may_stay(mini):
    model, tokenizer = mini
    source = sources("en-hi", 1)
    _, _, stops = ask(tokenizer, "Translate", source, STUDY.p)
    strict = restrictions(Script("Tamil"), tokenizer, source, stops)
    open_ = restrictions(Script("Tamil", source=True), tokenizer, source, stops)
    masks = [Excluded(kept, len(tokenizer)).rows([0], [[]])[0] for kept in (strict, open_)]
    ids = tokenizer(source[0], add_special_tokens=False).input_ids
    assert masks[0][ids].any() and not masks[1][ids].any()
    differ = (masks[0] != masks[1]).nonzero().flatten().tolist()
    assert set(differ) <= set(ids)


def test_texts_of_the_switch():
    for text in ("script", "script:first=12", "script+source", "script+source:first=1"):
        assert str(Script.parse(f" {text} ", "Latin")) == text
    for text in ("scripts", "script:first=0", "script:first=-1", "script:first=x", "script:first=1+source", "first=1"):
        with pytest.raises(UserError, match="is not known: write script"):
            Script.parse(text, "Latin")


def test_languages_of_one_script_are_named():
    english, hindi = LANGUAGES["en"], LANGUAGES["hi"]
    marathi = Language("mr", "Marathi", "Devanagari")
    with pytest.warns(UserWarning, match="Hindi and Marathi are both written in Devanagari"):
        assert keep_for("script", hindi, marathi) == Script("Devanagari")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert keep_for("script", english, hindi) == Script("Devanagari")
        assert keep_for("", hindi, marathi) is None


def test_a_script_that_holds_another_is_named():
    chinese, japanese = Language("zh", "Chinese", "CJK"), Language("ja", "Japanese", "Japanese")
    with pytest.warns(UserWarning, match="Chinese and Japanese are both written in CJK"):
        keep_for("script", chinese, japanese)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert keep_for("script", japanese, chinese) == Script("CJK")


def test_japanese_may_be_written():
    text = "フォルダーを開く、人々の２つ目のＡＢＣ（ｱｶｳﾝﾄ）！"
    assert wrong_letters([text], "Japanese") == [] and may_write(text.encode(), "Jpan")
    for character in text:
        assert all(may_write(character.encode()[:end], "Japanese") for end in (1, 2, 3)), character
    assert not may_write("한".encode(), "Japanese") and not may_write("ab".encode(), "Japanese")


# Vocabularies


TEXTS = ["नमस्ते दुनिया।", "হ্যালো বিশ্ব।", "hello world “quoted” — 12", "வணக்கம் உலகம்", "Привет 世界 🙂 é"] * 3


def byte_level_bpe(size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, special_tokens=["<|end|>"])
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


def byte_fallback_bpe():
    "Text pieces and single bytes, as in vocabularies made by SentencePiece."
    pieces = ["<unk>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)], "▁", "▁का", "ক", "ab", "7", "“", "xE0"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(parts)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("size", [257, 300, 400])
def test_whole_tokens_of_byte_level_bpe(size):
    "A token that decodes without loss is allowed exactly if it holds no letter of another script."
    tokenizer = byte_level_bpe(size)
    for script in ("Devanagari", "Bengali", "Tamil", "Latin", "Cyrillic"):
        rule = rule_of(tokenizer, script)
        for token in range(len(tokenizer)):
            text = tokenizer.decode([token])
            if "\ufffd" not in text and token != tokenizer.eos_token_id:
                assert rule.allowed[token].item() == (not wrong_letters([text], script)), text
        assert rule.allowed[tokenizer.eos_token_id]


@pytest.mark.parametrize("size", [257, 300, 400])
def test_texts_of_the_script_can_be_written_in_byte_level_bpe(size):
    "Every step of spelling a text is allowed, and no step that would make another script's letter."
    tokenizer = byte_level_bpe(size)
    scripts = dict(zip(TEXTS, ("Devanagari", "Bengali", "Latin", "Tamil")))
    for text, script in scripts.items():
        for other in scripts.values():
            rule, ids = rule_of(tokenizer, other), tokenizer(text).input_ids
            steps = []
            for place, token in enumerate(ids):
                steps.append(rule.after(rule.begun(ids[:place]))[token].item())
            assert all(steps) == (script == other), (text, other)


def test_parts_of_characters():
    "Decided by the first bytes."
    for script, lead in dict(Devanagari="e0a4", Bengali="e0a6", Tamil="e0ae", Telugu="e0b0", Cyrillic="d0").items():
        assert may_write(bytes.fromhex(lead), script)
        for other in {"Devanagari", "Bengali", "Tamil", "Telugu", "Cyrillic", "Latin"} - {script}:
            assert not may_write(bytes.fromhex(lead), other), (script, other)
    for neutral in ("e280", "f09f", "c2", "0a", "20"):
        assert all(may_write(bytes.fromhex(neutral), script) for script in ("Tamil", "Latin", "Devanagari"))
    assert may_write(bytes.fromhex("e0a5"), "Bengali")  # the full stop of Indic scripts begins with it
    assert decoded(b"a\xe0\xa4") == ("a", b"\xe0\xa4")


def test_byte_tokens_of_other_vocabularies():
    tokenizer = byte_fallback_bpe()
    rule, vocabulary = rule_of(tokenizer, "Devanagari"), tokenizer.get_vocab()
    allowed = {token for token, number in vocabulary.items() if rule.allowed[number]}
    assert {"<0xE0>", "<0xA4>", "<0x0A>", "<0x37>", "▁", "▁का", "7", "“", "</s>", "<unk>"} <= allowed
    assert not {"ক", "ab", "xE0", "<0x41>", "<0xD0>"} & allowed
    begun = rule.begun([vocabulary["<0xE0>"]])
    after = rule.after(begun)
    assert after[vocabulary["<0xA4>"]] and not after[vocabulary["<0xA6>"]]
    ids = [vocabulary["▁का"], vocabulary["<0xE0>"], vocabulary["<0xA4>"]]
    assert rule.begun(ids) == b"\xe0\xa4"


# Endings


def test_endings_stay_possible(mini):
    model, tokenizer = mini
    _, _, stops = ask(tokenizer, "Translate", ["a"], STUDY.p)
    for language in LANGUAGES.values():
        assert rule_of(tokenizer, language.script, tuple(stops)).allowed[stops].all()
    done = translate(model, tokenizer, instruction("en-hi"), sources("en-hi"), STUDY.p, keep=Script("Devanagari"))
    assert any(count < limit for count, limit in zip(done.new_tokens, done.limits))


def test_where_only_the_end_is_left_it_comes(mini):
    model, tokenizer = mini
    asked, limits, stops = ask(tokenizer, "Translate", sources("en-hi"), STUDY.p)
    allowed = torch.zeros(len(tokenizer), dtype=torch.bool)
    allowed[tokenizer.eos_token_id] = True
    assert generate(model, asked, limits, stops, STUDY.p, keep=[Keep(Rule(allowed))] * 12) == [[]] * 12


# Engines


@pytest.fixture(scope="module")
def ctranslate2(tmp_path_factory):
    pytest.importorskip("ctranslate2")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("MMTMERGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield open_engine("ctranslate2", MINI, "float32", keep=Script("Latin"))


@pytest.mark.parametrize("text", ["script", "script:first=1", "script:first=3", "script+source"])
def test_ctranslate2_keeps_to_the_script(mini, ctranslate2, text):
    "With whole tokens it writes the same; it does not see how parts of characters go together."
    directions = ["hi-en", "en-ta"] * 6
    keep = [Script.parse(text, script_of(d)) if d == "hi-en" else None for d in directions]
    lines = [line for pair in zip(sources("hi-en", 6), sources("en-ta", 6)) for line in pair]
    asked = [instruction(d) for d in directions]
    ours = translate(*mini, asked, lines, STUDY.p, keep=keep)
    done = ctranslate2.translate(asked, lines, STUDY.p, keep=keep)
    assert done.texts == ours.texts
    assert done.new_tokens == ours.new_tokens


class Plain(Engine):
    name = "plain"

    def __init__(self, folder, dtype, threads=1):
        raise AssertionError("loaded")


def test_an_engine_that_cannot_is_refused_before_it_loads(monkeypatch):
    monkeypatch.setitem(engines.ENGINES, "plain", Plain)
    for keep in (Script("Latin"), [None, Script("Latin", first=1)]):
        with pytest.raises(UserError, match="engine = plain cannot keep to the script.*transformers"):
            open_engine("plain", MINI, "float32", keep=keep)
    with pytest.raises(AssertionError, match="loaded"):
        open_engine("plain", MINI, "float32", keep=[None])


WORKER = """
import os
import torch
from transformers import AutoModelForCausalLM, LogitsProcessor

class SamplingParams:
    def __init__(self, allowed_token_ids=None, **options):
        self.allowed = allowed_token_ids
        self.__dict__.update(options)

class Out:
    def __init__(self, ids): self.outputs, self.token_ids = [self], ids

class Only(LogitsProcessor):
    def __init__(self, ids): self.ids = ids
    def __call__(self, input_ids, scores):
        kept = torch.full_like(scores, float("-inf"))
        kept[:, self.ids] = scores[:, self.ids]
        return kept

class LLM:
    def __init__(self, folder, **options):
        self.model = AutoModelForCausalLM.from_pretrained(folder)
        self.most = 1024 if os.environ.get("VLLM_USE_V2_MODEL_RUNNER") != "0" else 10**9
    def generate(self, prompts, wanted, use_tqdm):
        answers = []
        for prompt, options in zip(prompts, wanted):
            ids = torch.tensor([prompt["prompt_token_ids"]])
            limits = dict(max_new_tokens=options.max_tokens, eos_token_id=options.stop_token_ids)
            rules = []
            if options.allowed is not None:
                assert 0 < len(options.allowed) <= self.most
                rules = [Only(options.allowed)]
            out = self.model.generate(ids, do_sample=False, logits_processor=rules, **limits)
            answers.append(Out(out[0, ids.shape[1]:].tolist()))
        return answers
"""


@pytest.fixture(scope="module")
def vllm(tmp_path_factory):
    "A stand-in that has vLLM's limit on the lists of its new model runner."
    from test_engines import stand_in

    with pytest.MonkeyPatch.context() as monkeypatch:
        stand_in(tmp_path_factory.mktemp("vllm"), monkeypatch, WORKER)
        yield open_engine("vllm", MINI, "float32", keep=[None, Script("Latin")])


@pytest.mark.parametrize("text", ["script", "script:first=2", "script+source"])
def test_the_worker_of_vllm_keeps_to_the_script(mini, vllm, text):
    keep = [Script.parse(text, "Latin"), None, Script.parse(text, "Latin"), Script("Latin")]
    lines = sources("hi-en", 4)
    ours = translate(*mini, instruction("en-ta"), lines, STUDY.p, keep=keep)
    theirs = vllm.translate(instruction("en-ta"), lines, STUDY.p, keep=keep)
    assert theirs.texts == ours.texts
    assert vllm.translate(instruction("hi-en"), lines, STUDY.p).texts


def test_vllm_is_opened_for_it(monkeypatch, tmp_path):
    from test_engines import TALKATIVE, stand_in

    stand_in(tmp_path, monkeypatch, TALKATIVE)
    engine = open_engine("vllm", MINI, "float32")
    with pytest.raises(UserError, match="opened for it"):
        engine.translate("Translate", ["a"], STUDY.p, keep=Script("Latin"))


def test_the_tokenizer_of_the_miniature_is_made_of_bytes():
    "What is tested above is tested on parts of characters."
    rule = rule_of(AutoTokenizer.from_pretrained(MINI), "Tamil")
    assert len(rule.middles) > 20


@pytest.mark.parametrize(
    "text, script",
    [("Faylni oʻqing", "Latin"), ("2ª, nº 1", "Latin"), ("обʼєкт", "Cyrillic"), ("5 µm", "Latin"), ("5 µμ", "Greek")],
)
def test_letters_that_are_of_no_script_may_be_written(mini, text, script):
    "Also in bytes, one at a time."
    assert wrong_letters([text], script) == [] and may_write(text.encode(), script)
    data = text.encode()
    assert all(may_write(decoded(data[:end])[1] + data[end : end + 1], script) for end in range(len(data)))


@pytest.mark.parametrize("script", ["Devanagari", "Bengali", "Tamil", "Telugu", "Latin"])
def test_the_studys_scripts_may_write_what_they_might(mini, script):
    "As before letters of no script were known: no token of the miniature holds one."
    letters = [chr(i) for i in range(0x2B9, 0x2E0)] + list("ªºµ")
    assert not any(letter in text for letter in letters for text in map(mini[1].decode, range(len(mini[1]))))
    begun = [b"\xca", b"\xcb"]
    assert all(may_write(data, script) == (script == "Latin") for data in begun)
