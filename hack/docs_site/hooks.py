"""What the site has beside docs/: files of the repository that its pages link to.

On a page, `../examples/sft.yaml` leads out of docs/, and works where the repository is read. On the site the same file
lies below repository/, and the link leads there: so there is one way to write a link, and one that leads nowhere fails
the build of the site.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
# Where files of the repository lie on the site.
PREFIX = "repository"
_LINK = re.compile(r"(\]\()((?:\.\./)+)([^)#\s]+)(#[^)\s]*)?(\))")


def linked(docs: Path) -> set[str]:
    """The files of the repository that pages link to, as paths from its root; a folder stands for its README.md."""
    found: set[str] = set()
    todo = [(page, page.relative_to(ROOT)) for page in sorted(docs.rglob("*.md"))]
    while todo:
        page, place = todo.pop()
        for link in re.findall(r"\]\(([^)#\s:]+)(?:#[^)\s]*)?\)", page.read_text()):
            path = target(posixpath.normpath(posixpath.join(place.parent.as_posix(), link)))
            if path.startswith("docs/") or path in found or not (ROOT / path).is_file():
                continue
            found.add(path)
            if path.endswith(".md"):
                todo.append((ROOT / path, Path(path)))
    return found


def target(path: str) -> str:
    """What a link to this path of the repository shows."""
    return f"{path}/README.md" if (ROOT / path / "README.md").is_file() else path


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is linked to."""
    for path in sorted(linked(Path(config.docs_dir))):
        uri = f"{PREFIX}/{path}"
        file = File.generated(config, uri, abs_src_path=str(ROOT / path), inclusion=InclusionLevel.NOT_IN_NAV)
        files.append(file)
    return files


def on_page_markdown(markdown: str, /, *, page: Page, **_: Any) -> str:
    """Have links that lead out of docs/ lead to where their files lie on the site."""
    source = page.file.src_uri
    inside = source.startswith(f"{PREFIX}/")
    here = source.removeprefix(f"{PREFIX}/") if inside else f"docs/{source}"

    def moved(match: re.Match[str]) -> str:
        opening, up, rest, anchor, closing = match.groups()
        path = target(posixpath.normpath(posixpath.join(posixpath.dirname(here), up + rest)))
        there = path.removeprefix("docs/") if path.startswith("docs/") else f"{PREFIX}/{path}"
        link = posixpath.relpath(there, posixpath.dirname(source) or ".")
        return f"{opening}{link}{anchor or ''}{closing}"

    if not inside:
        return _LINK.sub(moved, markdown)
    return re.sub(r"(\]\()()([^)#\s:]+)(#[^)\s]*)?(\))", moved, markdown)
