"""Whether two tools wrote the same merge: relative differences of all values, those tied at a threshold left out."""

from dataclasses import dataclass

import numpy as np
import torch

from mmtmerge.core import require
from mmtmerge.merge.checkpoint_reader import Checkpoint
from mmtmerge.merge.sce import variance_across_experts
from mmtmerge.merge.task_vectors import TaskVectors
from mmtmerge.merge.thresholds import magnitudes

STEP = 2**-7  # of bfloat16, relative
TIED = 1e-5  # relative distance from a threshold that counts as none
MOVED = 0.01  # by which distances moved at random may differ, relative


def block_variance(where, block):
    return variance_across_experts(block)


def rankings(method, theta, settings):
    "What a method ranks in one parameter, and how many of the largest it keeps."
    if method == "ties":
        kept = max(1, int(settings["density"] * theta.base.numel()))
        for expert in range(len(theta.experts)):
            yield magnitudes(theta, expert), kept
    elif method == "sce":
        values = theta.map(block_variance).flatten().numpy()
        yield values, int(np.count_nonzero(values) * settings["select_topk"])


def tied_at_threshold(method, theta, settings):
    "Mask of the entries equal, or nearly, to the smallest that is kept."
    n = theta.base.numel()
    tied = np.zeros(n, bool)
    for values, kept in rankings(method, theta, settings):
        if kept > 0:
            threshold = np.partition(values, n - kept)[n - kept]
            tied |= np.isclose(values, threshold, rtol=TIED, atol=0)
    return torch.from_numpy(tied)


@dataclass
class Comparison:
    "Two merges of one base, compared parameter by parameter."

    largest: float = 0.0  # relative difference
    differ: int = 0  # entries
    tied: int = 0  # entries
    entries: int = 0
    moved_ours: float = 0.0  # sum of distances from the base
    moved_theirs: float = 0.0

    def add(self, base, ours, theirs, tied):
        "Compare one parameter: flat float32 tensors, and a mask of what does not count."
        moves = (ours - base).abs_(), (theirs - base).abs_()
        distances = [float(move.sum(dtype=torch.float64)) for move in moves]
        self.moved_ours += distances[0]
        self.moved_theirs += distances[1]
        # where weights and task vectors cancel, rounding is seen relative to what was added
        least = max(float(moves[1].mean()), 1e-30)
        scale = theirs.abs().clamp_(min=least)
        off = (ours - theirs).abs_().mul_(~tied)
        self.largest = max(self.largest, float((off / scale).max()))
        self.differ += int(off.count_nonzero())
        self.tied += int(tied.sum())
        self.entries += len(base)

    def agrees(self, at_random):
        "Whether the outputs are the same but for rounding; of random masks, whether they moved equally far."
        if at_random:
            return abs(self.moved_ours / self.moved_theirs - 1) < MOVED
        return self.largest <= STEP


def compare(
    method,
    settings,  # of the method, as mergekit names them
    family,  # what was merged
    ours,  # folder
    theirs,  # folder
):
    "Compare two outputs. Raises UserError if they hold different tensors."
    base, ours, theirs = (Checkpoint(folder) for folder in (family.base, ours, theirs))
    different = sorted(ours.keys() ^ theirs.keys())[:4]
    require(not different, f"the outputs hold different tensors: {different}")
    experts = {folder.name: Checkpoint(folder) for folder in family.experts}
    task_vectors = TaskVectors(base, experts, list(base))
    comparison = Comparison()
    for name in ours:
        flat = [model[name].float().flatten() for model in (base, ours, theirs)]
        tied = tied_at_threshold(method, task_vectors.parameter(name), settings)
        comparison.add(*flat, tied)
    return comparison
