"Every method against an oracle: mergekit where it has the method, else a naive re-derivation on whole vectors."

import functools
import itertools

import pytest
import torch
import yaml

from mmtmerge.merge.checkpoint_reader import Checkpoint
from mmtmerge.merge.apply import Recipe, fingerprint, merge_state_dicts, merged_task_vectors
from mmtmerge.merge.thresholds import magnitudes_at_ranks
from mmtmerge.merge.checkpoints import BASELESS
from mmtmerge.merge.mergekit_yaml import COUNTS, for_whole_merge, read_config, write_config
from mmtmerge.settings import load
from mmtmerge.merge.random_masks import keep_mask, random_bits, random_key
from mmtmerge.merge.registry import METHODS
from mmtmerge.merge.task_vectors import Parameter, TaskVectors

EMBED = "model.embed_tokens.weight"
SHAPES = {
    EMBED: (20, 8),
    "tall.weight": (25, 8),
    "wide.weight": (6, 30),
    "row": (1, 10),
    "column": (10, 1),
    "norm.weight": (10,),
    "bias": (7,),
    "one": (1,),
    "packed": (3, 4, 5),
}
SCALE = {"wide.weight": 0.3, "norm.weight": 0.02}
ALONE = ("around_base", "scale")  # one value, wherever it stands
W, DENSITY = dict(a=0.3, b=0.7, c=0.5, d=1.1), dict(a=0.3, b=0.7, c=1.0, d=0.9)


@functools.cache
def models(n, seed=0, low=-3, high=4, scale=1.0):
    "A base and n experts: task vectors of ties.weight are multiples of 1/8, of frozen.weight and of b's bias zero."
    g = torch.Generator().manual_seed(seed)
    base = {k: torch.randn(s, generator=g) for k, s in SHAPES.items()} | {
        "ties.weight": torch.randint(-16, 17, (10, 10), generator=g) / 8,
        "frozen.weight": torch.randn(5, 8, generator=g),
    }
    experts = {
        who: {k: t + scale * 0.1 * SCALE.get(k, 1) * torch.randn(t.shape, generator=g) for k, t in base.items()}
        for who in "abcd"[:n]
    }
    for e in experts.values():
        e |= {
            "ties.weight": base["ties.weight"] + scale * torch.randint(low, high, (10, 10), generator=g) / 8,
            "frozen.weight": base["frozen.weight"].clone(),
        }
    return base, experts | ({"b": experts["b"] | {"bias": base["bias"]}} if n > 1 else {})


@pytest.fixture(params=[(2, 1, 1 << 15), (4, 2, 37)], ids=["2 experts, whole", "4 experts, in blocks"])
def case(request, monkeypatch):
    "Models of two and four experts, these in blocks that cut most tensors."
    monkeypatch.setattr(Parameter.blocks, "__defaults__", (True, request.param[2]))
    return models(*request.param[:2])


def close(got, want, tol=1e-6):
    assert got.keys() == want.keys()
    for k, w in want.items():
        off, size = float((got[k].double() - w.double()).abs().max()), float(w.abs().max())
        assert got[k].shape == w.shape and off <= tol * size, k


def deltas(base, experts):
    return {k: torch.stack([e[k] - base[k] for e in experts.values()]) for k in base}


def of(value, experts):
    return {k: value[k] for k in experts} if isinstance(value, dict) else value


def grid(**values):
    return [dict(zip(values, x)) for x in itertools.product(*values.values())]


def short(x):
    return x if isinstance(x, str) else " ".join(f"{k}={'each' if isinstance(v, dict) else v}" for k, v in x.items())


def direction(base, experts, method, preset="paper", embeddings=None, **hyper):
    recipe = Recipe(method, hyper, preset=preset, embeddings=embeddings)
    return dict(merged_task_vectors(recipe, recipe.task_vectors(base, experts)))


MERGEKIT = [
    (m, h)
    for m, hs in dict(
        linear=grid(weight=[1.0, 0.3, W], normalize=[True, False]),
        task_arithmetic=grid(weight=[0.4, W], normalize=[True, False])
        + [dict(weight=W, lam=0.3), dict(weight=1.0, int8_mask=True, lam=-0.5)],
        ties=grid(weight=[W], density=[0.1, 0.37, 0.7, 1.0], normalize=[True, False])
        + grid(weight=[1.0], density=[0.0, 0.7, 0.9])
        + [
            dict(weight=W, density=DENSITY, int8_mask=True, lam=0.4),
            dict(weight=0.6, density=DENSITY, rescale=True),
            dict(weight=dict(W, b=-0.2), density=0.5),
        ],
        breadcrumbs=grid(weight=[W], density=[0.3, 0.7, 0.9, 1.0], gamma=[0.01, 0.1])
        + [
            dict(
                weight=W,
                density=DENSITY,
                gamma=dict(a=0.1, b=0.2, c=0.0, d=0.05),
                rescale=True,
                normalize=True,
                lam=0.6,
            )
        ],
        breadcrumbs_ties=grid(weight=[W], density=[0.3, 0.7, 1.0], gamma=[0.01, 0.2])
        + [dict(weight=W, density=0.7, normalize=True, lam=0.6)],
        sce=grid(select_topk=[0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0]) + [dict(select_topk=0.5, int8_mask=True)],
        slerp=grid(t=[0.0, 1.0, 0.25, 0.5, -0.3, 1.4]),
        model_stock=grid(filter_wise=[False, True]),
        karcher=[{}, dict(max_iter=3), dict(tol=1e-3)],
        della=[dict(weight=W, density=1.0)],
        della_linear=[dict(weight=W, density=1.0, lam=0.5)],
        dare_linear=[dict(weight=W, density=1.0, normalize=True)],
        dare_ties=[dict(weight=W, lam=0.5)],
        passthrough=[{}, dict(scale=0.0), dict(scale=-1.7)],
        nuslerp=grid(weight=[1.0, W, dict(W, b=-0.3)], around_base=[True, False])
        + grid(weight=[W], nuslerp_flatten=[False], nuslerp_row_wise=[True, False], around_base=[True, False]),
        multislerp=grid(weight=[W], normalize_weights=[True, False], around_base=[False]),
        nearswap=grid(t=[0.0, 0.01, 0.1, 10.0]),
        arcee_fusion=[{}],
        ram=[{}, dict(epsilon=0.1)],
        ramplus_tl=[{}, dict(epsilon=0.1, r=0.7, alpha=0.5)],
    ).items()
    for h in hs
]


def in_a_list(value, experts):
    "One value for each expert."
    return list(value.values()) if isinstance(value, dict) else [value] * len(experts)


def fitting(method, experts):
    "As many experts as a method takes."
    most = COUNTS.get(method, (len(experts),))[0]
    return {who: experts[who] for who in list(experts)[:most]}


def oracle(base, experts, method, **hyper):
    "What mergekit makes; of equals, whose order it leaves open, the first."
    kit = pytest.importorskip("mergekit.merge_methods")
    hyper = {"lambda" if k == "lam" else k: v for k, v in hyper.items()}
    baseless = method in BASELESS or not hyper.pop("around_base", True)
    with pytest.MonkeyPatch.context() as m:
        for f in "sort", "argsort":
            m.setattr(torch, f, functools.partial(getattr(torch, f), stable=True))
        m.setattr(torch, "topk", lambda x, k, largest: [y[:k] for y in torch.sort(x, descending=largest)])
        return kit.merge_state_dicts(
            experts if baseless else dict(base=base, **experts),
            method,
            base=None if baseless else "base",
            parameters=hyper,
            dtype=torch.float32,
        )


@pytest.mark.parametrize("method, hyper", MERGEKIT, ids=short)
def test_mergekit(method, hyper, case):
    "Equal to mergekit in float32."
    base, experts = case
    experts = fitting(method, experts)
    hyper = {k: of(v, experts) for k, v in hyper.items()}
    close(merge_state_dicts(base, experts, method, "mergekit", **hyper), oracle(base, experts, method, **hyper))


def test_mergekit_on_all_shared_methods():
    "No method that both have lacks a comparison."
    kit = pytest.importorskip("mergekit.merge_methods")
    assert {m.spec.name for m in kit.registered_methods()} & {
        m for m in METHODS if {"mergekit", None} & set(METHODS[m])
    } == {m for m, _ in MERGEKIT}


@functools.cache
def study_models():
    "The laptop study's base and its experts into English: the first rows of the embeddings and of a block's tensors."
    study = load("laptop")
    folders = [
        study.result(*at).parent / "checkpoint"
        for at in [("base", "base"), *(("finetune", d) for d in study.groups["indic-en"])]
    ]
    if any(not f.exists() for f in folders):
        pytest.skip("make the laptop's base and experts first: mmtmerge rebuild")
    base, *experts = (
        {k: c[k][:200].float() for k in c if k == EMBED or ".layers.7." in k} for c in map(Checkpoint, folders)
    )
    return base, dict(zip("abcd", experts))


@pytest.mark.slow
@pytest.mark.parametrize("method, hyper", MERGEKIT, ids=short)
def test_mergekit_on_the_study(method, hyper):
    "Equal on trained experts: weights to 1e-6, task vectors as far as float32 weights tell."
    base, experts = study_models()
    experts = fitting(method, experts)
    hyper = {k: of(v, experts) for k, v in hyper.items()}
    got, want = merge_state_dicts(base, experts, method, "mergekit", **hyper), oracle(base, experts, method, **hyper)
    close(got, want)
    for k in want:
        if not torch.equal(want[k], base[k]):
            assert float(((got[k] - want[k]).abs() - 1e-7 * want[k].abs()).max()) <= 1e-4 * float(
                (want[k] - base[k]).abs().max()
            ), k


@pytest.mark.parametrize("method, hyper", MERGEKIT, ids=short)
def test_configurations(method, hyper, tmp_path):
    "What is written mergekit reads: it knows every parameter and misses none; read again it is the same merge."
    kit = pytest.importorskip("mergekit.merge_methods")
    from mergekit.config import MergeConfiguration

    experts = fitting(method, {who: f"experts/{who}" for who in "abcd"})
    hyper = {k: of(v, experts) for k, v in hyper.items()}
    lam, file = hyper.pop("lam", 1.0), tmp_path / "merge.yml"
    file.write_text(write_config(Recipe(method, hyper, lam, "mergekit"), "base", experts, "bfloat16"))
    theirs = MergeConfiguration.model_validate(yaml.safe_load(file.read_text()))
    parameters = next(m.spec.parameters for m in kit.registered_methods() if m.spec.name == method)
    for model in theirs.models:
        assert (
            {p.name for p in parameters if p.required}
            <= {*(theirs.parameters or {}), *(model.parameters or {})}
            <= {p.name for p in parameters}
        )
    alike = {
        k: v if k in ALONE or for_whole_merge(method, k) else in_a_list(v, experts)
        for k, v in hyper.items()
        if (k, v) != ("around_base", True)
    }
    assert (theirs.dtype, theirs.out_dtype) == ("float32", "bfloat16")
    assert read_config(file) == dict(
        base="experts/a" if method in BASELESS or not hyper.get("around_base", True) else "base",
        experts=list(experts.values()),
        method=method,
        preset="mergekit",
        lam=lam,
        dtype="bfloat16",
        **alike,
    )


@pytest.mark.parametrize("scale", [1.0, 1e-2, 1e-4])
def test_sce_of_tiny_deltas(scale):
    "Below a sum of mean squares of 1e-6 the weights are equal, as in mergekit; FuseAI's preset does not fall back."
    base, experts = models(4, 5, scale=scale)
    close(merge_state_dicts(base, experts, "sce", "mergekit"), oracle(base, experts, "sce"))
    unlike = (
        direction(base, experts, "sce")["tall.weight"] - direction(base, experts, "sce", "fuseai")["tall.weight"]
    ).abs().max() > 1e-3 * scale
    assert unlike == (float(deltas(base, experts)["tall.weight"].square().mean((1, 2)).sum()) < 1e-6)


def generalized(base, experts, masks, weight=None, elect=False, normalize=False, rescale=False, lam=1.0):
    "mergekit's generalized task arithmetic, given the masks."
    out = {}
    for k, d in deltas(base, experts).items():
        w, kept = (
            torch.tensor([weight[who] if weight else 1.0 for who in experts]).view(-1, *[1] * (d.dim() - 1)),
            torch.stack([x * masks[who][k] for who, x in zip(experts, d)]),
        )
        if rescale:
            kept = torch.stack(
                [
                    y * (x.abs().sum() / y.abs().sum()) if min(x.abs().sum(), y.abs().sum()) >= 1e-7 else y
                    for x, y in zip(d, kept)
                ]
            )
        kept = kept * w
        agree = (
            kept.sign() == torch.where(kept.sum(0) >= 0, 1.0, -1.0)
            if elect
            else torch.ones_like(kept, dtype=torch.bool)
        )
        share = (w * agree).sum(0)
        out[k] = base[k] + lam * (kept * agree).sum(0) / (torch.where(share == 0, 1.0, share) if normalize else 1.0)
    return out


def dare_masks(base, experts, drop, seed):
    return {
        who: {
            k: keep_mask(drop[who], random_key(seed, who, k), slice(0, t.numel())).view(t.shape)
            for k, t in base.items()
        }
        for who in experts
    }


def della_masks(base, experts, density, epsilon, seed):
    def mask(who, k, t):
        size = (experts[who][k] - t).abs().reshape(len(t) if t.dim() > 1 else 1, -1)
        rank = size.argsort(dim=1, stable=True).argsort(dim=1).double() / max(size.shape[1] - 1, 1)
        u = (random_bits(random_key(seed, who, k), slice(0, t.numel())).double() + 2**31) / 2**32
        return (u.view(size.shape) < density - epsilon + 2 * epsilon * rank).view(t.shape)

    return {who: {k: mask(who, k, t) for k, t in base.items()} for who in experts}


@pytest.mark.parametrize("normalize, rescale", [*itertools.product([False, True], repeat=2)])
@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della_linear", "della"])
def test_random_methods_of_mergekit(method, normalize, rescale, case):
    "Given the masks, mergekit's formulas."
    if "dare" in method:
        hyper, masks = dict(density=DENSITY), dare_masks(*case, {k: 1 - x for k, x in DENSITY.items()}, 7)
    else:
        hyper, masks = dict(density=0.6, epsilon=0.3), della_masks(*case, 0.6, 0.3, 7)
    got = merge_state_dicts(
        *case, method, "mergekit", weight=W, normalize=normalize, rescale=rescale, lam=0.7, seed=7, **hyper
    )
    close(got, generalized(*case, masks, W, method in ("dare_ties", "della"), normalize, rescale, 0.7))


@pytest.mark.parametrize("density", [0.3, 0.7])
@pytest.mark.parametrize("method, more", [("dare_linear", {}), ("della_linear", dict(epsilon=0.2))], ids=short)
def test_statistics_of_random_masks(method, more, density):
    "Over many draws every entry is dropped as often and is as large as in mergekit; each draw keeps the norm."
    g, draws = torch.Generator().manual_seed(0), 300
    base, experts = {"w": torch.zeros(20, 50)}, {"a": {"w": torch.randn(20, 50, generator=g)}}
    hyper = dict(weight=1.0, density=density, **more)
    torch.manual_seed(0)
    ours = torch.stack(
        [merge_state_dicts(base, experts, method, "mergekit", seed=s, **hyper)["w"] for s in range(draws)]
    ).double()
    theirs = torch.stack([oracle(base, experts, method, **hyper)["w"] for _ in range(draws)]).double()
    for x in ours, theirs:
        torch.testing.assert_close(
            x.abs().sum((1, 2)), experts["a"]["w"].double().abs().sum().expand(draws), rtol=1e-5, atol=0
        )
    for x, y in (ours, theirs), ((ours == 0).double(), (theirs == 0).double()):
        assert ((x.mean(0) - y.mean(0)).abs() <= 5 * ((x.var(0) + y.var(0)) / draws).sqrt()).all()
    shares = [(x == 0).double().mean() for x in (ours, theirs)]
    for share in shares:
        assert abs(share - (1 - density)) <= 5 * (density * (1 - density) / ours.numel()) ** 0.5


def paper(base, experts, embeddings, merge, lam):
    "Models merged as single vectors: merge maps (N, n) task vectors to (n,)."
    names = [k for k in base if embeddings == "merge" or k != EMBED]
    parts = merge(torch.cat([x.flatten(1) for k, x in deltas(base, experts).items() if k in names], 1)).split(
        [base[k].numel() for k in names]
    )
    return base | {k: base[k] + lam * x.view(base[k].shape) for k, x in zip(names, parts)}


def naive_ties(d, K, merge_func):
    d = d * (d.abs() >= d.abs().sort(dim=1, descending=True).values[:, min(int(d.shape[1] * K), d.shape[1] - 1), None])
    sign = d.sum(0).sign()
    sign[sign == 0] = 1.0 if sign.sum() > 0 else -1.0
    kept = torch.where(sign > 0, d.clamp(min=0), d.clamp(max=0))
    return kept.sum(0) / (kept.ne(0).sum(0).clamp(min=1) if merge_func == "mean" else 1)


@pytest.mark.parametrize("embeddings", ["base", "merge"])
@pytest.mark.parametrize("merge_func", ["sum", "mean"])
@pytest.mark.parametrize("K", [0.02, 0.4, 0.7, 0.9, 1.0])
def test_paper_ties(K, merge_func, embeddings, case):
    "MergeBench's TIES: one threshold a model over what is merged; zero sums take the majority's sign."
    for base, experts in case, models(4, 3, -3, 6), models(4, 4, -5, 4):
        got = merge_state_dicts(
            base,
            experts,
            "ties",
            lam=0.3,
            embeddings=embeddings if embeddings == "merge" else None,
            K=K,
            merge_func=merge_func,
        )
        close(got, paper(base, experts, embeddings, lambda d: naive_ties(d, K, merge_func), 0.3))


@pytest.mark.parametrize("others, majority", [((1, 1, -1), 1), ((-1, 1, -1), -1), ((1, -1, 2), 1), ((1, -1, 0), -1)])
def test_zero_sums_follow_the_majority(others, majority):
    "Where +1/2 meets -1/2 the entry of the model's majority sign stays; without a majority the negative one."
    base, x = {"embed_tokens.weight": torch.ones(2, 2), "w": torch.ones(5)}, torch.tensor([0.0, *others, 0.0])
    experts = [base | {"w": base["w"] + x + torch.tensor([half, 0, 0, 0, 0])} for half in (0.5, -0.5)]
    assert merge_state_dicts(base, experts, "ties", K=1.0)["w"].tolist() == [
        1 + 0.5 * majority,
        *[1.0 + 2 * y for y in others],
        1.0,
    ]


def test_magnitudes_at_ranks():
    "The histograms find what a full sort finds, at every rank, from 1e-40 to 1e30."
    g, base = torch.Generator().manual_seed(0), {"w": torch.zeros(40, 5), "x": torch.zeros(60)}
    experts = {
        who: {
            k: torch.randn(t.shape, generator=g) * 10.0 ** torch.randint(-40, 30, t.shape, generator=g)
            for k, t in base.items()
        }
        for who in "ab"
    }
    experts["b"]["x"].fill_(-2.5)
    whole = torch.stack([torch.cat([t.flatten() for t in e.values()]) for e in experts.values()])
    assert torch.equal(
        magnitudes_at_ranks(TaskVectors(base, experts, list(base)), list(range(260))), whole.abs().sort().values
    )


@pytest.mark.parametrize("p", [0.0, 0.6, 0.9])
@pytest.mark.parametrize("embeddings", ["base", "merge"])
def test_paper_task_arithmetic_and_dare(embeddings, p, case):
    "Plain sums; DARE's divided by 1 - p, without an election, DARE-TIES' after one."
    kw = dict(lam=0.4, embeddings=embeddings if embeddings == "merge" else None, seed=7)
    close(merge_state_dicts(*case, "task_arithmetic", **kw), paper(*case, embeddings, lambda d: d.sum(0), 0.4))
    masks = dare_masks(*case, dict.fromkeys(W, p), 7)
    for method in "dare", "dare_ties":
        want = generalized(*case, masks, elect=method == "dare_ties", lam=0.4 / (1 - p))
        close(
            merge_state_dicts(*case, method, p=p, **kw),
            want | ({EMBED: case[0][EMBED]} if embeddings == "base" else {}),
            2e-6,
        )


@pytest.mark.parametrize("preset", ["paper", "fuseai"])
@pytest.mark.parametrize("topk", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_sce(preset, topk, case):
    "SCE by the letter; FuseAI's selects for the weights alone and merges everything."
    for k, m in direction(*case, "sce", preset, select_topk=topk).items():
        d = deltas(*case)[k].double()
        var = d.var(0, unbiased=False).flatten().float()
        first = var.argsort(descending=True, stable=True)[: int((var != 0).sum() * topk)]
        selected = d * torch.zeros_like(var).index_fill(0, first, 1.0).view(d[0].shape) if topk < 1 else d
        energy = selected.square().flatten(1).mean(1)
        w = (
            energy / energy.sum()
            if energy.sum() > (0 if preset == "fuseai" else 1e-6)
            else torch.full_like(energy, 1 / len(d))
        )
        if preset == "paper":
            d = selected
        w = w.view(-1, *[1] * (d.dim() - 1)) * (d.sign() == torch.where(d.sum(0) >= 0, 1.0, -1.0))
        torch.testing.assert_close(m.double(), (w * d).sum(0) / w.sum(0).clamp(min=1e-6), rtol=1e-5, atol=1e-7)


def svd(x):
    return torch.linalg.svd(x, full_matrices=False)


def polar(x):
    return (lambda u, s, v: u @ v)(*svd(x))


def naive_tsv(d):
    u, s, v = zip(*map(svd, d))
    r = max(1, min(d.shape[1:]) // len(d))
    return (
        polar(torch.cat([x[:, :r] for x in u], 1))
        @ torch.cat([x[:r] for x in s]).diag()
        @ polar(torch.cat([x[:r] for x in v]))
    )


def naive_iso(d):
    return (lambda u, s, v: s.mean() * u @ v)(*svd(d.sum(0)))


def naive_boost(d, beta):
    u, s, v = svd(d.sum(0))
    return u @ s.clamp(min=next(s[i] for i in range(len(s)) if s[: i + 1].sum() / s.sum() >= beta)).diag() @ v


@pytest.mark.parametrize(
    "method, hyper, naive",
    [
        ("tsv", {}, naive_tsv),
        ("iso_c", {}, naive_iso),
        *[("subspace_boosting", dict(beta=b), naive_boost) for b in (0.01, 0.3, 0.9, 0.99)],
    ],
)
def test_spectral(method, hyper, naive, case):
    "A full SVD in float64 gives the same; what is no matrix is averaged or added up; what did not move stays."
    m, d = direction(*case, method, **hyper), deltas(*case)
    for k, x in d.items():
        x, matrix = x.double(), x.dim() == 3 and min(x.shape[1:]) > 1
        want = (
            torch.zeros_like(x[0])
            if not x.any()
            else naive(x, **hyper)
            if matrix
            else x.sum(0)
            if method == "subspace_boosting"
            else x.mean(0)
        )
        torch.testing.assert_close(
            m[k].double(), want, rtol=0, atol=1e-6 * float(want.abs().max()), msg=lambda text, k=k: f"{k}: {text}"
        )


def test_fisher(case):
    "Weights are the information, its floor included, whether experts are named or numbered."
    (base, experts), g = case, torch.Generator().manual_seed(1)
    information = {
        who: {k: torch.rand(t.shape, generator=g) ** 8 * 1e-3 for k, t in base.items()} for who in reversed(experts)
    }
    f = {k: torch.stack([information[who][k].double().clamp(min=1e-5) for who in experts]) for k in base}
    want = {k: sum(x * e[k] for x, e in zip(f[k], experts.values())) / f[k].sum(0) for k in base}
    close(merge_state_dicts(base, experts, "fisher", information=information, floor=1e-5), want)
    close(
        merge_state_dicts(
            base, [*experts.values()], "fisher", information=[information[who] for who in experts], floor=1e-5
        ),
        want,
    )


@pytest.mark.parametrize("positions, shrink", [(50, 1.0), (50, 0.9), (3, 0.9), (0, 0.9)])
def test_regmean(positions, shrink, case):
    "The closed form for layers with inner products, of least norm where they are singular, and the mean for the rest."
    (base, experts), g = case, torch.Generator().manual_seed(1)
    inputs = {
        who: {k: torch.randn(positions, base[k].shape[1], generator=g) for k in ("tall.weight", "wide.weight")}
        for who in reversed(experts)
    }
    want = {k: sum(e[k] for e in experts.values()) / len(experts) for k in base}
    for k in inputs["a"]:
        G = {
            who: (x[k].T @ x[k]).double() * (shrink + (1 - shrink) * torch.eye(base[k].shape[1]))
            for who, x in inputs.items()
        }
        want[k] = (
            base[k]
            + (
                torch.linalg.pinv(sum(G.values()), hermitian=True)
                @ sum(G[who] @ (e[k] - base[k]).double().T for who, e in experts.items())
            ).T
        )
    close(
        merge_state_dicts(
            base,
            experts,
            "regmean",
            grams={who: {k: x.T @ x for k, x in xs.items()} for who, xs in inputs.items()},
            shrink=shrink,
        ),
        want,
        2e-6,
    )


@pytest.mark.parametrize(
    "method, hyper",
    [
        ("linear", {}),
        ("task_arithmetic", {}),
        ("ties", dict(density=0.5)),
        *[(m, dict(density=0.5)) for m in ("dare_linear", "dare_ties", "della")],
    ],
    ids=short,
)
def test_the_scale_that_is_no_scale(method, hyper):
    "With normalize, a sweep over one weight for all is one merge; otherwise, or with unequal weights, it is not."

    def sweep(normalize, *weights):
        return [direction(*models(4, 2), method, "mergekit", weight=w, normalize=normalize, **hyper) for w in weights]

    same = sweep(True, 0.1, 0.3, 0.5, 0.7, 1.0)
    for m in same[1:]:
        close(m, same[0])
    assert (
        len({fingerprint(m) for m in sweep(False, 0.1, 0.3, 0.5, 0.7, 1.0)}) == 5
        and len({fingerprint(m) for m in sweep(True, W, dict(W, a=0.9), dict(W, b=0.1))}) == 3
    )
    assert len({fingerprint(m) for m in same}) == 1
