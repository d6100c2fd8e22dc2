"Two nodes, played by one machine: the second joins the first. And what Slurm is asked for."

import json
import os
import subprocess
import sys
import time

import pytest
from conftest import REPO, environment, mmtmerge

JOIN = ["finetune", "en-hi", "--profile", "smoke", "--node", "1"]
TWO_CORES = """
[launch smoke]
hardware = core
devices = 1
nodes = 2
sharding = ddp
micro_batch = 8
"""
FOUR_GPUS = """
[launch smoke]
hardware = h100
devices = 2
nodes = 2
sharding = ddp
micro_batch = 4
"""


def test_a_node_that_is_not_there_is_refused(copy):
    said = mmtmerge(copy("single"), *JOIN)
    assert said.returncode == 2 and "profile smoke has 1 node" in said.stderr, said.stderr


@pytest.mark.slow
def test_the_second_node_waits_for_the_first(copy):
    at = copy("nodes")
    with open(at / "settings.ini", "a") as settings:
        settings.write(TWO_CORES)
    assert mmtmerge(at, "run", "base", "-p", "profile=smoke").returncode == 0
    words = [sys.executable, "-m", "mmtmerge.cli", *JOIN]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    second = subprocess.Popen(words, cwd=at, env=environment(at), **pipes)
    try:
        for line in second.stdout:
            if line.startswith("waiting for node 0"):
                break
        else:
            pytest.fail("the second node ended")
        first = mmtmerge(at, *JOIN[:-2], timeout=300)
        assert first.returncode == 0, first.stderr
        said, _ = second.communicate(timeout=60)
        assert second.returncode == 0, said
    finally:
        second.kill()
    result = at / "outputs/smoke/runs/finetune/en-hi/result.json"
    assert json.loads(result.read_text())["result"]["pairs"] == 96


STAND_INS = dict(
    sbatch='echo "$@" >> said; echo $$',
    squeue="",
    sinfo="echo 'all*'",
    sacct="exit 1",
    scontrol="",
    scancel="",
)


@pytest.fixture
def asked(tmp_path):
    "What Snakemake says to a stand-in for sbatch: the words before the command, job by job."
    pytest.importorskip("snakemake_executor_plugin_slurm", reason="pip install 'mmtmerge[slurm]'")
    for name in ("mmtmerge", "nbs", "workflow"):
        (tmp_path / name).symlink_to(REPO / name)
    (tmp_path / "settings.ini").write_text((REPO / "settings.ini").read_text() + FOUR_GPUS)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, line in STAND_INS.items():
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    env = environment(tmp_path, PATH=f"{programs}:{os.environ['PATH']}")
    said, log = tmp_path / "said", tmp_path / "log"

    def file(run):
        return f"outputs/smoke/runs/{run}/result.json"

    def call(there, wanted, jobs):
        for run in there:
            (tmp_path / file(run)).parent.mkdir(parents=True)
            (tmp_path / file(run)).touch()
        words = ["--snakefile", "workflow/Snakefile", "--workflow-profile", "workflow/profiles/slurm"]
        words += ["--jobs", "9", "--config", "profile=smoke", "--", *map(file, wanted)]
        until = time.time() + 120
        with open(log, "w") as out:
            snakemake = [sys.executable, "-m", "snakemake", *words]
            process = subprocess.Popen(snakemake, cwd=tmp_path, env=env, stdout=out, stderr=out)
        try:
            while not said.exists() or said.read_text().count("--wrap") < jobs:
                assert process.poll() is None and time.time() < until, log.read_text()[-3000:]
                time.sleep(0.2)
        finally:
            process.kill()
            process.wait()
        lines = [line.split(" --wrap")[0] for line in said.read_text().splitlines() if " --wrap" in line]
        return [line.split() for line in lines]

    return call


def test_slurm_is_asked_for_gpus_of_one_node_or_of_each(asked):
    """Eight evaluations share a job on one node, which Slurm itself would cut over two of four GPUs. A training on two
    nodes asks for GPUs by node, because its step could not have a total."""
    experts = ["hi-en", "ta-en", "en-ta"]
    systems = ("base__indic-en", "base__en-indic", "hi-en__indic-en", "ta-en__indic-en")
    evaluations = [f"{stage}/{system}" for stage in ("translate", "probe") for system in systems]
    made = ["base/base", *(f"finetune/{direction}" for direction in experts)]
    calls = asked(made, [*evaluations, "finetune/en-hi"], 2)
    (tuned,) = (words for words in calls if "--gres=gpu:2" in words)
    (group,) = (words for words in calls if words != tuned)

    assert {"--gpus=8", "-N1", "--cpus-per-task=8"} <= set(group), group
    assert not any(word.startswith("--nodes") for word in group), group
    assert {"--nodes=2", "--ntasks=2", "--cpus-per-task=16"} <= set(tuned), tuned
    assert not any(word.startswith(("--gpus", "--ntasks-per-gpu", "-N")) for word in tuned), tuned
