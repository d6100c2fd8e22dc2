"Bad checkpoints are refused by name before anything is computed."

import shutil

import pytest
import torch
from safetensors.torch import load_file

from mmtmerge import models
from mmtmerge.core import UserError, root
from mmtmerge.merge.apply import merge_state_dicts
from mmtmerge.merge.checkpoint_reader import Checkpoint
from mmtmerge.merge.task_vectors import check_finite, check_shapes, state

MINI = root() / "mmtmerge/data/miniature"


@pytest.fixture
def checkpoint(tmp_path):
    return shutil.copytree(MINI, tmp_path / "checkpoint")


@pytest.fixture(scope="module")
def base():
    return {k: v.clone() for k, v in state(models.load_model(MINI)[0]).items()}


def test_truncated_checkpoint(checkpoint):
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(UserError, match=str(checkpoint)):
        models.load_model(checkpoint)


def test_missing_weights(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no \*.safetensors"):
        models.load_model(checkpoint)


def test_an_index_that_names_no_file(checkpoint):
    index = checkpoint / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"model.norm.weight": 3}}')
    with pytest.raises(UserError, match="weight_map names no file for 'model.norm.weight'"):
        Checkpoint(checkpoint)


def test_pickle_is_not_read(checkpoint):
    torch.save(load_file(checkpoint / "model.safetensors"), checkpoint / "pytorch_model.bin")
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(UserError, match="Convert it, if you trust it"):
        models.load_model(checkpoint)


@pytest.mark.parametrize(
    "spoil, names",
    [
        (lambda e: e["model.norm.weight"].fill_(float("nan")), "model.norm.weight"),
        (lambda e: e.update({"model.norm.weight": torch.ones(7)}), "model.norm.weight"),
        (lambda e: e.pop("model.norm.weight"), "model.norm.weight"),
        (lambda e: e.update(extra=torch.ones(1)), "extra"),
    ],
)
def test_experts_that_do_not_fit(base, spoil, names):
    expert = {k: v.clone() for k, v in base.items()}
    spoil(expert)
    with pytest.raises(UserError, match=names):
        check_shapes(base, {"hi-en": expert})
        check_finite({"hi-en": expert})
    with pytest.raises(UserError, match=names):
        merge_state_dicts(base, {"hi-en": expert}, "task_arithmetic")


@pytest.mark.parametrize(
    "method, hyper",
    [("tie", {}), ("ties", {"K": 1.5}), ("ties", {"k": 0.5}), ("dare", {"p": 1.0}), ("sce", {"select_topk": 1.5})],
)
def test_methods_and_parameters_that_do_not_exist(base, method, hyper):
    with pytest.raises(UserError):
        merge_state_dicts(base, {"hi-en": base, "bn-en": base}, method, **hyper)


def test_base_that_cannot_be_had(tmp_path, monkeypatch):
    spec = dict(package="no_such_package", hub="no/such-model")
    monkeypatch.setattr(models, "base_spec", lambda name: spec)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.delenv("MMTMERGE_BASE", raising=False)
    with pytest.raises(UserError, match="Three ways to provide it"):
        models.find_base("gemma-3-270m", tmp_path)
    assert not list(tmp_path.iterdir())


def test_base_that_is_another_model(tmp_path, monkeypatch):
    monkeypatch.setenv("MMTMERGE_BASE", str(root() / "mmtmerge/data/miniature"))
    with pytest.raises(
        UserError,
        match="MMTMERGE_BASE=.*/miniature: its hidden_size is 96, that of gemma-3-270m is 640: it is another model",
    ):
        models.find_base("gemma-3-270m", tmp_path)
    monkeypatch.setenv("MMTMERGE_BASE", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="/nowhere holds no config.json"):
        models.find_base("gemma-3-270m", tmp_path)
