"The job for LLaMA-Factory says what the study's own training does."

import json

import pytest
import yaml
from conftest import mmtmerge
from training.jobs import use_corpus, write_corpus
from transformers import AutoTokenizer

from mmtmerge.prompts import prompts
from mmtmerge.settings import load
from mmtmerge.training.launch import spacing

# how LLaMA-Factory writes a turn of its template `qwen` (src/llamafactory/data/template.py)
SYSTEM = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
QWEN = SYSTEM + "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"

# of Qwen2.5's chat template, what concerns a user's turn alone
QWEN_CHAT = (
    "{%- if messages[0]['role'] != 'system' -%}{{- '" + SYSTEM + "' -}}{%- endif -%}"
    "{%- for m in messages -%}"
    "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)

APPENDIX_A = dict(
    template="qwen",
    cutoff_len=1024,
    packing=False,
    train_on_prompt=False,
    pure_bf16=True,
    num_train_epochs=3.0,
    learning_rate=5e-5,
    warmup_steps=0,
    lr_scheduler_type="inverse_sqrt",
    lr_scheduler_kwargs=dict(timescale=10000),
    optim="adamw_torch",
    weight_decay=0.0,
    disable_gradient_checkpointing=True,
)


@pytest.fixture
def project(copy, tmp_path, monkeypatch):
    at = copy("llama-factory")
    use_corpus(at, write_corpus(tmp_path / "hub"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MMTMERGE_ROOT", str(at))
    return at


def write(project, profile, folder):
    words = ["--profile", profile, "--llama-factory", str(folder), "--template", "qwen"]
    return mmtmerge(project, "finetune", "en-hi", *words)


def test_the_job_of_the_paper(project, tmp_path):
    folder = tmp_path / "job"
    said = write(project, "paper", folder)
    assert said.returncode == 0, said.stderr
    paper = load("paper")
    job = yaml.safe_load((folder / "train.yaml").read_text())
    assert job["per_device_train_batch_size"] * job["gradient_accumulation_steps"] * 8 == 1024
    assert APPENDIX_A.items() <= job.items()
    assert job["eval_steps"] == job["save_steps"] == spacing(paper.p, 3)  # 300 pairs: a step an epoch
    assert "group_by_length" not in job

    info = json.loads((folder / "dataset_info.json").read_text())
    files = [info[job[part]]["file_name"] for part in ("dataset", "eval_dataset")]
    assert files == ["en-hi.jsonl", "en-hi-dev.jsonl"]
    columns = info["en-hi"]["columns"]
    rows = [json.loads(line) for line in (folder / "en-hi.jsonl").read_text().splitlines()]
    assert len(rows) == 300
    assert all(row.keys() == set(columns.values()) for row in rows)

    tokenizer = AutoTokenizer.from_pretrained(project / "mmtmerge/data/miniature")
    tokenizer.chat_template = QWEN_CHAT
    theirs = QWEN.format(f"{rows[0][columns['prompt']]}\n{rows[0][columns['query']]}")
    (ours,) = prompts(tokenizer, paper.instruction("en-hi"), [rows[0]["input"]])
    assert tokenizer(theirs, add_special_tokens=False)["input_ids"] == ours


def test_a_template_that_writes_other_prompts_is_refused(project, tmp_path):
    said = write(project, "llama", tmp_path / "job")
    assert said.returncode == 2
    assert "template 'qwen' writes other prompts" in said.stderr
    assert not (tmp_path / "job").exists()
