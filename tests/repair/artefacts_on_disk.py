"""A base, experts of three directions and artefacts of them on disk: helpers of tests.

PYTEST_DONT_REWRITE: nothing is asserted here.
"""

import shutil

import torch
from safetensors.torch import load_file, save_file

from mmtmerge.core import root
from mmtmerge.repair.artefact import repair_checkpoints

MINI, W = root() / "mmtmerge/data/miniature", "model.safetensors"
DIRECTIONS = ("en-hi", "en-ta", "ta-en")
INSTRUCTIONS = {d: f"Translate {d}" for d in DIRECTIONS}


def write_model(folder, tensors):
    shutil.copytree(MINI, folder)
    save_file(tensors, folder / W, {"format": "pt"})


def repair_in(models, out="out/artefact", directions=DIRECTIONS, **more):
    "An artefact of the models; keywords are those of `repair_checkpoints`."
    experts = {direction: models / direction for direction in directions}
    settings = dict(threads=1, progress=False) | more
    return repair_checkpoints(models / "base", experts, models / out, **settings)


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def tensors_of(folder):
    return {name: t for file in sorted(folder.glob("*.safetensors")) for name, t in load_file(file).items()}


def same(x, y):
    return x.keys() == y.keys() and all(x[k].dtype == y[k].dtype and torch.equal(x[k], y[k]) for k in x)
