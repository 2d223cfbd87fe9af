"""Build the documents as a site into build/site, strictly: it exits with 1 if a link or an anchor leads nowhere.

    python tools/build_site.py [--source build/site-source] [--site build/site]

The documents link to each other as files of the repository, so the site is built from a copy with the same
folders: all documents, and the files that they link to. A folder that is linked to gets a page that lists it.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ("*.md", "docs/**/*.md", "plugins/*/README.md", "examples/**/*.md", "evaluation/*.md", "benchmarks/*.md")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<=\]\()([^)\s#]+)(#[^)\s]*)?(?=\))")


def slug(heading: str, separator: str) -> str:
    """The anchor of a heading, as GitHub makes it: links work there and here."""
    return re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", separator)


def pages() -> list[Path]:
    """All documents."""
    return sorted({path for pattern in PAGES for path in ROOT.glob(pattern)})


def stage(source: Path) -> None:
    """Copy the documents and what they link to into *source*, which is emptied first."""
    shutil.rmtree(source, ignore_errors=True)
    for page in pages():
        target = source / page.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(_rewritten(page, source), "utf-8")


def _rewritten(page: Path, source: Path) -> str:
    """The text of a page with its links as the copy has them; a link in a code block is left alone."""
    text, written, at = page.read_text("utf-8"), [], 0
    for fence in [*FENCE.finditer(text), None]:
        end = fence.start() if fence else len(text)
        written.append(LINK.sub(lambda match: _linked(match, page, source), text[at:end]))
        if fence:
            written.append(fence[0])
            at = fence.end()
    return "".join(written)


def _linked(link: re.Match[str], page: Path, source: Path) -> str:
    """Where a link leads in the copy; the file that it leads to is brought along."""
    if re.match(r"[a-z]+:", link[1]):
        return link[0]
    path = (page.parent / link[1]).resolve()
    if not path.is_relative_to(ROOT):
        return link[0]
    target = source / path.relative_to(ROOT)
    if path.is_dir():
        if (path / "README.md").exists():
            return f"{link[1].rstrip('/')}/README.md"
        _list(path, target)
        return f"{link[1].rstrip('/')}/index.md"
    if path.is_file() and path.suffix != ".md":
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return link[0]


def _list(path: Path, target: Path) -> None:
    names = [one.name + "/" * one.is_dir() for one in sorted(path.iterdir()) if not one.name.startswith(("__", "."))]
    target.mkdir(parents=True, exist_ok=True)
    lines = [f"# {path.relative_to(ROOT)}", "", "In the repository:", "", *(f"- `{name}`" for name in names), ""]
    (target / "index.md").write_text("\n".join(lines), "utf-8")


def build(source: Path, site: Path) -> int:
    """Build *site* of what is staged in *source*. Returns 0, or another number where something leads nowhere."""
    config = (ROOT / "mkdocs.yml").read_text("utf-8")
    own = source.with_suffix(".yml")
    own.write_text(config.replace("docs_dir: build/site-source", f"docs_dir: {source.resolve()}"), "utf-8")
    # Not --quiet: it hides warnings from --strict as well.
    command = [sys.executable, "-m", "mkdocs", "build", "--clean", "--strict", "-f", str(own)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tools")}
    return subprocess.run([*command, "-d", str(site.resolve())], env=environment, check=False).returncode


def main() -> int:
    """Build it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--source", type=Path, default=ROOT / "build" / "site-source")
    parser.add_argument("--site", type=Path, default=ROOT / "build" / "site")
    options = parser.parse_args()
    stage(options.source)
    status = build(options.source, options.site)
    if status == 0:
        print(f"built {options.site}/index.html")
    return status


if __name__ == "__main__":
    sys.exit(main())
