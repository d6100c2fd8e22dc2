"The study through a real Slurm of one node: a killed job is made again, the tables are those of a local rebuild."

import subprocess
import sys
import threading
import time

import pytest

from conftest import environment, mmtmerge
from slurm import NoSlurm, Slurm

pytestmark = pytest.mark.slow


def kill_one(slurm, said):
    "Wait until a few results are there, then kill the job that runs."
    until = time.time() + 600
    while time.time() < until:
        running = slurm.say("squeue", "-h", "-t", "RUNNING", "-o", "%i %M").stdout.split()
        if running and len(list(said["project"].glob("outputs/smoke/runs/*/*/result.json"))) >= 3:
            said["killed"] = running[0]
            slurm.say("scancel", "--signal=KILL", "--full", running[0])
            return
        time.sleep(0.5)


def test_smoke_on_slurm(copy, tmp_path):
    pytest.importorskip("snakemake_executor_plugin_slurm", reason="pip install 'mmtmerge[slurm]'")
    cluster, local = copy("cluster"), copy("local")
    profile = cluster / "workflow/profiles/slurm/config.yaml"
    profile.write_text(
        profile.read_text().replace("evaluations=8, reports=20", "evaluations=2, reports=2")
        + "slurm-no-account: true\n"
    )  # this node has two cores, and its Slurm keeps no accounts
    try:
        slurm = Slurm(tmp_path)
    except NoSlurm as e:
        pytest.skip(f"no Slurm here: {e}")
    said = dict(project=cluster)
    with slurm:
        killer = threading.Thread(target=kill_one, args=(slurm, said), daemon=True)
        killer.start()
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "mmtmerge.cli",
                "rebuild",
                "--profile",
                "smoke",
                "--where",
                "slurm",
                "--cores",
                "12",
            ],
            cwd=cluster,
            env=environment(cluster, PATH=slurm.path),
            capture_output=True,
            text=True,
            timeout=3000,
        )
        killer.join(5)
        print(done.stdout[-3000:], done.stderr[-3000:])
        assert done.returncode == 0, (cluster / "outputs/smoke/rebuild.log").read_text()[-3000:]
    log = (cluster / "outputs/smoke/rebuild.log").read_text()
    assert "killed" in said and "Trying to restart job" in log, log[-3000:]
    assert mmtmerge(local, "rebuild", "--profile", "smoke", "--cores", "2", timeout=900).returncode == 0
    tables = sorted(p.name for p in (local / "outputs/smoke/tables").iterdir())
    assert tables and tables == sorted(p.name for p in (cluster / "outputs/smoke/tables").iterdir())
    for name in tables:
        assert (local / "outputs/smoke/tables" / name).read_bytes() == (
            cluster / "outputs/smoke/tables" / name
        ).read_bytes(), name
