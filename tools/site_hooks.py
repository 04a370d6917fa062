"""Hooks of mkdocs: pages that live outside `docs/`, and links between all pages.

A page's links are those of the repository, so that they work there too. On the site each leads to
the page that its target has become; a target that is no page fails the strict build.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]

OUTSIDE = {  # path in the repository -> path on the site
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "LICENCES.md": "project/licences.md",
    "SECURITY.md": "project/security-policy.md",
    "benchmarks/README.md": "evidence/benchmarks.md",
    "benchmarks/results/ablation.md": "evidence/ablation.md",
    "benchmarks/results/request.png": "figures/request.png",
    "benchmarks/results/scoring_growth.png": "figures/scoring_growth.png",
    "data/contrast/README.md": "evidence/contrast.md",
    "data/languages/README.md": "evidence/languages.md",
    "integrations/README.md": "integrations.md",
    "srr_guard/bundles/smollm2-135m/README.md": "evidence/model-card.md",
}
INSIDE = {site: path for path, site in OUTSIDE.items()}

LINK = re.compile(r"\]\((?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside `docs/`."""
    for path, site in OUTSIDE.items():
        files.append(File.generated(config, site, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links of the repository into links of the site."""
    site = page.file.src_uri
    return with_site_links(markdown, path=INSIDE.get(site, f"docs/{site}"), site=site)


def with_site_links(markdown: str, *, path: str, site: str) -> str:
    """The text of a page, with the links that its place on the site needs.

    Args:
        markdown: The text.
        path: The page's path in the repository.
        site: Its path on the site.
    """

    def moved(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), found[1]))
        place = OUTSIDE.get(target) or target.removeprefix("docs/")
        if place == target:  # neither a page from outside nor one of docs/
            return found[0]
        link = posixpath.relpath(place, posixpath.dirname(site) or ".")
        return f"]({link}{found[2] or ''})"

    return LINK.sub(moved, markdown)
