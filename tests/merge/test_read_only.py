"Kernels are compiled where nothing can be written, and kept where something can."
import os
import shutil
import subprocess
import sys

import pytest

from conftest import REPO

PROGRAM = """
import numpy as np
from mmtmerge.merge.kernels import subtract
out = np.empty(2, np.float32)
subtract(np.float32([3, 4]), np.float32([1, 1]), out)
print(out.tolist())
"""


@pytest.fixture
def installation(tmp_path):
    "Runs the program under a package and a home that cannot be written; more: environment variables."
    if os.geteuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("the superuser writes everywhere")
    package, home = tmp_path / "installed", tmp_path / "home"
    shutil.copytree(REPO / "mmtmerge", package / "mmtmerge", ignore=shutil.ignore_patterns("__pycache__", "data"))
    home.mkdir()
    closed = [home, package, *(path for path in package.rglob("*") if path.is_dir())]
    for folder in closed:
        folder.chmod(0o555)
    capabilities = "-dac_override,-dac_read_search"
    drop = ["setpriv", "--bounding-set", capabilities, "--inh-caps", capabilities]
    names = ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "MMTMERGE_CACHE")
    usual = {key: value for key, value in os.environ.items() if key not in names}
    usual |= dict(PYTHONPATH=str(package), HOME=str(home), PYTHONDONTWRITEBYTECODE="1")

    def run(**more):
        words = [*(drop if os.geteuid() == 0 else []), sys.executable, "-c", PROGRAM]
        return subprocess.run(words, env=usual | more, cwd="/", capture_output=True, text=True)

    yield run
    for folder in closed:
        folder.chmod(0o755)


def kept(folder):
    return [path for path in folder.rglob("*.nbi")]


def test_nothing_can_be_written(installation):
    done = installation()
    assert done.stdout == "[2.0, 3.0]\n", done.stderr


@pytest.mark.parametrize("name", ["NUMBA_CACHE_DIR", "MMTMERGE_CACHE", "XDG_CACHE_HOME"])
def test_a_folder_that_can_be_written_is_used(installation, tmp_path, name):
    done = installation(**{name: str(tmp_path / "cache")})
    assert done.stdout == "[2.0, 3.0]\n", done.stderr
    assert kept(tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_left_off(installation, tmp_path):
    done = installation(NUMBA_CACHE_DIR=str(tmp_path / "home/numba"), MMTMERGE_CACHE=str(tmp_path / "home/more"))
    assert done.stdout == "[2.0, 3.0]\n", done.stderr


def test_loops_are_compiled_whatever_numba_is_told(installation, tmp_path):
    done = installation(NUMBA_DISABLE_JIT="1", NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    assert done.stdout == "[2.0, 3.0]\n", done.stderr
