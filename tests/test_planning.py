"A plan's memory and disk against what the committed runs of the laptop study measured."
import pytest

from conftest import mmtmerge, REPO
from mmtmerge import planning, settings


@pytest.fixture(scope="module")
def seen(): return planning.against_measured(settings.load("laptop"))


@pytest.mark.parametrize("stage", ["base", "finetune", "merge", "translate", "probe"])
def test_memory_is_planned_within_a_third(seen, stage):
    rows = seen[(seen.stage == stage) & (seen.what == "memory_gb")]
    assert len(rows) and rows.ratio.mean() == pytest.approx(1, abs=1 / 3), rows


def test_disk_is_planned_within_a_tenth(seen):
    rows = seen[seen.what.str.startswith("disk_gb")]
    assert len(rows) and rows.ratio.between(.9, 1.1).all(), rows


def test_a_plan_that_cannot_fit_is_refused(tmp_path):
    text = (REPO / "settings.ini").read_text(encoding="utf-8")
    (tmp_path / "settings.ini").write_text(text.replace("memory_gb = 80\n", "memory_gb = 10\n"), encoding="utf-8")
    (tmp_path / "mmtmerge").symlink_to(REPO / "mmtmerge")
    (tmp_path / "nbs").symlink_to(REPO / "nbs")
    done = mmtmerge(tmp_path, "plan", "finetune", "--profile", "paper")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "finetune/" in done.stderr and "h100 has 10" in done.stderr and "activation_checkpointing = 1" in done.stderr
    assert "device-hours" in done.stdout
