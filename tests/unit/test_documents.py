"""README and docs/: every link leads somewhere, every page is found, every variable exists."""

import re
from pathlib import Path

import pytest

from tests.settings_table import ROOT, example, variables

README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [README, ROOT / "CHANGELOG.md", *PAGES, *sorted((ROOT / "docs/decisions").glob("*.md"))]
OTHERS = {
    *("REGISTRY_SITE", "REGISTRY_INGEST", "REGISTRY_API"),  # of deploy/Caddyfile
    "REGISTRY_NATS_PASSWORD",  # of versions before
}


def text_of(document: Path) -> str:
    """Without blocks of code, and without code in a line."""
    return re.sub(r"^```.*?^```|`[^`\n]*`", "``", document.read_text(), flags=re.MULTILINE | re.DOTALL)


def links(document: Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", text_of(document))


def anchors(document: Path) -> set[str]:
    """Those that GitHub gives its headings."""
    found: set[str] = set()
    code = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    for heading in re.findall(r"^#+ (.*)$", code, re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        numbered = (f"{name}-{n}" if n else name for n in range(100))
        found.add(next(it for it in numbered if it not in found))
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda it: it.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    for link in links(document):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_is_short_says_what_this_is_and_leads_to_every_page() -> None:
    lines = README.read_text().splitlines()
    assert len(lines) <= 160
    assert "heartbeat monitor" in lines[0]
    assert "dead man's switch" in lines[0]
    linked = {link.partition("#")[0] for link in links(README)}
    assert {f"docs/{page.name}" for page in PAGES} <= linked, (
        "README.md: 'Where to go on' has every page of docs/"
    )
    shown = [link for link in linked if link.endswith(".png")]
    assert all((ROOT / link).stat().st_size < 200_000 for link in shown)
    assert shown


@pytest.mark.parametrize("document", [README, *PAGES], ids=lambda it: it.name)
def test_every_variable_that_is_named_exists(document: Path) -> None:
    known = variables().keys() | {name for _, pairs in example() for name, _ in pairs} | OTHERS
    named = set(re.findall(r"\bREGISTRY_[A-Z0-9_]*[A-Z0-9]\b(?!_)", document.read_text()))
    assert named <= known
