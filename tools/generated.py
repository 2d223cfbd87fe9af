"""Files that are made from other files: written, or compared with what they should be."""

import difflib
import sys
from collections.abc import Mapping
from pathlib import Path

HEAD_LINES = 40
"""So much of a difference is shown."""


def write_or_compare(wanted: Mapping[Path, str], *, check: bool) -> int:
    """Write each file whose content is not the wanted one; with *check*, write none and show what differs.

    Returns the exit code: 1 where a file was found stale.
    """
    stale = []
    for path, content in wanted.items():
        present = path.read_text(encoding="utf-8") if path.exists() else ""
        if present == content:
            continue
        if check:
            stale.append(path.name)
            names = f"{path} (as it is)", f"{path} (as it should be)"
            difference = difflib.unified_diff(present.splitlines(), content.splitlines(), *names, lineterm="")
            print("\n".join(list(difference)[:HEAD_LINES]))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
            print(f"wrote {path}")
    if stale:
        print(f"\nstale: {', '.join(stale)}. Run `make docs` and commit what it writes.", file=sys.stderr)
    return 1 if stale else 0
