"Print README.md: the template README.md.jinja, filled from numbers.json and the tables of the laptop study."

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mmtmerge.core import read_json
from mmtmerge.report.page import sections
from mmtmerge.report.quoted import Quoted
from mmtmerge.settings import load
from mmtmerge.study.plan import closure, targets

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TEMPLATES = Environment(loader=FileSystemLoader(HERE), undefined=StrictUndefined, keep_trailing_newline=True)
ROOMS = [
    ("The study", ["settings", "core", "docstrings", "lazy"]),
    ("Data and models", ["corpus/*", "models", "prompts", "loading", "checkpoint_hints", "vocabulary"]),
    ("Training", ["training/*"]),
    ("Merging", ["merge/*"]),
    ("Translating and scoring", ["translate", "translate_files", "target_script", "engines", "vllm_worker", "metrics"]),
    ("Repairing", ["repair/*"]),
    ("Probing", ["probe/*"]),
    ("Running", ["study/*", "study/stages/*", "cli"]),
    ("Reporting", ["report/*", "report/sections/*", "plots"]),
]


def rooms():
    "The library notebooks: title of a room -> paths, in reading order."
    folder = ROOT / "nbs/lib"
    return {title: [p for pattern in patterns for p in sorted(folder.glob(f"{pattern}.ipynb"))]
            for title, patterns in ROOMS}


def findings(quoted, names):
    "What each study found, a sentence or two a finding, from workflow/findings/STUDY.md.jinja."
    found = []
    for section in sections():
        if (HERE / "findings" / f"{section.name}.md.jinja").exists() and quoted.has(*section.needs):
            template = TEMPLATES.get_template(f"findings/{section.name}.md.jinja")
            text = template.render(section.context(quoted) | names)
            found += [line for line in text.splitlines() if line]
    return found


def results_more(study, target):
    "The results that a target has beyond those of the main job."
    wanted, main = (closure(study, targets(study)[name]) for name in (target, "mountdoom"))
    return [read_json(wanted[name].result(study)) for name in wanted.keys() - main.keys()]


def minutes(results, cores=2):
    "Minutes that runs take, by their records."
    return round(sum(result["seconds"] for result in results) / 60 / cores)


def memory(results, cores=2):
    "GB that as many runs at a time need at most, by their records."
    return round(cores * max(result["peak_memory_mb"] for result in results) * 2**20 / 1e9)


def context():
    "What the template may name."
    quoted = Quoted(load("laptop"))
    stored, value = read_json(quoted.path("numbers.json")), quoted.numbers()
    more = {target: results_more(quoted.study, target) for target in ("repair", "growth", "confounds")}
    names = dict(
        base=stored["base"],
        profile=stored["profile"],
        words=stored["words"],
        pairs=value["pairs"],
        sentences=value["sentences"],
        experts=value["experts_disjoint"],
        experts_mean=value["experts_mean"],
        minutes=round(value["wall_seconds"] / 60),
        more={target: minutes(results) for target, results in more.items()},
        memory_more={target: memory(results) for target, results in more.items()},
        memory=memory([value]),
        claims=quoted.verdicts(),
        quoted=quoted,
    )
    return names | dict(findings=findings(quoted, names))


if __name__ == "__main__":
    print(TEMPLATES.get_template("README.md.jinja").render(context()), end="")
