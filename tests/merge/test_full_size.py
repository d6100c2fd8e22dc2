"The shapes of the paper's models through all that reads names, shapes and tying, and through FSDP's wrapping."

import inspect

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen2Config

from conftest import REPO
from mmtmerge.merge import checkpoint_checks, checkpoint_reader, checkpoint_writer
from mmtmerge.study.cost import shape_of
from mmtmerge.core import UserError
from mmtmerge.merge.diagnostics import place_of
from mmtmerge.merge.apply import Recipe, apply_to_model
from mmtmerge.prompts import chat_template
from mmtmerge.probe.record import Watch, gates
from mmtmerge.settings import base_spec, load
from mmtmerge.merge.registry import METHODS
from mmtmerge.merge.task_vectors import check_shapes, embedding_names, state

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
PARAMETERS = dict(paper=3_085_938_688, llama=1_235_814_400)  # as their model cards count them
EMBEDDINGS = {"model.embed_tokens.weight"}  # of both, the tied head's too


@pytest.fixture(params=CONFIGS)
def profile(request):
    return request.param


@pytest.fixture
def model(profile):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(CONFIGS[profile], dtype=torch.bfloat16)


def test_parameters_and_plan(profile, model):
    assert (
        sum(p.numel() for p in model.parameters())
        == PARAMETERS[profile]
        == shape_of(load(profile).p.base).parameters
    )
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_names_shapes_and_tying_in_a_merge(model):
    base = state(model)
    assert embedding_names(base) == EMBEDDINGS and "lm_head.weight" not in base
    check_shapes(base, {"en-hi": dict(base), "en-bn": dict(base)})

    def names(*given, **more):
        recipe = Recipe(*given, **more)
        experts = [base] * min(2, recipe.definition.experts[1])
        return set(recipe.task_vectors(base, experts).names)

    assert names("ties", dict(K=0.5)) == base.keys() - EMBEDDINGS and names("sce", dict(select_topk=0.5)) == base.keys()
    for method, preset, definition in [
        (name, preset or "paper", d) for name, by in METHODS.items() for preset, d in by.items()
    ]:
        hyper = {
            k: len if k == "score" else 0.5
            for k, x in definition.parameters.items()
            if x.default is inspect.Parameter.empty
        }
        assert (
            names(method, hyper, preset=preset, embeddings="base") == base.keys() - EMBEDDINGS
            and names(method, hyper, preset=preset, embeddings="merge") == base.keys()
        ), method


def test_a_merge_finds_its_place_in_the_model(model):
    base = {name: t.clone() for name, t in state(model).items()}
    m = {name: torch.empty(t.shape, device="meta") for name, t in base.items() if ".layers.0." in name}
    assert len(m) == sum(place_of(name)[0] == 0 for name in base)
    apply_to_model(dict(model.named_parameters()), base, m, 0.5)
    with pytest.raises(UserError, match="different parameters"):
        apply_to_model(model.state_dict(), base, m, 0.5)  # it names the tied head, too


def test_every_parameter_has_a_place_in_the_tables(model):
    layers = [place_of(name)[0] for name in state(model)]
    assert {l for l in layers if l == l} == set(range(model.config.num_hidden_layers)) and sum(
        l != l for l in layers
    ) == 2  # embeddings and last norm


def test_a_checkpoint_is_cut_written_and_read(profile, model, tmp_path, monkeypatch):
    "Its files, with holes in place of the numbers."
    monkeypatch.setenv("MMTMERGE_CACHE", str(tmp_path / "cache"))
    folder, wanted = tmp_path / "model", {name: (tuple(t.shape), t.dtype) for name, t in state(model).items()}
    model.config.save_pretrained(folder)
    sizes = {name: t.nbytes for name, t in state(model).items()}
    shards = checkpoint_writer.plan_shards(sizes, 10**9)
    assert (
        sum(sizes.values()) == 2 * PARAMETERS[profile]
        and [name for shard in shards for name in shard] == list(sizes)
        and max(sum(sizes[n] for n in shard) for shard in shards) <= 10**9
    )
    for i, shard in enumerate(shards):
        with checkpoint_writer.TensorFile(
            folder / f"model-{i}.safetensors", {name: wanted[name] for name in shard}
        ).file as f:
            f.truncate(f.tell() + sum(sizes[n] for n in shard))
    read = checkpoint_reader.Checkpoint(folder)
    checkpoint_checks.check_written(folder, wanted)
    checkpoint_checks.check_compatible(read, {"en-hi": checkpoint_reader.Checkpoint(folder)}, tokenizer=False)
    assert (
        read.keys() == wanted.keys()
        and set(Recipe("ties", dict(K=0.5)).task_vectors(read, {"en-hi": read}).names) == wanted.keys() - EMBEDDINGS
    )


def test_every_gate_is_watched(model):
    assert len(Watch(model, 2).counts) == model.config.num_hidden_layers
    assert all(g.out_features == model.config.intermediate_size for g in gates(model)[2])


def test_llama_is_asked_between_its_own_marks():
    "The base has no chat template: 20_base gives it one."
    tokenizer = AutoTokenizer.from_pretrained(REPO / "mmtmerge/data/miniature")
    begin, (start, end), last = "<|begin_of_text|>", base_spec("llama-3.2-1b")["turn"].split(), "<|end_of_text|>"
    tokenizer.chat_template = chat_template(begin, start, end, last)
    turns = [dict(role="user", content="a line\na sentence"), dict(role="assistant", content="its translation")]
    asked = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    assert (
        asked == f"{begin}{start}a line\na sentence{end}"
        and tokenizer.apply_chat_template(turns, tokenize=False) == f"{asked}its translation{last}"
    )
