"An extension of Sphinx: docments (`name: type,   # comment`) become the parameter lists of the API pages."

import inspect
import re

from fastcore.docments import docments

RAISES = re.compile(r"(?:^|(?<=[.;:,] ))[Rr]aises (\w*Error) ?(.*?)\.?$")


def restructured(text):
    "Markdown's `code` as reStructuredText's; all other characters stand for themselves."
    words = []
    for word in re.split(r"(`[^`]+`)", text):
        code = re.fullmatch(r"`([^`]+)`", word)
        words.append(rf"\ :code:`{code[1]}`\ " if code else re.sub(r"([\\*|_`])", r"\\\1", word))
    joined = "".join(words)
    joined = re.sub(r"(?<=\s)\\ (?=:code:)|^\\ (?=:code:)|(?<=`)\\ (?=\W|$)", "", joined)   # only where letters touch
    return re.sub(r"^(?=(?:\w+[.)]|[-+•])\s)", r"\\", joined)                              # and no list begins


def type_name(annotation):
    "How an annotation is written: int; Tensor; float, in [0, 1]."
    if annotation is inspect.Parameter.empty or annotation is None:
        return ""
    notes = getattr(annotation, "__metadata__", ())
    kind = annotation.__origin__ if notes else annotation
    text = inspect.formatannotation(kind) if not isinstance(kind, str) else kind
    return ", ".join([text.replace("typing.", "").rpartition(".")[2] if "[" not in text else text, *map(str, notes)])


def split_errors(line):
    "A line of a docstring without its sentence on errors, and the field that says them."
    found = RAISES.search(line)
    if not found:
        return line, None
    before = line[:found.start()].rstrip(" ;,:")
    return before, f":raises {found[1]}: {restructured(found[2])}"


def fields(obj):
    "Fields of a parameter list, from the docments of a function or a class."
    lines = []
    for name, entry in docments(obj, full=True, returns=True).items():
        comment = restructured(" ".join((entry.docment or "").split()))
        kind = type_name(entry.anno)
        if name == "return":
            lines += [f":returns: {comment}"] if comment else []
            lines += [f":rtype: :code:`{kind}`"] if kind else []
        elif name not in ("self", "cls") and (comment or kind):
            lines += [f":param {name}: {comment}"]
            lines += [f":type {name}: :code:`{kind}`"] if kind else []
    return lines


def known_fields(obj):
    "The fields of an object; none where its source is not at hand, as of what comes with Python."
    try:
        return fields(obj)
    except OSError:
        return []


def summary(obj, lines):
    "The lines of a docstring as written, whatever it adds when it is shown."
    own = getattr(obj, "__doc__", None)
    return inspect.cleandoc(str.__str__(own)).splitlines() if lines and isinstance(own, str) else lines


def describe(app, what, name, obj, options, lines):
    "Sphinx's event `autodoc-process-docstring`: rewrite the lines of one docstring."
    text, errors = [], []
    for line in summary(obj, lines):
        line, error = split_errors(line)
        text.append(restructured(line))
        errors += [error] if error else []
    parameters = known_fields(obj) if what in ("function", "method", "class") else []
    lines[:] = [*text, "", *parameters, *errors, ""]


def setup(app):
    app.connect("autodoc-process-docstring", describe)
    return {"parallel_read_safe": True}
