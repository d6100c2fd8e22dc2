"The shapes of the paper's models, on the meta device, through all that reads names, shapes and tying; and through FSDP's wrapping."
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from mmtmerge import planning
from mmtmerge.merge import Recipe
from mmtmerge.record import Watch, gates
from mmtmerge.settings import load
from mmtmerge.vectors import check_shapes, embedding_names, state

CONFIGS = {     # their config.json
    "paper": Qwen2Config(vocab_size=151936, hidden_size=2048, intermediate_size=11008, num_hidden_layers=36, num_attention_heads=16, num_key_value_heads=2, tie_word_embeddings=True, max_position_embeddings=32768),
    "llama": LlamaConfig(vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8, head_dim=64, tie_word_embeddings=True, max_position_embeddings=131072),
}
PARAMETERS = dict(paper=3_085_938_688, llama=1_235_814_400)     # as their model cards count them


@pytest.fixture(params=CONFIGS)
def profile(request): return request.param


@pytest.fixture
def model(profile):
    with torch.device("meta"): return AutoModelForCausalLM.from_config(CONFIGS[profile], dtype=torch.bfloat16)


def test_parameters_and_plan(profile, model):
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[profile] == planning.shape_of(load(profile).p.base).parameters
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_names_shapes_and_tying_in_a_merge(model):
    base = state(model)
    assert embedding_names(base) == {"model.embed_tokens.weight"} and "lm_head.weight" not in base
    check_shapes(base, {"en-hi": dict(base), "en-bn": dict(base)})
    stays, moves = (Recipe(m, h).vectors(base, [base, base]).names for m, h in (("ties", dict(K=.5)), ("sce", dict(select_topk=.5))))
    assert set(moves) - set(stays) == {"model.embed_tokens.weight"} and len(moves) == len(base)


def test_every_gate_is_watched(model):
    assert len(Watch(model, 2).counts) == model.config.num_hidden_layers
    assert all(g.out_features == model.config.intermediate_size for g in gates(model)[2])


def test_fsdp_wraps_every_block_and_the_tied_head(profile, model):
    "What accelerate does to a model before FSDP2 training, with one process."
    from accelerate.utils import FullyShardedDataParallelPlugin
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model
    from torch.distributed.fsdp import FSDPModule
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap")
    accelerator = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin), mixed_precision="no", is_main_process=True, device=torch.device("cpu"))
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = fsdp2_prepare_model(accelerator, model)
        assert all(isinstance(block, FSDPModule) for block in wrapped.model.layers) and isinstance(wrapped, FSDPModule)
        assert sum(p.numel() for p in wrapped.parameters()) == PARAMETERS[profile]
        assert wrapped.get_input_embeddings().weight is wrapped.get_output_embeddings().weight
    finally: torch.distributed.destroy_process_group()
