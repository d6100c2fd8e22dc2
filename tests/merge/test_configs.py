"Two configurations: what changes a model's output is told, what does not is not."

import math

import pytest

from mmtmerge.core import UserError
from mmtmerge.merge.checkpoint_config import check_readable, difference

SMALL = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32)
LLAMA3 = dict(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32
)
LONG = dict(
    rope_scaling=dict(type="longrope", short_factor=[1.0] * 4, long_factor=[2.0] * 4),
    original_max_position_embeddings=32,
)
MPT = dict(d_model=32, n_heads=4, n_layers=2)
UNSCALED = dict(rope_scaling=None)


def compare(kind, base, expert):
    sides = [SMALL | dict(model_type=kind) | more for more in (base, expert)]
    forth, back = difference(*sides), difference(*sides[::-1])
    assert (forth is None) == (back is None)
    return forth


@pytest.mark.parametrize(
    "kind, base, expert, key",
    [
        ("gptj", dict(rotary_dim=8), dict(rotary_dim=4), "rotary_dim"),
        ("codegen", dict(rotary_dim=8), dict(rotary_dim=4), "rotary_dim"),
        ("bloom", {}, dict(apply_residual_connection_post_layernorm=True), "apply_residual_connection_post_layernorm"),
        ("falcon", {}, dict(activation="relu"), "activation"),
        ("opt", {}, dict(do_layer_norm_before=False), "do_layer_norm_before"),
        ("mpt", MPT, MPT | dict(attn_config=dict(softmax_scale=0.05)), "attn_config.softmax_scale"),
        ("biogpt", {}, dict(scale_embedding=False), "scale_embedding"),
        ("xglm", {}, dict(scale_embedding=False), "scale_embedding"),
        ("deepseek_v2", {}, dict(topk_method="group_limited_greedy"), "topk_method"),
        ("deepseek_v3", {}, dict(topk_group=2), "topk_group"),
        ("deepseek_v3", {}, dict(rope_interleave=False), "rope_interleave"),
        ("deepseek_v3", dict(rope_scaling=YARN), dict(rope_scaling=YARN | dict(mscale_all_dim=1.0)), "mscale_all_dim"),
        ("llama4_text", {}, dict(attn_temperature_tuning=False), "attn_temperature_tuning"),
        ("llama4_text", {}, dict(floor_scale=4), "floor_scale"),
        ("gpt_oss", {}, dict(swiglu_limit=0.1), "swiglu_limit"),
        ("falcon_h1", {}, dict(key_multiplier=0.5), "key_multiplier"),
        ("falcon_h1", {}, dict(lm_head_multiplier=0.5), "lm_head_multiplier"),
        ("gemma3n_text", {}, dict(activation_sparsity_pattern=[0.5] * 2), "activation_sparsity_pattern"),
        ("recurrent_gemma", {}, dict(logits_soft_cap=10.0), "logits_soft_cap"),
        ("dbrx", {}, dict(ffn_config=dict(moe_top_k=2)), "ffn_config.moe_top_k"),
        ("gemma2", {}, dict(use_bidirectional_attention=True), "use_bidirectional_attention"),
        ("phi3", LONG, LONG | dict(max_position_embeddings=4096), "attention_factor"),
        ("phi3", LONG, LONG | dict(original_max_position_embeddings=16), "original_max_position_embeddings"),
        ("llama", {}, dict(rope_scaling=YARN), "rope_type"),
        ("llama", dict(rope_scaling=YARN), dict(rope_scaling=YARN | dict(attention_factor=1.0)), "attention_factor"),
        (
            "llama",
            dict(rope_scaling=dict(type="dynamic", factor=2.0)),
            dict(rope_scaling=dict(type="dynamic", factor=2.0), max_position_embeddings=128),
            "max_position_embeddings",
        ),
        ("llama", dict(rope_theta=1e4), dict(rope_parameters=dict(rope_theta=1e6), attention_bias=None), "rope_theta"),
        ("llama", UNSCALED, dict(rope_scaling=dict(type="linear", factor=4.0), use_cache="true"), "rope_type"),
        ("gemma3_text", {}, dict(query_pre_attn_scalar=8, use_cache=None), "query_pre_attn_scalar"),
        ("gemma3_text", {}, dict(sliding_window=8, use_cache=None), "sliding_window"),
        ("mistral", dict(sliding_window=8), dict(sliding_window=None, use_cache="true"), "sliding_window"),
        ("phi", dict(partial_rotary_factor=0.5), dict(partial_rotary_factor=0.25), "partial_rotary_factor"),
        ("of another library", dict(rotary_dim=8), dict(rotary_dim=4), "rotary_dim"),
    ],
)
def test_told(kind, base, expert, key):
    assert compare(kind, base, expert)[0].split(".")[-1] == key.split(".")[-1]


def test_layers_of_two_kinds():
    "A list of kinds of layers counts, however it is written."
    base = dict(model_type="gpt_neo", num_layers=2, window_size=4, attention_types=[[["global", "local"], 1]])
    assert difference(base, base | dict(attention_types=[[["global"], 1], [["local"], 1]])) is None
    assert difference(base, base | dict(attention_types=[[["global"], 2]]))[0] == "attention_layers"
    assert difference(base, base | dict(window_size=8))[0] == "window_size"


@pytest.mark.parametrize(
    "kind, base, expert",
    [
        ("llama", dict(rope_scaling=YARN), dict(rope_scaling=YARN | dict(finetuned=True))),
        (
            "llama",
            dict(rope_scaling=YARN),
            dict(rope_scaling=YARN | dict(attention_factor=0.1 * math.log(4) + 1)),
        ),
        ("llama", UNSCALED, dict(rope_scaling=YARN | dict(factor=1.0))),
        ("llama", UNSCALED, dict(rope_scaling=LLAMA3 | dict(factor=1.0))),
        ("llama", dict(rope_scaling=LLAMA3), dict(rope_scaling=LLAMA3 | dict(mscale=1.0))),
        ("llama", dict(rope_scaling=YARN), dict(rope_scaling=YARN, max_position_embeddings=128)),
        ("llama", {}, dict(max_position_embeddings=128)),
        ("llama", {}, dict(hidden_act="swish")),
        ("gpt2", dict(activation_function="gelu_new"), dict(activation_function="gelu_pytorch_tanh")),
        ("gpt2", {}, dict(n_inner=128)),
        ("llama", {}, dict(partial_rotary_factor=0.5)),
        ("mistral", dict(sliding_window=None), dict(sliding_window=64)),
        ("mistral", dict(sliding_window=64), dict(sliding_window=64, max_position_embeddings=256)),
        ("llama", dict(rope_scaling=None), dict(attention_bias=None, use_cache="true", bos_token_id="1")),
        ("mistral", dict(sliding_window=8), dict(sliding_window=8, layer_types=["full_attention"] * 2)),
        ("qwen2", {}, dict(tie_word_embeddings=False)),
        ("qwen2", dict(tie_word_embeddings=True), dict(tie_word_embeddings="true")),
        ("qwen2", {}, dict(max_window_layers=1)),
        ("gemma2", dict(hidden_act="gelu"), dict(hidden_act="relu")),
        ("qwen3_next", {}, dict(router_aux_loss_coef=0.5, initializer_range=0.1, attention_dropout=0.1)),
        ("mamba", {}, dict(residual_in_fp32=False, use_mambapy=True)),
        ("of another library", {}, dict(initializer_range=0.1, vision_dim=5)),
    ],
)
def test_not_told(kind, base, expert):
    assert compare(kind, base, expert) is None


@pytest.mark.parametrize(
    "entry", [dict(attention_bias=0), dict(vocab_size=64.0), dict(max_position_embeddings="64"), dict(layer_types=[])]
)
def test_no_meaning(entry):
    "What Transformers refuses to read is named by its own words."
    with pytest.raises(UserError, match=f"Transformers cannot read a/config.json: .*{[*entry][0]}"):
        check_readable(SMALL | dict(model_type="llama") | entry, "a")
