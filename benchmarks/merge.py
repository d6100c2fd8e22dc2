"""Time and memory of our merges and of mergekit's, on the same checkpoints, in one run.

What is assumed:
- Inputs are random bfloat16 checkpoints of a known shape. Weights have standard deviation .02 and task vectors 1e-3,
  before rounding to bfloat16; biases are not zero, norms are not one.
- Both tools read the same configuration (JSON, so YAML) in fresh processes, alternately, with their own default
  options. Both calculate in float32 and write bfloat16; `--dtype bfloat16` lets mergekit calculate in bfloat16: results
  then differ by more.
- Outputs must agree to one step of bfloat16, except where entries are tied at the threshold of TIES or SCE: there the
  choice is arbitrary (bfloat16 deltas are often equal, mergekit's sort is not stable). DARE's masks are random:
  distances moved are compared.
- The page cache is warm: an untimed read of all inputs comes first (--json says whether they fit into memory), and an
  untimed merge of a very small model by each tool, for its libraries. Nobody calls fsync, the floor neither; a sync
  before each measurement, untimed, keeps what one wrote from disturbing the next.
- Seconds are the best of --repeat whole processes, memory is the largest seen: resident pages of the process tree,
  every 20 ms, with those of mapped files (both tools map files) and without (RssAnon). Linux only.
- Start-up is a process that imports and merges nothing: mergekit's --help, and the modules that our command imports to
  merge (our --help would not even load torch). "Smallest" is a whole merge of a model of 75 k parameters: all that does
  not depend on size.
- What Transformers expects of a config.json ours asks once and keeps in its cache, which begins empty here: "first" is
  a merge that must ask, the others find the answer.
- "By layer": one parameter has a value at the first and one at the last layer, and lies between them elsewhere.
- The floor reads every input and writes as many bytes as one output has, with one buffer in one thread.
- "From disk": Task Arithmetic and the floor once more, with the inputs taken out of the page cache before each
  measurement, as a machine has them that has not just written them. Libraries and our cache stay warm.
- The grid is the paper's (60 points of a group): ours is one rung of the study's sweep, which makes them resident one
  after another in one process, from 16 merged task vectors, and takes their fingerprints; only its translation is left
  out. mergekit's time is EXTRAPOLATED from its one run of each method, start-up counted 60 times, as its user pays it.
- TIES of the preset `paper` has thresholds of whole models, which mergekit has not: ours is timed alone.
"""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, NamedTuple

import numpy as np
import psutil
import torch
import typer

from mmtmerge.core import UserError, nearest, require, write_json
from mmtmerge.merge.checkpoint_reader import Checkpoint
from mmtmerge.merge.grid_search import Point, Sweep

# beside this file
from measuring import best_of, listed, machine, measure, read_and_write
from merge_inputs import SIZES, architecture, count, make_family, number_of_layers
from merge_outputs import compare
from merge_report import draw, judge, report

METHODS = {  # with mergekit's parameters
    "ties": {"weight": 1.0, "density": 0.5},
    "sce": {"select_topk": 0.5},
    "dare_linear": {"weight": 1.0, "density": 0.3},
    "task_arithmetic": {"weight": 1.0, "lambda": 0.3},
}
BY_LAYER = {  # one parameter of each falls or rises over the layers
    "ties": {"lambda": [0.2, 0.6]},
    "sce": {"select_topk": [0.3, 0.7]},
    "dare_linear": {"lambda": [0.2, 0.6]},
}
PAPER = ("--method", "ties", "--preset", "paper", "--K", 0.5, "--lam", 0.3)
SHARES = {  # of the layers, for the scaling: start-up hides what a small model needs
    "tiny": (0.5, 1, 2),
    "135m": (0.5, 1, 2, 4),
    "3b": (0.25, 0.5, 1),
}
TYPES = ("float32", "bfloat16")
IMPORTS = """import atexit, gc
import mmtmerge.merge.checkpoints
import mmtmerge.merge.mergekit_yaml
atexit.register(gc.freeze)
"""  # and ends as our command ends


@dataclass(frozen=True)
class Options:
    "What is measured, and how."

    size: str  # of SIZES
    experts: int
    methods: list  # of METHODS
    repeat: int
    dtype: str  # in which mergekit calculates
    grid: bool
    scaling: bool
    tools: list  # ours, and mergekit or not


# Commands


def start_up_command(tool):
    "A process that imports what a merge needs, and merges nothing."
    if tool == "mergekit":
        return [sys.executable, "-m", "mergekit.scripts.run_yaml", "--help"]
    return [sys.executable, "-c", IMPORTS]


def merge_command(tool, config, out):
    "A merge by mergekit's configuration."
    if tool == "mergekit":
        return [sys.executable, "-m", "mergekit.scripts.run_yaml", config, out]
    return [sys.executable, "-m", "mmtmerge.cli", "merge", "--config", config, "--out", out]


def paper_command(family, out):
    "A merge by TIES as the paper has it."
    words = [sys.executable, "-m", "mmtmerge.cli", "merge", *PAPER, "--base", family.base]
    for expert in family.experts:
        words += ["--expert", expert]
    return [*words, "--out", out]


def mergekit_config(method, family, dtype, more):
    return {
        "merge_method": method,
        "base_model": str(family.base),
        "models": [{"model": str(expert)} for expert in family.experts],
        "parameters": METHODS[method] | more,
        "dtype": dtype,
        "out_dtype": "bfloat16",
    }


# Measuring merges


class Bench:
    "A work folder, and how often and with which tools things are measured."

    def __init__(self, work, options):
        self.work, self.options = work, options
        self.cache = work / "cache"  # ours

    def out(self, tool):
        return self.work / f"out-{tool}"

    def clear(self):
        "Remove the outputs and our cache."
        for folder in (self.cache, *map(self.out, self.options.tools)):
            shutil.rmtree(folder, ignore_errors=True)

    def each(
        self,
        what,  # a name to print
        command,  # tool -> its arguments; called before every run
        tools=None,  # default: those of the options
        untimed=0,  # runs before those that count
        cold=(),  # files that are to be read from disk
    ):
        "Measure a command of every tool, alternately: tool -> the best of its runs."
        runs = {tool: [] for tool in tools or self.options.tools}
        for _ in range(untimed + self.options.repeat):
            for tool in runs:
                run = measure(command(tool), self.work / f"{tool}.log", cold)
                runs[tool].append(run)
        measured = {tool: best_of(its[untimed:]) for tool, its in runs.items()}
        print(f"{what}: {listed(measured)}", file=sys.stderr, flush=True)
        return measured

    def merge(
        self,
        method,
        family,
        tools=None,
        untimed=0,
        cold=(),
        fresh=False,  # our cache begins empty each time
        by_layer=False,  # with a parameter that changes over the layers
    ):
        "Merge with every tool."
        config = self.work / f"{method}.yml"
        more = BY_LAYER[method] if by_layer else {}
        config.write_text(json.dumps(mergekit_config(method, family, self.options.dtype, more)))

        def command(tool):
            shutil.rmtree(self.out(tool), ignore_errors=True)
            if fresh:
                shutil.rmtree(self.cache, ignore_errors=True)
            return merge_command(tool, config, self.out(tool))

        kind = ", by layer" * by_layer + ", from disk" * bool(cold)
        return self.each(f"{method}, {family}{kind}", command, tools, untimed, cold)

    def merge_as_paper(self, family):
        "Our TIES with thresholds of whole models."

        def command(tool):
            shutil.rmtree(self.out(tool), ignore_errors=True)
            return paper_command(family, self.out(tool))

        return self.each(f"ties of the paper, {family}", command, ["ours"])["ours"]


def difference(bench, method, family):
    "How the last outputs of both tools differ."
    compared = compare(method, METHODS[method], family, bench.out("ours"), bench.out("mergekit"))
    agrees = compared.agrees(at_random=method == "dare_linear")
    return {
        "largest": compared.largest,
        "differ": compared.differ / compared.entries,
        "tied": compared.tied / compared.entries,
        "moved": compared.moved_ours / compared.moved_theirs,
        "agrees": bool(agrees) or bench.options.dtype != "float32",
    }


# The grid, in a process of its own: python benchmarks/merge.py make-grid BASE EXPERT...


class Grid(NamedTuple):
    "The paper's grid of one method."

    method: str  # as we name it
    structures: list  # hyper-parameters that determine a merged task vector
    scales: tuple  # of the merged task vector


SCALES = (0.1, 0.2, 0.3, 0.4, 0.5)
GRID = {  # by mergekit's names
    "task_arithmetic": Grid("task_arithmetic", [{}], SCALES),
    "ties": Grid("ties", [{"K": k} for k in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)], SCALES),
    "dare_linear": Grid("dare", [{"p": p} for p in (0.6, 0.7, 0.8, 0.9)], SCALES),
    "sce": Grid("sce", [{"select_topk": k} for k in (0.1, 0.3, 0.5, 0.7, 0.9)], (1.0,)),
}


def no_translation(model, first, last):
    return {"": [""]}


def no_statistics(hypotheses, references):
    return np.zeros((1, 1))


def no_score(statistics):
    return 0.0


def grid_points():
    "Every point of the grids."
    points = []
    for grid in GRID.values():
        for hyper in grid.structures:
            points += [Point(grid.method, "paper", hyper | {"lam": scale}) for scale in grid.scales]
    return points


def make_grid(base, *experts):
    "Score every point as the study does, with a translation that takes no time."
    weights = dict(Checkpoint(base))
    expert_weights = {Path(folder).name: dict(Checkpoint(folder)) for folder in experts}
    resident = {name: torch.empty_like(tensor) for name, tensor in weights.items()}
    points = grid_points()
    sweep = Sweep(
        SimpleNamespace(named_parameters=resident.items),
        weights,
        expert_weights,
        points,
        no_translation,
        references={"": [""]},
        metrics={"none": (no_statistics, no_score)},
        sizes=[1],
        threads=os.cpu_count(),
    )
    sweep.score(points, 0)


def grid_by_mergekit(merges):
    "Seconds of mergekit for the grid, from its single runs."
    seconds = 0
    for method, grid in GRID.items():
        points = len(grid.structures) * len(grid.scales)
        seconds += points * merges[method]["mergekit"]["seconds"]
    return {"seconds": seconds, "extrapolated": True}


def measure_grid(bench, family, merges):
    "Our time for the grid, and mergekit's if it made all of its methods."

    def command(tool):
        return [sys.executable, __file__, "make-grid", family.base, *family.experts]

    measured = bench.each("grid", command, ["ours"])
    if "mergekit" in bench.options.tools and set(bench.options.methods) == set(GRID):
        measured["mergekit"] = grid_by_mergekit(merges)
    return measured


# Scaling


def fit_line(points):
    "Points and their least-squares line, if there are enough of them."
    if len(points) < 3:
        return {"points": points, "slope": None, "intercept": None, "r2": None}
    x, y = np.array(points, dtype=float).T
    slope, intercept = np.polyfit(x, y, 1)
    residuals = y - slope * x - intercept
    deviations = y - y.mean()
    r2 = 1 - (residuals**2).sum() / (deviations**2).sum()
    return {"points": points, "slope": slope, "intercept": intercept, "r2": r2}


def seconds_of_ties(bench, family):
    return bench.merge("ties", family, ["ours"])["ours"]["seconds"]


def measure_scaling(bench):
    "Our TIES over model sizes and, with the largest, over experts: in mergekit's meaning, and in the paper's."
    size, experts = bench.options.size, bench.options.experts
    by_size = []
    for share in SHARES[size]:
        layers = max(1, round(share * number_of_layers(size)))
        family = make_family(bench.work, size, experts, layers)
        by_size.append((family.parameters, seconds_of_ties(bench, family)))
    numbers = range(1, experts + 1)
    by_experts = [(k, seconds_of_ties(bench, family.first(k))) for k in numbers]
    as_paper = [(k, bench.merge_as_paper(family.first(k))["seconds"]) for k in numbers]
    kind = f"experts of {family.parameters / 1e6:.0f} M parameters"
    return {
        "parameters": fit_line(by_size),
        kind: fit_line(by_experts),
        f"{kind}, preset paper": fit_line(as_paper),
    }


# All that is measured


def check_disk(work, options, parameters):
    "Raises UserError if the work files do not fit."
    there = sum(file.stat().st_size for file in work.glob(f"{options.size}-*/*/*.safetensors"))
    sizes = sum(SHARES[options.size]) if options.scaling else 1
    models = (options.experts + 1) * sizes + len(options.tools)
    short = 2 * parameters * models + 1e8 - there - shutil.disk_usage(work).free
    require(
        short <= 0,
        f"{work} lacks {short / 1e9:.1f} GB: free them, or name a folder on a larger disk with --out",
    )


def measure_floor(bench, files, size):
    "Reading the inputs and writing one output, from the page cache and from disk."
    file, repeat = bench.work / "floor", bench.options.repeat
    read_and_write(files, size, file)  # warms the page cache
    warm = [read_and_write(files, size, file) for _ in range(repeat)]
    cold = [read_and_write(files, size, file, files) for _ in range(repeat)]
    file.unlink()
    read = sum(f.stat().st_size for f in files)
    return {
        "seconds": min(warm),
        "all": warm,
        "from disk": min(cold),
        "all from disk": cold,
        "read": read,
        "written": size,
        "fits_into_memory": read < psutil.virtual_memory().available,
    }


def set_apart(runs, results):
    "Add seconds without start-up, and without a merge of the smallest model."
    for tool, run in runs.items():
        run["apart"] = run["seconds"] - results["start-up"][tool]["seconds"]
        run["apart_from_smallest"] = run["seconds"] - results["smallest"][tool]["seconds"]
    return runs


def measure_merges(bench, family, results):
    "Every method with every tool, and how their outputs differ."
    merges = {}
    for method in bench.options.methods:
        merges[method] = set_apart(bench.merge(method, family), results)
        if "mergekit" in bench.options.tools:
            merges[method]["difference"] = difference(bench, method, family)
    return merges


def measure_by_layer(bench, family, results):
    "Methods with a parameter that changes over the layers. Their outputs are compared by tests/merge/test_recipes.py."
    merges = {}
    for method in BY_LAYER:
        if method in bench.options.methods:
            merges[f"{method} by layer"] = set_apart(bench.merge(method, family, by_layer=True), results)
    return merges


def measure_basis(bench, family, files):
    "What merges are compared with: the floor, start-up, and merges that need little else."
    floor = measure_floor(bench, files, 2 * family.parameters)
    here, options = machine(), bench.options
    smallest = make_family(bench.work, "smallest", options.experts)
    return {
        "machine": here,
        "options": {
            "size": options.size,
            "experts": options.experts,
            "repeat": options.repeat,
            "mergekit dtype": options.dtype,
        },
        "parameters": family.parameters,
        "floor": floor,
        "smallest": bench.merge("task_arithmetic", smallest, untimed=1),
        "start-up": bench.each("start-up", start_up_command),
        "first": bench.merge("task_arithmetic", family, ["ours"], fresh=True),
    }


def measure_all(work, options):
    "Everything that is measured, as JSON holds it."
    bench = Bench(work, options)
    os.environ["MMTMERGE_CACHE"] = str(bench.cache)
    bench.clear()
    family = make_family(work, options.size, options.experts)
    files = [file for folder in (family.base, *family.experts) for file in Checkpoint(folder).files]
    results = measure_basis(bench, family, files)
    results |= dict.fromkeys(["task_arithmetic from disk", "ties of the paper", "grid", "scaling"])
    if "task_arithmetic" in options.methods:
        from_disk = bench.merge("task_arithmetic", family, ["ours"], cold=files)
        results["task_arithmetic from disk"] = set_apart(from_disk, results)
    results["merges"] = measure_merges(bench, family, results)
    results["by layer"] = measure_by_layer(bench, family, results)
    if "ties" in options.methods:
        results["ties of the paper"] = bench.merge_as_paper(family)
    if options.grid:
        results["grid"] = measure_grid(bench, family, results["merges"])
    if options.scaling and "ties" in options.methods:
        results["scaling"] = measure_scaling(bench)
    bench.clear()
    return results | {"judged": judge(results)}


# The command


def check_options(options):
    "Raises UserError for what cannot be measured."
    known = [size for size in SIZES if size != "smallest"]
    require(options.size in known, f"--size {options.size}: {nearest(options.size, known)}")
    written = ",".join(options.methods)
    for method in options.methods:
        require(
            method in METHODS,
            f"--methods {written}: no method {method!r} here, {nearest(method, METHODS)}",
        )
    require(options.experts >= 2, f"--experts {options.experts}: a merge needs at least 2")
    require(options.repeat >= 1, f"--repeat {options.repeat}: measure at least once")
    require(options.dtype in TYPES, f"--dtype {options.dtype}: {nearest(options.dtype, TYPES)}")


def check_files(options, json_file, plot):
    "Raises UserError for files that cannot be written."
    if plot:
        require(
            options.scaling and "ties" in options.methods,
            f"--plot {plot} draws the scaling of ties: leave out --no-scaling, and name ties in --methods",
        )
        require(plot.suffix == ".png", f"--plot {plot}: name a file that ends in .png")
    for file in filter(None, (json_file, plot)):
        require(file.resolve().parent.is_dir(), f"{file}: its folder does not exist, make it first")


def check_machine(options, parameters):
    "Raises UserError if a tool or memory is missing."
    require(
        "mergekit" not in options.tools or importlib.util.find_spec("mergekit"),
        "mergekit is not installed: pip install mergekit==0.1.5, or ask for --ours-only",
    )
    free = psutil.virtual_memory().available
    require(
        not options.grid or free >= 7 * parameters,
        f"the grid of {options.size} holds {6 * parameters / 1e9:.1f} GB in memory, {free / 1e9:.1f} GB are free: "
        "stop other programs, or leave it out with --no-grid",
    )


def check_agreement(merges):
    "Raises UserError if the tools did not do the same work."
    compared = {method: runs["difference"] for method, runs in merges.items() if "difference" in runs}
    wrong = [method for method, found in compared.items() if not found["agrees"]]
    require(
        not wrong,
        f"ours and mergekit disagree on {', '.join(wrong)} by more than rounding: "
        "their times are not those of the same work",
    )


@contextlib.contextmanager
def work_folder(out):
    "The folder that was named, which stays, or a temporary one."
    if out:
        out.mkdir(parents=True, exist_ok=True)
        yield out.resolve()
    else:
        with tempfile.TemporaryDirectory(prefix="mmtmerge-bench-") as temporary:
            yield Path(temporary)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
EXAMPLES = (
    "Examples: python benchmarks/merge.py --size tiny"
    " | python benchmarks/merge.py --repeat 3 --json merge.json --plot merge.png"
    " | python benchmarks/merge.py --size 3b --out /big/disk --no-grid --no-scaling"
    " | python benchmarks/merge.py --methods ties,sce --ours-only"
)
SIZE_HELP = "Shape: tiny (1 M parameters), 135m (SmolLM2-135M) or 3b (Qwen2.5-3B)."
OUT_HELP = (
    "Folder of the work files: the inputs stay there and are used again. "
    "Default: a temporary folder, removed at the end."
)
DTYPE_HELP = "Type in which mergekit calculates: float32 (as ours) or bfloat16."
GRID_HELP = "Make the paper's grid; mergekit's time for it needs all methods."


@app.command(epilog=EXAMPLES)
def main(
    size: Annotated[str, typer.Option(help=SIZE_HELP)] = "135m",
    experts: Annotated[int, typer.Option(help="Experts to merge.")] = 4,
    methods: Annotated[str, typer.Option(help="Methods, separated by commas.")] = ",".join(METHODS),
    out: Annotated[Path, typer.Option(help=OUT_HELP)] = None,
    repeat: Annotated[int, typer.Option(help="Measure this often; the best counts.")] = 1,
    dtype: Annotated[str, typer.Option(help=DTYPE_HELP)] = "float32",
    json_file: Annotated[Path, typer.Option("--json", help="Write all results here.")] = None,
    plot: Annotated[Path, typer.Option(help="Draw the scaling here, as PNG.")] = None,
    grid: Annotated[bool, typer.Option(help=GRID_HELP)] = True,
    scaling: Annotated[bool, typer.Option(help="Time TIES over model sizes and experts.")] = True,
    ours_only: Annotated[bool, typer.Option("--ours-only", help="Leave mergekit out.")] = False,
):
    "Measure our merges against mergekit's on the same random checkpoints. Exit code 0 whether or not limits are met."
    chosen = [method.strip() for method in methods.split(",")]
    tools = ["ours"] if ours_only else ["ours", "mergekit"]
    options = Options(size, experts, chosen, repeat, dtype, grid, scaling, tools)
    check_options(options)
    check_files(options, json_file, plot)
    parameters = count(architecture(size)[1])
    check_machine(options, parameters)
    with work_folder(out) as work:
        check_disk(work, options, parameters)
        results = measure_all(work, options)
    report(results)
    if json_file:
        write_json(json_file, results)
    if plot:
        draw(results["scaling"], plot)
    check_agreement(results["merges"])


def stop(number, frame):
    "End as after an error, so that nothing is left behind."
    sys.exit(143)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    try:
        if sys.argv[1:2] == ["make-grid"]:
            make_grid(*sys.argv[2:])
        else:
            app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
