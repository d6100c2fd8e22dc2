"The runner under real papermill: what it refuses before anything runs, and what it never takes for done."
import ast, importlib.metadata, json, os, signal, subprocess, sys, time
from types import SimpleNamespace

import pytest

from conftest import BLANK, environment, mmtmerge, write_notebook
from mmtmerge.study import run
from mmtmerge.core import root


def result(project, stage, key):
    return project / "outputs" / "smoke" / "runs" / stage / key / "result.json"


def refused(project, *args, says):
    "The call ends with status 2, a sentence and no traceback, and nothing ran."
    done = mmtmerge(project, *args)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    for text in says: assert text in done.stderr
    assert not list(project.glob("outputs/**/run.ipynb")) and not list(project.glob("outputs/**/result.json"))


def finetune(*params): return ["run", "finetune", "-p", "profile=smoke", *(word for p in params for word in ("-p", p))]


@pytest.mark.parametrize("params, says", [
    (["direction=en-xx"], ["en-xx", "en-hi"]),
    (["direction=en-indic"], ["en-indic"]),
    (["direcion=en-hi"], ["direcion", "did you mean 'direction'"]),
    ([], ["needs direction"]),
    (["direction=en-hi", "seed=1.5"], ["seed", "1.5"]),
    (["direction=en-hi", "direction=hi-en"], ["twice"]),
    (["direction"], ["name=value"]),
])
def test_wrong_parameters_are_refused(blank, params, says):
    refused(blank, *finetune(*params), says=says)


@pytest.mark.parametrize("words, missing", [(["merge"], "group"), (["translate", "-p", "direction=hi-en"], "system"), (["translate", "-p", "system=base"], "direction"), (["30_translation"], "table")])
def test_what_names_a_run_is_not_guessed(blank, words, missing):
    "The defaults of a notebook are for those who open it."
    refused(blank, "run", *words, "-p", "profile=smoke", says=[f"needs {missing}: say -p {missing}="])


def test_blank_notebooks_have_the_parameters_of_the_real_ones():
    for name, (cell, *_) in BLANK.items():
        real = run.parameters(root() / "nbs" / f"{name}.ipynb")
        assert real == {k: ast.literal_eval(v) for k, v in (line.split(" = ") for line in cell.splitlines())}, name


def test_wrong_profile_and_notebook_are_refused(blank):
    refused(blank, "run", "base", "-p", "profile=labtop", says=["labtop", "laptop"])
    refused(blank, "run", "finetunes", says=["finetunes", "21_finetune"])
    refused(blank, "rebuild", "everything", "--profile", "smoke", says=["everything", "all"])


@pytest.mark.parametrize("tag", [None, "parameter"])
def test_lost_tag_is_refused(blank, tag):
    write_notebook(blank / "nbs/runs/21_finetune.ipynb", *BLANK["runs/21_finetune"], tag=tag)
    refused(blank, *finetune("direction=en-hi"), says=["21_finetune.ipynb", "parameters"])


def test_text_stays_text_and_is_recorded(blank):
    write_notebook(blank / "nbs/runs/29_other.ipynb", "profile = 'laptop'\ncode = 'hi'\nother = 'x'\nseed = 1\nlam = .5", "from mmtmerge import run\nfrom mmtmerge.settings import load\nstudy = load(profile)",
                   "run.finish('other', 'other', study, run.used(globals()), result={})")
    done = mmtmerge(blank, "run", "other", "-p", "profile=smoke", "-p", "code=no", "-p", "other=nan", "-p", "seed=7", "-p", "lam=1")
    assert done.returncode == 0, done.stderr
    made = json.loads(result(blank, "other", "other").read_text())
    assert made["used"] == made["asked"] == dict(profile="smoke", code="no", other="nan", seed=7, lam=1.)
    assert {"code", "data", "settings", "versions", "seed", "started", "seconds", "peak_memory_mb", "inputs"} <= set(made)
    installed = {p: p in importlib.metadata.packages_distributions() for p in run.PACKAGES}
    assert made["versions"].keys() == {p for p, there in installed.items() if there} | {"python"} and installed["datasets"]
    assert "reused" in mmtmerge(blank, "run", "other", "-p", "profile=smoke", "-p", "code=no", "-p", "other=nan", "-p", "seed=7", "-p", "lam=1").stdout


def test_the_gpu_is_recorded_where_there_is_one(monkeypatch):
    def cuda(there, name): return SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: there, get_device_name=name))
    def broken(): raise RuntimeError("CUDA error: out of memory")
    for torch, name in ((cuda(True, lambda: "NVIDIA H100"), "NVIDIA H100"), (cuda(True, broken), None), (cuda(False, broken), None), (None, None)):
        monkeypatch.setitem(sys.modules, "torch", torch)
        assert run._gpu() == name


def test_notebook_that_changes_a_parameter_has_no_result(blank):
    start, *rest = BLANK["runs/20_base"]
    write_notebook(blank / "nbs/runs/20_base.ipynb", start + "\nseed = 1", *rest[:-1], "seed = 2", rest[-1])
    done = mmtmerge(blank, "run", "base", "-p", "profile=smoke")
    assert done.returncode == 2 and "seed" in done.stderr and not result(blank, "base", "base").exists()


@pytest.mark.parametrize("cell, status, says", [("1 / 0", 1, "ZeroDivisionError"), ("from mmtmerge.core import UserError\nraise UserError('mend it so')", 2, "error: mend it so"),
                                                ("import os; os._exit(9)", 1, "kernel died"), ("pass", 1, "without calling run.finish")])
def test_failing_notebook(blank, cell, status, says):
    start, *rest = BLANK["runs/20_base"]
    write_notebook(blank / "nbs/runs/20_base.ipynb", start, *rest[:-1], cell)
    done = mmtmerge(blank, "run", "base", "-p", "profile=smoke")
    assert done.returncode == status and says in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert result(blank, "base", "base").with_name("run.ipynb").exists() and not result(blank, "base", "base").exists()


def test_kernel_is_this_interpreter(blank, tmp_path):
    "A user's own kernel named python3 is not taken."
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(json.dumps(dict(argv=["/bin/false", "{connection_file}"], display_name="trap", language="python")))
    start, *rest = BLANK["runs/20_base"]
    write_notebook(blank / "nbs/runs/20_base.ipynb", start, *rest[:-1], "import os, sys, mmtmerge\nassert os.environ['OMP_NUM_THREADS'] == '1' and os.environ['TQDM_DISABLE'] == '1'\n"
                   f"assert sys.executable == {sys.executable!r} and mmtmerge.__file__.startswith({str(blank)!r}), mmtmerge.__file__", rest[-1])
    done = subprocess.run([sys.executable, "-m", "mmtmerge.cli", "run", "base", "-p", "profile=smoke"], cwd=tmp_path, capture_output=True, text=True,
                          env=environment(blank, JUPYTER_PATH=str(tmp_path / "jupyter"), OMP_NUM_THREADS="2"))
    assert done.returncode == 0, done.stderr


def test_killed_run_is_not_done(blank):
    start, *rest = BLANK["runs/20_base"]
    slow = write_notebook(blank / "nbs/runs/20_base.ipynb", start, *rest[:-1], f"import time, pathlib\npathlib.Path({str(blank / 'alive')!r}).touch()\ntime.sleep(6)", rest[-1])
    process = subprocess.Popen([sys.executable, "-m", "mmtmerge.cli", "run", "base", "-p", "profile=smoke"], cwd=blank, env=environment(blank), start_new_session=True)
    until = time.time() + 60
    while not (blank / "alive").exists() and time.time() < until: time.sleep(.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not result(blank, "base", "base").exists()
    write_notebook(slow, *BLANK["runs/20_base"])
    done = mmtmerge(blank, "run", "base", "-p", "profile=smoke")   # waits until the orphaned kernel is gone
    assert done.returncode == 0 and "reused" not in done.stdout, done.stderr
    made = result(blank, "base", "base").stat().st_mtime_ns
    time.sleep(6)
    assert result(blank, "base", "base").stat().st_mtime_ns == made, "the killed run's kernel wrote after its death"


def test_partial_results_are_not_done(blank):
    path = result(blank, "base", "base")
    call = ["rebuild", "base", "--profile", "smoke", "--dry-run"]
    assert mmtmerge(blank, "run", "base", "-p", "profile=smoke").returncode == 0
    assert "nothing to do" in mmtmerge(blank, *call).stdout
    whole = path.read_text()
    path.write_text(whole[:len(whole) // 2])
    assert "its result is not whole" in mmtmerge(blank, *call).stdout
    for field, says in [("code", "code changed"), ("data", "data changed"), ("settings", "settings changed"), ("used", "made with other parameters"), ("inputs", "its inputs changed")]:
        old = json.loads(whole)
        old[field] = {"profile": "laptop", "gone/result.json": "0"} if isinstance(old[field], dict) else "0"
        path.write_text(json.dumps(old))
        assert says in mmtmerge(blank, *call).stdout
    path.write_text(whole)
    (path.parent / "checkpoint").rmdir()
    assert "its files are not here" in mmtmerge(blank, *call).stdout


def test_help_is_quick_and_light():
    code = "import sys, mmtmerge.cli; print([m for m in ('torch', 'transformers', 'papermill', 'pandas') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
