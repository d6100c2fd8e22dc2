"Whole checkpoints, snapshots, and the cleaning of the trainer's folder, whenever it is interrupted."

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from mmtmerge.training.checkpoints import clean_trainer, keep_snapshots, last_whole_checkpoint, saved


@pytest.fixture
def expert(tmp_path):
    "A trained expert, with the trainer's checkpoints of three steps."
    (tmp_path / "checkpoint").mkdir()
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        (tmp_path / "checkpoint" / name).write_text(f"the expert's {name}")
    for step in (15, 30, 45):
        made = tmp_path / "trainer" / f"checkpoint-{step}"
        made.mkdir(parents=True)
        for name in ("model.safetensors", "optimizer.pt", "whole"):
            (made / name).write_text(f"{name} of {step}")
    (tmp_path / "trainer/runs/day").mkdir(parents=True)
    (tmp_path / "trainer/runs/day/events").touch()
    (tmp_path / "trainer/tokens").mkdir()
    (tmp_path / "trainer/training_args.bin").touch()
    return tmp_path


def test_processes_that_remove_the_same_cut_checkpoints_do_not_disturb_each_other(tmp_path):
    (tmp_path / "checkpoint-10").mkdir()
    (tmp_path / "checkpoint-10/whole").touch()
    for step in range(20, 40):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "optimizer.pt").touch()
    with ThreadPoolExecutor(4) as several:
        found = set(several.map(last_whole_checkpoint, [tmp_path] * 4))
    assert found == {str(tmp_path / "checkpoint-10")}
    assert list(saved(tmp_path)) == [10]


def test_snapshots_are_links_that_outlive_the_trainer(expert):
    weights = expert / "trainer/checkpoint-15/model.safetensors"
    number = weights.stat().st_ino
    keep_snapshots(expert, {"0.25": 15, "0.5": 30})
    clean_trainer(expert)
    early = expert / "snapshots/.25"
    assert {file.name for file in early.iterdir()} == {"model.safetensors", "config.json", "tokenizer.json"}
    assert (early / "model.safetensors").stat().st_ino == number
    assert (early / "model.safetensors").read_text() == "model.safetensors of 15"
    assert (early / "config.json").samefile(expert / "checkpoint/config.json")
    assert (expert / "snapshots/.5/model.safetensors").read_text() == "model.safetensors of 30"


def test_snapshots_are_made_again(expert):
    for _ in range(2):
        keep_snapshots(expert, {"0.25": 15})
    keep_snapshots(expert, {"0.25": 30})
    assert (expert / "snapshots/.25/model.safetensors").read_text() == "model.safetensors of 30"


def test_the_logs_stay(expert):
    clean_trainer(expert)
    left = [file.relative_to(expert / "trainer") for file in (expert / "trainer").rglob("*") if file.is_file()]
    assert [str(file) for file in left] == ["runs/day/events"]
    clean_trainer(expert)  # nothing more to do


@pytest.mark.parametrize("steps", range(3))
def test_a_cleaning_that_is_killed_leaves_a_training_that_goes_on(expert, steps, monkeypatch):
    "The n-th removal dies before it has removed anything but the mark."
    removed, remove = [], shutil.rmtree

    def dies(folder, *args, **kwargs):
        if len(removed) == steps:
            raise KeyboardInterrupt
        removed.append(folder)
        remove(folder, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", dies)
        with pytest.raises(KeyboardInterrupt):
            clean_trainer(expert)
    left = [15, 30, 45][: 2 - steps]
    last = last_whole_checkpoint(expert / "trainer")
    assert last == (str(expert / f"trainer/checkpoint-{left[-1]}") if left else None)
    assert list(saved(expert / "trainer")) == left
