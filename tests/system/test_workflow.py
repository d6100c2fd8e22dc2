"The workflow with blank notebooks: no models, many kills."
import os
import random
import subprocess
import time

import pytest
from conftest import mmtmerge
from rebuilding import REBUILD, made, rebuild, rebuild_killed, start, to_do


@pytest.mark.slow
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
