"""Judge what benchmarks/merge.py measured against its limits, print it, and draw the scaling."""

import numpy as np
from tabulate import tabulate

from measuring import listed  # beside this file

LIMITS = {"ties": 8, "sce": 8, "dare_linear": 4, "grid": 40}  # times faster than mergekit
LIMITS |= {"ties by layer": 12, "sce by layer": 10, "dare_linear by layer": 6}
FLOORS = 2  # Task Arithmetic against the floor
PEAK = 8  # 10^9 bytes, for 3b
MET = {True: "yes", False: "NO", None: None}
HEADERS = (
    "",
    "ours s",
    "mergekit s",
    "ratio",
    "limit",
    "met",
    "ours apart s",
    "mergekit apart s",
    "ours GB",
    "mergekit GB",
    "largest relative difference",
)


# Limits


def judged_runs(results):
    "What has a limit -> tool -> its measurement."
    more = {what: results[what] for what in ("task_arithmetic from disk", "grid") if results[what]}
    return results["merges"] | results["by layer"] | more


def judge_ratio(what, runs):
    "How many times faster than mergekit; not judged without it."
    met = None
    if "mergekit" in runs:
        met = runs["mergekit"]["seconds"] >= LIMITS[what] * runs["ours"]["seconds"]
    return {"limit": f"ratio >= {LIMITS[what]}", "met": met}


def judge_floors(ours, floor):
    "How many times the seconds of reading and writing alone."
    floors = ours["apart"] / floor
    smallest = ours["apart_from_smallest"] / floor
    words = f"apart <= {FLOORS} floors: {floors:.1f} ({smallest:.1f} apart from smallest)"
    return {"limit": words, "met": floors <= FLOORS}


def judge_peak(results):
    "The largest memory of one of our merges."
    ours = [runs["ours"] for runs in results["merges"].values()]
    if results["ties of the paper"]:
        ours.append(results["ties of the paper"])
    peak = max(run["peak"] for run in ours) / 1e9
    return {"limit": f"<= {PEAK} GB: {peak:.2f}", "met": peak <= PEAK}


def judge(results):
    "Limits that are judged: what -> its words, and whether it is met."
    judged = {}
    for what, runs in judged_runs(results).items():
        if what.startswith("task_arithmetic"):
            kind = "from disk" if what.endswith("disk") else "seconds"
            judged[what] = judge_floors(runs["ours"], results["floor"][kind])
        else:
            judged[what] = judge_ratio(what, runs)
    if results["options"]["size"] == "3b":
        judged["peak of a merge"] = judge_peak(results)
    return judged


# The report


def gigabytes(size):
    return f"{size / 1e9:.2f}"


def memory(run):
    "Peaks in GB, with and without pages of files."
    if "peak" not in run:
        return None
    return f"{gigabytes(run['peak'])} / {gigabytes(run['peak_anonymous'])}"


def describe_difference(what, difference):
    "How the outputs of both tools differ, if they were compared."
    if not difference:
        return None
    if what == "dare_linear":
        return f"random; moved {difference['moved']:.4f} times as far"
    largest, differ = difference["largest"], difference["differ"]
    words = f"{largest:.1e}; {differ:.1e} differ"
    if difference["tied"]:
        words += f", {difference['tied']:.1e} tied"
    return words


def row(what, verdict, runs):
    "A line of the table."
    ours, mergekit = runs.get("ours", {}), runs.get("mergekit", {})
    ratio = mergekit["seconds"] / ours["seconds"] if mergekit else None
    return [
        what,
        ours.get("seconds"),
        mergekit.get("seconds"),
        ratio,
        verdict["limit"],
        MET[verdict["met"]],
        ours.get("apart"),
        mergekit.get("apart"),
        memory(ours),
        memory(mergekit),
        describe_difference(what, runs.get("difference")),
    ]


def print_conditions(results):
    "Where and what was measured, and what every merge needs."
    for part in ("machine", "options"):
        print("\n" + "  ".join(f"{name} {value}" for name, value in results[part].items()))
    floor, millions = results["floor"], results["parameters"] / 1e6
    warm, cold = floor["seconds"], floor["from disk"]
    read, written = gigabytes(floor["read"]), gigabytes(floor["written"])
    seconds = f"floor {warm:.3f} s ({cold:.3f} s from disk)"
    print(f"{millions:.1f} M parameters; {seconds}: {read} GB read, {written} GB written, nothing synced")
    for what in ("start-up", "smallest", "first"):
        print(f"{what}: {listed(results[what])}")


def print_table(results):
    runs = judged_runs(results)
    rows = [row(what, verdict, runs.get(what, {})) for what, verdict in results["judged"].items()]
    print("\n" + tabulate(rows, headers=HEADERS, tablefmt="github", floatfmt=".2f"))
    notes = "apart: without start-up; GB: peak resident memory with / without pages of files"
    if results["grid"]:
        notes += "; grid: 60 points made by ours, mergekit's time is EXTRAPOLATED from its single runs"
    print("\n" + notes)


def print_scaling(kind, scaling):
    points = ", ".join(f"{n:,} {seconds:.2f} s" for n, seconds in scaling["points"])
    words = f"TIES over {kind}: {points}"
    if scaling["r2"] is not None:
        intercept, slope, r2 = scaling["intercept"], scaling["slope"], scaling["r2"]
        words += f"; line {intercept:.2f} + {slope:.3g} n, R2 {r2:.4f}"
    print(words)


def report(results):
    "Print the machine, the table, and what does not fit into it."
    print_conditions(results)
    print_table(results)
    alone = results["ties of the paper"]
    if alone:
        print(f"TIES of the paper: ours {alone['seconds']:.2f} s, {memory(alone)} GB")
    for kind, scaling in (results["scaling"] or {}).items():
        print_scaling(kind, scaling)
    if results["options"]["size"] == "tiny":
        print("limits are meant for 135m and 3b: with tiny, start-up is all there is")


# The figure


def draw_line(ax, kind, scaling, unit, color):
    "Measured points, and the line through them."
    x, seconds = np.array(scaling["points"], dtype=float).T
    ax.plot(x / unit, seconds, "o", color=color, clip_on=False)
    if scaling["r2"] is None:
        return
    preset = "preset paper, " if kind.endswith("paper") else ""
    label = f"{preset}$R^2$ = {scaling['r2']:.3f}"
    fitted = scaling["slope"] * x + scaling["intercept"]
    ax.plot(x / unit, fitted, color=color, label=label)
    ax.legend(frameon=False, loc="lower right")


def draw(scaling, path):
    "Time against parameters, and against experts in mergekit's meaning and in the paper's."
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import seaborn as sns

    sns.set_theme(style="ticks", palette="colorblind")
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3), sharey=True, layout="constrained")
    parameters, experts, experts_paper = scaling
    draw_line(left, parameters, scaling[parameters], 1e6, "C0")
    draw_line(right, experts, scaling[experts], 1, "C0")
    draw_line(right, experts_paper, scaling[experts_paper], 1, "C1")
    left.set(xlabel="millions of parameters", xlim=(0, None), ylim=(0, None), ylabel="TIES, seconds")
    right.set(xlabel=experts, xlim=(0, None), ylim=(0, None))
    sns.despine(fig)
    fig.savefig(path, dpi=160)
