"A run notebook opened in JupyterLab: it says what it needs, and leaves the pipeline's result alone."
import subprocess
import sys

from conftest import environment, mmtmerge

BASE, FINETUNE = "nbs/runs/mountdoom/base.ipynb", "nbs/runs/mountdoom/finetune.ipynb"
BEGIN = "from mmtmerge.study.runner import begin\n"


def by_hand(project, notebook, code, **more):
    env = environment(project, JPY_SESSION_NAME=str(project / notebook), **more)
    env.pop("MMTMERGE_ASKED", None)
    words = [sys.executable, "-c", BEGIN + code]
    return subprocess.run(words, cwd=project, env=env, capture_output=True, text=True)


def test_what_is_missing_is_named_with_its_command(blank):
    done = by_hand(blank, FINETUNE, "begin(dict(profile='smoke', direction='en-hi', seed=42))")
    assert "finetune.ipynb reads base/base, not made yet" in done.stderr
    assert "`mmtmerge rebuild finetune/en-hi --profile smoke`" in done.stderr


LOOK = """
run = begin(dict(profile='smoke'){0})
print(run.apart, run.folder.name)
run.finish({{}})
"""


def test_a_good_result_stays(blank):
    assert mmtmerge(blank, "run", "base", "-p", "profile=smoke").returncode == 0
    result = blank / "outputs/smoke/runs/base/base/result.json"
    before = result.read_bytes()
    done = by_hand(blank, BASE, LOOK.format(""))
    assert "base/base is made already" in done.stdout and "True by-hand" in done.stdout
    assert "base/base has a good result, which stays" in done.stderr and "replace=True" in done.stderr
    assert result.read_bytes() == before
    for asked, more in ((", replace=True", {}), ("", dict(MMTMERGE_YES="1"))):
        done = by_hand(blank, BASE, LOOK.format(asked), **more)
        assert done.returncode == 0, done.stderr
        assert "False base" in done.stdout
    assert result.read_bytes() != before
