"""Time and memory of our merges and of mergekit's, on the same checkpoints, in one run.

What is assumed:
- Inputs are random bfloat16 checkpoints of a known shape. Weights have standard deviation .02 and task vectors 1e-3, before
  rounding to bfloat16; biases are not zero, norms are not one.
- Both tools read the same configuration (JSON, so YAML) in fresh processes, alternately, with their own default options. Both
  calculate in float32 and write bfloat16; `--dtype bfloat16` lets mergekit calculate in bfloat16: results then differ by more.
- Outputs must agree to one step of bfloat16, except where entries are tied at the threshold of TIES or SCE: there the choice is
  arbitrary (bfloat16 deltas are often equal, mergekit's sort is not stable). DARE's masks are random: distances moved are compared.
- The page cache is warm: an untimed read of all inputs comes first (--json says whether they fit into memory), and an untimed merge of
  a very small model by each tool, for its libraries. Nobody calls fsync, the floor neither; a sync before each measurement, untimed,
  keeps what one wrote from disturbing the next.
- Seconds are the best of --repeat whole processes, memory is the largest seen: resident pages of the process tree, every 20 ms, with
  those of mapped files (both tools map files) and without (RssAnon). Linux only.
- Start-up is a process that imports and merges nothing: mergekit's --help, and our modules, imported as our command imports them
  (our --help would not even load torch).
  "Smallest" is a whole merge of a model of 75 k parameters: all that does not depend on size.
- What Transformers expects of a config.json ours asks once and keeps in its cache, which begins empty here: "first" is a merge that
  must ask, the others find the answer.
- The floor reads every input and writes as many bytes as one output has, with one buffer in one thread.
- "From disk": Task Arithmetic and the floor once more, with the inputs taken out of the page cache before each measurement, as a
  machine has them that has not just written them. Libraries and our cache stay warm.
- The grid is the paper's (60 points of a group): ours is one rung of the study's sweep, which makes them resident one after another
  in one process, from 16 merged task vectors, and takes their fingerprints; only its translation is left out. mergekit's time is EXTRAPOLATED
  from its one run of each method, start-up counted 60 times, as its user pays it.
- TIES of the preset `paper` has thresholds of whole models, which mergekit has not: ours is timed alone.
"""
import contextlib, glob, importlib.util, json, math, os, platform, re, shutil, signal, subprocess, sys, tempfile, threading, time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import numpy as np, psutil, torch, typer
from safetensors.torch import save_file
from tabulate import tabulate

from mmtmerge.merge.checkpoint_reader import Checkpoint
from mmtmerge.merge.checkpoint_writer import plan_shards
from mmtmerge.core import UserError, nearest, write_json
from mmtmerge.merge.sce import variance_across_experts
from mmtmerge.merge.grid_search import Point, Sweep
from mmtmerge.merge.task_vectors import TaskVectors, require
from mmtmerge.merge.thresholds import magnitudes

SHAPE = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")
SIZES = {"smallest": ("qwen2", 32, 64, 1, 2, 1, 2048), "tiny": ("qwen2", 96, 288, 4, 4, 2, 8192),
         "135m": ("llama", 576, 1536, 30, 9, 3, 49152), "3b": ("qwen2", 2048, 11008, 36, 16, 2, 151936)}
METHODS = {"ties": {"weight": 1., "density": .5}, "sce": {"select_topk": .5}, "dare_linear": {"weight": 1., "density": .3}, "task_arithmetic": {"weight": 1., "lambda": .3}}
PAPER = ("--method", "ties", "--preset", "paper", "--K", .5, "--lam", .3)
LIMITS = {"ties": 8, "sce": 8, "dare_linear": 4, "grid": 40}     # times faster than mergekit
FLOORS, PEAK = 2, 8                                              # Task Arithmetic against the floor; 10^9 bytes, for 3b
SHARES = {"tiny": (.5, 1, 2), "135m": (.5, 1, 2, 4), "3b": (.25, .5, 1)}   # of the layers, for the scaling: start-up hides what a small model needs
LAMS = (.1, .2, .3, .4, .5)
GRID = {"task_arithmetic": ("task_arithmetic", [{}], LAMS), "ties": ("ties", [{"K": k} for k in (.4, .5, .6, .7, .8, .9)], LAMS),
        "dare_linear": ("dare", [{"p": p} for p in (.6, .7, .8, .9)], LAMS),
        "sce": ("sce", [{"select_topk": k} for k in (.1, .3, .5, .7, .9)], (1.,))}   # mergekit's name -> ours, structural sets, lams
STEP = 2**-7                                                     # of bfloat16, relative

def command(tool, config=None, out=None):
    "How a merge is started; without a configuration, the same start with nothing to do."
    if tool == "mergekit": return [sys.executable, "-m", "mergekit.scripts.run_yaml", *([config, out] if config else ["--help"])]
    if config: return [sys.executable, "-m", "mmtmerge.cli", "merge", "--config", config, "--out", out]
    return [sys.executable, "-c", "from mmtmerge.cli import _without_collector\nwith _without_collector(): import mmtmerge.merge.checkpoints\nimport mmtmerge.merge.mergekit_yaml"]

# Inputs
def architecture(size, layers=None):
    "Configuration, and shapes of all parameters, a tied head left out."
    from transformers import AutoConfig, AutoModelForCausalLM
    kind, *numbers = SIZES[size]
    config = AutoConfig.for_model(kind, **dict(zip(SHAPE, numbers)) | ({"num_hidden_layers": layers} if layers else {}), tie_word_embeddings=True, dtype="bfloat16", bos_token_id=0, eos_token_id=1)
    with torch.device("meta"): model = AutoModelForCausalLM.from_config(config)
    config.architectures = [type(model).__name__]
    return config, {n: tuple(p.shape) for n, p in model.named_parameters()}

def count(shapes): return sum(map(math.prod, shapes.values()))

def make(folder, config, shapes, seed, origin=None):
    "Write a random checkpoint, near `origin` if there is one, unless it is there."
    if (folder / "config.json").exists(): return folder
    from tokenizers import Tokenizer, models
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    def tensor(n):
        norm = n.endswith("norm.weight")
        noise = torch.randn(shapes[n]).mul_((.1 if norm else .02) * (.05 if origin else 1))
        return noise.add_(origin[n] if origin else float(norm)).bfloat16()
    shards = plan_shards({n: 2 * math.prod(s) for n, s in shapes.items()}, 10**9)
    files = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    for file, shard in zip(files, shards): save_file({n: tensor(n) for n in shard}, folder / file, {"format": "pt"})
    for file, what in {"model.safetensors.index.json": {"metadata": {"total_size": 2 * count(shapes)}, "weight_map": {n: f for f, shard in zip(files, shards) for n in shard}},
                       "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}}.items():
        (folder / file).write_text(json.dumps(what))
    Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>")).save(str(folder / "tokenizer.json"))
    config.save_pretrained(folder)   # the last: its presence says that the rest is whole
    return folder

def family(work, size, experts, layers=None):
    "A base and its experts: folders, and how many parameters each has."
    config, shapes = architecture(size, layers)
    at = work / f"{size}-{config.num_hidden_layers}"
    base = make(at / "base", config, shapes, 0)
    return base, [make(at / f"expert{i}", config, shapes, i, Checkpoint(base)) for i in range(1, experts + 1)], count(shapes)

# Measuring
def tree(pid):
    "A process and all below it."
    yield pid
    for file in glob.glob(f"/proc/{pid}/task/*/children"):
        with contextlib.suppress(OSError): yield from (p for child in Path(file).read_text().split() for p in tree(int(child)))

def watch(pid, peak, ended):
    "Keep the largest memory of a process tree until told that it ended."
    while not ended.wait(.02):
        now = dict.fromkeys(peak, 0)
        for p in tree(pid):
            with contextlib.suppress(OSError):
                for k, kb in re.findall(r"^(VmRSS|RssAnon):\s+(\d+)", Path(f"/proc/{p}/status").read_text(), re.M): now[k] += 1024 * int(kb)
        for k in peak: peak[k] = max(peak[k], now[k])

def forget(files):
    "Take files out of the page cache."
    os.sync()     # only what is on disk can go
    for file in files:
        with open(file, "rb") as f: os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

def measure(argv, log, forgotten=()):
    "Wall seconds and peak memory of one command."
    forget(forgotten)
    peak, ended = {"VmRSS": 0, "RssAnon": 0}, threading.Event()
    with open(log, "wb") as f:
        start = time.perf_counter()
        process = subprocess.Popen([*map(str, argv)], stdin=subprocess.DEVNULL, stdout=f, stderr=subprocess.STDOUT)
        watcher = threading.Thread(target=watch, args=(process.pid, peak, ended))
        watcher.start()
        try: process.wait(); seconds = time.perf_counter() - start
        finally: process.kill(); ended.set(); watcher.join()
    require(process.returncode == 0, f"{log.stem} ended with status {process.returncode}:\n{log.read_text(errors='replace')[-2000:]}")
    return seconds, *peak.values()

def floor(files, size, out, forgotten=()):
    "Seconds of reading the files and writing `size` bytes."
    out.unlink(missing_ok=True); forget(forgotten)
    room, start = bytearray(1 << 22), time.perf_counter()
    for file in files:
        with open(file, "rb", buffering=0) as f:
            while f.readinto(room): pass
    with open(out, "wb", buffering=0) as f:
        for i in range(0, size, len(room)): f.write(memoryview(room)[:size - i])
    return time.perf_counter() - start

class Bench:
    "A work folder, and how often and with which tools things are measured."
    def __init__(self, work, tools, repeat, dtype): self.work, self.tools, self.repeat, self.dtype = work, tools, repeat, dtype

    def each(self, what, argv, tools=None, untimed=0, forgotten=()):
        "Measure a command of every tool, alternately; `argv` makes it afresh."
        runs = {t: [] for t in tools or self.tools}
        for _ in range(untimed + self.repeat):
            for t in runs: runs[t].append(measure(argv(t), self.work / f"{t}.log", forgotten))
        for t, all_ in runs.items():
            seconds, total, anonymous = zip(*all_[untimed:])
            runs[t] = {"seconds": min(seconds), "all": seconds, "peak": max(total), "peak_anonymous": max(anonymous)}
        print(f"{what}: " + ", ".join(f"{t} {r['seconds']:.2f} s" for t, r in runs.items()), file=sys.stderr, flush=True)
        return runs

    def out(self, tool): return self.work / f"out-{tool}"

    def merge(self, method, base, experts, tools=None, untimed=0, fresh=False, forgotten=()):
        "Merge with every tool; fresh: our cache begins empty each time; forgotten: files that are read from disk."
        config = self.work / f"{method}.yml"
        config.write_text(json.dumps({"merge_method": method, "base_model": str(base), "models": [{"model": str(e)} for e in experts], "parameters": METHODS[method],
                                      "dtype": self.dtype, "out_dtype": "bfloat16"}))
        def argv(tool):
            for old in (self.out(tool), *([os.environ["MMTMERGE_CACHE"]] if fresh else [])): shutil.rmtree(old, ignore_errors=True)
            return command(tool, config, self.out(tool))
        return self.each(f"{method}, {base.parent.name}, {len(experts)} experts{', from disk' * bool(forgotten)}", argv, tools, untimed, forgotten)

    def paper_ties(self, base, experts):
        "Our TIES with thresholds of whole models."
        def argv(tool):
            shutil.rmtree(self.out(tool), ignore_errors=True)
            return [sys.executable, "-m", "mmtmerge.cli", "merge", *PAPER, "--base", base, *(x for e in experts for x in ("--expert", e)), "--out", self.out(tool)]
        return self.each(f"ties of the paper, {base.parent.name}, {len(experts)} experts", argv, ["ours"])["ours"]

    def compare(self, method, base, experts):
        "Largest relative difference of the outputs, how many values differ, and how far each tool moved."
        origin, ours, theirs = (Checkpoint(f) for f in (base, self.out("ours"), self.out("mergekit")))
        require(ours.keys() == theirs.keys(), f"the outputs hold different tensors: {sorted(ours.keys() ^ theirs.keys())[:4]}")
        v = TaskVectors(origin, {e.name: Checkpoint(e) for e in experts}, list(origin))
        largest, counts, moved = 0., np.zeros(3), np.zeros(2)
        for n in ours:
            o, x, y = (c[n].float().flatten() for c in (origin, ours, theirs))
            moves = [(t - o).abs_() for t in (x, y)]
            moved += [float(m.sum(dtype=torch.float64)) for m in moves]
            scale = y.abs().clamp_(min=max(float(moves[1].mean()), 1e-30))   # where weights and task vectors cancel, rounding is seen relative to what was added
            tied = tied_at_threshold(method, v.parameter(n))
            off = (x - y).abs_().mul_(~tied)
            largest, counts = max(largest, float((off / scale).max())), counts + (int(off.count_nonzero()), int(tied.sum()), len(o))
        agrees = abs(moved[0] / moved[1] - 1) < .01 if method == "dare_linear" else largest <= STEP
        return {"largest": largest, "differ": counts[0] / counts[2], "tied": counts[1] / counts[2], "moved": moved[0] / moved[1], "agrees": bool(agrees) or self.dtype != "float32"}

def tied_at_threshold(method, theta):
    "Entries equal, or nearly, to the smallest that is kept."
    n, p = theta.base.numel(), METHODS[method]
    if method == "ties": ranked = [(magnitudes(theta, i), max(1, int(p["density"] * n))) for i in range(len(theta.experts))]
    elif method == "sce": ranked = [(x := theta.map(lambda where, d: variance_across_experts(d)).flatten().numpy(), int(np.count_nonzero(x) * p["select_topk"]))]
    else: ranked = []
    tied = np.zeros(n, bool)
    for x, k in ranked: tied |= k > 0 and np.isclose(x, np.partition(x, n - k)[n - k], rtol=1e-5, atol=0)
    return torch.from_numpy(tied)

# The grid, in a process of its own: python benchmarks/merge.py make-grid BASE EXPERT...
def make_grid(base, *experts):
    "Score every point of the paper's grids as the study does, with a translation that takes no time."
    base, experts = dict(Checkpoint(base)), {Path(e).name: dict(Checkpoint(e)) for e in experts}
    model = {n: torch.empty_like(t) for n, t in base.items()}
    contestants = [Point(method, "paper", hyper | {"lam": lam}) for method, sets, lams in GRID.values() for hyper in sets for lam in lams]
    Sweep(SimpleNamespace(named_parameters=model.items), base, experts, contestants, lambda *_: {"": [""]}, {"": [""]}, {"none": (lambda *_: np.zeros((1, 1)), lambda s: 0.)}, [1], threads=os.cpu_count()).score(contestants, 0)

# Scaling
def line(points):
    "Points and their least-squares line, if there are enough of them."
    x, y = np.array(points, dtype=float).T
    slope, intercept = np.polyfit(x, y, 1) if len(x) > 2 else (None, None)
    return {"points": points, "slope": slope, "intercept": intercept, "r2": None if slope is None else 1 - ((y - slope * x - intercept)**2).sum() / ((y - y.mean())**2).sum()}

def scale(bench, size, experts):
    "Our TIES over model sizes and, with the largest of them, over numbers of experts, in mergekit's meaning and in the paper's."
    def seconds(base, its): return bench.merge("ties", base, its, ["ours"])["ours"]["seconds"]
    sizes = []
    for share in SHARES[size]:
        base, its, n = family(bench.work, size, experts, max(1, round(share * SIZES[size][3])))
        sizes.append((n, seconds(base, its)))
    what, some = f"experts of {n / 1e6:.0f} M parameters", range(1, experts + 1)
    return {"parameters": line(sizes), what: line([(k, seconds(base, its[:k])) for k in some]),
            f"{what}, preset paper": line([(k, bench.paper_ties(base, its[:k])["seconds"]) for k in some])}

def draw(scaling, path):
    "Time against parameters and against experts."
    import matplotlib; matplotlib.use("Agg")
    import matplotlib.pyplot as plt, seaborn as sns
    sns.set_theme(style="ticks", palette="colorblind")
    fig, axes = plt.subplots(1, 2, figsize=(7.2, 3), sharey=True, layout="constrained")
    for (kind, s), ax, unit, color in zip(scaling.items(), (axes[0], axes[1], axes[1]), (1e6, 1, 1), ("C0", "C0", "C1")):
        x, y = np.array(s["points"], dtype=float).T
        ax.plot(x / unit, y, "o", color=color, clip_on=False)
        if s["r2"] is not None: ax.plot(x / unit, s["slope"] * x + s["intercept"], color=color, label=f"{'preset paper, ' * kind.endswith('paper')}$R^2$ = {s['r2']:.3f}"); ax.legend(frameon=False, loc="lower right")
    for ax, label in zip(axes, ("millions of parameters", list(scaling)[1])): ax.set(xlabel=label, xlim=(0, None), ylim=(0, None))
    axes[0].set_ylabel("TIES, seconds")
    sns.despine(fig); fig.savefig(path, dpi=160)

# Reporting
def machine():
    "Where this was measured, and with what."
    def of(package):
        try: return version(package)
        except PackageNotFoundError: return None
    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return {"cpu": cpu and cpu[1], "cores": os.cpu_count(), "capability": torch.backends.cpu.get_cpu_capability(), "memory_gb": round(psutil.virtual_memory().total / 1e9, 1), "load": round(os.getloadavg()[0], 2),
            "system": f"{platform.system()} {platform.machine()}", "python": platform.python_version(), **{p: of(p) for p in ("mmtmerge", "mergekit", "torch", "transformers", "safetensors")}}

def judged_runs(r):
    "What has a limit -> tool -> its measurement."
    return r["merges"] | {what: r[what] for what in ("task_arithmetic from disk", "grid") if r[what]}

def judge(r):
    "Limits that are judged: what -> (words, whether it is met)."
    judged = {}
    for what, runs in judged_runs(r).items():
        if what.startswith("task_arithmetic"):
            floors, smallest = (runs["ours"][k] / r["floor"]["from disk" if what.endswith("disk") else "seconds"] for k in ("apart", "apart_from_smallest"))
            judged[what] = f"apart <= {FLOORS} floors: {floors:.1f} ({smallest:.1f} apart from smallest)", floors <= FLOORS
        else: judged[what] = f"ratio >= {LIMITS[what]}", runs["mergekit"]["seconds"] >= LIMITS[what] * runs["ours"]["seconds"] if "mergekit" in runs else None
    if r["options"]["size"] == "3b":
        peak = max(runs["peak"] for runs in [*(m["ours"] for m in r["merges"].values()), *filter(None, [r["ties of the paper"]])]) / 1e9
        judged["peak of a merge"] = f"<= {PEAK} GB: {peak:.2f}", peak <= PEAK
    return judged

def report(r):
    "Print the machine, the table, and what does not fit into it."
    def row(what, limit, met):
        runs = judged_runs(r).get(what, {})
        a, b, d = (runs.get(k, {}) for k in ("ours", "mergekit", "difference"))
        def memory(x): return f"{x['peak'] / 1e9:.2f} / {x['peak_anonymous'] / 1e9:.2f}" if "peak" in x else None
        difference = d and (f"random; moved {d['moved']:.4f} times as far" if what == "dare_linear" else f"{d['largest']:.1e}; {d['differ']:.1e} differ" + (f", {d['tied']:.1e} tied" if d["tied"] else ""))
        return [what, a.get("seconds"), b.get("seconds"), b["seconds"] / a["seconds"] if b else None, limit, {True: "yes", False: "NO", None: None}[met],
                a.get("apart"), b.get("apart"), memory(a), memory(b), difference or None]
    for part in ("machine", "options"): print("\n" + "  ".join(f"{k} {x}" for k, x in r[part].items()))
    print(f"{r['parameters'] / 1e6:.1f} M parameters; floor {r['floor']['seconds']:.3f} s ({r['floor']['from disk']:.3f} s from disk): {r['floor']['read'] / 1e9:.2f} GB read, {r['floor']['written'] / 1e9:.2f} GB written, nothing synced")
    for what in ("start-up", "smallest", "first"): print(f"{what}: " + ", ".join(f"{t} {x['seconds']:.2f} s" for t, x in r[what].items()))
    print("\n" + tabulate([row(what, *verdict.values()) for what, verdict in r["judged"].items()], tablefmt="github", floatfmt=".2f",
                          headers=["", "ours s", "mergekit s", "ratio", "limit", "met", "ours apart s", "mergekit apart s", "ours GB", "mergekit GB", "largest relative difference"]))
    print("\napart: without start-up; GB: peak resident memory with / without pages of files" + ("; grid: 60 points made by ours, mergekit's time is EXTRAPOLATED from its single runs" if r["grid"] else ""))
    if alone := r["ties of the paper"]: print(f"TIES of the paper: ours {alone['seconds']:.2f} s, {alone['peak'] / 1e9:.2f} / {alone['peak_anonymous'] / 1e9:.2f} GB")
    for k, s in (r["scaling"] or {}).items():
        print(f"TIES over {k}: " + ", ".join(f"{n:,} {t:.2f} s" for n, t in s["points"]) + ("" if s["r2"] is None else f"; line {s['intercept']:.2f} + {s['slope']:.3g} n, R2 {s['r2']:.4f}"))
    if r["options"]["size"] == "tiny": print("limits are meant for 135m and 3b: with tiny, start-up is all there is")

def bench(work, size, experts, methods, repeat, dtype, n, grid, scaling, tools):
    "Everything that is measured, as JSON holds it."
    there = sum(f.stat().st_size for f in work.glob(f"{size}-*/*/*.safetensors"))
    short = 2 * n * ((experts + 1) * (sum(SHARES[size]) if scaling else 1) + len(tools)) + 1e8 - there - shutil.disk_usage(work).free
    require(short <= 0, f"{work} lacks {short / 1e9:.1f} GB: free them, or name a folder on a larger disk with --out")
    b = Bench(work, tools, repeat, dtype)
    os.environ["MMTMERGE_CACHE"] = str(work / "cache")
    shutil.rmtree(work / "cache", ignore_errors=True)
    base, its, _ = family(work, size, experts)
    files = [f for folder in (base, *its) for f in Checkpoint(folder).files]
    floors = [floor(files, 2 * n, work / "floor") for _ in range(repeat + 1)][1:]    # the first warms the page cache
    cold = [floor(files, 2 * n, work / "floor", files) for _ in range(repeat)]
    (work / "floor").unlink()
    read = sum(f.stat().st_size for f in files)
    r = {"machine": machine(), "options": {"size": size, "experts": experts, "repeat": repeat, "mergekit dtype": dtype}, "parameters": n,
         "floor": {"seconds": min(floors), "all": floors, "from disk": min(cold), "all from disk": cold, "read": read, "written": 2 * n, "fits_into_memory": read < psutil.virtual_memory().available},
         "smallest": b.merge("task_arithmetic", *family(work, "smallest", experts)[:2], untimed=1), "start-up": b.each("start-up", command),
         "first": b.merge("task_arithmetic", base, its, ["ours"], fresh=True), "merges": {}, "task_arithmetic from disk": None, "ties of the paper": None, "grid": None, "scaling": None}
    def apart(runs):
        for t, x in runs.items(): x["apart"], x["apart_from_smallest"] = (x["seconds"] - r[k][t]["seconds"] for k in ("start-up", "smallest"))
        return runs
    if "task_arithmetic" in methods: r["task_arithmetic from disk"] = apart(b.merge("task_arithmetic", base, its, ["ours"], forgotten=files))
    for method in methods:
        runs = r["merges"][method] = apart(b.merge(method, base, its))
        if "mergekit" in tools: runs["difference"] = b.compare(method, base, its)
    if "ties" in methods: r["ties of the paper"] = b.paper_ties(base, its)
    if grid:
        r["grid"] = b.each("grid", lambda _: [sys.executable, __file__, "make-grid", base, *its], ["ours"])
        if "mergekit" in tools and set(methods) == set(GRID):
            r["grid"]["mergekit"] = {"seconds": sum(len(sets) * len(lams) * r["merges"][m]["mergekit"]["seconds"] for m, (_, sets, lams) in GRID.items()), "extrapolated": True}
    if scaling and "ties" in methods: r["scaling"] = scale(b, size, experts)
    for old in (work / "cache", *map(b.out, tools)): shutil.rmtree(old)
    r["judged"] = {what: {"limit": words, "met": met} for what, (words, met) in judge(r).items()}
    return r

# The command
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

@app.command(epilog="Examples: python benchmarks/merge.py --size tiny | python benchmarks/merge.py --repeat 3 --json merge.json --plot merge.png | "
                    "python benchmarks/merge.py --size 3b --out /big/disk --no-grid --no-scaling | python benchmarks/merge.py --methods ties,sce --ours-only")
def main(
    size: Annotated[str, typer.Option(help="Shape: tiny (1 M parameters), 135m (SmolLM2-135M) or 3b (Qwen2.5-3B).")] = "135m",
    experts: Annotated[int, typer.Option(help="Experts to merge.")] = 4,
    methods: Annotated[str, typer.Option(help="Methods, separated by commas.")] = ",".join(METHODS),
    out: Annotated[Path, typer.Option(help="Folder of the work files: the inputs stay there and are used again. Default: a temporary folder, removed at the end.")] = None,
    repeat: Annotated[int, typer.Option(help="Measure this often; the best counts.")] = 1,
    dtype: Annotated[str, typer.Option(help="Type in which mergekit calculates: float32 (as ours) or bfloat16.")] = "float32",
    json_file: Annotated[Path, typer.Option("--json", help="Write all results here.")] = None,
    plot: Annotated[Path, typer.Option(help="Draw the scaling here, as PNG.")] = None,
    grid: Annotated[bool, typer.Option(help="Make the paper's grid; mergekit's time for it needs all methods.")] = True,
    scaling: Annotated[bool, typer.Option(help="Time TIES over model sizes and experts.")] = True,
    ours_only: Annotated[bool, typer.Option("--ours-only", help="Leave mergekit out.")] = False,
):
    "Measure our merges against mergekit's on the same random checkpoints. Exit code 0 whether or not limits are met."
    chosen, known = [m.strip() for m in methods.split(",")], [s for s in SIZES if s != "smallest"]
    require(size in known, f"--size {size}: {nearest(size, known)}")
    for m in chosen: require(m in METHODS, f"--methods {methods}: no method {m!r} here, {nearest(m, METHODS)}")
    require(experts >= 2, f"--experts {experts}: a merge needs at least 2")
    require(repeat >= 1, f"--repeat {repeat}: measure at least once")
    require(dtype in ("float32", "bfloat16"), f"--dtype {dtype}: {nearest(dtype, ['float32', 'bfloat16'])}")
    require(not plot or scaling and "ties" in chosen, f"--plot {plot} draws the scaling of ties: leave out --no-scaling, and name ties in --methods")
    require(not plot or plot.suffix == ".png", f"--plot {plot}: name a file that ends in .png")
    for f in (json_file, plot): require(not f or f.resolve().parent.is_dir(), f"{f}: its folder does not exist, make it first")
    require(ours_only or importlib.util.find_spec("mergekit"), "mergekit is not installed: pip install mergekit==0.1.5, or ask for --ours-only")
    n, free = count(architecture(size)[1]), psutil.virtual_memory().available
    require(not grid or free >= 7 * n, f"the grid of {size} holds {6 * n / 1e9:.1f} GB in memory, {free / 1e9:.1f} GB are free: stop other programs, or leave it out with --no-grid")
    if out: out.mkdir(parents=True, exist_ok=True)
    with contextlib.nullcontext(out and out.resolve()) if out else tempfile.TemporaryDirectory(prefix="mmtmerge-bench-") as work:
        results = bench(Path(work), size, experts, chosen, repeat, dtype, n, grid, scaling, ["ours"] if ours_only else ["ours", "mergekit"])
    report(results)
    if json_file: write_json(json_file, results)
    if plot: draw(results["scaling"], plot)
    wrong = [m for m, runs in results["merges"].items() if "difference" in runs and not runs["difference"]["agrees"]]
    require(not wrong, f"ours and mergekit disagree on {', '.join(wrong)} by more than rounding: their times are not those of the same work")

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))   # so that nothing is left behind
    try: make_grid(*sys.argv[2:]) if sys.argv[1:2] == ["make-grid"] else app()
    except UserError as e: print(f"error: {e}", file=sys.stderr); sys.exit(1)
