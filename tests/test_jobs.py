"Fine-tuning on two processes of this machine: the losses of one process, with DDP and FSDP; killed and resumed, on two processes or on one."
import json, os, shutil, signal, subprocess, time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from conftest import environment, mmtmerge
from mmtmerge.core import write_json
from mmtmerge.launch import Job, command, launch

LAUNCH = "\n[launch smoke]\nhardware = core\ndevices = {}\nsharding = {}\nmicro_batch = {}\n"


@pytest.fixture(scope="module")
def project(copy): return copy("jobs")


def spread(project, sharding, devices):
    "Let the smoke profile run so."
    ini = project / "settings.ini"
    ini.write_text(ini.read_text().split("\n[launch smoke]")[0] + LAUNCH.format(devices, sharding, 16 // devices))


def job(project, name):
    made = Job("smoke", "en-hi", 42, str(project / name), str(project / "mmtmerge/data/miniature"))
    write_json(made.file, asdict(made))
    return made


def start(project, job, monkeypatch):
    "The processes that accelerate launches for a job; one process does the same without it."
    monkeypatch.setenv("MMTMERGE_ROOT", str(project))
    return subprocess.Popen(command(job, launch("smoke"), port=free_port()), cwd=project, env=environment(project), start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def free_port():
    from mmtmerge.jobs import free_port
    return free_port()


def tuned(job): return json.loads((Path(job.folder) / "tuned.json").read_text())


def losses(job): return torch.tensor([[point[k] for k in ("loss", "eval_loss")] for point in tuned(job)["curve"]])


def done(process):
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said


@pytest.fixture(scope="module")
def alone(project):
    "What one process makes, in this one."
    from mmtmerge.jobs import work
    spread(project, "none", 1)
    made, monkeypatch = job(project, "alone"), pytest.MonkeyPatch()
    monkeypatch.setenv("MMTMERGE_ROOT", str(project))
    write_json(Path(made.folder) / "tuned.json", work(made, launch("smoke")))
    monkeypatch.undo()
    return made


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_processes_have_the_losses_of_one(project, alone, sharding, monkeypatch):
    from safetensors.torch import load_file
    spread(project, sharding, 2)
    made = job(project, sharding)
    done(start(project, made, monkeypatch))
    torch.testing.assert_close(losses(made), losses(alone), rtol=1e-4, atol=1e-4)
    one, two = (load_file(Path(j.folder) / "checkpoint/model.safetensors") for j in (alone, made))
    assert one.keys() == two.keys()
    for name in one: torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def killed(project, alone):
    "A job on two processes, every one of which was killed after the first whole checkpoint."
    spread(project, "ddp", 2)
    made, monkeypatch = job(project, "killed"), pytest.MonkeyPatch()
    process = start(project, made, monkeypatch)
    monkeypatch.undo()
    until = time.time() + 240
    while not list(Path(made.folder).glob("trainer/checkpoint-*/whole")) and time.time() < until and process.poll() is None: time.sleep(.01)
    assert process.poll() is None, process.communicate()[0]
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(made.folder).encode() in (entry / "cmdline").read_bytes(): os.kill(int(entry.name), signal.SIGKILL)
        except (ProcessLookupError, PermissionError, FileNotFoundError): pass
    process.wait()
    assert not (Path(made.folder) / "tuned.json").exists() and not (Path(made.folder) / "checkpoint").exists()
    return made


@pytest.mark.parametrize("sharding, devices", [("ddp", 2), ("none", 1)])
def test_killed_and_resumed(project, alone, killed, sharding, devices, monkeypatch):
    spread(project, sharding, devices)
    again = job(project, f"resumed-{devices}")
    shutil.copytree(Path(killed.folder) / "trainer", Path(again.folder) / "trainer")
    done(start(project, again, monkeypatch))
    assert tuned(again)["resumed"]
    torch.testing.assert_close(losses(again)[-1], losses(alone)[-1], rtol=1e-4, atol=1e-4)


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
    assert mmtmerge(at, "run", "base", "-p", "profile=smoke").returncode == 0
    said = mmtmerge(at, "finetune", "en-hi", "--profile", "smoke")
    assert said.returncode == 0, said.stderr
    assert json.loads((at / "outputs/smoke/runs/finetune/en-hi/result.json").read_text())["result"]["pairs"] == 96
