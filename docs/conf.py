"""The site that `make docs` builds of these pages, with Sphinx: see README.md beside this file."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE))

import reference  # noqa: E402

_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
_REPOSITORY = _PROJECT["urls"]["Repository"]

project = "anamnesis"
author = "the authors of anamnesis"
release = version = _PROJECT["version"]
extensions = ["myst_parser", "sphinx_copybutton"]
exclude_patterns = ["README.md", "_build"]
myst_heading_anchors = 6
myst_enable_extensions = ["linkify"]
myst_linkify_fuzzy_links = False
smartquotes = False  # of `--flag` in texts it would make a dash
suppress_warnings = ["misc.highlighting_failure", "myst.header"]

html_theme = "furo"
html_title = "anamnesis"
html_copy_source = False
html_show_copyright = False
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "source_repository": _REPOSITORY,
    "source_branch": "main",
    "source_directory": "docs/",
}
copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True

_MADE = {
    "Reference": [
        ("Command line", "reference/cli"),
        ("Job file", "reference/job-file"),
        ("Python interface", "reference/python-api"),
    ]
}
_LINK = re.compile(r"(?<=\]\()(?!https?:)([^()\s#]+)(#[^()\s]*)?(?=\))")
_LISTED = re.compile(r"^- \[([^\]]+)\]\(([^)#]+)\.md\)", re.MULTILINE)
_HEADING_OR_FENCE = re.compile(r"^(#+ )|^```.*?^```$", re.MULTILINE | re.DOTALL)


def pages_of(text: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """README.md's headings with the titles and pages that are listed below: the site's contents.

    Pages that are made come before those.
    """
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)[1:]
    return [
        (title, [*_MADE.get(title, ()), *pages])
        for title, part in zip(parts[::2], parts[1::2], strict=True)
        if (pages := _LISTED.findall(part))
    ]


def index() -> str:
    """README.md as the site's first page."""
    text = (HERE / "README.md").read_text()
    trees = [
        f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n"
        + "".join(f"{title} <{page}>\n" for title, page in pages)
        + "```\n"
        for caption, pages in pages_of(text)
    ]
    return "\n".join([text, *trees])


def linked(text: str, folder: Path) -> str:
    """A page with links to files that are not of the site as links into the repository."""

    def absolute(found: re.Match[str]) -> str:
        path = (folder / found[1]).resolve()
        fragment = found[2] or ""
        if path == HERE / "README.md":
            return "index.md" + fragment
        if not path.exists() or (path.is_relative_to(HERE) and path.is_file()):
            return found[0]  # Sphinx says so of what leads nowhere
        kind = "tree" if path.is_dir() else "blob"
        return f"{_REPOSITORY}/{kind}/main/{path.relative_to(ROOT)}{fragment}"

    return _LINK.sub(absolute, text)


def of_one_title(text: str) -> str:
    """A page whose headings after the first are all below it, where several were as high."""
    if len(re.findall(r"^# ", _HEADING_OR_FENCE.sub(lambda m: m[1] or "", text), re.MULTILINE)) < 2:
        return text
    first, _, rest = text.partition("\n")
    deeper = _HEADING_OR_FENCE.sub(lambda m: f"#{m[0]}" if m[1] else m[0], rest)
    return f"{first}\n{deeper}"


def _read(app: Any, name: str, source: list[str]) -> None:
    text = of_one_title(linked(source[0], (HERE / name).parent))
    if name == "formats/README":
        families = sorted(p.stem for p in (HERE / "formats").glob("[a-z]*.md"))
        text += "\n```{toctree}\n:hidden:\n\n" + "\n".join(families) + "\n```\n"
    source[0] = text


def setup(app: Any) -> None:
    """Make the pages that are not kept, before Sphinx looks for pages."""
    reference.write(HERE / "reference")
    (HERE / "index.md").write_text(index())
    app.connect("source-read", _read)
