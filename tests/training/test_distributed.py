"""Fine-tuning on two processes of this machine, from a corpus on disk: the losses of one process, with DDP and FSDP;
killed and resumed, on two processes or on one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import environment, mmtmerge
from safetensors.torch import load_file
from training.jobs import (
    LAUNCH,
    done,
    job,
    kill,
    losses,
    processes,
    spread,
    start,
    tuned,
    until,
    use_corpus,
    write_corpus,
)

from mmtmerge.core import UserError, write_json
from mmtmerge.settings import load
from mmtmerge.training.checkpoints import last_whole_checkpoint
from mmtmerge.training.job import fine_tune, work
from mmtmerge.training.launch import Launch, job_of, launch

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def project(copy, tmp_path_factory):
    "A copy of the repository that reads a corpus on disk."
    at, data = copy("jobs"), tmp_path_factory.mktemp("hub")
    use_corpus(at, write_corpus(data))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HF_DATASETS_CACHE", str(data / "cache"))
        yield at


@pytest.fixture(scope="module")
def alone(project):
    "What one process makes, in this one."
    spread(project, "none", 1)
    made, monkeypatch = job(project, "alone"), pytest.MonkeyPatch()
    monkeypatch.setattr(os, "environ", os.environ)  # see conftest
    monkeypatch.setenv("MMTMERGE_ROOT", str(project))
    write_json(Path(made.folder) / "tuned.json", work(made, launch("smoke")))
    monkeypatch.undo()
    return made


def weights(job, *names):
    "Weights below a job's folder."
    return load_file(Path(job.folder).joinpath(*names, "model.safetensors"))


def test_tokens_of_a_corpus_on_disk_stay_there(alone):
    assert list(Path(alone.folder).glob("trainer/tokens/*.arrow"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "sharding, devices, checkpointing",
    [("ddp", 2, 0), pytest.param("fsdp", 2, 0, marks=slow), ("fsdp", 2, 1), ("none", 1, 1)],
)
def test_the_losses_of_one_process(project, alone, sharding, devices, checkpointing, monkeypatch):
    spread(project, sharding, devices, activation_checkpointing=checkpointing)
    made = job(project, f"{sharding}-{checkpointing}")
    done(start(project, made, monkeypatch))
    torch.testing.assert_close(losses(made), losses(alone), rtol=1e-4, atol=1e-4)
    one, two = weights(alone, "checkpoint"), weights(made, "checkpoint")
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-4)
    if devices > 1:
        check_logs(made)


def check_logs(job):
    "Loss, speed, memory and time left are where TensorBoard reads them."
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (run,) = Path(job.folder).glob("trainer/runs/*")
    events = EventAccumulator(str(run)).Reload()

    def read(name):
        return [(event.step, event.value) for event in events.Scalars(f"train/{name}")]

    curve = [point["loss"] for point in tuned(job)["curve"]]
    assert [step for step, _ in read("loss")] == [2, 4, 6]
    assert [value for _, value in read("loss")] == pytest.approx(curve)
    assert all(value > 0 for _, value in read("tokens_per_second") + read("memory_gb"))
    *before, last = read("minutes_left")
    assert all(value > 0 for _, value in before)
    assert last == (6, 0)


@pytest.mark.parametrize("sharding, master, checkpointing", [("fsdp", 0, 0), ("ddp", 1, 1)])
def test_bfloat16(project, sharding, master, checkpointing, monkeypatch):
    "Pure, or with float32 weights next to it: the expert is bfloat16, the trainer's checkpoint is what was trained."
    more = dict(master=master, activation_checkpointing=checkpointing)
    spread(project, sharding, 2, dtype="bfloat16", **more)
    made = job(project, f"bfloat16-{master}")
    done(start(project, made, monkeypatch))
    dev = losses(made)[:, 1]
    assert dev.isfinite().all() and dev[-1] < dev[0]

    def types(*names):
        return {tensor.dtype for tensor in weights(made, *names).values()}

    assert types("checkpoint") == {torch.bfloat16}
    assert types("trainer", "checkpoint-6") == {torch.float32 if master else torch.bfloat16}


@pytest.fixture(scope="module")
def killed(project, alone):
    "Makes a job on two processes, every one of which was killed after the first whole checkpoint."
    made = {}

    def make(sharding):
        if sharding in made:
            return made[sharding]
        spread(project, sharding, 2)
        made[sharding] = at = job(project, f"killed-{sharding}")
        folder = Path(at.folder)
        with pytest.MonkeyPatch.context() as patched:
            process = start(project, at, patched)
        until(lambda: list(folder.glob("trainer/checkpoint-*/whole")) or process.poll() is not None)
        assert process.poll() is None, process.communicate()[0]
        kill(at)
        process.wait()
        assert not (folder / "tuned.json").exists()
        assert not (folder / "checkpoint").exists()
        return at

    return make


def mark(trainer, step):
    "Write a loss into a checkpoint's history that only a training which goes on from it can have."
    file = trainer / f"checkpoint-{step}/trainer_state.json"
    state = json.loads(file.read_text())
    first = next(line for line in state["log_history"] if "loss" in line)
    first["loss"] = 99.0
    file.write_text(json.dumps(state))


def check_resumed(job, whole):
    "It went on from the marked checkpoint, and has the losses of a training that was not stopped."
    assert tuned(job)["resumed"]
    assert losses(job)[0, 0] == 99
    torch.testing.assert_close(losses(job)[1:], losses(whole)[1:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "began, sharding, devices",
    [
        pytest.param("ddp", "ddp", 2, marks=slow),
        ("ddp", "none", 1),
        ("fsdp", "fsdp", 2),
        pytest.param("fsdp", "fsdp", 4, marks=slow),
    ],
)
def test_killed_and_resumed(project, alone, killed, began, sharding, devices, monkeypatch):
    "A checkpoint that was being written is left out, by all processes at once."
    before = Path(killed(began).folder) / "trainer"
    spread(project, sharding, devices)
    again = job(project, f"resumed-{began}-{devices}")
    trainer = Path(again.folder) / "trainer"
    shutil.copytree(before, trainer)
    cut = trainer / "checkpoint-4"
    shutil.copytree(before / "checkpoint-2", cut, dirs_exist_ok=True)
    (cut / "whole").unlink()
    mark(trainer, 2)
    done(start(project, again, monkeypatch))
    check_resumed(again, alone)


@pytest.mark.slow
def test_resumed_in_the_second_epoch(project, monkeypatch):
    "On two processes, with the examples that were still to come."
    spread(project, "ddp", 2, epochs=2)
    made = job(project, "epochs")
    done(start(project, made, monkeypatch))
    again = job(project, "epochs-resumed")
    trainer = Path(again.folder) / "trainer"
    shutil.copytree(Path(made.folder) / "trainer", trainer)
    shutil.rmtree(trainer / "checkpoint-12")
    mark(trainer, 9)
    done(start(project, again, monkeypatch))
    assert [point["step"] for point in tuned(again)["curve"]] == [3, 6, 9, 12]
    check_resumed(again, made)


def test_another_sharding_does_not_resume(project, killed, monkeypatch):
    by_ddp, by_fsdp = killed("ddp"), killed("fsdp")
    refused = "saved without FSDP .* asks for sharding = fsdp on 2: set it back"
    with pytest.raises(UserError, match=refused):
        last_whole_checkpoint(Path(by_ddp.folder) / "trainer", Launch("core", 2, sharding="fsdp"))
    spread(project, "none", 1)
    monkeypatch.setenv("MMTMERGE_ROOT", str(project))
    refused = "saved by FSDP .* asks for sharding = none on 1: set it back"
    with pytest.raises(UserError, match=refused):
        work(by_fsdp, launch("smoke"))


@pytest.fixture
def expert(project, monkeypatch):
    "The job of a project whose base is there, as `fine_tune` starts it."
    for name, value in environment(project).items():
        monkeypatch.setenv(name, value)
    made = job_of(load("smoke"), "en-hi", 42)
    shutil.copytree(project / "mmtmerge/data/miniature", made.base, dirs_exist_ok=True)
    shutil.rmtree(made.folder, ignore_errors=True)
    yield made
    kill(made)


TUNE = """
from mmtmerge.settings import load
from mmtmerge.training.job import fine_tune
fine_tune(load("smoke"), "en-hi", 42)
"""


def test_what_was_launched_ends_with_its_run(project, expert):
    spread(project, "ddp", 2)
    front = subprocess.Popen([sys.executable, "-c", TUNE], cwd=project)
    assert until(lambda: len(processes(expert)) == 3 or front.poll() is not None)
    assert front.poll() is None
    front.kill()
    front.wait()
    assert until(lambda: not processes(expert), 60)
    assert not (Path(expert.folder) / "tuned.json").exists()


FAULT = """
import os, pathlib, signal
marker = pathlib.Path(__file__).with_name("died")
if os.environ.get("RANK") == "0" and not marker.exists():
    marker.touch()
    os.kill(os.getpid(), signal.SIGSEGV)
"""


@pytest.mark.slow
def test_a_job_whose_process_dies_of_a_fault_is_started_again(project, alone, expert, tmp_path, monkeypatch):
    "Once; the launcher's log says so."
    spread(project, "ddp", 2)
    (tmp_path / "sitecustomize.py").write_text(FAULT)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ['PYTHONPATH']}")
    assert fine_tune(load("smoke"), "en-hi", 42)["pairs"] == 96
    assert (tmp_path / "died").exists()
    assert "(SIGSEGV)" in (Path(expert.folder) / "launch.log").read_text()
    torch.testing.assert_close(losses(expert), losses(alone), rtol=1e-4, atol=1e-4)


SRUN = """\
echo "$@" > {said}
for line; do :; done
SLURM_NODEID=0 bash -c "$line" & SLURM_NODEID=1 bash -c "$line" && wait $!"""


@pytest.mark.slow
def test_two_nodes(project, alone, expert, tmp_path, monkeypatch):
    "With stand-ins for Slurm's programs: two nodes that are this machine."
    spread(project, "ddp", 1, nodes=2)
    said = tmp_path / "said"
    for name, lines in dict(scontrol="echo localhost", srun=SRUN.format(said=said)).items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{lines}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "both")
    assert fine_tune(load("smoke"), "en-hi", 42)["pairs"] == tuned(alone)["pairs"] == 96
    torch.testing.assert_close(losses(expert), losses(alone), rtol=1e-4, atol=1e-4)
    assert said.read_text().startswith("--overlap --nodes 2 --ntasks 2 --ntasks-per-node 1 ")


def test_a_batch_that_cannot_be_cut_is_refused_before_anything_starts(copy):
    at = copy("uncut")
    with open(at / "settings.ini", "a") as settings:
        settings.write(LAUNCH.format(devices=3, sharding="ddp", micro_batch=5))
    said = mmtmerge(at, "finetune", "en-hi", "--profile", "smoke")
    assert said.returncode == 2 and "cannot be cut into 3 devices" in said.stderr
    assert not (at / "outputs").exists()


def test_the_command_is_printed(project):
    said = mmtmerge(project, "finetune", "en-hi", "--profile", "paper", "--dry-run")
    assert said.returncode == 0, said.stderr
    assert "8 x h100, sharding fsdp: 8 sequences a device x 16 = 1024 a step" in said.stdout
    assert "accelerate.commands.launch --multi_gpu --num_processes 8 --num_machines 1" in said.stdout
    assert mmtmerge(project, "finetune", "en-xx", "--profile", "paper").returncode == 2


@slow
def test_through_the_notebook(copy):
    at = copy("notebook")
    spread(at, "ddp", 2)
    said = mmtmerge(at, "finetune", "en-hi", "--profile", "smoke")  # after the base
    assert said.returncode == 0, said.stderr
    made = at / "outputs/smoke/runs/finetune/en-hi"
    assert json.loads((made / "result.json").read_text())["result"]["pairs"] == 96
    assert [file.name for file in (made / "trainer").iterdir()] == ["runs"]  # checkpoints go, TensorBoard's files stay
