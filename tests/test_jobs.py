"Fine-tuning on two processes of this machine: the losses of one process, with DDP and FSDP; killed and resumed; on another number of processes."
import json, os, signal, subprocess, sys, time
from pathlib import Path

import pytest
import torch

from conftest import REPO, environment, mmtmerge

LAUNCH = "\n[launch smoke]\nhardware = core\ndevices = {devices}\nsharding = {sharding}\nmicro_batch = {micro}\n"
BASE = "from mmtmerge import run\nfrom mmtmerge.settings import load\nimport shutil\nstudy = load(profile)"


def project(copy, name, sharding, devices):
    "A copy of the repository whose smoke profile runs on so many processes, with the miniature as its base."
    at = copy(name)
    ini = at / "settings.ini"
    ini.write_text(ini.read_text() + LAUNCH.format(devices=devices, sharding=sharding, micro=16 // devices))
    made = mmtmerge(at, "run", "base", "-p", "profile=smoke")
    assert made.returncode == 0, made.stderr
    return at


def relaunch(at, sharding, devices):
    text = (at / "settings.ini").read_text().split("\n[launch smoke]")[0]
    (at / "settings.ini").write_text(text + LAUNCH.format(devices=devices, sharding=sharding, micro=16 // devices))


def result(at): return json.loads((at / "outputs/smoke/runs/finetune/en-hi/result.json").read_text())["result"]


def losses(at): return torch.tensor([[point[k] for k in ("loss", "eval_loss")] for point in result(at)["curve"]])


def finetune(at, **kwargs):
    done = mmtmerge(at, "finetune", "en-hi", "--profile", "smoke", **kwargs)
    assert done.returncode == 0, done.stderr + "".join(p.read_text() for p in at.glob("outputs/smoke/runs/finetune/en-hi/launch.log"))
    return done


@pytest.fixture(scope="module")
def alone(copy):
    at = project(copy, "alone", "none", 1)
    finetune(at)
    return at


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_processes_have_the_losses_of_one(copy, alone, sharding):
    at = project(copy, sharding, sharding, 2)
    said = finetune(at)
    assert f"2 x core, sharding {sharding}: 8 sequences a device x 1 = 16 a step" in said.stdout
    torch.testing.assert_close(losses(at), losses(alone), rtol=1e-4, atol=1e-4)
    from safetensors.torch import load_file
    one, two = (load_file(p / "outputs/smoke/runs/finetune/en-hi/checkpoint/model.safetensors") for p in (alone, at))
    assert one.keys() == two.keys()
    for name in one: torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-4)


def kill_after_first_checkpoint(at):
    "Start, wait for a whole checkpoint, kill every process of it."
    began = subprocess.Popen([sys.executable, "-m", "mmtmerge.cli", "finetune", "en-hi", "--profile", "smoke"], cwd=at, env=environment(at), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until, folder = time.time() + 240, at / "outputs/smoke/runs/finetune/en-hi"
    while not list(folder.glob("trainer/checkpoint-*/whole")) and time.time() < until and began.poll() is None: time.sleep(.02)
    assert began.poll() is None, "it ended before it could be killed"
    for pid in [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()]:
        try:
            if os.getsid(pid) == began.pid or str(at).encode() in Path(f"/proc/{pid}/cmdline").read_bytes(): os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError, FileNotFoundError): pass
    began.wait()
    assert not (folder / "result.json").exists() and not (folder / "checkpoint").exists()


@pytest.mark.parametrize("then", [("ddp", 2), ("none", 1)], ids=["on two", "on one"])
def test_killed_and_resumed(copy, alone, then):
    at = project(copy, "killed", "ddp", 2)
    kill_after_first_checkpoint(at)
    relaunch(at, *then)
    finetune(at)
    assert result(at)["resumed"]
    torch.testing.assert_close(losses(at)[-1], losses(alone)[-1], rtol=1e-4, atol=1e-4)


def test_a_batch_that_cannot_be_cut_is_refused_before_anything_starts(copy):
    at = copy("uncut")
    (at / "settings.ini").write_text((at / "settings.ini").read_text() + LAUNCH.format(devices=3, sharding="ddp", micro=5))
    said = mmtmerge(at, "finetune", "en-hi", "--profile", "smoke")
    assert said.returncode == 2 and "cannot be cut into 3 devices" in said.stderr and not (at / "outputs").exists()


def test_the_command_is_printed(copy):
    at = copy("dry")
    said = mmtmerge(at, "finetune", "en-hi", "--profile", "paper", "--dry-run")
    assert said.returncode == 0, said.stderr
    assert "8 x h100, sharding fsdp: 8 sequences a device x 16 = 1024 a step" in said.stdout
    assert "accelerate.commands.launch --multi_gpu --num_processes 8 --num_machines 1" in said.stdout
    assert mmtmerge(at, "finetune", "en-xx", "--profile", "paper").returncode == 2
