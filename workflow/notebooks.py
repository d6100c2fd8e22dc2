"""Execute library notebooks and compare what they show with what is stored in them, or store it.

    python workflow/notebooks.py check                    every notebook of nbs/lib; status 1 where one is out of date
    python workflow/notebooks.py check nbs/lib/core.ipynb  one of them
    python workflow/notebooks.py save nbs/lib/core.ipynb   execute and store the outputs

Compared are the printed text and the plain text of shown values; a figure's text holds a digest of what it draws.
Not compared: what goes to stderr (progress bars, warnings), and cells tagged `machine` (times, memory, versions).
Not executed: cells with one of the flags `notest`, `slow`, `gpu`, `network`, or `#| eval: false`."""

import difflib
import gc
import hashlib
import importlib
import json
import os
import re
import sys
import time
from multiprocessing import get_context
from pathlib import Path

from mmtmerge.core import collect_seldom

ROOT = Path(__file__).resolve().parent.parent
NOT_EXECUTED = re.compile(r"^#\|\s*(notest|slow|gpu|network|eval:\s*false)\b", re.MULTILINE)
COSTLY = """torch torch._dynamo transformers transformers.generation transformers.models.auto.modeling_auto
    transformers.models.gemma3.modeling_gemma3 transformers.trainer peft pandas pyarrow.parquet datasets sacrebleu numba
    scipy.stats matplotlib.pyplot seaborn execnb.shell typer""".split()      # imported once, for all
ADDRESS = re.compile(r"\x1b\[[0-9;]*m|0x[0-9a-f]{6,}")


def source(cell):
    return "".join(cell["source"])


def executed(cell):
    return cell["cell_type"] == "code" and source(cell).strip() and not NOT_EXECUTED.search(source(cell))


def drawn(figure) -> str:
    "Digest of the data in a figure, rounded to 4 significant digits: lines, bars, points and images."
    import numpy as np

    digest = hashlib.sha256()
    for axes in figure.axes:
        data = [line.get_xydata() for line in axes.lines]
        data += [patch.get_bbox().get_points() for patch in axes.patches if hasattr(patch, "get_bbox")]
        data += [points.get_offsets() for points in axes.collections]
        data += [image.get_array() for image in axes.images]
        for values in data:
            rounded = [f"{x:.3e}" for x in np.ma.filled(np.ma.asarray(values, float), np.nan).ravel()]
            digest.update(" ".join(rounded).encode())
    return f"<Figure with {len(figure.axes)} axes, data {digest.hexdigest()[:12]}>"


def shown(outputs) -> str:
    "The text of a cell's outputs that is compared."
    texts = []
    for output in outputs:
        if output["output_type"] == "stream" and output["name"] == "stdout":
            texts.append("".join(output["text"]))
        elif output["output_type"] in ("execute_result", "display_data"):
            texts.append("".join(output["data"].get("text/plain", "")))
    return ADDRESS.sub("", "\n".join(t.strip() for t in texts))


def execute(path: Path) -> list:
    "The notebook's cells with new outputs, run in this process as nbdev runs them."
    import matplotlib.figure
    from execnb.shell import CaptureShell

    matplotlib.figure.Figure.__repr__ = drawn
    os.environ.setdefault("TQDM_DISABLE", "1")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    here = Path.cwd()
    os.chdir(path.parent)
    shell = CaptureShell(path, mpl_format="png")
    try:
        for number, cell in enumerate(cells):
            if not executed(cell):
                continue
            cell["outputs"] = json.loads(json.dumps(shell.run(source(cell)), default=str))
            if shell.exc:
                raise RuntimeError(f"{path}, cell {number}: {shell.prettytb(fname=path)}") from None
    finally:
        os.chdir(here)
        shell.close()
    return cells


def kept(output):
    "An output as it is stored: without counts and without what went to stderr."
    if output["output_type"] == "stream":
        return dict(name="stdout", output_type="stream", text=output["text"])
    result = dict(data=output["data"], metadata={}, output_type=output["output_type"])
    return result | dict(execution_count=None) if output["output_type"] == "execute_result" else result


def save(path: Path):
    "Execute a notebook and store its outputs."
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell, new in zip(notebook["cells"], execute(path)):
        if executed(cell):
            cell["outputs"] = [kept(o) for o in new["outputs"] if o.get("name") != "stderr"]
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    path.write_text(text, encoding="utf-8")


def differences(path: Path) -> list:
    "Where a notebook shows something else than what is stored in it, as readable differences."
    started = time.process_time()
    stored = json.loads(path.read_text(encoding="utf-8"))["cells"]
    found = []
    for number, (old, new) in enumerate(zip(stored, execute(path))):
        if not executed(old) or "machine" in old["metadata"].get("tags", []):
            continue
        before, after = shown(old["outputs"]).splitlines(), shown(new["outputs"]).splitlines()
        if before != after:
            name = f"{path.relative_to(ROOT)}, cell {number}"
            found.append(
                "\n".join(difflib.unified_diff(before, after, f"{name}, stored", "executed", lineterm="", n=1))
            )
    print(f"{time.process_time() - started:6.1f} s  {path.relative_to(ROOT)}", flush=True)
    return found


def library() -> list:
    "The library notebooks, without checkpoints of Jupyter."
    return sorted(p for p in (ROOT / "nbs" / "lib").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


def main(action="", *names):
    if action not in ("check", "save"):
        sys.exit(__doc__)
    paths = [Path(n).resolve() for n in names] or library()
    collect_seldom()
    for module in COSTLY if len(paths) > 1 else ():
        importlib.import_module(module)
    gc.freeze()     # the collector of a forked process copies no page of what is imported
    work = differences if action == "check" else save
    workers = get_context("fork").Pool(min(2, len(paths)), maxtasksperchild=1)  # a process of its own for each
    try:
        with workers as pool:
            found = pool.map(work, paths, chunksize=1)
    except RuntimeError as e:
        sys.exit(f"error: {e}")
    problems = [text for texts in found if texts for text in texts]
    print("\n\n".join(problems) or f"{len(paths)} notebooks: {'as stored' if action == 'check' else 'saved'}")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main(*sys.argv[1:])
