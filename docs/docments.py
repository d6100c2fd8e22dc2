"An extension of Sphinx: docments (`name: type,   # comment`) become the parameter lists of the API pages."

import inspect
import re

from fastcore.docments import docments

RAISES = re.compile(r"(?:^|(?<=[.;:,] ))[Rr]aises (\w*Error) ?(.*?)\.?$")


def restructured(text):
    "Markdown's `code` as reStructuredText's; all other characters stand for themselves."
    parts = re.split(r"`([^`]+)`", text)
    plain = [re.sub(r"([\\*|_`])", r"\\\1", part) for part in parts[::2]]
    code = [f":code:`{part}`" for part in parts[1::2]] + [""]
    joined = [before + literal for before, literal in zip(plain, code)]
    return re.sub(r"(\w)(:code:`)|(`)(?=\w)", r"\1\3\\ \2", "".join(joined)) if code[:-1] else joined[0]


def type_name(annotation):
    "How an annotation is written: int, Tensor, dict."
    if annotation is inspect.Parameter.empty or annotation is None:
        return ""
    return annotation.__name__ if inspect.isclass(annotation) else str(annotation).replace("typing.", "")


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
    parameters = fields(obj) if what in ("function", "method", "class") else []
    lines[:] = [*text, "", *parameters, *errors, ""]


def setup(app):
    app.connect("autodoc-process-docstring", describe)
    return {"parallel_read_safe": True}
