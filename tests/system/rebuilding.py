"Rebuilds of the smoke study in copies of the repository, killed or left alone."
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

from conftest import environment, mmtmerge

REBUILD = ["rebuild", "--profile", "smoke", "--cores", "2"]


def rebuild(project, *words):
    done = mmtmerge(project, *REBUILD, *words)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def start(project, *words, **more):
    "A rebuild in the background."
    call = [sys.executable, "-m", "mmtmerge.cli", *REBUILD, *words]
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) | more
    return subprocess.Popen(call, cwd=project, env=environment(project), **quiet)


def rebuild_killed(project, *target, times, longest, seed=42):
    "Kill -9 the whole process group at random moments, then let it end; returns how many kills found it alive."
    moments, alive = random.Random(seed), 0
    for _ in range(times):
        process = start(project, *target, start_new_session=True)
        time.sleep(moments.uniform(3, longest))
        if process.poll() is None:
            alive += 1
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    rebuild(project, *target)
    return alive


def made(project, folder):
    "Everything below a folder of the outputs, by name."
    base = project / "outputs" / "smoke" / folder
    return {p.relative_to(base).as_posix(): p.read_bytes() for p in sorted(base.rglob("*")) if p.is_file()}


def to_do(plan):
    "Stage -> number of its runs to do, as a printed plan says."
    lines = [line.split() for line in plan.splitlines() if "to do," in line]
    return {words[0]: int(words[1]) for words in lines}


def result_of(project, run):
    "What a run found: its own part of its record, without seconds."
    result = json.loads((project / f"outputs/smoke/runs/{run}/result.json").read_text())["result"]
    return json.loads(re.sub(r'"(seconds|sentences_per_second)": [\d.]+', '"\\1": 0', json.dumps(result)))
