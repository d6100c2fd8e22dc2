"The whole study in clean copies of the repository: deterministic, and unhurt by kill -9."

import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest

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


def test_blank_workflow_killed_and_continued(blank):
    "The workflow's own behaviour, with blank notebooks: no models, many kills."
    assert rebuild_killed(blank, times=4, longest=25) >= 3
    times = {p: p.stat().st_mtime_ns for p in blank.glob("outputs/smoke/runs/*/*/result.json")}
    assert "nothing to do: everything is up to date" in rebuild(blank)
    assert {p: p.stat().st_mtime_ns for p in times} == times
    assert len(made(blank, "tables")) == 14 and len(made(blank, "report")) == 14
    assert str(blank).encode() not in b"".join(made(blank, "report").values())

    # a changed stage is made again with all that rests on it, and nothing else
    notebook = blank / "nbs/runs/mountdoom/merge.ipynb"
    text = notebook.read_text()
    notebook.write_text(text.replace("run.finish({}", "run.finish(dict(a=1)"))
    plan = rebuild(blank, "--dry-run")
    assert "3 results made again: code changed" in plan
    assert to_do(plan) == dict(base=0, finetune=0, merge=3, deltas=0, translate=6, probe=3, report=13)
    notebook.write_text(text)

    # dates decide nothing
    for p in times:
        os.utime(p, (random.random() * 1e9,) * 2)
    assert "nothing to do" in rebuild(blank)


def test_killed_parent_leaves_nothing_running(blank):
    "Only the front process is killed: what it started ends by itself, and the next call is not refused."
    import psutil

    process = start(blank)
    time.sleep(8)
    process.kill()
    process.wait()

    def left():
        found = [p.info for p in psutil.process_iter(["pid", "cmdline", "environ"])]
        own = [p for p in found if (p["environ"] or {}).get("MMTMERGE_ROOT") == str(blank)]
        return [p["cmdline"] for p in own if p["pid"] != os.getpid()]

    ends = time.time() + 30  # a process ends once it has imported what it began to
    while left() and time.time() < ends:
        time.sleep(0.5)
    assert not left()
    assert mmtmerge(blank, "rebuild", "base", "--profile", "smoke").returncode == 0


def test_two_rebuilds_at_once_are_refused(blank):
    process = start(blank, "base", stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    second = mmtmerge(blank, *REBUILD, "base")
    assert second.returncode == 2 and "another rebuild" in second.stderr
    assert process.wait() == 0


@pytest.fixture(scope="session")
def clean(copy):
    "The smoke study, rebuilt once without interruption."
    project = copy("clean")
    started = time.time()
    rebuild(project)
    return project, time.time() - started


def test_smoke_study_is_whole(clean):
    project, _ = clean
    assert {"table1.csv", "table2.csv", "table3.csv", "table4.csv", "retention.csv", "claims.csv"} <= set(
        made(project, "tables")
    )
    assert {"fig1.png", "fig1.svg"} <= set(made(project, "figures"))
    results = [json.loads(p.read_text()) for p in project.glob("outputs/smoke/runs/*/*/result.json")]
    assert all(r["asked"] == r["used"] for r in results)
    assert "nothing to do: everything is up to date" in rebuild(project)


def result_of(project, run):
    "What a run found: its own part of its record, without seconds."
    result = json.loads((project / f"outputs/smoke/runs/{run}/result.json").read_text())["result"]
    return json.loads(re.sub(r'"(seconds|sentences_per_second)": [\d.]+', '"\\1": 0', json.dumps(result)))


def test_one_merge_survives_five_kills(clean, copy):
    "Base, two experts, their merge and its translation, killed while they are made: the same results as without."
    project, last = clean[0], "translate/bi-hi.ties__bi-hi"
    killed = copy("killed")
    assert rebuild_killed(killed, last, times=5, longest=15) == 5
    assert result_of(killed, "merge/bi-hi")["points"] == result_of(project, "merge/bi-hi")["points"]
    assert result_of(killed, last) == result_of(project, last)


@pytest.mark.slow
def test_two_clean_smoke_studies_are_equal(clean, copy):
    second = copy("second")
    rebuild(second)
    assert made(second, "tables") == made(clean[0], "tables")
