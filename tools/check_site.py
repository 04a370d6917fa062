"""Check a built site: search finds what it should, and pages load nothing from elsewhere.

    python tools/check_site.py site

Links to other sites are listed, not followed.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

FOUND = {  # what a reader types -> a page that must be among those found
    "below_threshold": "policies.html",
    "SafetyRankerMiddleware": "agents.html",
    "NotRepeatableError": "troubleshooting.html",
    "tune": "choosing.html",
    "accept_at": "sampling.html",
    "NeMo": "migrate-nemo.html",
    "SBOM": "releasing.html",
    "RemoteScorer": "api/scorers.html",
    "jbb_artifacts": "evidence/model-card.html",
    "MissingExtraError": "api/errors.html",
}
LOADED = re.compile(r"""<(?:script|img|iframe|source)[^>]*\ssrc=["']?(https?:[^"' >]+)""")
STYLED = re.compile(r"""<link[^>]*rel=["']?stylesheet[^>]*href=["']?(https?:[^"' >]+)""")
LINKED = re.compile(r"""<a[^>]*\shref=["']?(https?://[^"' >]+)""")


def search_problems(index: list[dict[str, str]]) -> Iterator[str]:
    """Terms that search does not find on the page where they stand."""
    for term, page in FOUND.items():
        pages = {
            entry["location"].split("#")[0]
            for entry in index
            if term.lower() in f"{entry['title']} {entry['text']}".lower()
        }
        if page not in pages:
            yield f"search does not find {term!r} on {page}, only on {sorted(pages)}"


def main() -> None:
    """Check the site in a folder."""
    folder = Path(sys.argv[1])
    index = json.loads((folder / "search" / "search_index.json").read_text())["docs"]
    problems = list(search_problems(index))
    elsewhere: set[str] = set()
    for file in sorted(folder.rglob("*.html")):
        text = file.read_text()
        problems += [
            f"{file.relative_to(folder)} loads {address}"
            for address in (*LOADED.findall(text), *STYLED.findall(text))
        ]
        elsewhere |= set(LINKED.findall(text))
    if problems:
        sys.exit("\n".join(problems))
    pages = {entry["location"].split("#")[0] for entry in index}
    print(f"{len(pages)} pages, {len(index)} sections to search, {len(FOUND)} terms found")
    print(f"links to other sites, not followed: {', '.join(sorted(elsewhere)) or 'none'}")


if __name__ == "__main__":
    main()
