"Fine-tuning on two processes of this machine, from a corpus on disk: the losses of one process, with DDP and FSDP; killed and resumed, on two processes or on one."
import json, os, re, shutil, signal, subprocess, sys, time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from conftest import environment, mmtmerge
from mmtmerge.core import UserError, write_json
from mmtmerge.training.launch import Job, Launch, command, launch, spacing
from mmtmerge.settings import load
from hub_copies import use_copies, write_copies

LAUNCH = "\n[launch smoke]\nhardware = core\ndevices = {}\nsharding = {}\nmicro_batch = {}\n"


@pytest.fixture(scope="module")
def project(copy, tmp_path_factory):
    at, data = copy("jobs"), tmp_path_factory.mktemp("hub")
    use_copies(write_copies(data), at)
    (at / "settings.ini").write_text((at / "settings.ini").read_text().replace("[profile smoke]\n", "[profile smoke]\ncorpus = samanantar\n"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HF_DATASETS_CACHE", str(data / "cache"))
        yield at


def spread(project, sharding, devices, dtype="float32", epochs=1, **more):
    "Let the smoke profile run so."
    ini = project / "settings.ini"
    text = re.sub(r"\[profile smoke\]\n(dtype = \w+\nepochs = \d\n)?", f"[profile smoke]\ndtype = {dtype}\nepochs = {epochs}\n", ini.read_text().split("\n[launch smoke]")[0])
    ini.write_text(text + LAUNCH.format(devices, sharding, 16 // (devices * more.get("nodes", 1))) + "".join(f"{k} = {v}\n" for k, v in more.items()))


def job(project, name):
    made = Job("smoke", "en-hi", 42, str(project / name), str(project / "mmtmerge/data/miniature"))
    write_json(made.file, asdict(made))
    return made


def start(project, job, monkeypatch):
    "The processes that accelerate launches for a job; one process does the same without it."
    monkeypatch.setenv("MMTMERGE_ROOT", str(project))
    return subprocess.Popen(command(job, launch("smoke"), port=free_port()), cwd=project, env=environment(project), start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def free_port():
    from mmtmerge.training.job import free_port
    return free_port()


def tuned(job): return json.loads((Path(job.folder) / "tuned.json").read_text())


def processes(job):
    "Of a job, and of what launched it."
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"{job.folder}/job.json".encode() in (entry / "cmdline").read_bytes(): found.append(int(entry.name))
        except (ProcessLookupError, PermissionError, FileNotFoundError): pass
    return found


def until(met, seconds=240):
    ends = time.time() + seconds
    while not met() and time.time() < ends: time.sleep(.01)
    return met()


def losses(job): return torch.tensor([[point[k] for k in ("loss", "eval_loss")] for point in tuned(job)["curve"]])


def done(process):
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said


@pytest.fixture(scope="module")
def alone(project):
    "What one process makes, in this one."
    from mmtmerge.training.job import work
    spread(project, "none", 1)
    made, monkeypatch = job(project, "alone"), pytest.MonkeyPatch()
    monkeypatch.setattr(os, "environ", os.environ)     # see conftest
    monkeypatch.setenv("MMTMERGE_ROOT", str(project))
    write_json(Path(made.folder) / "tuned.json", work(made, launch("smoke")))
    monkeypatch.undo()
    return made


def test_tokens_of_a_corpus_on_disk_stay_there(alone):
    assert list(Path(alone.folder).glob("trainer/tokens/*.arrow"))


@pytest.mark.parametrize("sharding, devices, checkpointing", [("ddp", 2, 0), pytest.param("fsdp", 2, 0, marks=pytest.mark.slow), ("fsdp", 2, 1), ("none", 1, 1)])
def test_the_losses_of_one_process(project, alone, sharding, devices, checkpointing, monkeypatch):
    spread(project, sharding, devices, activation_checkpointing=checkpointing)
    made = job(project, f"{sharding}-{checkpointing}")
    done(start(project, made, monkeypatch))
    torch.testing.assert_close(losses(made), losses(alone), rtol=1e-4, atol=1e-4)
    one, two = (load_file(Path(j.folder) / "checkpoint/model.safetensors") for j in (alone, made))
    assert one.keys() == two.keys()
    for name in one: torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-4)
    if devices > 1: logged(made)


def logged(job):
    "Loss, speed, memory and time left are where TensorBoard reads them."
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    run, = Path(job.folder).glob("trainer/runs/*")
    events = EventAccumulator(str(run)).Reload()
    loss, speed, memory, left = ([(e.step, e.value) for e in events.Scalars(f"train/{name}")] for name in ("loss", "tokens_per_second", "memory_gb", "minutes_left"))
    assert [step for step, _ in loss] == [2, 4, 6] and [v for _, v in loss] == pytest.approx([p["loss"] for p in tuned(job)["curve"]])
    assert all(v > 0 for _, v in speed + memory) and all(v > 0 for _, v in left[:-1]) and left[-1] == (6, 0)


@pytest.mark.parametrize("sharding, master, checkpointing", [("fsdp", 0, 0), ("ddp", 1, 1)])
def test_bfloat16(project, sharding, master, checkpointing, monkeypatch):
    "Pure, or with float32 weights beside: the expert is bfloat16, and what it was trained with is in the trainer's checkpoint."
    spread(project, sharding, 2, dtype="bfloat16", master=master, activation_checkpointing=checkpointing)
    made = job(project, f"bfloat16-{master}")
    done(start(project, made, monkeypatch))
    seen = losses(made)[:, 1]
    assert seen.isfinite().all() and seen[-1] < seen[0]
    types = lambda *at: {t.dtype for t in load_file(Path(made.folder).joinpath(*at, "model.safetensors")).values()}
    assert types("checkpoint") == {torch.bfloat16} and types("trainer", "checkpoint-6") == {torch.float32 if master else torch.bfloat16}


@pytest.fixture(scope="module")
def killed(project, alone):
    "Makes a job on two processes, every one of which was killed after the first whole checkpoint."
    made = {}
    def kill(sharding):
        if sharding in made: return made[sharding]
        spread(project, sharding, 2)
        made[sharding] = at = job(project, f"killed-{sharding}")
        with pytest.MonkeyPatch.context() as patched: process = start(project, at, patched)
        until(lambda: list(Path(at.folder).glob("trainer/checkpoint-*/whole")) or process.poll() is not None)
        assert process.poll() is None, process.communicate()[0]
        for pid in processes(at): os.kill(pid, signal.SIGKILL)
        process.wait()
        assert not (Path(at.folder) / "tuned.json").exists() and not (Path(at.folder) / "checkpoint").exists()
        return at
    return kill


def mark(trainer, step):
    "Write a loss into a checkpoint's history that only a training which goes on from it can have."
    file = trainer / f"checkpoint-{step}/trainer_state.json"
    state = json.loads(file.read_text())
    next(line for line in state["log_history"] if "loss" in line)["loss"] = 99.
    file.write_text(json.dumps(state))


def resumed(job, whole):
    "It went on from the marked checkpoint, and has the losses of a training that was not stopped."
    assert tuned(job)["resumed"] and losses(job)[0, 0] == 99
    torch.testing.assert_close(losses(job)[1:], losses(whole)[1:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("began, sharding, devices", [pytest.param("ddp", "ddp", 2, marks=pytest.mark.slow), ("ddp", "none", 1), ("fsdp", "fsdp", 2), pytest.param("fsdp", "fsdp", 4, marks=pytest.mark.slow)])
def test_killed_and_resumed(project, alone, killed, began, sharding, devices, monkeypatch):
    "A checkpoint that was being written is left out, by all processes at once."
    trainer = Path(killed(began).folder) / "trainer"
    spread(project, sharding, devices)
    again = job(project, f"resumed-{began}-{devices}")
    shutil.copytree(trainer, Path(again.folder) / "trainer")
    shutil.copytree(trainer / "checkpoint-2", Path(again.folder) / "trainer/checkpoint-4", ignore=lambda *_: ["whole"], dirs_exist_ok=True)
    (Path(again.folder) / "trainer/checkpoint-4/whole").unlink(missing_ok=True)
    mark(Path(again.folder) / "trainer", 2)
    done(start(project, again, monkeypatch))
    resumed(again, alone)


def test_resumed_in_the_second_epoch(project, monkeypatch):
    "On two processes, with the examples that were still to come."
    spread(project, "ddp", 2, epochs=2)
    made = job(project, "epochs")
    done(start(project, made, monkeypatch))
    again = job(project, "epochs-resumed")
    shutil.copytree(Path(made.folder) / "trainer", Path(again.folder) / "trainer")
    shutil.rmtree(Path(again.folder) / "trainer/checkpoint-12")
    mark(Path(again.folder) / "trainer", 9)
    done(start(project, again, monkeypatch))
    assert [p["step"] for p in tuned(again)["curve"]] == [3, 6, 9, 12]
    resumed(again, made)


def test_another_sharding_does_not_resume(project, killed, monkeypatch):
    from mmtmerge.training.finetune import last_whole_checkpoint
    from mmtmerge.training.job import work
    with pytest.raises(UserError, match="saved without FSDP .* asks for sharding = fsdp on 2: set it back"): last_whole_checkpoint(Path(killed("ddp").folder) / "trainer", Launch("core", 2, sharding="fsdp"))
    made = killed("fsdp")
    spread(project, "none", 1)
    monkeypatch.setenv("MMTMERGE_ROOT", str(project))
    with pytest.raises(UserError, match="saved by FSDP .* asks for sharding = none on 1: set it back"): work(made, launch("smoke"))


@pytest.fixture
def expert(project, monkeypatch):
    "The job of a project whose base is there, as `fine_tune` starts it."
    from mmtmerge.training.launch import job_of
    for name, value in environment(project).items(): monkeypatch.setenv(name, value)
    made = job_of(load("smoke"), "en-hi", 42)
    shutil.copytree(project / "mmtmerge/data/miniature", made.base, dirs_exist_ok=True)
    shutil.rmtree(made.folder, ignore_errors=True)
    yield made
    for pid in processes(made): os.kill(pid, signal.SIGKILL)


def test_what_was_launched_ends_with_its_run(project, expert):
    spread(project, "ddp", 2)
    front = subprocess.Popen([sys.executable, "-c", "from mmtmerge.training.job import fine_tune; from mmtmerge.settings import load; fine_tune(load('smoke'), 'en-hi', 42)"], cwd=project)
    assert until(lambda: len(processes(expert)) == 3 or front.poll() is not None) and front.poll() is None
    front.kill(); front.wait()
    assert until(lambda: not processes(expert), 60)
    assert not (Path(expert.folder) / "tuned.json").exists()


def test_two_nodes(project, alone, expert, tmp_path, monkeypatch):
    "With stand-ins for Slurm's programs: two nodes that are this machine."
    from mmtmerge.training.job import fine_tune
    spread(project, "ddp", 1, nodes=2)
    for name, lines in dict(scontrol="echo localhost", srun=f'echo "$@" > {tmp_path}/said\nfor line; do :; done\nSLURM_NODEID=0 bash -c "$line" & SLURM_NODEID=1 bash -c "$line" && wait $!').items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{lines}\n"); (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "both")
    assert fine_tune(load("smoke"), "en-hi", 42)["pairs"] == tuned(alone)["pairs"] == 96
    torch.testing.assert_close(losses(expert), losses(alone), rtol=1e-4, atol=1e-4)
    assert (tmp_path / "said").read_text().startswith("--overlap --nodes 2 --ntasks 2 --ntasks-per-node 1 ")


# how LLaMA-Factory writes a turn of its template `qwen` (src/llamafactory/data/template.py), and of Qwen2.5's chat template what concerns a user's turn alone
QWEN = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
QWEN_CHAT = ("{%- if messages[0]['role'] != 'system' -%}{{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n' -}}{%- endif -%}"
             "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' -}}{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}")


def test_the_job_for_llama_factory(project, tmp_path, monkeypatch):
    from transformers import AutoTokenizer
    from mmtmerge.models import prompts
    there = tmp_path / "job"
    said = mmtmerge(project, "finetune", "en-hi", "--profile", "paper", "--llama-factory", str(there), "--template", "qwen")
    assert said.returncode == 0, said.stderr
    monkeypatch.setenv("MMTMERGE_ROOT", str(project))
    paper, job = load("paper"), yaml.safe_load((there / "train.yaml").read_text())
    assert job["per_device_train_batch_size"] * job["gradient_accumulation_steps"] * 8 == 1024
    assert dict(template="qwen", cutoff_len=1024, packing=False, train_on_prompt=False, pure_bf16=True, num_train_epochs=3., learning_rate=5e-5, warmup_steps=0,
                lr_scheduler_type="inverse_sqrt", lr_scheduler_kwargs=dict(timescale=10000), optim="adamw_torch", weight_decay=0., disable_gradient_checkpointing=True).items() <= job.items()
    assert job["eval_steps"] == job["save_steps"] == spacing(paper.p, 3) and "group_by_length" not in job     # 300 pairs: a step an epoch
    info = json.loads((there / "dataset_info.json").read_text())
    assert [info[job[k]]["file_name"] for k in ("dataset", "eval_dataset")] == ["en-hi.jsonl", "en-hi-dev.jsonl"]
    columns = info["en-hi"]["columns"]
    rows = [json.loads(line) for line in (there / "en-hi.jsonl").read_text().splitlines()]
    assert len(rows) == 300 and all(rows[0].keys() == set(columns.values()) for row in rows)
    tokenizer = AutoTokenizer.from_pretrained(project / "mmtmerge/data/miniature")
    tokenizer.chat_template = QWEN_CHAT
    asked = QWEN.format(f"{rows[0][columns['prompt']]}\n{rows[0][columns['query']]}")
    assert tokenizer(asked, add_special_tokens=False)["input_ids"] == prompts(tokenizer, paper.instruction("en-hi"), [rows[0]["input"]])[0]
    said = mmtmerge(project, "finetune", "en-hi", "--profile", "llama", "--llama-factory", str(tmp_path / "other"), "--template", "qwen")
    assert said.returncode == 2 and "template 'qwen' writes other prompts" in said.stderr


def test_a_batch_that_cannot_be_cut_is_refused_before_anything_starts(copy):
    at = copy("uncut")
    (at / "settings.ini").write_text((at / "settings.ini").read_text() + LAUNCH.format(3, "ddp", 5))
    said = mmtmerge(at, "finetune", "en-hi", "--profile", "smoke")
    assert said.returncode == 2 and "cannot be cut into 3 devices" in said.stderr and not (at / "outputs").exists()


def test_the_command_is_printed(project):
    said = mmtmerge(project, "finetune", "en-hi", "--profile", "paper", "--dry-run")
    assert said.returncode == 0, said.stderr
    assert "8 x h100, sharding fsdp: 8 sequences a device x 16 = 1024 a step" in said.stdout
    assert "accelerate.commands.launch --multi_gpu --num_processes 8 --num_machines 1" in said.stdout
    assert mmtmerge(project, "finetune", "en-xx", "--profile", "paper").returncode == 2


@pytest.mark.slow
def test_through_the_notebook(copy):
    at = copy("notebook")
    spread(at, "ddp", 2)
    said = mmtmerge(at, "finetune", "en-hi", "--profile", "smoke")     # after the base
    assert said.returncode == 0, said.stderr
    made = at / "outputs/smoke/runs/finetune/en-hi"
    assert json.loads((made / "result.json").read_text())["result"]["pairs"] == 96
    assert [f.name for f in (made / "trainer").iterdir()] == ["runs"]     # what TensorBoard shows stays, checkpoints go
