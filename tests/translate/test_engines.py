"CTranslate2 writes what Transformers writes; vLLM's worker, with a stand-in; a table does not mix engines."

import json
import sys

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from mmtmerge.core import UserError, cache_dir, root
from mmtmerge.corpus.embedded import Corpus
from mmtmerge.engines import open_engine
from mmtmerge.merge.grid_search import Sweep, points, race
from mmtmerge.merge.task_vectors import state
from mmtmerge.models import find_base
from mmtmerge.report.results import Results
from mmtmerge.settings import load


@pytest.fixture
def ctranslate2(monkeypatch, tmp_path):
    "CTranslate2, with a new cache for its conversions."
    pytest.importorskip("ctranslate2")
    monkeypatch.setenv("MMTMERGE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def miniature():
    return root() / "mmtmerge/data/miniature"


def translations(folder, study, direction, lines):
    "Of both engines, on the same sentences."
    p = study.p
    corpus = Corpus.open("embedded")
    sources = corpus.test("devtest", direction, lines, p.min_words, p.max_words).source.tolist()
    made = []
    for name in ("transformers", "ctranslate2"):
        engine = open_engine(name, folder, "float32")
        made.append(engine.translate(study.instruction(direction), sources, p))
    return made


@pytest.mark.parametrize("direction", ["hi-en", "en-ta"])
def test_greedy_outputs_agree_on_the_miniature(direction, miniature, ctranslate2):
    ours, theirs = translations(miniature, load("smoke"), direction, 100)
    assert ours.texts == theirs.texts
    assert ours.new_tokens == theirs.new_tokens
    assert any(ours.texts)


@pytest.mark.slow
def test_greedy_outputs_agree_on_the_laptop_model(monkeypatch, tmp_path):
    "Where two tokens are equally likely to the last digits, one sentence in a hundred may differ."
    pytest.importorskip("ctranslate2")
    study = load("laptop")
    folder = study.result("base", "base").parent / "checkpoint"
    if not folder.exists():
        folder = find_base(study.p.base, cache_dir())[0]
        study.p.new_token_ratio, study.p.new_token_extra = 0, 8  # the untuned model never ends
    if not AutoTokenizer.from_pretrained(folder).chat_template:
        pytest.skip("make the laptop's base first: mmtmerge run base")
    monkeypatch.setenv("MMTMERGE_CACHE", str(tmp_path))
    for direction in ("hi-en", "en-te"):
        ours, theirs = translations(folder, study, direction, 100)
        assert sum(a != b for a, b in zip(ours.texts, theirs.texts)) <= 1


def test_a_model_that_ctranslate2_cannot_load_is_refused(tmp_path, miniature, ctranslate2):
    "It wants a token of the beginning of a Llama, also where its tokenizer has none."
    tokenizer = AutoTokenizer.from_pretrained(miniature)
    assert tokenizer.bos_token is None
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    folder = tmp_path / "llama"
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match="llama.*write engine = transformers"):
        open_engine("ctranslate2", folder, "float32")


@pytest.mark.parametrize("engine, dtype", [("ctranslate2", "float32"), ("transformers", "bfloat16")])
def test_a_table_does_not_mix_engines_or_dtypes(copy, monkeypatch, engine, dtype):
    monkeypatch.setenv("MMTMERGE_ROOT", str(copy("mixed")))
    study = load("smoke")
    made = {
        "base__indic-en": dict(engine="transformers", dtype="float32"),
        "hi-en__indic-en": dict(engine=engine, dtype=dtype),
    }
    for key, result in made.items():
        file = study.result("translate", key)
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(dict(result=result)))
    results = Results(study)
    results.read("translate", "base__indic-en")
    was = f"hi-en__indic-en was translated by {engine} in {dtype}"
    with pytest.raises(UserError, match=f"{was}, base__indic-en by transformers in float32"):
        results.read("translate", "hi-en__indic-en")


def stand_in(at, monkeypatch, text):
    "A Python whose vllm is this text."
    (at / "vllm.py").write_text(text)
    python = at / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={at} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("MMTMERGE_VLLM", str(python))


TALKATIVE = """
import os, sys
print("INFO vLLM is imported")                            # as vLLM does, on standard output

class SamplingParams:
    def __init__(self, **options): self.__dict__.update(options)

class Out:
    def __init__(self, ids): self.outputs, self.token_ids = [self], ids

class LLM:
    def __init__(self, folder, **options):
        self.weights = folder
        os.system("echo INFO a process of its own")
    def collective_rpc(self, name, kwargs): self.weights = kwargs["weights_path"]
    def reset_prefix_cache(self): print("INFO cache")
    def generate(self, prompts, wanted, use_tqdm):
        print("INFO", len(prompts), "prompts")
        if not prompts: sys.exit(3)
        answers = []
        for prompt, options in zip(prompts, wanted):
            ids = [len(self.weights)] + prompt["prompt_token_ids"]
            answers.append(Out(ids[:options.max_tokens] + options.stop_token_ids))
        return answers
"""


def test_the_worker_of_vllm(tmp_path, miniature, monkeypatch, capfd):
    "Its log is not read as answers; new weights go into the running worker; its death is told."
    stand_in(tmp_path, monkeypatch, TALKATIVE)
    engine = open_engine("vllm", miniature, "float32")
    size = sum(file.stat().st_size for file in miniature.glob("*.safetensors")) / 1e6
    assert engine.memory_mb == pytest.approx(size)
    assert engine.memory_mb > 1  # a result is JSON, which has no NaN

    asked, name = [[5, 6, 7], [8]], len(str(miniature))
    assert engine.generate(asked, [3, 1], [9], None) == [[name, 5, 6], [name]]
    engine.become("other")
    assert engine.generate(asked, [1, 2], [9], None) == [[5], [5, 8]]
    with pytest.raises(UserError, match="vLLM worker ended with status 3"):
        engine.generate([], [], [9], None)
    assert "INFO a process of its own" in capfd.readouterr().err


REAL = """
import torch
from transformers import AutoModelForCausalLM

class SamplingParams:
    def __init__(self, **options): self.__dict__.update(options)

class Out:
    def __init__(self, ids): self.outputs, self.token_ids = [self], ids

class LLM:
    def __init__(self, folder, **options): self.read(folder)
    def read(self, folder): self.model = AutoModelForCausalLM.from_pretrained(folder)
    def collective_rpc(self, name, kwargs): self.read(kwargs["weights_path"])
    def reset_prefix_cache(self): pass
    def generate(self, prompts, wanted, use_tqdm):
        answers = []
        for prompt, options in zip(prompts, wanted):
            ids = torch.tensor([prompt["prompt_token_ids"]])
            limits = dict(max_new_tokens=options.max_tokens, eos_token_id=options.stop_token_ids)
            out = self.model.generate(ids, do_sample=False, **limits)
            answers.append(Out(out[0, ids.shape[1]:].tolist()))
        return answers
"""


def same_as_the_reference(hypotheses, references):
    return np.array([[a == b, len(a)] for a, b in zip(hypotheses, references)])


def total(statistics):
    return float(statistics.sum())


def swept(name, folder):
    "What an engine writes at the points of a grid, and once more before the first of them."
    study, lines = load("smoke"), Corpus.open("embedded").test("dev", "hi-en", 3, 3, 8)
    engine = open_engine(name, folder, "float32")
    engine.refresh()
    base = {key: tensor.clone() for key, tensor in state(engine.model).items()}
    seed, experts, texts = torch.Generator().manual_seed(0), {}, []
    for direction in ("hi-en", "ta-en"):
        moved = {}
        for key, tensor in base.items():
            moved[key] = tensor + 0.05 * torch.randn(tensor.shape, generator=seed)
        experts[direction] = moved

    def translate(resident, first, last):
        engine.refresh()
        sources = lines.source[first:last].tolist()
        texts.append(engine.translate(study.instruction("hi-en"), sources, study.p).texts)
        return {"hi-en": texts[-1]}

    grid = points({"g": {"task_arithmetic": {"lam": [0.1, 0.5, 1.0]}}}, ["task_arithmetic"])
    references = {"hi-en": lines.target.tolist()}
    scores = {"same": (same_as_the_reference, total)}
    sweep = Sweep(engine.model, base, experts, grid, translate, references, scores, [len(lines)])
    race(sweep.contestants, sweep.score, 1, 1)
    return texts


def test_a_sweep_through_vllm_is_one_through_transformers(tmp_path, miniature, monkeypatch):
    "The worker gets the weights of every point."
    stand_in(tmp_path, monkeypatch, REAL)
    theirs = swept("vllm", miniature)
    assert theirs == swept("transformers", miniature)
    assert len({tuple(texts) for texts in theirs}) > 1


def test_vllm_needs_an_environment(tmp_path, miniature, monkeypatch):
    monkeypatch.setenv("MMTMERGE_VLLM", str(tmp_path))
    with pytest.raises(UserError, match="environment of its own"):
        open_engine("vllm", miniature, "float32")


def test_ctranslate2_does_not_serve_a_grid(miniature, ctranslate2):
    engine = open_engine("ctranslate2", miniature, "float32")
    with pytest.raises(UserError, match="grid_engine = ctranslate2"):
        engine.refresh()
