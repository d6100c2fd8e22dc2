"Two nodes, played by one machine: the second joins the first."
import json, subprocess, sys

import pytest

from conftest import environment, mmtmerge

JOIN = ["finetune", "en-hi", "--profile", "smoke", "--node", "1"]


def test_a_node_that_is_not_there_is_refused(copy):
    at = copy("single")
    said = mmtmerge(at, *JOIN)
    assert said.returncode == 2 and "profile smoke has 1 node" in said.stderr, said.stderr


@pytest.mark.slow
def test_the_second_node_waits_for_the_first(copy):
    at = copy("nodes")
    with open(at / "settings.ini", "a") as settings: settings.write("\n[launch smoke]\nhardware = core\ndevices = 1\nnodes = 2\nsharding = ddp\nmicro_batch = 8\n")
    assert mmtmerge(at, "run", "base", "-p", "profile=smoke").returncode == 0
    second = subprocess.Popen([sys.executable, "-m", "mmtmerge.cli", *JOIN], cwd=at, env=environment(at), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        while not (line := second.stdout.readline()).startswith("waiting for node 0"): assert line, "it ended"
        first = mmtmerge(at, *JOIN[:-2], timeout=300)
        assert first.returncode == 0, first.stderr
        said, _ = second.communicate(timeout=60)
        assert second.returncode == 0, said
    finally: second.kill()
    assert json.loads((at / "outputs/smoke/runs/finetune/en-hi/result.json").read_text())["result"]["pairs"] == 96
