"Check a folder of HTML: every link leads to a file of it, and to a place of that file; nothing comes from a network."

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"img", "script", "link", "iframe", "source", "video", "audio"}


class Page(HTMLParser):
    "The links of one page, its places, and what it would load from elsewhere."

    def __init__(self, path):
        super().__init__()
        self.links, self.places, self.remote = [], set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.places |= {given[key] for key in ("id", "name") if given.get(key)}
        for key in ("href", "src"):
            if given.get(key):
                self.add(tag, given[key])

    def add(self, tag, target):
        url = urlsplit(target)
        if not url.scheme and not url.netloc:
            self.links.append((unquote(url.path), unquote(url.fragment)))
        elif tag in LOADED and url.scheme != "data":
            self.remote.append(target)


def broken(site):
    "What is wrong with the links of a site, a line each."
    pages = {path.resolve(): Page(path) for path in sorted(Path(site).rglob("*.html"))}
    found = []
    for path, page in pages.items():
        name = path.relative_to(Path(site).resolve())
        found += [f"{name}: loads {target}" for target in page.remote]
        for target, fragment in page.links:
            to = (path.parent / target).resolve() if target else path
            to = to / "index.html" if to.is_dir() else to      # as a server answers
            if not to.exists():
                found.append(f"{name}: {target} is missing")
            elif fragment and to in pages and fragment not in pages[to].places:
                found.append(f"{name}: {target}#{fragment} is no place of that page")
    return found


if __name__ == "__main__":
    sys.exit("\n".join(broken(sys.argv[1])) or 0)
