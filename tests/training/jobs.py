"Small fine-tuning jobs on a corpus on disk, the processes that do them, and what these leave."

import json
import os
import re
import signal
import subprocess
import time
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch
from conftest import environment

from mmtmerge.core import write_json
from mmtmerge.corpus.embedded import Corpus
from mmtmerge.training.job import free_port
from mmtmerge.training.launch import Job, command, launch

LAUNCH = """
[launch smoke]
hardware = core
devices = {devices}
sharding = {sharding}
micro_batch = {micro_batch}
"""


def write_corpus(folder: Path):
    "English and Hindi: 300 training pairs in three files and 40 dev lines, with the layout of the hub's data sets."
    embedded = Corpus.open("embedded")
    pairs = embedded.train("en-hi", 300)
    train = folder / "samanantar" / "hi"
    train.mkdir(parents=True)
    rows = pd.DataFrame(dict(src=pairs.source, tgt=pairs.target))
    for i in range(3):
        part = rows[100 * i : 100 * (i + 1)]
        part.to_parquet(train / f"train-{i:05}-of-00003.parquet", index=False)
    lines = embedded.test("dev", "en-hi", 40)
    for code, column in (("eng_Latn", "source"), ("hin_Deva", "target")):
        dev = folder / "flores_plus" / code
        dev.mkdir(parents=True)
        texts = pd.DataFrame(dict(id=range(len(lines)), text=lines[column]))
        texts.to_parquet(dev / "dev-00000-of-00001.parquet", index=False)
    return folder


def use_corpus(project: Path, folder: Path):
    "Let a project read the corpus in the folder, also in its profile `smoke`."
    file = project / "settings.ini"
    text = file.read_text()
    for repo, name in (("ai4bharat/samanantar", "samanantar"), ("openlanguagedata/flores_plus", "flores_plus")):
        text = text.replace(f"= {repo}", f"= {folder / name}")
    text = text.replace("[profile smoke]\n", "[profile smoke]\ncorpus = samanantar\n")
    file.write_text(text)


def spread(project: Path, sharding, devices, dtype="float32", epochs=1, **more):
    "Let the profile `smoke` run so; `more` goes into its [launch] section."
    file = project / "settings.ini"
    text, _, _ = file.read_text().partition("\n[launch smoke]")
    before = r"\[profile smoke\]\n(dtype = \w+\nepochs = \d\n)?"
    text = re.sub(before, f"[profile smoke]\ndtype = {dtype}\nepochs = {epochs}\n", text)
    micro_batch = 16 // (devices * more.get("nodes", 1))
    text += LAUNCH.format(devices=devices, sharding=sharding, micro_batch=micro_batch)
    for name, value in more.items():
        text += f"{name} = {value}\n"
    file.write_text(text)


def job(project: Path, name: str, direction="en-hi") -> Job:
    "A job of the miniature model, described in its file."
    made = Job("smoke", direction, 42, str(project / name), str(project / "mmtmerge/data/miniature"))
    write_json(made.file, asdict(made))
    return made


def start(project: Path, job: Job, monkeypatch):
    "The processes that accelerate launches for a job; one process does the same without it."
    monkeypatch.setenv("MMTMERGE_ROOT", str(project))
    words = command(job, launch("smoke"), port=free_port())
    options = dict(cwd=project, env=environment(project), start_new_session=True)
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def done(process):
    "Wait for the processes of a job, which must end well."
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said


def tuned(job: Job) -> dict:
    "What the job reports."
    return json.loads((Path(job.folder) / "tuned.json").read_text())


def losses(job: Job) -> torch.Tensor:  # (points, 2): training and dev loss
    "The job's loss curve."
    return torch.tensor([[point["loss"], point["eval_loss"]] for point in tuned(job)["curve"]])


def processes(job: Job) -> list:
    "Numbers of a job's processes, and of what launched them."
    described = f"{job.folder}/job.json".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if described in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except (ProcessLookupError, PermissionError, FileNotFoundError):
            pass
    return found


def kill(job: Job):
    "Kill every process of a job."
    for process in processes(job):
        os.kill(process, signal.SIGKILL)


def until(met, seconds=240):
    "Wait until something is true; whether it is."
    ends = time.time() + seconds
    while not met() and time.time() < ends:
        time.sleep(0.01)
    return met()
