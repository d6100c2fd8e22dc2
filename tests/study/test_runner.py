"The runner under real papermill: what it refuses before anything runs, and what it never takes for done."

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from conftest import BEGIN, blank_cells, environment, mmtmerge, write_notebook
from mmtmerge.study import provenance

BASE, FINETUNE = "runs/mountdoom/base", "runs/mountdoom/finetune"


def result(project, stage, key):
    return project / "outputs" / "smoke" / "runs" / stage / key / "result.json"


def rewrite(project, name, *cells, **more):
    "Give a stage's notebook other cells."
    return write_notebook(project / f"nbs/{name}.ipynb", *cells, **more)


def with_cell(project, source):
    "The blank base with one cell before its last."
    *before, last = blank_cells(BASE)
    return rewrite(project, BASE, *before, source, last)


def run_base(project):
    return mmtmerge(project, "run", "base", "-p", "profile=smoke")


def refused(project, *args, says):
    "The call ends with status 2, a sentence and no traceback, and nothing ran."
    done = mmtmerge(project, *args)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    for text in says:
        assert text in done.stderr
    assert not list(project.glob("outputs/**/run.ipynb")) and not list(project.glob("outputs/**/result.json"))


def finetune(*params):
    words = ["run", "finetune", "-p", "profile=smoke"]
    for p in params:
        words += ["-p", p]
    return words


@pytest.mark.parametrize(
    "params, says",
    [
        (["direction=en-xx"], ["en-xx", "en-hi"]),
        (["direction=en-indic"], ["en-indic"]),
        (["direcion=en-hi"], ["direcion", "did you mean 'direction'"]),
        ([], ["needs direction"]),
        (["direction=en-hi", "seed=1.5"], ["seed", "1.5"]),
        (["direction=en-hi", "direction=hi-en"], ["twice"]),
        (["direction"], ["name=value"]),
    ],
)
def test_wrong_parameters_are_refused(blank, params, says):
    refused(blank, *finetune(*params), says=says)


@pytest.mark.parametrize(
    "words, missing",
    [
        (["merge"], "group"),
        (["translate", "-p", "direction=hi-en"], "system"),
        (["translate", "-p", "system=base"], "direction"),
        (["report/translation"], "table"),
    ],
)
def test_what_names_a_run_is_not_guessed(blank, words, missing):
    "The defaults of a notebook are for those who open it."
    refused(blank, "run", *words, "-p", "profile=smoke", says=[f"needs {missing}: say -p {missing}="])


def test_wrong_profile_and_notebook_are_refused(blank):
    refused(blank, "run", "base", "-p", "profile=labtop", says=["labtop", "laptop"])
    refused(blank, "run", "finetunes", says=["finetunes", "did you mean 'finetune'"])
    refused(blank, "rebuild", "everything", "--profile", "smoke", says=["everything", "mountdoom"])


@pytest.mark.parametrize("tag", ["", "parameter"])
def test_lost_tag_is_refused(blank, tag):
    rewrite(blank, FINETUNE, *blank_cells(FINETUNE), tag=tag)
    refused(blank, *finetune("direction=en-hi"), says=["finetune.ipynb", "parameters"])


OTHER = """
from mmtmerge.study.declaration import Stage

STAGES = [Stage("other", "runs/other/other", settings="seed")]
"""


def test_text_stays_text_and_is_recorded(blank):
    (blank / "mmtmerge/study/stages/other.py").write_text(OTHER)
    parameters = "profile = 'laptop'\ncode = 'hi'\nother = 'x'\nseed = 1\nlam = .5"
    rewrite(blank, "runs/other/other", parameters, BEGIN, "run.finish({})")
    words = [
        "run",
        "other",
        "-p",
        "profile=smoke",
        "-p",
        "code=no",
        "-p",
        "other=nan",
        "-p",
        "seed=7",
        "-p",
        "lam=1",
    ]
    done = mmtmerge(blank, *words)
    assert done.returncode == 0, done.stderr
    made = json.loads(result(blank, "other", "other").read_text())
    assert made["used"] == made["asked"] == dict(profile="smoke", code="no", other="nan", seed=7, lam=1.0)
    assert {
        "code",
        "data",
        "settings",
        "versions",
        "seed",
        "started",
        "seconds",
        "peak_memory_mb",
        "inputs",
    } <= set(made)
    installed = {p for p in provenance.PACKAGES if p in importlib.metadata.packages_distributions()}
    assert made["versions"].keys() == installed | {"python", "mmtmerge"} and "datasets" in installed
    assert "reused" in mmtmerge(blank, *words).stdout


def test_the_gpu_is_recorded_where_there_is_one(monkeypatch):
    def cuda(there, name):
        return SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: there, get_device_name=name))

    def h100():
        return "NVIDIA H100"

    def broken():
        raise RuntimeError("CUDA error: out of memory")

    for torch, name in (
        (cuda(True, h100), "NVIDIA H100"),
        (cuda(True, broken), None),
        (cuda(False, broken), None),
        (None, None),
    ):
        monkeypatch.setitem(sys.modules, "torch", torch)
        assert provenance.gpu_name() == name


def test_notebook_that_changes_a_parameter_has_no_result(blank):
    parameters, *rest = blank_cells(BASE)
    rewrite(blank, BASE, parameters + "\nseed = 1", *rest[:-1], "seed = 2", rest[-1])
    done = run_base(blank)
    assert done.returncode == 2 and "seed" in done.stderr and not result(blank, "base", "base").exists()


def test_a_setting_that_is_not_declared_is_refused(blank):
    with_cell(blank, "run.study.p.test_lines")
    done = run_base(blank)
    assert done.returncode == 2 and "'test_lines' is not declared by this stage" in done.stderr
    assert not result(blank, "base", "base").exists()


@pytest.mark.parametrize(
    "cell, status, says",
    [
        ("1 / 0", 1, "ZeroDivisionError"),
        ("from mmtmerge.core import UserError\nraise UserError('do it so')", 2, "error: do it so"),
        ("import os; os._exit(9)", 1, "kernel died"),
    ],
)
def test_failing_notebook(blank, cell, status, says):
    with_cell(blank, cell)
    done = run_base(blank)
    assert done.returncode == status and says in done.stderr and "Traceback" not in done.stderr, done.stderr
    made = result(blank, "base", "base")
    assert made.with_name("run.ipynb").exists() and not made.exists()


def test_a_notebook_without_an_end_has_no_result(blank):
    rewrite(blank, BASE, *blank_cells(BASE)[:-1])
    done = run_base(blank)
    assert (
        done.returncode == 1
        and "without calling run.finish" in done.stderr
        and not result(blank, "base", "base").exists()
    )


def test_kernel_is_this_interpreter(blank, tmp_path):
    "A user's own kernel named python3 is not taken."
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    trap = dict(argv=["/bin/false", "{connection_file}"], display_name="trap", language="python")
    (spec / "kernel.json").write_text(json.dumps(trap))
    with_cell(
        blank,
        "import os, sys, mmtmerge\n"
        "assert os.environ['OMP_NUM_THREADS'] == '1' and os.environ['TQDM_DISABLE'] == '1'\n"
        f"assert sys.executable == {sys.executable!r} and mmtmerge.__file__.startswith({str(blank)!r})",
    )
    env = environment(blank, JUPYTER_PATH=str(tmp_path / "jupyter"), OMP_NUM_THREADS="2")
    words = [sys.executable, "-m", "mmtmerge.cli", "run", "base", "-p", "profile=smoke"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr


def test_killed_run_is_not_done(blank):
    alive = blank / "alive"
    with_cell(blank, f"import time, pathlib\npathlib.Path({str(alive)!r}).touch()\ntime.sleep(3)")
    words = [sys.executable, "-m", "mmtmerge.cli", "run", "base", "-p", "profile=smoke"]
    process = subprocess.Popen(words, cwd=blank, env=environment(blank), start_new_session=True)
    until = time.time() + 60
    while not alive.exists() and time.time() < until:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    made = result(blank, "base", "base")
    assert not made.exists()
    rewrite(blank, BASE, *blank_cells(BASE))
    done = run_base(blank)  # waits until the orphaned kernel is gone
    assert done.returncode == 0 and "reused" not in done.stdout, done.stderr
    at = made.stat().st_mtime_ns
    time.sleep(3)
    assert made.stat().st_mtime_ns == at, "the killed run's kernel wrote after its death"


def test_partial_results_are_not_done(blank):
    path = result(blank, "base", "base")

    def plan():
        return mmtmerge(blank, "rebuild", "base", "--profile", "smoke", "--dry-run").stdout

    assert run_base(blank).returncode == 0
    assert "nothing to do" in plan()
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    assert "its result is not whole" in plan()
    for field, value, says in [
        ("code", "0", "code changed"),
        ("data", "0", "data changed"),
        ("settings", "0", "settings changed"),
        ("used", {"profile": "laptop"}, "made with other parameters"),
        ("inputs", {"gone/result.json": "0"}, "its inputs changed"),
    ]:
        path.write_text(json.dumps(json.loads(whole) | {field: value}))
        assert says in plan()
    path.write_text(whole)
    (path.parent / "checkpoint").rmdir()
    assert "its files are not here" in plan()


def test_help_is_quick_and_light():
    heavy = ("torch", "transformers", "papermill", "pandas")
    code = f"import sys, mmtmerge.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
