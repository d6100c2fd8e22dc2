"CTranslate2 writes what Transformers writes; vLLM's worker, with a stand-in for vLLM; a table does not mix engines."
import json, sys

import numpy as np
import pytest

from mmtmerge.core import UserError, cache_dir, root
from mmtmerge.corpus.embedded import Corpus
from mmtmerge.engines import open_engine
from mmtmerge.settings import load


def both(folder, study, direction, lines, monkeypatch, tmp_path):
    pytest.importorskip("ctranslate2")
    monkeypatch.setenv("MMTMERGE_CACHE", str(tmp_path))
    sources = Corpus.open("embedded").test("devtest", direction, lines, study.p.min_words, study.p.max_words).source.tolist()
    return [open_engine(name, folder, "float32").translate(study.instruction(direction), sources, study.p) for name in ("transformers", "ctranslate2")]


@pytest.mark.parametrize("direction", ["hi-en", "en-ta"])
def test_greedy_outputs_agree_on_the_miniature(direction, monkeypatch, tmp_path):
    ours, theirs = both(root() / "mmtmerge/data/miniature", load("smoke"), direction, 100, monkeypatch, tmp_path)
    assert ours.texts == theirs.texts and ours.new_tokens == theirs.new_tokens and any(ours.texts)


@pytest.mark.slow
def test_greedy_outputs_agree_on_the_laptop_model(monkeypatch, tmp_path):
    "Up to the stated exceptions: where two tokens are equally likely to the last digits, one sentence in a hundred may differ."
    from mmtmerge.models import find_base
    study = load("laptop")
    made = study.result("base", "base").parent / "checkpoint"
    folder = made if made.exists() else find_base(study.p.base, cache_dir())[0]
    if not made.exists(): study.p.new_token_ratio, study.p.new_token_extra = 0, 8     # the untuned model never ends
    from transformers import AutoTokenizer
    if not AutoTokenizer.from_pretrained(folder).chat_template: pytest.skip("make the laptop's base first: mmtmerge run base")
    for direction in ("hi-en", "en-te"):
        ours, theirs = both(folder, study, direction, 100, monkeypatch, tmp_path)
        assert sum(a != b for a, b in zip(ours.texts, theirs.texts)) <= 1


def test_a_model_that_ctranslate2_cannot_load_is_refused(tmp_path, monkeypatch):
    "It wants a token of the beginning of a Llama, also where its tokenizer has none."
    pytest.importorskip("ctranslate2")
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    monkeypatch.setenv("MMTMERGE_CACHE", str(tmp_path / "cache"))
    tokenizer = AutoTokenizer.from_pretrained(root() / "mmtmerge/data/miniature")
    assert tokenizer.bos_token is None
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)).save_pretrained(tmp_path / "llama")
    tokenizer.save_pretrained(tmp_path / "llama")
    with pytest.raises(UserError, match="llama.*write engine = transformers"): open_engine("ctranslate2", tmp_path / "llama", "float32")


@pytest.mark.parametrize("engine, dtype", [("ctranslate2", "float32"), ("transformers", "bfloat16")])
def test_a_table_does_not_mix_engines_or_dtypes(copy, monkeypatch, engine, dtype):
    from mmtmerge.report.results import Results
    project = copy("mixed")
    monkeypatch.setenv("MMTMERGE_ROOT", str(project))
    study = load("smoke")
    for key, how in (("base__indic-en", dict(engine="transformers", dtype="float32")), ("hi-en__indic-en", dict(engine=engine, dtype=dtype))):
        file = study.result("translate", key)
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(dict(result=how)))
    results = Results(study)
    results.read("translate", "base__indic-en")
    mixed = f"hi-en__indic-en was translated by {engine} in {dtype}, base__indic-en by transformers in float32"
    with pytest.raises(UserError, match=mixed):
        results.read("translate", "hi-en__indic-en")


VLLM = """
import os, sys
print("INFO vLLM is imported")                            # as vLLM does, on standard output
class SamplingParams:
    def __init__(self, **how): self.__dict__.update(how)
class Out:
    def __init__(self, ids): self.outputs, self.token_ids = [self], ids
class LLM:
    def __init__(self, folder, **how): self.weights = folder; os.system("echo INFO a process of its own")
    def collective_rpc(self, name, kwargs): self.weights = kwargs["weights_path"]
    def reset_prefix_cache(self): print("INFO cache")
    def generate(self, prompts, how, use_tqdm):
        print("INFO", len(prompts), "prompts")
        if not prompts: sys.exit(3)
        return [Out(([len(self.weights)] + p["prompt_token_ids"])[:h.max_tokens] + h.stop_token_ids) for p, h in zip(prompts, how)]
"""


def test_the_worker_of_vllm(tmp_path, monkeypatch, capfd):
    "Its log is not read as answers; new weights go into the running worker; its death is told."
    stand_in(tmp_path, monkeypatch, VLLM)
    folder = root() / "mmtmerge/data/miniature"
    engine = open_engine("vllm", folder, "float32")
    assert engine.memory_mb == pytest.approx(sum(f.stat().st_size for f in folder.glob("*.safetensors")) / 1e6) and engine.memory_mb > 1     # a result is JSON, which has no NaN
    asked = [[5, 6, 7], [8]]
    assert engine.generate(asked, [3, 1], [9], None) == [[len(str(folder)), 5, 6], [len(str(folder))]]
    engine.become("other")
    assert engine.generate(asked, [1, 2], [9], None) == [[5], [5, 8]]
    with pytest.raises(UserError, match="vLLM worker ended with status 3"): engine.generate([], [], [9], None)
    assert "INFO a process of its own" in capfd.readouterr().err


REAL = """
import torch
from transformers import AutoModelForCausalLM
class SamplingParams:
    def __init__(self, **how): self.__dict__.update(how)
class Out:
    def __init__(self, ids): self.outputs, self.token_ids = [self], ids
class LLM:
    def __init__(self, folder, **how): self.named = folder; self.read()
    def read(self): self.model = AutoModelForCausalLM.from_pretrained(self.named)
    def collective_rpc(self, name, kwargs): self.named = kwargs["weights_path"]; self.read()
    def reset_prefix_cache(self): pass
    def generate(self, prompts, how, use_tqdm):
        ids = [torch.tensor([p["prompt_token_ids"]]) for p in prompts]
        return [Out(self.model.generate(i, do_sample=False, max_new_tokens=h.max_tokens, eos_token_id=h.stop_token_ids)[0, i.shape[1]:].tolist()) for i, h in zip(ids, how)]
"""


def stand_in(at, monkeypatch, text):
    "A Python whose vllm is this text."
    (at / "vllm.py").write_text(text)
    python = at / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={at} exec {sys.executable} "$@"\n'); python.chmod(0o755)
    monkeypatch.setenv("MMTMERGE_VLLM", str(python))


def test_a_sweep_through_vllm_is_one_through_transformers(tmp_path, monkeypatch):
    "The worker gets the weights of every point; an engine that cannot take them is refused."
    import torch
    from mmtmerge.merge.grid_search import Sweep, points, race
    from mmtmerge.merge.task_vectors import state
    stand_in(tmp_path, monkeypatch, REAL)
    folder, study = root() / "mmtmerge/data/miniature", load("smoke")
    lines = Corpus.open("embedded").test("dev", "hi-en", 3, 3, 8)
    def swept(name):
        engine = open_engine(name, folder, "float32")
        engine.refresh()
        base, seed, texts = {n: t.clone() for n, t in state(engine.model).items()}, torch.Generator().manual_seed(0), []
        experts = {d: {n: t + .05 * torch.randn(t.shape, generator=seed) for n, t in base.items()} for d in ("hi-en", "ta-en")}
        def translate(resident, first, last):
            engine.refresh()
            texts.append(engine.translate(study.instruction("hi-en"), lines.source[first:last].tolist(), study.p).texts)
            return {"hi-en": texts[-1]}
        sweep = Sweep(engine.model, base, experts, points({"g": {"task_arithmetic": {"lam": [.1, .5, 1.]}}}, ["task_arithmetic"]), translate, {"hi-en": lines.target.tolist()},
                      {"same": (lambda h, r: np.array([[a == b, len(a)] for a, b in zip(h, r)]), lambda s: float(s.sum()))}, [len(lines)])
        race(sweep.contestants, sweep.score, 1, 1)
        return texts
    theirs = swept("vllm")
    assert theirs == swept("transformers") and len({tuple(t) for t in theirs}) > 1
    monkeypatch.setenv("MMTMERGE_VLLM", str(tmp_path))
    with pytest.raises(UserError, match="environment of its own"): open_engine("vllm", folder, "float32")
    pytest.importorskip("ctranslate2")
    monkeypatch.setenv("MMTMERGE_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="grid_engine = ctranslate2"): open_engine("ctranslate2", folder, "float32").refresh()
