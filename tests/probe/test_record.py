"What `record` counts and averages, compared with decoders written out; the traps of hooks; memory."
import copy
import gc
import random

import pytest
import torch
import transformers as tf
from torch.nn import functional as F
from transformers.activations import ACT2FN

from mmtmerge.core import UserError
from mmtmerge.probe import recording
from mmtmerge.probe.record import POSITIVE, record
from mmtmerge.probe.spans import SPANS, Example

WINDOW, BLOCKS, VOCABULARY = 4, 3, 61
GEMMA_LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
ARCHITECTURES = {   # name: (configuration, its own settings, how many tokens each block sees)
    "Qwen2": (tf.Qwen2Config, {}, [None] * BLOCKS),
    "Qwen2, windows": (
        tf.Qwen2Config,
        dict(use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1),
        [None, WINDOW, WINDOW],
    ),
    "Qwen3": (tf.Qwen3Config, {}, [None] * BLOCKS),
    "Llama": (tf.LlamaConfig, {}, [None] * BLOCKS),
    "Mistral": (tf.MistralConfig, dict(sliding_window=WINDOW), [WINDOW] * BLOCKS),
    "Gemma 3": (
        tf.Gemma3TextConfig,
        dict(sliding_window=WINDOW, layer_types=GEMMA_LAYERS, query_pre_attn_scalar=12),
        [WINDOW, None, WINDOW],
    ),
}
SIZES = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=24,
    num_hidden_layers=BLOCKS,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
)


def small(name, pad=0):
    "A random model; in double precision no gate is so near to zero that the order of a sum decides."
    configuration, own, _ = ARCHITECTURES[name]
    torch.manual_seed(0)
    config = configuration(**SIZES, pad_token_id=pad, bos_token_id=1, eos_token_id=2, **own)
    model = tf.AutoModelForCausalLM.from_config(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():    # norms and biases, too
            parameter.add_(torch.randn_like(parameter) * .2)
    return model


def sentences(prefix, n=7, seed=0):
    "Random token ids: a common beginning, a source, two tokens of template, a target, an end."
    draw = random.Random(seed)

    def ids(number):
        return [draw.randrange(VOCABULARY) for _ in range(number)]

    made, beginning = [], ids(prefix)
    for first in range(n):
        source, target = draw.randint(2, 9), draw.randint(1, 9)
        rest = ids(source - 1 + 2 + target)
        start = prefix + source + 2
        spans = range(prefix, prefix + source), range(start, start + target)
        made.append(Example([*beginning, first, *rest, 2], *spans))
    return made


def rotated(x, cos, sin):
    "Rotary position embedding."
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def heads(x):
    "(tokens, heads * 8) to (heads, tokens, 8)."
    return x.unflatten(-1, (-1, 8)).transpose(0, 1)


def attention(name, model, i, x):
    "Self-attention of block i over one sequence (tokens, hidden)."
    gemma, decoder = name == "Gemma 3", model.model
    own, window = decoder.layers[i].self_attn, ARCHITECTURES[name][2][i]
    at = torch.arange(len(x))
    q, k, v = (heads(projection(x)) for projection in (own.q_proj, own.k_proj, own.v_proj))
    if name in ("Qwen3", "Gemma 3"):
        q, k = own.q_norm(q), own.k_norm(k)
    kind = [model.config.layer_types[i]] if gemma else []
    cos, sin = decoder.rotary_emb(x[None], at[None], *kind)
    q, k = rotated(q, cos, sin), rotated(k, cos, sin)
    k, v = k.repeat_interleave(2, 0), v.repeat_interleave(2, 0)
    ago = at[:, None] - at
    seen = (ago >= 0) & (ago < (window or len(x)))
    scale = 12 if gemma else 8
    scores = (q @ k.mT / scale ** .5).masked_fill(~seen, -torch.inf)
    return own.o_proj((scores.softmax(-1) @ v).transpose(0, 1).flatten(1))


@torch.no_grad()
def by_hand(name, model, ids):
    """One sequence through the decoder, written out: no hook, batch, padding, prefix or mask.

    Gives open gates (blocks, tokens, neurons) and states (depths, tokens, hidden).
    The input of the MLP is post_attention_layernorm(h) after attention's residual sum (Qwen2, Qwen3, Llama, Mistral).
    In Gemma 3 post_attention_layernorm is of attention's output alone; the MLP reads pre_feedforward_layernorm(h)."""
    decoder, gemma = model.model, name == "Gemma 3"
    h = decoder.embed_tokens(torch.tensor(ids))
    opened, states = [], [h]
    for i, block in enumerate(decoder.layers):
        attended = attention(name, model, i, block.input_layernorm(h))
        if gemma:
            h = h + block.post_attention_layernorm(attended)
            x = block.pre_feedforward_layernorm(h)
        else:
            h = h + attended
            x = block.post_attention_layernorm(h)
        z = x @ block.mlp.gate_proj.weight.T
        gate = F.gelu(z, approximate="tanh") if gemma else F.silu(z)
        opened.append(gate > 0)
        x = (gate * (x @ block.mlp.up_proj.weight.T)) @ block.mlp.down_proj.weight.T
        h = h + (block.post_feedforward_layernorm(x) if gemma else x)
        states.append(h)
    return torch.stack(opened), torch.stack([*states, decoder.norm(h)])


def assert_same(a, b):
    assert (a.counts == b.counts).all()
    assert (a.tokens == b.tokens).all()
    for span in SPANS:
        torch.testing.assert_close(torch.tensor(a.at(span)), torch.tensor(b.at(span)))


@pytest.mark.parametrize("prefix", [0, 2, 9])     # no common beginning, one shorter than the window, one longer
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_counts_by_hand(name, prefix):
    model, sequences = small(name), sentences(prefix)
    counts, means = [], []
    for example in sequences:
        opened, states = by_hand(name, model, example.ids)
        spans = [list(span) for span in example.spans]
        counts.append(torch.stack([opened[:, span].sum(1) for span in spans]))
        means.append(torch.stack([states[:, span].float().mean(1) for span in spans]))
    counts, features = torch.stack(counts), torch.stack(means, 2)
    tokens = torch.tensor([[len(span) for span in example.spans] for example in sequences]).sum(0)
    assert 0 < counts.sum() < BLOCKS * SIZES["intermediate_size"] * tokens.sum()
    for batch_size, folds in ((1, 7), (3, 2), (7, 3)):
        r = record(model, None, sequences, folds, batch_size)
        for fold in range(folds):
            assert (r.counts[:, fold] == counts[fold::folds].sum(0).numpy()).all()
        assert r.tokens.sum(1).tolist() == tokens.tolist()
        torch.testing.assert_close(torch.tensor(r.features), features, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shift", [1, 30])
@pytest.mark.parametrize("name", ["Qwen2", "Gemma 3"])
def test_padding_is_not_seen(name, shift):
    """`record` pads with token 0.

    Rename the tokens, so that 0 is another one and the model's own padding has another number: nothing changes."""
    renamed = []
    for example in sentences(2):
        ids = [(i + shift) % VOCABULARY for i in example.ids]
        renamed.append(Example(ids, *example.spans))
    plain, other = small(name), small(name, pad=shift)
    moved = plain.get_input_embeddings().weight.data.roll(shift, 0)
    other.get_input_embeddings().weight.data.copy_(moved)
    assert_same(record(other, None, renamed), record(plain, None, sentences(2)))


class Fused(torch.nn.Module):
    "An MLP as a fused kernel computes it: act_fn is not called; gate_proj only if asked."
    def __init__(self, mlp, call):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = mlp.gate_proj, mlp.up_proj, mlp.down_proj
        self.act_fn, self.call = mlp.act_fn, call

    def forward(self, x):
        gate = self.gate_proj(x) if self.call else F.linear(x, self.gate_proj.weight)
        return self.down_proj(F.silu(gate) * self.up_proj(x))


def fuse(model, blocks, call):
    model = copy.deepcopy(model)
    for i in blocks:
        block = model.model.layers[i]
        block.mlp = Fused(block.mlp, call)
    return model


def count_activations(model):
    "A list that grows with every call of an act_fn."
    calls = []
    for block in model.model.layers:
        block.mlp.act_fn.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("name", ["Qwen2", "Llama"])
def test_fused_activation(name):
    "A hook on act_fn sees nothing of a fused MLP; the gate's own output is seen."
    plain = small(name)
    fused = fuse(plain, range(BLOCKS), call=True)
    seen_in_plain, seen_in_fused = count_activations(plain), count_activations(fused)
    assert_same(record(fused, None, sentences(2)), record(plain, None, sentences(2)))
    assert len(seen_in_plain) == 2 * BLOCKS     # the common beginning and one batch
    assert not seen_in_fused


@pytest.mark.parametrize("blocks", [[1], [0, 2]])
def test_gate_that_is_never_called(blocks):
    model = fuse(small("Qwen2"), blocks, call=False)
    named = ", ".join(map(str, blocks))
    with pytest.raises(UserError, match=rf"gates of blocks \[{named}\] did not fire"):
        record(model, None, sentences(2))
    for block in model.model.layers:     # nothing is left behind
        assert not block._forward_hooks
        assert not block._forward_pre_hooks


def test_gate_that_is_called_in_pieces():
    "An MLP that runs its tokens in two halves would be counted twice, or not at all."
    model = copy.deepcopy(small("Qwen2"))
    mlp = model.model.layers[1].mlp
    whole = mlp.forward

    def in_halves(x):
        return torch.cat([whole(half) for half in x.tensor_split(2, dim=1)], dim=1)

    mlp.forward = in_halves
    with pytest.raises(UserError, match=r"gates of blocks \[1\] did not fire once, on all tokens"):
        record(model, None, sentences(2))


@pytest.mark.parametrize("name", POSITIVE)
def test_positive_where_the_argument_is(name):
    """f(z) > 0 exactly where z > 0, down to the smallest float32.

    Computed in float32, f never becomes positive elsewhere (far below zero, gelu ends at 0), and is 0 for a positive z
    only where f(z) itself is too small for a float32."""
    size = 10. ** torch.arange(-45, 3, .125, dtype=torch.float64)
    z = torch.cat((-size, torch.zeros(1), size)).float().unique()
    f, exact = ACT2FN[name](z), ACT2FN[name](z.double())
    assert ((exact > 0) == (z > 0)).all()
    assert not (f[z <= 0] > 0).any()
    lost = (z > 0) & (f <= 0)
    assert (exact[lost] <= 2. ** -150).all()     # half of the smallest float32
    if name == "relu2":                          # it squares
        assert z[lost].max() < 2. ** -74         # 5e-23
    else:
        assert lost.sum() <= 1                   # the smallest float32 alone


@pytest.mark.parametrize("name", ["Llama", "Gemma 3"])
def test_last_depths(name):
    """`hidden_states[-1]` of Transformers is after the final norm.

    The depth of the last block is before it, and the extra depth is that one."""
    model, ids = small(name), sentences(2, 1)[0].ids
    one_token_spans = Example(ids, range(3, 4), range(5, 6))     # so averages are the states themselves
    r = record(model, None, [one_token_spans])
    with torch.no_grad():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    theirs = torch.stack(states)[:, 0, [3, 5]].transpose(0, 1)
    ours = torch.tensor(r.features)[:, :, 0].double()
    assert ours.shape[1] == theirs.shape[1] + 1 == BLOCKS + 2
    assert r.depths[-2:] == [f"block {BLOCKS - 1}", "final norm"]
    close = dict(rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours[:, :BLOCKS], theirs[:, :BLOCKS], **close)
    torch.testing.assert_close(ours[:, -1], theirs[:, -1], **close)
    last_block, final = ours[:, -2], theirs[:, -1]
    torch.testing.assert_close(model.model.norm(last_block).detach(), final, **close)
    assert (last_block - final).abs().max() > .1


def feature_tensors():
    "Sentences of the tensors of features that are in memory."
    sizes = []
    for thing in gc.get_objects():
        if type(thing) is torch.Tensor and thing.dim() == 4:
            spans, depths, sentences, hidden = thing.shape
            if (spans, depths, hidden) == (2, BLOCKS + 2, SIZES["hidden_size"]):
                sizes.append(sentences)
    return sorted(sizes)


def test_memory_of_a_chunk(tmp_path, monkeypatch):
    "With a folder, features in memory are those of one chunk; what is written is the same."
    model, sequences = small("Qwen2"), sentences(2, 12)
    alive, written, save = [], {}, recording.save_file

    def spy(tensors, path):
        alive.append(feature_tensors())
        written[path.name] = {span: tuple(tensor.shape) for span, tensor in tensors.items()}
        save(tensors, path)

    monkeypatch.setattr(recording, "save_file", spy)
    parts = record(model, None, sequences, batch_size=3, chunk=4, out=tmp_path)
    shapes = dict.fromkeys(SPANS, (BLOCKS + 2, 4, SIZES["hidden_size"]))
    assert written == {f"features-{i:05}.safetensors": shapes for i in range(3)}
    assert alive == [[1, 4]] * 3     # the last batch (4 = 3 + 1) and the chunk
    assert_same(parts, record(model, None, sequences, batch_size=3))


def test_a_recording_that_was_not_finished_leaves_nothing(tmp_path):
    "Features of more sentences lie in the folder; they do not become part of the next recording."
    model = small("Qwen2")
    record(model, None, sentences(2, 12), chunk=3, out=tmp_path)
    again = record(model, None, sentences(2, 4), chunk=3, out=tmp_path)
    assert again.features.shape == (2, BLOCKS + 2, 4, SIZES["hidden_size"])
    assert len(list(tmp_path.iterdir())) == 2


def test_the_part_that_reads():
    "A model that also sees: its decoder is recorded, as if it stood alone."
    vision = dict(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=4
    )
    config = tf.Gemma3Config(text_config=SIZES | dict(sliding_window=WINDOW), vision_config=vision)
    sees = tf.Gemma3ForConditionalGeneration(config).eval()
    reads = tf.Gemma3ForCausalLM(sees.config.text_config).eval()
    reads.model.load_state_dict(sees.model.language_model.state_dict())
    assert_same(record(sees, None, sentences(2)), record(reads, None, sentences(2)))


@pytest.mark.parametrize("span", [range(3, 9), range(2, 2), range(1, 3, 2)])
def test_spans_that_are_none(span):
    "One that reaches beyond the sequence would be counted with tokens that are not there."
    good = Example([1, 2, 3], range(1, 2), range(2, 3))
    bad = Example([1, 2, 3], range(1, 2), span)
    with pytest.raises(UserError, match="sequence 1: its target is range"):
        record(small("Qwen2"), None, [good, bad])
