"What users' folders hold besides what should be there: each refusal names its cause."
import json

import pytest
import torch
from models_on_disk import EMBED, HEAD, INDEX, NORM, UP, W, edit, merge_in, put, shard
from safetensors.torch import load_file

from mmtmerge.core import UserError
from mmtmerge.merge.checkpoint_reader import Checkpoint, read_header
from mmtmerge.merge.checkpoints import merge_checkpoints

pytest_plugins = ["models_on_disk"]


def raw(path, tensors):
    "A safetensors file with types that torch cannot write: name -> (type, shape, bytes)."
    header, data = {}, b""
    for name, (kind, shape, content) in tensors.items():
        header[name] = dict(dtype=kind, shape=shape, data_offsets=[len(data), len(data) + len(content)])
        data += content
    text = json.dumps(header).encode()
    put(path, len(text).to_bytes(8, "little") + text + data)


@pytest.mark.parametrize("kind, size", [("U32", 4), ("F8_E8M0", 1)])
def test_a_type_of_quantized_weights(tmp_path, kind, size):
    raw(tmp_path / W, {UP: (kind, [2], bytes(2 * size))})
    with pytest.raises(UserError, match=f"is of type {kind}, which is quantized: merge full-precision"):
        read_header(tmp_path / W)


def test_a_buffer_of_a_type_that_torch_has_not_is_left_out(tmp_path):
    raw(tmp_path / W, {"freqs_cis": ("C64", [1], bytes(8)), NORM: ("F32", [1], bytes(4))})
    assert list(read_header(tmp_path / W)) == [NORM]


def test_placeholders_of_zero_3(models):
    edit(models / "a", lambda state: state.update({name: torch.empty(0) for name in state}))
    with pytest.raises(UserError, match="holds no numbers, as DeepSpeed's ZeRO-3 saves it"):
        merge_in(models)


def test_a_byte_order_mark(models):
    text = (models / "a/config.json").read_text()
    put(models / "a/config.json", "\ufeff" + text)
    with pytest.raises(UserError, match="a/config.json begins with a byte order mark"):
        merge_in(models)


def test_a_padded_vocabulary(models):
    edit(models / "a", lambda state: state.update({EMBED: torch.cat([state[EMBED], state[EMBED][:8]])}))
    with pytest.raises(UserError, match=r"resize_token_embeddings\(3000\)"):
        merge_in(models)


def test_a_numbered_file_is_missing(models):
    (models / "a" / W).rename(models / "a/model-00001-of-00002.safetensors")
    with pytest.raises(UserError, match="a/model-00002-of-00002.safetensors is missing, model-00001-of-00002"):
        Checkpoint(models / "a")


def test_an_index_may_list_what_is_not_read(models):
    "A tied head, and a buffer that Transformers computes."
    shard(models / "a", 2)
    index = json.loads((models / "a" / INDEX).read_text())
    first = next(iter(index["weight_map"].values()))
    index["weight_map"] |= {HEAD: first, "model.rotary_emb.inv_freq": first}
    put(models / "a" / INDEX, json.dumps(index))
    assert set(Checkpoint(models / "a")) == set(Checkpoint(models / "base"))


def test_encoder_and_decoder(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = dict(d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2)
    config = transformers.MarianConfig(
        vocab_size=32, encoder_ffn_dim=8, decoder_ffn_dim=8, pad_token_id=0, max_position_embeddings=8, **sizes)
    for who in ("base", "a"):
        transformers.MarianMTModel(config).save_pretrained(tmp_path / who)
    with pytest.raises(UserError, match=r"is an encoder and a decoder \(marian\)"):
        merge_checkpoints(tmp_path / "base", [tmp_path / "a"], tmp_path / "out", "task_arithmetic", progress=False)


@pytest.mark.parametrize("short", ["base", "a"])
def test_a_body_without_the_prefix_of_its_architecture(tmp_path, short):
    "As GPT-2 and BLOOM lie on the hub: the result has the base's names, and loads."
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BloomConfig(vocab_size=32, hidden_size=8, n_layer=2, n_head=2)
    states = {}
    for who in ("base", "a"):
        transformers.BloomForCausalLM(config).save_pretrained(tmp_path / who)
        states[who] = load_file(tmp_path / who / W)
    edit(tmp_path / short, lambda state: shorten(state, "transformer."))
    out = merge_checkpoints(tmp_path / "base", [tmp_path / "a"], tmp_path / "out", "linear", "mergekit", progress=False)
    merged = load_file(out / W)
    assert set(merged) == set(load_file(tmp_path / "base" / W))
    for name, tensor in merged.items():
        assert torch.allclose(tensor, states["a"][f"transformer.{name.removeprefix('transformer.')}"])


def shorten(state, prefix):
    for name in list(state):
        state[name.removeprefix(prefix)] = state.pop(name)


def test_an_artefact_is_no_expert(models):
    put(models / "a/parts.json", "{}")
    with pytest.raises(UserError, match="a holds a trunk and the parts of several directions: .*mmtmerge expand"):
        merge_in(models)
