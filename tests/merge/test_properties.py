"What must hold for every registered method: a new one fails until its settings are listed here."

import gc
import itertools
import json
import math
import random
import sys
import tempfile
import threading
import weakref
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mmtmerge.merge.checkpoint_reader import Checkpoint
from mmtmerge.merge.checkpoint_writer import write_merge
from mmtmerge.merge.apply import Recipe, merge_state_dicts, merged_task_vectors
from mmtmerge.merge.random_masks import keep_mask, random_key
from mmtmerge.merge.registry import METHODS, find_method
from mmtmerge.merge.task_vectors import TaskVectors

REGISTERED = [(name, preset or "paper") for name, meanings in METHODS.items() for preset in meanings]
W, SOME, ALL = dict(a=0.3, b=0.7, c=0.5), dict(density=0.6), dict(weight=1.0)

# (method, preset) -> hyper-parameters that drop, weigh and choose, and ones that keep everything alike
SETTINGS = {
    ("linear", "paper"): (dict(weight=W), {}),
    ("task_arithmetic", "paper"): ({}, {}),
    ("task_arithmetic", "mergekit"): (dict(weight=W), ALL),
    ("ties", "paper"): (dict(K=0.6), dict(K=1.0)),
    ("ties", "mergekit"): (dict(weight=W, **SOME), ALL),
    ("dare", "paper"): (dict(p=0.5), dict(p=0.0)),
    ("dare_ties", "paper"): (dict(p=0.5), dict(p=0.0)),
    ("dare_ties", "mergekit"): (dict(weight=W, **SOME), ALL),
    ("dare_linear", "mergekit"): (dict(weight=W, normalize=True, **SOME), ALL),
    ("breadcrumbs", "paper"): (dict(weight=W, gamma=0.1, rescale=True, **SOME), {}),
    ("breadcrumbs_ties", "paper"): (dict(weight=W, gamma=0.1, **SOME), {}),
    ("della", "paper"): (dict(weight=W, **SOME), {}),
    ("della_linear", "paper"): (dict(weight=W, **SOME), {}),
    ("sce", "paper"): (dict(select_topk=0.6), {}),
    ("sce", "fuseai"): (dict(select_topk=0.6), {}),
    ("slerp", "paper"): (dict(t=0.3), dict(t=1.0)),
    ("karcher", "paper"): ({}, {}),
    ("model_stock", "paper"): (dict(filter_wise=True), {}),
    ("tsv", "paper"): ({}, {}),
    ("subspace_boosting", "paper"): (dict(beta=0.3), dict(beta=1.0)),
    ("iso_c", "paper"): ({}, {}),
    ("fisher", "paper"): ({}, {}),
    ("regmean", "paper"): ({}, {}),
    ("greedy_soup", "paper"): (dict(score=len), dict(score=len)),
    ("passthrough", "mergekit"): ({}, {}),
    ("nuslerp", "mergekit"): (dict(weight=W), {}),
    ("multislerp", "mergekit"): (dict(weight=W), {}),
    ("nearswap", "mergekit"): (dict(t=0.05), dict(t=9.0)),
    ("arcee_fusion", "mergekit"): ({}, {}),
    ("ram", "mergekit"): (dict(epsilon=0.05), dict(epsilon=0.0)),
    ("ramplus_tl", "mergekit"): (dict(epsilon=0.05), dict(epsilon=0.0)),
}
# identical experts add up here, elsewhere they are averaged
SUMS = {
    ("task_arithmetic", "paper"),
    ("task_arithmetic", "mergekit"),
    ("ties", "paper"),
    ("dare", "paper"),
    ("dare_ties", "paper"),
    ("dare_ties", "mergekit"),
    ("dare_linear", "mergekit"),
    ("breadcrumbs", "paper"),
    ("breadcrumbs_ties", "paper"),
    ("della_linear", "paper"),
    ("subspace_boosting", "paper"),
}
REFUSES = {"model_stock": "needs an angle: two experts", "nuslerp": "is the way between two"}
FLATTENS = {"iso_c": "replaces the spectrum", "arcee_fusion": "keeps outliers alone"}
CUTS = {"tsv": "keeps 1/N of the triplets of each expert, alike or not"}


def every(*exceptions):
    "Over the registry and random models, without the methods for which it cannot hold."
    methods = [x for x in REGISTERED if not any(x[0] in e for e in exceptions)]

    def decorate(test):
        test = settings(max_examples=15, deadline=None, derandomize=True, database=None)(
            given(seed=st.integers(0, 2**31), m=st.integers(1, 9), n=st.integers(1, 12))(test)
        )
        return pytest.mark.parametrize("which", methods, ids="-".join)(test)

    return decorate


def state(g, m, n):
    shapes = {
        "embed_tokens.weight": (m + 1, n),
        "one": (1,),
        "vector": (n,),
        "row": (1, n),
        "column": (n, 1),
        "matrix": (m, n),
        "wide": (2, 3 * n),
        "tall": (n + 4, 3),
    }
    return {k: torch.randn(s, generator=g) for k, s in shapes.items()}


def models(which, seed, m, n, count=3, move=0.1):
    "A base, experts by name, and what informs fisher and regmean."
    g = torch.Generator().manual_seed(seed)
    base, count = state(g, m, n), min(count, find_method(*which).experts[1])
    experts = {who: {k: t + move * torch.randn(t.shape, generator=g) for k, t in base.items()} for who in "abc"[:count]}
    if which[0] == "fisher":
        return (
            base,
            experts,
            dict(
                information={
                    who: {k: torch.rand(t.shape, generator=g) + 0.1 for k, t in base.items()} for who in experts
                }
            ),
        )
    if which[0] != "regmean":
        return base, experts, {}

    def gram(x):
        return x.T @ x

    return (
        base,
        experts,
        dict(
            grams={
                who: {
                    k: gram(torch.randn(2 * t.shape[1] + 8, t.shape[1], generator=g))
                    for k, t in base.items()
                    if t.dim() == 2
                }
                for who in experts
            }
        ),
    )


def merge(which, base, experts, informed, keep_all=False, **more):
    return merge_state_dicts(
        base, experts, *which, embeddings="merge", **{**informed, **SETTINGS[which][keep_all], **more}
    )


def near(got, want, tol=1e-5):
    assert got.keys() == want.keys()
    for k in want:
        assert got[k].shape == want[k].shape and float((got[k] - want[k]).abs().max()) <= tol, k


def same(got, want):
    assert got.keys() == want.keys()
    for k in want:
        assert got[k].dtype == want[k].dtype and torch.equal(got[k], want[k]), k


@every()
def test_order_does_not_matter(which, seed, m, n):
    "Experts are a set; SLERP's are two ends, and t counts from the first."
    base, experts, informed = models(which, seed, m, n)
    near(
        merge(which, base, dict(reversed(experts.items())), informed, **(dict(t=0.7) if which[0] == "slerp" else {})),
        merge(which, base, experts, informed),
    )


@every(REFUSES, FLATTENS)
def test_one_expert_is_given_back(which, seed, m, n):
    "Merging one expert whole gives it."
    base, experts, informed = models(which, seed, m, n, count=1)
    near(merge(which, base, experts, informed, keep_all=True), experts["a"])


@every(FLATTENS, CUTS)
def test_identical_experts_give_themselves(which, seed, m, n):
    "The mean of equals is each of them, their sum as many times as much."
    base, experts, informed = models(which, seed, m, n)
    experts = dict.fromkeys(experts, experts["a"])
    near(
        merge(which, base, experts, informed, keep_all=True, lam=1 / len(experts) if which in SUMS else 1.0),
        experts["a"],
    )
    if which == ("ties", "paper"):
        near(merge(which, base, experts, informed, keep_all=True, merge_func="mean"), experts["a"])


@every()
def test_zero_deltas_give_the_base(which, seed, m, n):
    "What did not move stays, to the bit where only task vectors are added."
    base, experts, informed = models(which, seed, m, n, move=0.0)
    (near if which[0] in ("slerp", "karcher") else same)(merge(which, base, experts, informed, lam=0.7), base)


@every()
def test_threads_do_not_matter(which, seed, m, n):
    "Bit-equal on one thread and on three, and nothing is written into what was given."
    base, experts, informed = models(which, seed, m, n)
    kept = [{k: t.clone() for k, t in s.items()} for s in (base, *experts.values())]
    same(merge(which, base, experts, informed, threads=3), merge(which, base, experts, informed))
    for s, before in zip((base, *experts.values()), kept):
        same(s, before)


@every()
def test_shards_do_not_matter(which, seed, m, n):
    "However tensors are dealt out to files, and on any number of threads: on disk is the merge in memory, bit for bit."
    (base, experts, informed), draw = models(which, seed, m, n), random.Random(seed)
    recipe = Recipe(which[0], {**informed, **SETTINGS[which][False]}, preset=which[1], embeddings="merge")
    with tempfile.TemporaryDirectory() as at:

        def deal(who, s):
            (folder := Path(at) / who).mkdir()
            where = {k: f"{draw.randrange(4)}.safetensors" for k in s}
            for f in set(where.values()):
                save_file({k: s[k] for k in s if where[k] == f}, folder / f)
            for name, what in {"config.json": {}, "model.safetensors.index.json": dict(weight_map=where)}.items():
                (folder / name).write_text(json.dumps(what))
            return Checkpoint(folder)

        (out := Path(at) / "out").mkdir()
        write_merge(
            recipe,
            deal("base", base),
            {who: deal(who, e) for who, e in experts.items()},
            out,
            threads=draw.choice([1, 3]),
            shard_bytes=draw.choice([50, 500, 10**6]),
            progress=False,
        )
        written = {k: t for f in out.glob("*.safetensors") for k, t in load_file(f).items()}
    same({k: written[k] for k in base} | written, merge(which, base, experts, informed))


@every()
def test_types_and_layout_do_not_matter(which, seed, m, n):
    "bf16 weights merge as their float32 copies do, until the result is cast; strides do not count."
    base, experts, informed = models(which, seed, m, n)

    def cast(f):
        return {k: f(t) for k, t in base.items()}, {who: {k: f(t) for k, t in e.items()} for who, e in experts.items()}

    def strided(t):
        return (
            t.bfloat16().float().flip(0).t().contiguous().t().flip(0)
            if t.dim() == 2
            else t.bfloat16().float().repeat_interleave(2)[::2]
        )

    want = merge(which, *cast(lambda t: t.bfloat16().float()), informed)
    same(merge(which, *cast(lambda t: t.bfloat16()), informed, dtype=torch.float32), want)
    same(merge(which, *cast(lambda t: t.bfloat16()), informed), {k: t.bfloat16() for k, t in want.items()})
    same(merge(which, *cast(strided), informed), want)
    torch.set_default_dtype(torch.bfloat16)  # as Transformers does for all threads while it builds a model
    try:
        same(merge(which, *cast(lambda t: t.bfloat16()), informed, dtype=torch.float32), want)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("which", REGISTERED, ids="-".join)
@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (2, 3, 4), (1, 1)], ids=str)
def test_unusual_shapes(which, shape):
    "Scalars, empty and many-dimensional parameters merge into their shape."
    base, experts, informed = models(which, 0, 3, 4)
    for i, s in enumerate((base, *experts.values())):
        s["odd"] = torch.full(shape, 1.0) + i
    if "information" in informed:
        informed = dict(
            information={who: {**x, "odd": torch.ones(shape)} for who, x in informed["information"].items()}
        )
    assert merge(which, base, experts, informed)["odd"].shape == shape


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 0.99])
def test_masks(p):
    "Masks have their rate and are independent between experts, parameters, seeds and neighbours."
    n, keys = (
        200_000,
        [random_key(*parts) for parts in [(42, "a", "x"), (42, "b", "x"), (42, "a", "y"), (43, "a", "x")]],
    )
    m = [keep_mask(p, k, slice(0, n)).double() - (1 - p) for k in keys]
    for a, b in [*itertools.combinations(m, 2), (m[0][1:], m[0][:-1]), (m[0][64:], m[0][:-64])]:
        assert abs(float((a * b).mean())) < 5 * p * (1 - p) / math.sqrt(n)
    for a in m:
        assert abs(float(a.mean())) < 5 * math.sqrt(p * (1 - p) / n)
    assert torch.equal(keep_mask(p, keys[0], slice(1000, 1777)), keep_mask(p, keys[0], slice(0, n))[1000:1777])


def test_limits_of_masks():
    "Nothing is dropped at 0, nothing kept next to 1."
    assert (
        keep_mask(0.0, random_key(42), slice(0, 1000)).all()
        and not keep_mask(1 - 1e-12, random_key(42), slice(0, 1000)).any()
    )


@pytest.mark.parametrize(
    "method, hyper",
    [
        ("dare_linear", dict(density=0.3)),
        ("della_linear", dict(density=0.4, epsilon=0.1)),
        ("breadcrumbs", dict(density=0.5, rescale=True)),
    ],
)
def test_rescaling_restores_the_norm(method, hyper):
    "The L1 norm of an expert's task vector survives the mask."
    base, experts, _ = models((method, "mergekit"), 0, 9, 12, count=1)
    recipe = Recipe(method, dict(weight=1.0, **hyper), preset="mergekit", embeddings="merge")
    for k, m in merged_task_vectors(recipe, recipe.task_vectors(base, experts)):
        if m.numel() > 20:
            torch.testing.assert_close(m.abs().sum(), (experts["a"][k] - base[k]).abs().sum(), rtol=1e-5, atol=0)


class Holder:
    "Keeps a walk in a cycle, so that only the garbage collector drops it."


def test_a_dropped_walk_may_be_collected_by_its_own_worker():
    "A worker of the pool cannot wait for itself to end."
    base = {name: torch.zeros(3) for name in "ab"}
    vectors = TaskVectors(base, {"x": base}, list(base), threads=2)
    dropped, done, left, errors = threading.Event(), threading.Event(), [], []

    def at_work(parameter):  # the second parameter's worker collects garbage
        if parameter.name == "a":
            return
        dropped.wait()
        gc.collect()
        left.append(holder())
        done.set()

    def abandoned():  # begins, and leaves the rest in a cycle
        h = Holder()
        h.itself, h.rest = h, vectors.each(at_work)
        next(h.rest)
        return weakref.ref(h)

    hook = sys.unraisablehook
    gc.disable()
    sys.unraisablehook = errors.append
    try:
        holder = abandoned()
        dropped.set()
        assert done.wait(60)
    finally:
        dropped.set()
        gc.enable()
        sys.unraisablehook = hook
    assert (left, errors) == ([None], [])
