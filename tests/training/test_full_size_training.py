"What FSDP does to models of the paper's sizes, on the meta device."

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate import PartialState
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_apply_ac, fsdp2_prepare_model
from torch.distributed.fsdp import FSDPModule
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from mmtmerge.settings import load
from mmtmerge.study.cost import shape_of
from mmtmerge.training.finetune import arguments
from mmtmerge.training.launch import launch

CONFIGS = {  # their config.json
    "paper": Qwen2Config(
        vocab_size=151936,
        hidden_size=2048,
        intermediate_size=11008,
        num_hidden_layers=36,
        num_attention_heads=16,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        max_position_embeddings=32768,
    ),
    "llama": LlamaConfig(
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        tie_word_embeddings=True,
        max_position_embeddings=131072,
    ),
}


@pytest.fixture
def group():
    "A group of one process."
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    PartialState._reset_state()
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("profile", CONFIGS)
def test_fsdp_wraps_every_block_and_the_tied_head(profile, checkpointing, group, tmp_path):
    "What accelerate does to a model before FSDP2 training as the study's own arguments ask for it, with one process."
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIGS[profile], dtype=torch.bfloat16)
    how = replace(launch(profile), sharding="fsdp", activation_checkpointing=checkpointing)
    args = arguments(load(profile).p, tmp_path, 10_000, 5e-5, 42, True, how)
    at_once = args.per_device_train_batch_size * how.processes
    assert at_once * args.gradient_accumulation_steps == 1024
    assert not args.bf16

    plugin = FullyShardedDataParallelPlugin(**args.fsdp_plugin_args)
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward
    assert plugin.activation_checkpointing == checkpointing
    state = SimpleNamespace(fsdp_plugin=plugin)
    device = torch.device("cpu")
    accelerator = SimpleNamespace(state=state, mixed_precision="no", is_main_process=True, device=device)
    if checkpointing:
        model = fsdp2_apply_ac(accelerator, model)
    wrapped = fsdp2_prepare_model(accelerator, model)

    layers = wrapped.model.layers
    blocks = [getattr(layer, "_checkpoint_wrapped_module", layer) for layer in layers]
    assert isinstance(wrapped, FSDPModule)
    assert all(isinstance(block, FSDPModule) for block in blocks)
    assert (blocks[0] is not layers[0]) == checkpointing
    parameters = sum(weights.numel() for weights in wrapped.parameters())
    assert parameters == shape_of(load(profile).p.base).parameters
    head, embeddings = wrapped.get_output_embeddings(), wrapped.get_input_embeddings()
    assert embeddings.weight is head.weight
