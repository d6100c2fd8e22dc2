"Two nodes, played by one machine: the second joins the first. And what Slurm is asked for."
import json, os, subprocess, sys, time

import pytest

from conftest import REPO, environment, mmtmerge

JOIN = ["finetune", "en-hi", "--profile", "smoke", "--node", "1"]


def test_a_node_that_is_not_there_is_refused(copy):
    at = copy("single")
    said = mmtmerge(at, *JOIN)
    assert said.returncode == 2 and "profile smoke has 1 node" in said.stderr, said.stderr


@pytest.mark.slow
def test_the_second_node_waits_for_the_first(copy):
    at = copy("nodes")
    with open(at / "settings.ini", "a") as settings: settings.write("\n[launch smoke]\nhardware = core\ndevices = 1\nnodes = 2\nsharding = ddp\nmicro_batch = 8\n")
    assert mmtmerge(at, "run", "base", "-p", "profile=smoke").returncode == 0
    second = subprocess.Popen([sys.executable, "-m", "mmtmerge.cli", *JOIN], cwd=at, env=environment(at), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        while not (line := second.stdout.readline()).startswith("waiting for node 0"): assert line, "it ended"
        first = mmtmerge(at, *JOIN[:-2], timeout=300)
        assert first.returncode == 0, first.stderr
        said, _ = second.communicate(timeout=60)
        assert second.returncode == 0, said
    finally: second.kill()
    assert json.loads((at / "outputs/smoke/runs/finetune/en-hi/result.json").read_text())["result"]["pairs"] == 96


@pytest.fixture
def asked(tmp_path):
    "What Snakemake says to a stand-in for sbatch."
    pytest.importorskip("snakemake_executor_plugin_slurm", reason="pip install 'mmtmerge[slurm]'")
    for name in ("mmtmerge", "nbs", "workflow"): (tmp_path / name).symlink_to(REPO / name)
    (tmp_path / "settings.ini").write_text((REPO / "settings.ini").read_text() + "\n[launch smoke]\nhardware = h100\ndevices = 2\nnodes = 2\nsharding = ddp\nmicro_batch = 4\n")
    (tmp_path / "bin").mkdir()
    for name, line in dict(sbatch='echo "$@" >> said; echo $$', squeue="", sinfo="echo 'all*'", sacct="exit 1", scontrol="", scancel="").items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{line}\n"); (tmp_path / "bin" / name).chmod(0o755)
    def call(there, wanted, jobs):
        file = lambda i: f"outputs/smoke/runs/{i}/result.json"
        for i in there: (tmp_path / file(i)).parent.mkdir(parents=True); (tmp_path / file(i)).touch()
        words = ["--snakefile", "workflow/Snakefile", "--workflow-profile", "workflow/profiles/slurm", "--jobs", "9", "--config", "profile=smoke", "--", *map(file, wanted)]
        said, log, until = tmp_path / "said", tmp_path / "log", time.time() + 120
        with open(log, "w") as out: process = subprocess.Popen([sys.executable, "-m", "snakemake", *words], cwd=tmp_path, env=environment(tmp_path, PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}"), stdout=out, stderr=out)
        try:
            while not said.exists() or said.read_text().count("--wrap") < jobs: assert process.poll() is None and time.time() < until, log.read_text()[-3000:]; time.sleep(.2)
        finally: process.kill(); process.wait()
        return [line.split(" --wrap")[0].split() for line in said.read_text().splitlines() if " --wrap" in line]
    return call


def test_slurm_is_asked_for_gpus_of_one_node_or_of_each(asked):
    "Eight evaluations share a job on one node, which Slurm itself would cut over two of four GPUs; a training on two nodes asks for GPUs by node, for its step could not have a total."
    experts = ["hi-en", "ta-en", "en-ta"]
    evaluations = [f"{stage}/{key}" for stage in ("translate", "probe") for key in ("base__indic-en", "base__en-indic", "hi-en__indic-en", "ta-en__indic-en")]
    calls = asked(["base/base", *(f"finetune/{d}" for d in experts)], [*evaluations, "finetune/en-hi"], 2)
    tuned, = (c for c in calls if "--gres=gpu:2" in c)
    group, = (c for c in calls if c != tuned)
    assert {"--gpus=8", "-N1", "--cpus-per-task=8"} <= set(group) and not any(w.startswith("--nodes") for w in group), group
    assert {"--nodes=2", "--ntasks=2", "--cpus-per-task=16"} <= set(tuned) and not any(w.startswith(("--gpus", "--ntasks-per-gpu", "-N")) for w in tuned), tuned
