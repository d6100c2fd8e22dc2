"""A base and two experts on disk, ways to change them, and a merge of them: fixtures and helpers of tests.

PYTEST_DONT_REWRITE: nothing is asserted here.
"""

import json
import os
import shutil
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmtmerge.core import root
from mmtmerge.merge.checkpoints import merge_checkpoints

MINI = root() / "mmtmerge/data/miniature"
NORM, UP, EMBED, HEAD = (
    "model.norm.weight",
    "model.layers.0.mlp.up_proj.weight",
    "model.embed_tokens.weight",
    "lm_head.weight",
)
W, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    "The miniature with biases as base, and two experts around it."
    models, g = tmp_path_factory.mktemp("pristine"), torch.Generator().manual_seed(1)

    def noise(s, size, end):
        return {k: v + size * torch.randn(v.shape, generator=g) if k.endswith(end) else v for k, v in s.items()}

    base = noise(load_file(MINI / W), 0.02, "bias")
    for who, s in {"base": base, "a": noise(base, 0.002, ""), "b": noise(base, 0.002, "")}.items():
        shutil.copytree(MINI, models / who)
        save_file(s, models / who / W, {"format": "pt"})
    return models


@pytest.fixture
def models(pristine, tmp_path):
    "Hard links to base, a and b, to be spoilt by `put`, `edit` and `shard`, which write new files; out/ is empty."
    for who in ("base", "a", "b"):
        shutil.copytree(pristine / who, tmp_path / who, copy_function=os.link)
    (tmp_path / "out").mkdir()
    return tmp_path


@pytest.fixture
def mount(models):
    "Mounts a small file system of its own at disk/."
    (at := models / "disk").mkdir()

    def on(options):
        if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", at], capture_output=True).returncode:
            pytest.skip("mounting is not permitted")

    yield on
    if os.path.ismount(at):
        subprocess.run(["umount", at], check=True)


def put(file, content):
    file.unlink(missing_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())


def edit(folder, change):
    change(state := load_file(folder / W))
    (folder / W).unlink()
    save_file(state, folder / W, {"format": "pt"})


def shard(folder, n, change=lambda files, at: None):
    "Deal the tensors out to n files; `change` may spoil them and their index."
    state = load_file(folder / W)
    files = {f"model-{i + 1:05}-of-{n:05}.safetensors": {k: state[k] for k in list(state)[i::n]} for i in range(n)}
    change(files, at := {k: f for f, s in files.items() for k in s})
    for f, s in files.items():
        save_file(s, folder / f, {"format": "pt"})
    put(folder / INDEX, json.dumps(dict(metadata={}, weight_map=at)))
    (folder / W).unlink()


def merge_in(models, method="linear", experts=("a", "b"), out="out/merged", **more):
    return merge_checkpoints(
        models / "base", [models / e for e in experts], models / out, method, **dict(threads=1, progress=False) | more
    )


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def snapshot(models):
    return {p: p.is_dir() or (p.lstat().st_mtime_ns, p.lstat().st_size) for p in models.rglob("*")}


def written(folder):
    return {k: v for f in sorted(folder.glob("*.safetensors")) for k, v in load_file(f).items()}


def same(x, y):
    return x.keys() == y.keys() and all(x[k].dtype == y[k].dtype and torch.equal(x[k], y[k]) for k in x)
