"Kernels copied from a process that has everything imported: stale code is never used, nobody outlives the other."
import os, signal, subprocess, sys, time

import pytest

from conftest import environment, mmtmerge
from mmtmerge import warm

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are copied on Linux only")


@pytest.fixture(scope="module")
def served(copy, tmp_path_factory):
    "A project, its warm process and the socket."
    project, path = copy("warm"), tmp_path_factory.mktemp("w") / "s"
    server = subprocess.Popen([sys.executable, "-m", "mmtmerge.warm", str(path)], cwd=project, env=environment(project))
    while not path.exists() and server.poll() is None: time.sleep(.05)
    yield project, path, server
    server.kill(); server.wait()


def alive(pid):
    try: return open(f"/proc/{pid}/stat").read().split()[2] != "Z"
    except FileNotFoundError: return False


def gone(pid, seconds=10):
    until = time.time() + seconds
    while alive(pid) and time.time() < until: time.sleep(.05)
    return not alive(pid)


def test_a_run_uses_a_copy(served, monkeypatch):
    project, path, server = served
    monkeypatch.setenv("MMTMERGE_WARM", str(path))
    began = time.time()
    said = mmtmerge(project, "run", "base", "-p", "profile=smoke")
    assert said.returncode == 0, said.stderr
    assert time.time() - began < 60 and (project / "outputs/smoke/runs/base/base/result.json").exists()


def test_a_copy_ends_with_its_asker_and_is_seen_to_end(served, monkeypatch, tmp_path):
    project, path, server = served
    monkeypatch.setenv("MMTMERGE_WARM", str(path))
    asker = subprocess.Popen([sys.executable, "-c", "import os, sys, time\nfrom mmtmerge.warm import copy_of\nprint(copy_of(['-f', sys.argv[1]], dict(os.environ), '.', []).pid, flush=True)\ntime.sleep(60)", str(tmp_path / "k.json")],
                             cwd=project, env=environment(project), stdout=subprocess.PIPE, text=True)
    pid = int(asker.stdout.readline())
    assert alive(pid)
    asker.kill(); asker.wait()
    assert gone(pid)
    mine = warm.copy_of(["-f", str(tmp_path / "l.json")], environment(project), project, [])
    os.kill(mine.pid, signal.SIGKILL)
    assert mine.wait(10) == 0 and gone(mine.pid)


def test_stale_code_is_not_copied(served, monkeypatch):
    project, path, server = served
    monkeypatch.setenv("MMTMERGE_WARM", str(path))
    module = project / "mmtmerge/core.py"
    module.write_text(module.read_text() + "\n# changed\n")
    assert warm.copy_of(["-f", "k.json"], environment(project), project, []) is None
    assert mmtmerge(project, "run", "base", "-p", "profile=smoke", "--force").returncode == 0     # started as usual


def test_it_ends_with_its_parent(copy, tmp_path):
    project, path = copy("orphan"), tmp_path / "s"
    parent = subprocess.Popen([sys.executable, "-c", "import subprocess, sys, time\np = subprocess.Popen([sys.executable, '-m', 'mmtmerge.warm', sys.argv[1]])\nprint(p.pid, flush=True)\ntime.sleep(120)", str(path)],
                              cwd=project, env=environment(project), stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    while not path.exists() and alive(pid): time.sleep(.05)
    parent.kill(); parent.wait()
    assert gone(pid)
