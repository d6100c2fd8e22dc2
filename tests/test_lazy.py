"What `import mmtmerge` offers, and that it costs nothing before it is used."
import re
import shutil
import subprocess
import sys

import pytest

import mmtmerge
from conftest import REPO, environment
from mmtmerge.lazy import OFFERED

LARGE = "torch numpy pandas transformers numba matplotlib".split()


def python(code):
    words = [sys.executable, "-c", code]
    return subprocess.run(words, cwd=REPO, env=environment(REPO), check=True, capture_output=True, text=True).stdout


def test_import_loads_nothing_large():
    code = f"import sys, mmtmerge; dir(mmtmerge); print(*[name for name in {LARGE} if name in sys.modules])"
    assert python(code).split() == []


@pytest.mark.parametrize("name", OFFERED)
def test_tab_leads_to_it(name):
    assert name in dir(mmtmerge)
    assert getattr(mmtmerge, name).__module__ == f"mmtmerge.{OFFERED[name]}"


def test_the_docstring_names_what_is_offered():
    words = set(re.findall(r"\w+", mmtmerge.__doc__))
    assert set(OFFERED) - words == {"Study", "Recording"}


def test_modules_need_no_import_of_their_own():
    code = "import mmtmerge; print(mmtmerge.merge.ties.ties.__name__, 'similarity' in dir(mmtmerge.probe))"
    assert python(code).split() == ["ties", "True"]


def test_other_names_are_refused():
    wrong = "merges"
    with pytest.raises(AttributeError, match="has no attribute 'merges'"):
        getattr(mmtmerge, wrong)
    with pytest.raises(ImportError):
        from mmtmerge import merges  # noqa: F401


def test_a_plan_loads_no_torch():
    "Every run of a rebuild begins with the stages: seconds, sixty times, if they loaded what only kernels need."
    code = (f"import sys; from mmtmerge.study import plan, rebuild, runner; from mmtmerge.settings import load; "
            f"plan.everything(load('laptop')); print(*[name for name in {LARGE} if name in sys.modules])")
    assert python(code).split() == []


def test_models_of_one_configuration_are_compared_without_transformers(tmp_path):
    "Importing it takes as long as merging a small model; what it says of the base is kept in a cache."
    for name in ("a", "b"):
        shutil.copytree(REPO / "mmtmerge/data/miniature", tmp_path / name)
    code = ("import sys; from mmtmerge.merge.checkpoint_checks import check_compatible; "
            "from mmtmerge.merge.checkpoint_reader import Checkpoint; "
            f"check_compatible(Checkpoint('{tmp_path}/a'), dict(b=Checkpoint('{tmp_path}/b'))); "
            "print('transformers' in sys.modules)")
    assert python(code).split() == ["False"]
