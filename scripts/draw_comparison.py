"""Draws the comparison of README.md as a picture: tokens per second of each contender with its interval.

    draw_comparison.py [--check]

The numbers are those of the table; the picture is docs/comparison.svg. With `--check` nothing is written: the
exit code is 1 if the picture is not that of the table.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs/comparison.svg"

WIDTH, LEFT, RIGHT = 760, 150, 90
TOP, ROW, BAR = 44, 34, 16
# Readable on white and on near black.
TEXT, GRID, PLAIN, LEARNED = "#747d88", "#8b949e", "#8b949e", "#2f81f7"
LEARNERS = ("factored", "pair")


def contenders(markdown: str) -> list[tuple[str, float, float, float]]:
    """Name, tokens per second and the ends of its interval, row by row."""
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in markdown.splitlines() if line[:1] == "|"]
    start = next(i for i, row in enumerate(rows) if row[:3] == ["contender", "tokens/s", "95 % interval"])
    found = []
    for row in rows[start + 2 :]:
        if len(row) != len(rows[start]):
            break
        low, high = row[2].split(" - ")
        found.append((row[0], float(row[1]), float(low), float(high)))
    return found


def draw(rows: list[tuple[str, float, float, float]]) -> str:
    step = 50
    end = step * (int(max(high for *_, high in rows)) // step + 1)
    bottom = TOP + ROW * len(rows)

    def x(value: float) -> float:
        return LEFT + value / end * (WIDTH - LEFT - RIGHT)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 30}" width="{WIDTH}" role="img"'
        ' font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="14">',
        f"<title>Tokens per second of {len(rows)} ways to decode, with 95 % intervals</title>",
        f'<text x="{LEFT}" y="22" fill="{TEXT}">tokens/s, with 95 % interval</text>',
    ]
    for value in range(0, end + 1, step):
        parts.append(
            f'<line x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{TOP - 8}" y2="{bottom}" stroke="{GRID}"'
            ' stroke-opacity="0.3"/>'
        )
        parts.append(
            f'<text x="{x(value):.1f}" y="{bottom + 20}" fill="{TEXT}" font-size="12" text-anchor="middle">'
            f"{value}</text>"
        )
    for i, (name, value, low, high) in enumerate(rows):
        middle = TOP + ROW * i + ROW / 2
        learned = name in LEARNERS
        colour, weight = (LEARNED, "600") if learned else (PLAIN, "400")
        label = colour if learned else TEXT
        parts += [
            f'<text x="{LEFT - 12}" y="{middle + 5:.1f}" fill="{label}" font-weight="{weight}" text-anchor="end">'
            f"{name}</text>",
            f'<rect x="{LEFT}" y="{middle - BAR / 2:.1f}" width="{x(value) - LEFT:.1f}" height="{BAR}" rx="2"'
            f' fill="{colour}" fill-opacity="0.4"/>',
            f'<path d="M{x(low):.1f} {middle - 5:.1f}v10m0 -5H{x(high):.1f}m0 -5v10" fill="none" stroke="{colour}"'
            ' stroke-width="2"/>',
            f'<circle cx="{x(value):.1f}" cy="{middle:.1f}" r="4" fill="{colour}"/>',
            f'<text x="{WIDTH - 12}" y="{middle + 5:.1f}" fill="{label}" font-weight="{weight}" text-anchor="end">'
            f"{value:.1f}</text>",
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the picture is another one")
    arguments = parser.parse_args()
    picture = draw(contenders((ROOT / "README.md").read_text()))
    if not arguments.check:
        PICTURE.write_text(picture)
    elif PICTURE.read_text() != picture:
        sys.exit("docs/comparison.svg is not drawn from README.md: run scripts/draw_comparison.py")


if __name__ == "__main__":
    main()
