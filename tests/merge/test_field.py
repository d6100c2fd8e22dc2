"Checkpoints as users bring them: other spellings, defaults left out, buffers, wrappers and files beside the weights."

import json
import shutil

import pytest
import torch
from models_on_disk import put
from safetensors.torch import load_file, save_file

from mmtmerge.core import UserError, root
from mmtmerge.loading import is_recomputed
from mmtmerge.merge.checkpoint_checks import check_compatible, check_config
from mmtmerge.merge.checkpoint_reader import Checkpoint
from mmtmerge.merge.checkpoints import merge_checkpoints
from mmtmerge.merge.tokenizer_checks import check_tokenizer, check_tokenizers
from mmtmerge.merge.tokenizer_files import tokenizer_parts

SMALL = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
)


def save(folder, config, tensors=None):
    "A checkpoint folder; of one small tensor if none are given."
    folder.mkdir()
    stored = tensors or {"model.norm.weight": torch.ones(2)}
    save_file({name: t.contiguous() for name, t in stored.items()}, folder / "model.safetensors", {"format": "pt"})
    put(folder / "config.json", json.dumps(config))
    return folder


def compare(tmp_path, base, expert):
    "Compare two configurations as a merge does."
    folders = [save(tmp_path / who, SMALL | config) for who, config in (("base", base), ("expert", expert))]
    check_config(*map(Checkpoint, folders))


LLAMA, QWEN = dict(model_type="llama"), dict(model_type="qwen2")
LINEAR = dict(factor=4.0, rope_type="linear")
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32)
GEMMA = dict(model_type="gemma3", text_config=dict(SMALL, model_type="gemma3_text", sliding_window=16))


def inner(**more):
    return GEMMA | dict(text_config=GEMMA["text_config"] | more)


@pytest.mark.parametrize(
    "base, expert",
    [
        (LLAMA | dict(rope_theta=1e6), LLAMA | dict(rope_parameters=dict(rope_theta=1000000, rope_type="default"))),
        (LLAMA, LLAMA | dict(rope_theta=1e4, rope_scaling=None)),
        (LLAMA | dict(rope_scaling=dict(type="linear", factor=4.0)), LLAMA | dict(rope_scaling=LINEAR)),
        (LLAMA | dict(rope_scaling=YARN), LLAMA | dict(rope_scaling=YARN | dict(beta_fast=32, beta_slow=1))),
        (QWEN | dict(sliding_window=131072), QWEN | dict(sliding_window=32768, use_sliding_window=False)),
        (dict(model_type="gpt_neox"), dict(model_type="gpt_neox", rotary_pct=0.25)),
        (GEMMA, inner(rope_theta=1e6, rope_local_base_freq=1e4)),
        (dict(model_type="own"), dict(model_type="own", rope_parameters=dict(rope_theta=5), rms_norm_eps=1)),
        (LLAMA, LLAMA | dict(attention_dropout=0.1, eos_token_id=5, unknown_to_all=3)),
    ],
)
def test_equal_in_other_words(tmp_path, base, expert):
    compare(tmp_path, base, expert)


@pytest.mark.parametrize(
    "base, expert, words",
    [
        (
            LLAMA | dict(rope_theta=1e4),
            LLAMA | dict(rope_parameters=dict(rope_theta=1e6, rope_type="default")),
            "rope_theta=1000000.0, the base has 10000.0",
        ),
        (LLAMA, LLAMA | dict(rope_theta=1e6), "rope_theta=1000000.0, the base has 10000.0"),
        (
            LLAMA | dict(rope_scaling=None),
            LLAMA | dict(rope_scaling=LINEAR),
            "rope_type='linear', the base has 'default'",
        ),
        (
            LLAMA | dict(rope_scaling=YARN),
            LLAMA | dict(rope_scaling=YARN | dict(factor=8.0)),
            "factor=8.0, the base has 4.0",
        ),
        (
            GEMMA,
            inner(sliding_window=4, layer_types=["sliding_attention"] * 2),
            "text_config.sliding_window=4, the base has 16",
        ),
        (GEMMA, inner(query_pre_attn_scalar=99), "text_config.query_pre_attn_scalar=99, the base has 256"),
        (GEMMA, inner(rope_local_base_freq=5e4), "sliding_attention.rope_theta=50000.0, the base has 10000.0"),
        (
            dict(model_type="mistral", sliding_window=16),
            dict(model_type="mistral", sliding_window=None),
            "sliding_window=None, the base has 16",
        ),
        (
            dict(model_type="gpt_neox"),
            dict(model_type="gpt_neox", rotary_pct=1.0),
            "partial_rotary_factor=1.0, the base has 0.25",
        ),
    ],
)
def test_other_meaning(tmp_path, base, expert, words):
    with pytest.raises(UserError) as refusal:
        compare(tmp_path, base, expert)
    assert words in str(refusal.value) and "expert/config.json" in str(refusal.value)


HEAD, EMBED = "lm_head.weight", "model.embed_tokens.weight"


def tiny(folder, kind, **more):
    "A random model of an architecture as Transformers saves it: (configuration, tensors)."
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL | more))
    model.save_pretrained(folder)
    return json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")


def moved(tensors, seed):
    "Weights a small step away."
    g = torch.Generator().manual_seed(seed)
    return {
        name: t + 0.01 * torch.randn(t.shape, generator=g) if t.is_floating_point() else t
        for name, t in tensors.items()
    }


def merge(base, *experts, out="out", **more):
    kinds = dict(method="task_arithmetic", weight=0.5, preset="mergekit", threads=1, progress=False)
    return merge_checkpoints(base, list(experts), base.parent / out, **kinds | more)


@pytest.mark.parametrize(
    "kind, head, embeddings",
    [("gemma3_text", HEAD, EMBED), ("gemma", HEAD, EMBED), ("gpt2", HEAD, "transformer.wte.weight")],
)
def test_tied_by_default(tmp_path, kind, head, embeddings):
    "A configuration that does not say tied, of an architecture that is."
    config, tensors = tiny(tmp_path / "made", kind, head_dim=8)
    config.pop("tie_word_embeddings", None)
    base = save(tmp_path / "base", config, tensors)
    first, second = moved(tensors, 1), moved(tensors, 2)
    a = save(tmp_path / "a", config, first | {head: first[embeddings].clone()})
    b = save(tmp_path / "b", config, second)
    assert head not in load_file(merge(base, a, b) / "model.safetensors")
    other = save(tmp_path / "other", config, first | {head: first[embeddings] + 1})
    with pytest.raises(UserError, match="default ties the head to the embeddings, but .* is stored with other values"):
        merge(base, other, b, out="refused")


def test_untied_by_default(tmp_path):
    "An architecture that is not tied keeps its head."
    config, tensors = tiny(tmp_path / "made", "llama")
    config.pop("tie_word_embeddings", None)
    base, a = save(tmp_path / "base", config, tensors), save(tmp_path / "a", config, moved(tensors, 1))
    assert HEAD in load_file(merge(base, a) / "model.safetensors")


BUFFERS = [
    ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(4)),
    ("gpt2", "transformer.h.0.attn.bias", torch.ones(1, 1, 64, 64).bool()),
    ("gpt2", "transformer.h.1.attn.masked_bias", torch.tensor(-1e4)),
    ("llama", "model.embeddings.position_ids", torch.arange(64)[None]),
    ("gpt_neox", "gpt_neox.layers.0.attention.bias", torch.ones(1, 1, 64, 64).byte()),
]


@pytest.mark.parametrize("kind, name, buffer", BUFFERS)
def test_buffers_are_no_weights(tmp_path, kind, name, buffer):
    "A buffer on one side, or another one on each, changes nothing and is not written."
    config, tensors = tiny(tmp_path / "made", kind)
    extra = {name: buffer}
    base, with_buffer = save(tmp_path / "base", config, tensors), save(tmp_path / "old", config, tensors | extra)
    other = {name: torch.zeros_like(buffer)}
    a, b = (save(tmp_path / who, config, moved(tensors, 1) | more) for who, more in (("a", {}), ("b", other)))
    plain = load_file(merge(base, a) / "model.safetensors")
    for out, models in {"right": (base, b), "left": (with_buffer, a), "both": (with_buffer, b)}.items():
        merged = load_file(merge(*models, out=out) / "model.safetensors")
        assert name not in merged and merged.keys() == plain.keys()
        assert all(torch.equal(merged[key], plain[key]) for key in plain)


def test_a_weight_called_bias_is_merged(tmp_path):
    folder = save(tmp_path / "own", LLAMA, {"h.0.attn.bias": torch.ones(3), "my_position_ids": torch.ones(2)})
    assert set(Checkpoint(folder)) == {"h.0.attn.bias", "my_position_ids"}


def renamed(tensors, change):
    return {change(name): t for name, t in tensors.items()}


def packed(tensors, end):
    "The projections as quantizers store them."
    changed = {name: t for name, t in tensors.items() if "q_proj.weight" not in name}
    for i in range(2):
        changed[f"model.layers.{i}.self_attn.q_proj.{end}"] = torch.zeros(4, 32, dtype=torch.int32)
    return changed


MISLEADING = {
    "gptq": (lambda t: packed(t, "qweight"), dict(quantization_config=dict(quant_method="gptq")), "is quantized.*gptq"),
    "awq": (lambda t: packed(t, "qzeros"), dict(quantization_config=dict(quant_method="awq")), "is quantized.*awq"),
    "unsaid": (lambda t: packed(t, "qweight"), {}, "is quantized, as its tensor .*qweight"),
    "compiled": (lambda t: renamed(t, "_orig_mod.{}".format), {}, "has the prefix '_orig_mod.'"),
    "inside": (
        lambda t: renamed(t, lambda n: n.replace("0.mlp", "0._orig_mod.mlp")),
        {},
        "has the prefix '_orig_mod.'",
    ),
    "parallel": (lambda t: renamed(t, "module.{}".format), {}, "has the prefix 'module.'"),
    "peft": (lambda t: renamed(t, "base_model.model.{}".format), {}, "has the prefix 'base_model.model.'"),
    "unmerged": (lambda t: t | {"model.q_proj.lora_A.weight": torch.ones(2, 2)}, {}, "holds an adapter, as its tensor"),
    "larger": (lambda t: renamed(t, "language_model.{}".format), {}, "remove the prefix 'language_model.'"),
}


@pytest.mark.parametrize("who", MISLEADING)
def test_the_cause_is_named(tmp_path, who):
    change, more, words = MISLEADING[who]
    config, tensors = tiny(tmp_path / "made", "qwen2")
    base, expert = save(tmp_path / "base", config, tensors), save(tmp_path / who, config | more, change(tensors))
    with pytest.raises(UserError, match=f"{who}.*{words}"):
        merge(base, expert)


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_model.bin"])
def test_adapter_with_a_configuration(tmp_path, file):
    lora = {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.zeros(4, 32)}
    folder = save(tmp_path / "lora", LLAMA, lora)
    (folder / "model.safetensors").rename(folder / file)
    put(folder / "adapter_config.json", '{"peft_type": "LORA"}')
    with pytest.raises(UserError, match="lora holds an adapter, not a model"):
        Checkpoint(folder)


def bpe(**more):
    "A tokenizer.json of three tokens."
    return json.dumps(dict(version="1.0", model=dict(type="BPE", vocab=dict(a=0, b=1, ab=2), merges=["a b"])) | more)


VOCAB, MORE = '{"a": 0, "b": 1, "ab": 2}', '{"</s>": 3}'
ADDED = dict(id=3, content="</s>", special=True, single_word=False, lstrip=False, rstrip=False, normalized=False)
SAME_TOKENIZERS = {
    "one file of two": ({"tokenizer.json": bpe(), "tokenizer.model": "pieces"}, {"tokenizer.model": "pieces"}),
    "the other of two": ({"spiece.model": "pieces"}, {"tokenizer.json": bpe(), "spiece.model": "pieces"}),
    "vocab.json": ({"tokenizer.json": bpe()}, {"vocab.json": VOCAB}),
    "added": ({"tokenizer.json": bpe(added_tokens=[ADDED])}, {"vocab.json": VOCAB, "added_tokens.json": MORE}),
    "added by number": (
        {"tokenizer.json": bpe(added_tokens=[ADDED])},
        {"vocab.json": VOCAB, "tokenizer_config.json": json.dumps(dict(added_tokens_decoder={"3": ADDED}))},
    ),
}


def compare_tokenizers(tmp_path, *sides):
    models = [Checkpoint(save(tmp_path / who, LLAMA)) for who in ("base", "expert")]
    for model, files in zip(models, sides):
        for name, content in files.items():
            put(model.folder / name, content)
    return check_tokenizers(models[0], {"expert": models[1]}, compare=True)


@pytest.mark.parametrize("case", SAME_TOKENIZERS)
def test_one_tokenizer_in_other_files(tmp_path, case):
    assert compare_tokenizers(tmp_path, *SAME_TOKENIZERS[case]) == {}


@pytest.mark.parametrize(
    "base, expert, words",
    [
        (
            {"tokenizer.json": bpe(), "tokenizer.model": "pieces"},
            {"tokenizer.model": "other"},
            "tokenizer.model differs",
        ),
        ({"tokenizer.json": bpe()}, {"vocab.json": VOCAB, "added_tokens.json": MORE}, "token '</s>' has id 3"),
    ],
)
def test_another_tokenizer_in_other_files(tmp_path, base, expert, words):
    with pytest.raises(UserError, match=words):
        compare_tokenizers(tmp_path, base, expert)


BESIDE = [
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "sentencepiece.bpe.model",
    "qwen.tiktoken",
    "source.spm",
    "LICENSE",
    "NOTICE.txt",
    "additional_chat_templates/rag.jinja",
]


@pytest.fixture
def furnished(tmp_path):
    "A base with many files beside its weights, remote code among them, and an expert."
    config, tensors = tiny(tmp_path / "made", "qwen2")
    base, expert = save(tmp_path / "base", config, tensors), save(tmp_path / "expert", config, moved(tensors, 1))
    (base / "additional_chat_templates").mkdir()
    for name in [*BESIDE, "modeling_own.py", "trainer_state.json", "training_args.bin", ".gitattributes"]:
        put(base / name, "{}")
    put(base / "tokenizer_config.json", '{"auto_map": {"AutoTokenizer": ["own.Own", null]}}')
    return base, expert


@pytest.mark.parametrize("remote_code", [False, True])
def test_files_beside_the_weights(furnished, remote_code):
    out = merge(*furnished, remote_code=remote_code)
    assert all((out / name).read_text() == "{}" for name in BESIDE)
    assert (out / "modeling_own.py").exists() == remote_code
    card = (out / "README.md").read_text()
    assert ("modeling_own.py (auto_map in tokenizer_config.json), not copied" in card) != remote_code
    assert "| not copied | trainer_state.json |" in card
    assert not any((out / name).exists() for name in ("trainer_state.json", "training_args.bin", ".gitattributes"))


def test_code_that_lies_elsewhere(tmp_path):
    "A configuration may name remote code of another repository."
    config, tensors = tiny(tmp_path / "made", "qwen2")
    config["auto_map"] = {"AutoConfig": "someone/own--configuration_own.OwnConfig"}
    base, expert = save(tmp_path / "base", config, tensors), save(tmp_path / "expert", config, moved(tensors, 1))
    assert "files elsewhere (auto_map in config.json), not copied" in (merge(base, expert) / "README.md").read_text()


def test_linear_rope_of_factor_one_is_none(tmp_path):
    "Positions divided by one are positions."
    llama = dict(model_type="llama", rope_parameters=dict(rope_type="default", rope_theta=10000.0))
    linear = dict(rope_type="linear", factor=1.0, rope_theta=10000.0)
    compare(tmp_path, llama, llama | dict(rope_parameters=linear))
    shutil.rmtree(tmp_path / "base")
    shutil.rmtree(tmp_path / "expert")
    with pytest.raises(UserError, match="rope_parameters"):
        compare(tmp_path, llama, llama | dict(rope_parameters=linear | dict(factor=2.0)))


def tokenizers(tmp_path, base, expert):
    "Compare two tokenizers: file name -> content."
    models = []
    for who, files in (("base", base), ("expert", expert)):
        folder = save(tmp_path / who, SMALL | dict(model_type="llama"))
        for name, content in files.items():
            put(folder / name, content)
        models.append(Checkpoint(folder))
    return check_tokenizers(models[0], {"expert": models[1]}, True)


@pytest.mark.parametrize("merges, same", [("#version: 0.2\na b\n", True), ("a b\n\n", True), ("b a\n", False)])
def test_merges_beside_a_vocabulary(tmp_path, merges, same):
    "The same words put together otherwise are another tokenizer."
    words = json.dumps({"a": 0, "b": 1, "ab": 2, "ba": 3})
    base = {"vocab.json": words, "merges.txt": "#version: 0.2\na b\n"}
    expert = {"vocab.json": words, "merges.txt": merges}
    if same:
        assert tokenizers(tmp_path, base, expert) == {}
        return
    with pytest.raises(UserError, match="merges.txt is not that of"):
        tokenizers(tmp_path, base, expert)


@pytest.mark.parametrize("same", [True, False])
def test_one_vocabulary_in_two_files(tmp_path, same):
    "A SentencePiece model against the tokenizer.json that was made from it."
    sentencepiece = pytest.importorskip("sentencepiece")
    text = iter(["the river is long", "he went home", "the house is old"] * 20)
    with open(tmp_path / "made.model", "wb") as f:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=text, model_writer=f, vocab_size=32, hard_vocab_limit=False, minloglevel=2
        )
    model = (tmp_path / "made.model").read_bytes()
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    vocabulary = [[pieces.id_to_piece(number), pieces.get_score(number)] for number in range(len(pieces))]
    if not same:
        vocabulary[5], vocabulary[6] = vocabulary[6], vocabulary[5]
    written = json.dumps({"model": {"type": "Unigram", "vocab": vocabulary}, "added_tokens": []})
    if same:
        assert tokenizers(tmp_path, {"tokenizer.json": written}, {"tokenizer.model": model}) == {}
        return
    with pytest.raises(UserError, match="token .* has id"):
        tokenizers(tmp_path, {"tokenizer.json": written}, {"tokenizer.model": model})


def with_a_first_token(written):
    piece = {"Sequence": {"id": "A", "type_id": 0}}
    first = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    written["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [first, piece],
        "pair": [first, piece, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
    }


def with_dropout(written):
    written["model"]["dropout"] = 0.9


def with_another_added_token(written):
    written["added_tokens"][0]["lstrip"] = not written["added_tokens"][0]["lstrip"]


@pytest.mark.parametrize("change", [with_a_first_token, with_dropout, with_another_added_token])
def test_tokenizers_that_make_other_numbers(change):
    content = (root() / "mmtmerge/data/miniature/tokenizer.json").read_bytes()
    written = json.loads(content)
    change(written)
    assert tokenizer_parts(json.dumps(written).encode()) != tokenizer_parts(content)


def test_the_packaged_tokenizer_saved_by_transformers_is_the_same(tmp_path):
    "It writes empty texts where the package's file has null."
    from transformers import AutoTokenizer

    packaged, saved = root() / "mmtmerge/data/miniature/tokenizer.json", tmp_path / "tokenizer.json"
    AutoTokenizer.from_pretrained(packaged.parent).save_pretrained(tmp_path)
    assert saved.read_bytes() != packaged.read_bytes()
    check_tokenizer(packaged, packaged.read_bytes(), saved, saved.read_bytes())


@pytest.mark.parametrize(
    "name, shape",
    [
        ("model.rotary_emb_local.inv_freq", (4,)),
        ("model.rotary_emb.sliding_attention_inv_freq", (4,)),
        ("model.rotary_emb.full_attention_original_inv_freq", (4,)),
        ("model.layers.0.self_attn.rotary_emb.long_inv_freq", (4,)),
        ("model.layers.0.self_attn.rotary_emb._cos_cached", (64, 8)),
        ("transformer.h.0.self_attention.maybe_rotary.inv_freq", (4,)),
        ("model.embed_tokens.embed_scale", ()),
        ("model.normalizer", (1,)),
        ("transformer.h.0.attn.embed_positions", (64, 8)),
        ("transformer.h.0.attn.scale_attn", ()),
        ("transformer.h.0.attn.causal_mask", (1, 1, 64, 64)),
        ("transformer.h.0.attn.bias", (64, 64)),
        ("transformer.h.0.crossattention.bias", (1, 64, 64)),
        ("transformer.h.0.crossattention.masked_bias", ()),
        ("model.embed_positions.weights", (66, 32)),
        ("freqs_cis", (4, 4)),
        ("model.layers.0.self_attn.q_proj._extra_state", (0,)),
    ],
)
def test_buffers_of_many_programs(name, shape):
    assert is_recomputed(name, shape)


@pytest.mark.parametrize(
    "name, shape",
    [
        ("transformer.h.0.attn.c_attn.bias", (96,)),
        ("transformer.h.0.attn.bias", (4, 32)),
        ("model.embed_positions.weight", (66, 32)),
        ("model.normalizer", (32,)),
        ("model.my_inv_freq.weight", (4,)),
        ("causal_mask.weight", (4, 4)),
    ],
)
def test_weights_with_names_like_buffers(name, shape):
    assert not is_recomputed(name, shape)


ALONE = dict(tie_word_embeddings=True)


def test_a_tied_head_without_embeddings(tmp_path):
    "safetensors.torch.save_model keeps one of two names; here it is the head's."
    config, tensors = tiny(tmp_path / "made", "qwen2", **ALONE)
    expert = moved(tensors, 1)
    by_head = [renamed(side, lambda name: HEAD if name == EMBED else name) for side in (tensors, expert)]
    base, a = save(tmp_path / "base", config, tensors), save(tmp_path / "a", config, expert)
    old_base, old_a = save(tmp_path / "old base", config, by_head[0]), save(tmp_path / "old a", config, by_head[1])
    plain = load_file(merge(base, a) / "model.safetensors")
    for number, models in enumerate([(base, old_a), (old_base, a), (old_base, old_a)]):
        merged = load_file(merge(*models, out=f"out {number}") / "model.safetensors")
        assert merged.keys() == plain.keys() and all(torch.equal(merged[name], plain[name]) for name in plain)


@pytest.mark.parametrize(
    "kind, head, embeddings",
    [
        ("mamba", HEAD, "backbone.embeddings.weight"),
        ("biogpt", "output_projection.weight", "biogpt.embed_tokens.weight"),
        ("gpt_neox", HEAD, "gpt_neox.embed_in.weight"),
        ("gpt_neox", "embed_out.weight", "gpt_neox.embed_in.weight"),
    ],
)
def test_copies_of_tied_heads(tmp_path, kind, head, embeddings):
    "A copy is left out, a rounded one too; another head is refused."
    config, table = SMALL | ALONE | dict(model_type=kind), torch.rand(64, 32)
    for who, copy in (("copy", table.clone()), ("rounded", table.bfloat16())):
        assert set(Checkpoint(save(tmp_path / who, config, {embeddings: table, head: copy}))) == {embeddings}
    with pytest.raises(UserError, match=f"'{head}' is stored with other values: untie it"):
        Checkpoint(save(tmp_path / "other", config, {embeddings: table, head: table + 1}))


def test_a_padded_head(tmp_path):
    stored = {"gpt_neox.embed_in.weight": torch.rand(64, 32), HEAD: torch.rand(68, 32)}
    with pytest.raises(UserError, match=rf"'{HEAD}' is stored as \(68, 32\) and .* as \(64, 32\): untie it"):
        Checkpoint(save(tmp_path / "padded", SMALL | ALONE | dict(model_type="gpt_neox"), stored))


def test_one_tied_and_one_untied(tmp_path):
    "The message tells which configuration says what."
    config, tensors = tiny(tmp_path / "made", "qwen2", **ALONE)
    head = {HEAD: tensors[EMBED] + 1}
    base = save(tmp_path / "base", config, tensors)
    expert = save(tmp_path / "expert", config | dict(tie_word_embeddings=False), tensors | head)
    for models in ((base, expert), (expert, base)):
        with pytest.raises(UserError, match="base/config.json ties the head .*, .*expert/config.json does not"):
            merge(*models)


def test_tensors_that_nobody_reads(tmp_path):
    "What Transformers ignores may lie in one model only; the card tells of it."
    tensors = {"model.norm.weight": torch.ones(32), "mtp.fc.weight": torch.ones(2, 2)}
    config = SMALL | dict(model_type="qwen3_next", num_experts=4)
    base = Checkpoint(save(tmp_path / "base", config, tensors))
    expert = Checkpoint(save(tmp_path / "expert", config, {"model.norm.weight": torch.ones(32)}))
    assert "mtp.fc.weight, which not all models have" in check_compatible(base, {"expert": expert})["left out"]
    assert set(base) == set(base.headers) == {"model.norm.weight"}
    both = [Checkpoint(save(tmp_path / who, config, tensors)) for who in "ab"]
    assert "left out" not in check_compatible(both[0], {"b": both[1]}) and len(both[0]) == 2
    other = Checkpoint(save(tmp_path / "other", config, {"model.norm.weight": torch.ones(32), "extra": torch.ones(1)}))
    with pytest.raises(UserError, match="'extra' is missing in the base"):
        check_compatible(base, {"other": other})


def test_adapter_beside_a_model(tmp_path):
    "Transformers loads the adapter, too."
    folder = save(tmp_path / "both", LLAMA)
    put(folder / "adapter_config.json", '{"peft_type": "LORA"}')
    save_file({"q_proj.lora_A.weight": torch.zeros(4, 32)}, folder / "adapter_model.safetensors")
    with pytest.raises(UserError, match="both holds a model and an adapter, .*merge_and_unload.*or remove"):
        Checkpoint(folder)
