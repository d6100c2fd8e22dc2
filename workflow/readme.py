"Print README.md: the template README.md.jinja, filled from numbers.json and the tables of the laptop study."

from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mmtmerge import __version__
from mmtmerge.core import read_json

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
OUT = ROOT / "outputs" / "laptop"
ROOMS = [
    ("The study", ["settings", "core"]),
    ("Data and models", ["corpus/*", "models"]),
    ("Training", ["training/*"]),
    ("Merging", ["merge/*"]),
    ("Translating and scoring", ["translate", "engines", "metrics"]),
    ("Probing", ["probe/*"]),
    ("Running", ["study/*", "study/stages/*", "cli"]),
    ("Reporting", ["report/*"]),
]


def table(name):
    return pd.read_csv(OUT / "tables" / f"{name}.csv")


def percent(x):
    return f"{100 * x:.0f} %"


def kept(kind, direction, metric="chrF2", method="task_arithmetic"):
    "Retention of a merge, with its interval."
    row = retention_row(kind, direction, metric, method)
    return f"{percent(row.score)} [{100 * row.ci_low:.0f}, {100 * row.ci_high:.0f}]"


def paper(kind, direction, metric="chrF2", method="task_arithmetic"):
    "The paper's retention."
    return percent(retention_row(kind, direction, metric, method).paper)


def retention_row(kind, direction, metric, method):
    rows = table("retention")
    found = rows[
        (rows.kind == kind) & (rows.direction == direction) & (rows.metric == metric) & (rows.system == method)
    ]
    return found.iloc[0]


def finding(claim, metric):
    "A finding's mean over methods."
    rows = pd.DataFrame(read_json(OUT / "numbers.json")["findings"])
    return rows[(rows.claim == claim) & (rows.metric == metric) & (rows.subject == "mean")].iloc[0]


def points(claim, metric):
    "A difference of retentions in points, with its interval."
    row = finding(claim, metric)
    return f"{100 * row.value:.0f} [{100 * row.ci_low:.0f}, {100 * row.ci_high:.0f}]"


def difference(claim, metric):
    "A difference of scores, with its interval."
    row = finding(claim, metric)
    return f"{row.value:.1f} [{row.ci_low:.1f}, {row.ci_high:.1f}]".replace("-", "−")


def published(claim, metric):
    return f"{finding(claim, metric).paper:.1f}"


def rho(groups, probe="cka"):
    "A rank correlation, with its interval."
    rows = table("compatibility_correlation")
    row = rows[(rows.probe == probe) & (rows.groups == groups)].iloc[0]
    return f"{row.rho:.2f} [{row.ci_low:.2f}, {row.ci_high:.2f}]".replace("-", "−")


def library():
    "The library notebooks by room."
    rooms = []
    for title, patterns in ROOMS:
        paths = [p for pattern in patterns for p in sorted((ROOT / "nbs/lib").glob(f"{pattern}.ipynb"))]
        links = [f"[{p.stem}]({p.relative_to(ROOT).as_posix()})" for p in paths]
        rooms.append(dict(title=title, links=", ".join(links)))
    return rooms


def context():
    "What the template may name."
    numbers = read_json(OUT / "numbers.json")
    value = {name: entry["value"] for name, entry in numbers["numbers"].items()}
    verdicts = table("claims").verdict.value_counts()
    made_by = read_json(OUT / "runs" / "base" / "base" / "result.json")["versions"]["mmtmerge"]
    return dict(
        made_by=made_by,
        version=__version__,
        base=numbers["base"],
        profile=numbers["profile"],
        words=numbers["words"],
        pairs=value["pairs"],
        sentences=value["sentences"],
        experts=value["experts_disjoint"],
        experts_mean=value["experts_mean"],
        minutes=round(value["wall_seconds"] / 60),
        memory=f"{2 * value['peak_memory_mb'] / 1000:.0f}",
        claims=verdicts.to_dict() | {"all": int(verdicts.sum())},
        library=library(),
        kept=kept,
        paper=paper,
        points=points,
        difference=difference,
        published=published,
        rho=rho,
    )


if __name__ == "__main__":
    templates = Environment(loader=FileSystemLoader(HERE), undefined=StrictUndefined, keep_trailing_newline=True)
    print(templates.get_template("README.md.jinja").render(context()), end="")
