"""Checks the Markdown files of the repository, and how long the comments of its Rust files are.

    check_docs.py

Prose has at most 100 columns (tables, code and lines that are one link may be longer), relative links lead to a file
and to a heading that exist, the README names the Rust version of Cargo.toml, and its picture is that of its table.
"""

import re
import sys
from pathlib import Path

import draw_comparison

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("assets", "crates", "docs", "scripts", "tests")
RUST = ("build", "crates", "examples", "src", "tests")
COLUMNS = 100
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
ONE_LINK = re.compile(r"[-*>\s]*!?\[[^\]]*\]\([^)]*\)[.,:;]?")


def outside_of_code(text: str) -> list[tuple[int, str]]:
    """The lines with their numbers, but those of code blocks."""
    lines, code = [], False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            code = not code
        elif not code:
            lines.append((number, line))
    return lines


def anchors(text: str) -> set[str]:
    """What `#` links to, made of headings as hosts do it. (Headings that stand twice are not told apart.)"""
    headings = [line.lstrip("#").strip() for _, line in outside_of_code(text) if re.match(r"#+ ", line)]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def problems_of(path: Path) -> list[str]:
    text = path.read_text()
    found = []
    for number, line in outside_of_code(text):
        place = f"{path.relative_to(ROOT)}:{number}"
        if len(line) > COLUMNS and not line.startswith("|") and not ONE_LINK.fullmatch(line):
            found.append(f"{place}: {len(line)} columns; prose has at most {COLUMNS}")
        for link in LINK.findall(re.sub(r"`[^`]*`", "", line)):
            if re.match(r"\w+:", link):
                continue
            file, _, anchor = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            if not target.exists():
                found.append(f"{place}: no file {file}")
            elif anchor and anchor not in anchors(target.read_text()):
                found.append(f"{place}: no heading #{anchor} in {file or path.name}")
    return found


def problems_of_the_readme() -> list[str]:
    readme = (ROOT / "README.md").read_text()
    version = re.search(r'^rust-version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
    found = []
    if re.findall(r"Rust (\d\S*) or newer", readme) != [version]:
        found.append(f"README.md: needs `Rust {version} or newer`, the rust-version of Cargo.toml")
    if draw_comparison.PICTURE.read_text() != draw_comparison.draw(draw_comparison.contenders(readme)):
        found.append("docs/comparison.svg: not drawn from README.md; run scripts/draw_comparison.py")
    return found


def problems_of_comments(path: Path) -> list[str]:
    """Comments beyond the columns, but for code in them and lines that begin with a word that long."""
    found, code = [], False
    for number, line in enumerate(path.read_text().splitlines(), 1):
        comment = re.match(r"\s*//[/!]? ?(.*)", line)
        if not comment:
            code = False
        elif comment[1].lstrip().startswith("```"):
            code = not code
        elif len(line) > COLUMNS and not code and " " in comment[1].strip():
            found.append(f"{path.relative_to(ROOT)}:{number}: {len(line)} columns; comments have at most {COLUMNS}")
    return found


def main():
    paths = [*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))]
    found = [problem for path in sorted(paths) for problem in problems_of(path)] + problems_of_the_readme()
    sources = [path for folder in RUST for path in (ROOT / folder).rglob("*.rs")]
    found += [problem for path in sorted(sources) for problem in problems_of_comments(path)]
    if found:
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
