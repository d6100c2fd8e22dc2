"Tokenizers that make other numbers of a text are refused, equal ones in another spelling are not; chat templates."
import json

import pytest
from models_on_disk import put

from mmtmerge.core import UserError, root
from mmtmerge.merge.checkpoint_checks import check_compatible
from mmtmerge.merge.checkpoint_reader import Checkpoint
from mmtmerge.merge.tokenizer_checks import check_tokenizers, unlike_templates

MINI = root() / "mmtmerge/data/miniature"
WEIGHTS = ("config.json", "model.safetensors")
VOCAB = {"a": 0, "b": 1, "ab": 2, "c": 3, "bc": 4}


def bpe(merges=("a b", "b c"), **parts):
    whole = dict(version="1.0", added_tokens=[], normalizer=None, pre_tokenizer=None, post_processor=None, decoder=None)
    return json.dumps(whole | dict(model=dict(type="BPE", vocab=VOCAB, merges=list(merges))) | parts)


def unigram(score):
    pieces = [["<unk>", 0.0], ["a", -1.0], ["b", -1.0], ["ab", score]]
    return json.dumps(dict(version="1.0", added_tokens=[], model=dict(type="Unigram", unk_id=0, vocab=pieces)))


@pytest.fixture
def two(tmp_path):
    "Makes base and expert with such files beside the same weights."
    def make(base, expert):
        for who, files in (("base", base), ("expert", expert)):
            for name in WEIGHTS:
                (tmp_path / who).mkdir(exist_ok=True)
                (tmp_path / who / name).symlink_to(MINI / name)
            for name, content in files.items():
                (tmp_path / who / name).parent.mkdir(exist_ok=True)
                put(tmp_path / who / name, content)
        return Checkpoint(tmp_path / "base"), {"expert": Checkpoint(tmp_path / "expert")}

    return make


def refused(base, experts, words):
    with pytest.raises(UserError) as refusal:
        check_tokenizers(base, experts, True)
    text = str(refusal.value)
    assert words in text and "--any-tokenizer" in text and "expert/" in text
    name = next(iter(experts))
    assert name in check_tokenizers(base, experts, False)["tokenizer"]


PLAIN = {"tokenizer.json": bpe()}
ADDED = dict(content="<x>", special=True, single_word=False, lstrip=False, rstrip=False, normalized=False)


def config(**said):
    return PLAIN | {"tokenizer_config.json": json.dumps(said)}


OTHERS = {
    "scores": ({"tokenizer.json": unigram(-1.5)}, {"tokenizer.json": unigram(-9.0)}, "scores is"),
    "merges across forms": (
        PLAIN,
        {"vocab.json": json.dumps(VOCAB), "merges.txt": "#version: 0.2\nb c\na b\n"},
        "vocab.json: merges is",
    ),
    "a second file": (
        PLAIN | {"tokenizer.model": b"x"}, PLAIN | {"tokenizer.model": b"y"}, "tokenizer.model differs from",
    ),
    "first token": (config(add_bos_token=True), config(add_bos_token=False), "add_bos_token=False, the base True"),
    "last token": (config(add_eos_token=False), config(add_eos_token=True), "add_eos_token=True, the base False"),
    "space": (config(add_prefix_space=True), config(add_prefix_space=False), "add_prefix_space=False"),
    "which first token": (
        config(add_bos_token=True, bos_token="a"), config(add_bos_token=True, bos_token={"content": "b"}),
        "bos_token='b', the base 'a'",
    ),
    "added tokens beside": (
        config(added_tokens_decoder={}), config(added_tokens_decoder={"5": ADDED}), "token '<x>' has id 5",
    ),
    "their flags": (
        config(added_tokens_decoder={"5": ADDED}), config(added_tokens_decoder={"5": ADDED | {"lstrip": True}}),
        "'<x>' with",
    ),
} | {
    name: ({name: "a\nb"}, {name: "b\na"}, f"{name} differs from")
    for name in ("qwen.tiktoken", "vocab.txt", "sentencepiece.bpe.model", "spiece.model", "source.spm", "merges.txt",
                 "tiktoken.model", "bpe.codes", "tokenizer.model.v3", "encoder.json")
} | {"tekken.json": ({"tekken.json": "{}"}, {"tekken.json": '{"a": 1}'}, "tekken.json differs from")}


@pytest.mark.parametrize("case", OTHERS)
def test_another_tokenizer(two, case):
    base, expert, words = OTHERS[case]
    refused(*two(base, expert), words)


def whitespace(depth):
    part = {"type": "Whitespace"}
    for _ in range(depth):
        part = {"type": "Sequence", "pretokenizers": [part]}
    return {"tokenizer.json": bpe(pre_tokenizer=part)}


def sequence(part, key, inner):
    whole = {"type": "Sequence", key: [inner]}
    return {"tokenizer.json": bpe(**{part: whole})}, {"tokenizer.json": bpe(**{part: inner})}


SAME = {
    "sequence of one": (whitespace(1), whitespace(0)),
    "sequences in one": (whitespace(0), whitespace(2)),
    "empty sequence": ({"tokenizer.json": bpe(normalizer={"type": "Sequence", "normalizers": []})}, PLAIN),
    "normalizers": sequence("normalizer", "normalizers", {"type": "NFC"}),
    "decoders": sequence("decoder", "decoders", {"type": "ByteFallback"}),
    "processors": sequence("post_processor", "processors", {"type": "ByteLevel", "add_prefix_space": True,
                                                            "trim_offsets": True, "use_regex": True}),
    "merges across forms": (PLAIN, {"vocab.json": json.dumps(VOCAB), "merges.txt": "#version: 0.2\na b\nb c\n"}),
    "space of JSON": ({"tekken.json": '{"a":1}'}, {"tekken.json": '{"a": 1}\n'}),
    "a second file": (PLAIN | {"tokenizer.model": b"x"}, PLAIN | {"tokenizer.model": b"x"}),
    "a file of one": (PLAIN | {"qwen.tiktoken": "a"}, PLAIN),
    "another last token": (config(eos_token="a"), config(eos_token="b")),
    "added tokens listed once": (
        {"tokenizer.json": bpe(added_tokens=[ADDED | {"id": 5}]), "vocab.json": json.dumps(VOCAB)},
        {"tokenizer.json": bpe(added_tokens=[ADDED | {"id": 5}]), "vocab.json": json.dumps(VOCAB),
         "tokenizer_config.json": json.dumps({"added_tokens_decoder": {"5": ADDED}})},
    ),
    "added tokens, one with tokenizer.json": (
        {"tokenizer.json": bpe(added_tokens=[ADDED | {"id": 5}]), "vocab.json": json.dumps(VOCAB)},
        {"vocab.json": json.dumps(VOCAB), "added_tokens.json": json.dumps({"<x>": 5})},
    ),
    "settings alike": (config(add_bos_token=False), config(add_bos_token=False, padding_side="left")),
    "a setting without effect": (config(add_bos_token=False), PLAIN),
    "a language by default": (config(src_lang="hin_Deva"), config(src_lang="tam_Taml")),
}


@pytest.mark.parametrize("case", SAME)
def test_the_same_tokenizer(two, case):
    assert check_tokenizers(*two(*SAME[case]), True) == {}


def test_a_default_is_asked_about(two):
    "Where a setting is left out, its default decides."
    special = {"tokenizer.json": bpe(added_tokens=[ADDED | {"id": 5, "content": "<a>"}])}

    def with_config(**more):
        return special | {"tokenizer_config.json": json.dumps(dict(bos_token="<a>") | more)}

    refused(*two(with_config(split_special_tokens=True), with_config()), "split_special_tokens=None, the base True")


def test_nothing_to_compare(two):
    told = check_tokenizers(*two({"qwen.tiktoken": "a"}, PLAIN), True)
    assert told == {"tokenizer": "qwen.tiktoken, not compared with expert"}


@pytest.fixture(scope="module")
def pieces():
    "A SentencePiece model, and the same with changes."
    sentencepiece = pytest.importorskip("sentencepiece")
    format = pytest.importorskip("sentencepiece.sentencepiece_model_pb2")
    import io

    text, made = iter(["the river is long", "he went home", "the house is old"] * 20), io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=text, model_writer=made, vocab_size=32, hard_vocab_limit=False, minloglevel=2
    )

    def changed(change=lambda model: None):
        model = format.ModelProto.FromString(made.getvalue())
        change(model)
        return {"tokenizer.model": model.SerializeToString()}

    return changed


def other_scores(model):
    for piece in model.pieces[5:]:
        piece.score -= len(piece.piece)


def no_first_space(model):
    model.normalizer_spec.add_dummy_prefix = False


def no_normalization(model):
    model.normalizer_spec.precompiled_charsmap = b""


def other_kind(model):
    model.pieces[5].type = model.pieces[5].USER_DEFINED


def space_behind(model):
    model.trainer_spec.treat_whitespace_as_suffix = True


@pytest.mark.parametrize(
    "change, words",
    [
        (other_scores, "scores is not that of"),
        (no_first_space, "normalizer_spec.add_dummy_prefix is false"),
        (no_normalization, "normalizer_spec.precompiled_charsmap is"),
        (other_kind, "kinds of pieces is"),
        (space_behind, "trainer_spec.treat_whitespace_as_suffix is true"),
    ],
)
def test_other_pieces(two, pieces, change, words):
    refused(*two(pieces(), pieces(change)), words)


def test_the_same_pieces(two, pieces):
    "Where it was trained says nothing of a model."
    def elsewhere(model):
        model.trainer_spec.model_prefix = "/home/someone/made"
        model.trainer_spec.num_threads = 99

    assert check_tokenizers(*two(pieces(), pieces(elsewhere)), True) == {}


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:a\nsize 1\n"


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model", "vocab.json", "LICENSE", "chat_template.jinja"])
@pytest.mark.parametrize("tokenizer", [True, False])
def test_pointers_are_no_files(two, name, tokenizer):
    with pytest.raises(UserError, match=f"base/{name} is a pointer of Git LFS.*git lfs pull"):
        check_compatible(*two({name: POINTER}, {name: POINTER}), tokenizer)


def named(**texts):
    return json.dumps({"chat_template": [{"name": name, "template": text} for name, text in texts.items()]})


TEXT = "{{ messages }}"
FORMS = {
    "file": {"chat_template.jinja": TEXT},
    "line end": {"chat_template.jinja": TEXT + "\n"},
    "configuration": {"tokenizer_config.json": json.dumps({"chat_template": TEXT})},
    "list": {"tokenizer_config.json": named(default=TEXT)},
    "processor": {"chat_template.json": json.dumps({"chat_template": TEXT})},
}


@pytest.mark.parametrize("form", FORMS)
def test_one_template_in_other_forms(two, form):
    assert unlike_templates(*two(FORMS["file"], FORMS[form])) == {}


UNLIKE = {
    "file": {"chat_template.jinja": "{{ x }}"},
    "processor": {"chat_template.json": json.dumps({"chat_template": "{{ x }}"})},
    "one of two": {"tokenizer_config.json": named(default=TEXT, tools="{{ x }}")},
    "beside": FORMS["file"] | {"additional_chat_templates/rag.jinja": "{{ x }}"},
}


@pytest.mark.parametrize("form", UNLIKE)
def test_other_templates_are_told(two, form):
    assert unlike_templates(*two(FORMS["file"], UNLIKE[form])) == {"chat template": "the base's, not that of expert"}


def test_a_template_that_is_not_utf8(two):
    models = two({"chat_template.jinja": "{{ 'é' }}".encode("latin-1")}, {})
    with pytest.raises(UserError, match="base/chat_template.jinja is not UTF-8"):
        check_compatible(*models)


def rewritten(*changes):
    "The miniature's tokenizer.json after changes, as text."
    written = json.loads((MINI / "tokenizer.json").read_text(encoding="utf-8"))
    for change in changes:
        change(written)
    return json.dumps(written)


def as_transformers_4(written):
    "Qwen2's own file: options of its byte-level steps that change no number."
    written["pre_tokenizer"]["pretokenizers"][1]["trim_offsets"] = False
    written["decoder"] |= dict(add_prefix_space=False, trim_offsets=False, use_regex=False)
    written["post_processor"] = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=False, use_regex=False)


def without_post_processor(written):
    written["post_processor"] = dict(type="ByteLevel", add_prefix_space=True, trim_offsets=True, use_regex=True)


def another_pattern(written):
    written["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\s+|\S+"


def a_prefix_space(written):
    written["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = True


def test_byte_level_steps_of_transformers_4_and_5_are_equal(two):
    base, expert = rewritten(as_transformers_4), rewritten(without_post_processor)
    check_compatible(*two({"tokenizer.json": base}, {"tokenizer.json": expert}))


@pytest.mark.parametrize("change", [another_pattern, a_prefix_space])
def test_byte_level_steps_that_make_other_numbers_are_not(two, change):
    models = two({"tokenizer.json": rewritten()}, {"tokenizer.json": rewritten(change)})
    with pytest.raises(UserError, match="pre_tokenizer is not that of"):
        check_compatible(*models)


# What version 5 of Transformers says in other words


BYTES = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
LLAMA_STEPS = dict(
    normalizer=dict(
        type="Sequence",
        normalizers=[
            dict(type="Prepend", prepend="▁"),
            dict(type="Replace", pattern={"String": " "}, content="▁"),
        ],
    ),
    decoder=dict(
        type="Sequence",
        decoders=[
            dict(type="Replace", pattern={"String": "▁"}, content=" "),
            dict(type="ByteFallback"),
            dict(type="Fuse"),
            dict(type="Strip", content=" ", start=1, stop=0),
        ],
    ),
)


def old_files(folder, model_type, kind, tokens, merges, settings, steps, **options):
    "A folder with tokenizer files as version 4 wrote them."
    special = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    vocab = {token: i for i, token in enumerate(tokens)}
    model = dict(
        type="BPE", dropout=None, continuing_subword_prefix=None, end_of_word_suffix=None, vocab=vocab, merges=merges,
        **dict(unk_token=None, fuse_unk=False, byte_fallback=False, ignore_merges=False) | options,
    )
    written = dict(version="1.0", truncation=None, padding=None, model=model)
    written |= dict(normalizer=None, pre_tokenizer=None, post_processor=None, decoder=None) | steps
    marks = [token for token in tokens if token.startswith("<") and not token.startswith("<0x")]
    written["added_tokens"] = [dict(id=vocab[token], content=token) | special for token in marks]
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(MINI / "model.safetensors")
    put(folder / "config.json", json.dumps(dict(model_type=model_type)))
    put(folder / "tokenizer.json", json.dumps(written))
    put(folder / "tokenizer_config.json", json.dumps(dict(tokenizer_class=kind) | settings))
    return folder


def of_llama(folder, **settings):
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", *"abehtx", "▁t", "he", "▁the"]
    said = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>", legacy=False) | settings
    how = dict(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    return old_files(folder, "llama", "LlamaTokenizer", tokens, ["▁ t", "h e", "▁t he"], said, LLAMA_STEPS, **how)


def of_neox(folder):
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = ["<|endoftext|>", "<|padding|>", *sorted(ByteLevel.alphabet()), "Ġt", "he"]
    steps = dict(normalizer=dict(type="NFC"), pre_tokenizer=BYTES, post_processor=BYTES, decoder=BYTES)
    end = "<|endoftext|>"
    said = dict(add_prefix_space=False, bos_token=end, eos_token=end, unk_token=end)
    return old_files(folder, "gpt_neox", "GPTNeoXTokenizer", tokens, ["Ġ t", "h e"], said, steps)


@pytest.mark.parametrize("make", [of_llama, of_neox])
def test_what_version_5_saves_is_read_alike(tmp_path, make):
    from transformers import AutoTokenizer

    base, expert = make(tmp_path / "base"), make(tmp_path / "expert")
    AutoTokenizer.from_pretrained(base).save_pretrained(expert)
    steps = [json.loads((folder / "tokenizer.json").read_text()) for folder in (base, expert)]
    assert any(steps[0][key] != steps[1][key] for key in ("normalizer", "post_processor"))
    notes = check_tokenizers(Checkpoint(base), {"e": Checkpoint(expert)}, True)
    assert notes["tokenizer files"] == "of e: not the base's, but read alike by Transformers"


def swapped(content, how):
    "A tokenizer.json in which two tokens have each other's number."
    vocab, added = content["model"]["vocab"], content["added_tokens"]
    if how == "plain":
        vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    elif how == "renamed":
        vocab["q"] = vocab.pop("a")
    else:
        one, two = added[-2:]
        vocab[one["content"]], vocab[two["content"]] = two["id"], one["id"]
        one["id"], two["id"] = two["id"], one["id"]
    return content


@pytest.mark.parametrize("saved_again", [False, True])
@pytest.mark.parametrize("how", ["plain", "renamed", "added"])
@pytest.mark.parametrize("make", [of_llama, of_neox])
def test_other_numbers_are_never_read_alike(tmp_path, make, how, saved_again):
    from transformers import AutoTokenizer

    base, expert = make(tmp_path / "base"), make(tmp_path / "expert")
    if saved_again:
        AutoTokenizer.from_pretrained(base).save_pretrained(expert)
    file = expert / "tokenizer.json"
    put(file, json.dumps(swapped(json.loads(file.read_text()), how)))
    with pytest.raises(UserError, match=r"token '.*' has id|is not that of|added_tokens_decoder"):
        check_tokenizers(Checkpoint(base), {"e": Checkpoint(expert)}, True)


def test_a_legacy_tokenizer_makes_other_numbers(tmp_path):
    from transformers import AutoTokenizer

    base, expert = of_llama(tmp_path / "base", legacy=True), of_llama(tmp_path / "expert", legacy=True)
    AutoTokenizer.from_pretrained(base).save_pretrained(expert)
    with pytest.raises(UserError, match="normalizer is not that of"):
        check_tokenizers(Checkpoint(base), {"e": Checkpoint(expert)}, True)
