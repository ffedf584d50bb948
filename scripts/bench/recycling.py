"""What token recycling (arXiv 2408.08696) would add to copies and trees, on recorded trees.

    scripts/head/python-without-cuda scripts/bench/recycling.py --latency latency.json --trace T [T ...]

After each token, the target's few most probable next ones are remembered; the latest occurrence counts. A cycle can
verify a tree of these, at the cost of its verification. At temperature 0 its outcome follows from the trace and from
one forward of the target over each text. Rows of rejected candidates are not remembered.
"""

import argparse
import heapq
import json
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "head"))

import torch  # noqa: E402

from target import Target  # noqa: E402

REMEMBERED = 8
LONGEST_MATCH = 16
SIZES = (2, 4, 6, 8, 12, 16, 24, 32)
CHAINS = (2, 4, 6, 8, 12, 16)


@dataclass
class Place:
    """What a cycle could do at a position."""

    match: int
    copied: int  # tokens of an endless chain that are accepted
    ranks: list  # per depth, ranks of the accepted candidates of the draft's tree
    recalled: list[int]  # places of the next tokens among what was remembered, as far as they are


def read(folder: Path):
    """Depth of the trees; tokens of prompt, all tokens and the ranks of each position, per sequence."""
    header = json.loads((folder / "trace.json").read_text())
    sequences = []
    for shard in sorted(folder.glob("shard-*.bin")):
        data, at = shard.read_bytes(), 0
        while at < len(data):
            length = struct.unpack_from("<I", data, at + 4)[0]
            payload = data[at + 12 : at + 12 + length]
            if "sampling" in header:
                payload = payload[:4] + payload[12:]  # without the seed
            sequences.append(sequence(payload, header["depth"]))
            at += 12 + length
    return header, sequences


def sequence(payload: bytes, depth: int):
    _, prompt, count, positions, rank_count = struct.unpack_from("<5I", payload)
    tokens = struct.unpack_from(f"<{count}I", payload, 20)
    at = 20 + 4 * count
    lengths = payload[at : at + positions]
    ranks = iter(struct.unpack_from(f"<{rank_count}H", payload, at + positions))
    of = lambda length: [[next(ranks) for _ in range(min(length, d + 1))] for d in range(depth + 1)]
    return prompt, list(tokens), [of(length) for length in lengths]


def match(tokens: list[int], root: int) -> tuple[int, int]:
    """Length of the longest earlier occurrence of the latest tokens, and what followed the latest such."""
    best, end = 0, 0
    for after in range(root, 0, -1):
        length = 0
        while length < min(LONGEST_MATCH, after) and tokens[after - 1 - length] == tokens[root - length]:
            length += 1
        if length > best:
            best, end = length, after
    return best, end


def places(target: Target, prompt: int, tokens: list[int], ranks: list) -> list[Place]:
    with torch.no_grad():
        hidden = target.read(torch.tensor([tokens]))[0]
        most_probable = target.logits(hidden[0]).topk(REMEMBERED, -1)[1].tolist()
    remembered, read_until, found = {}, 0, []
    for at, of_tree in enumerate(ranks):
        root = prompt + at
        # What the target has read before the cycle.
        for row in range(read_until, root):
            remembered[tokens[row]] = most_probable[row]
        read_until = root
        said = tokens[root + 1 : -1]
        length, end = match(tokens, root)
        chain = tokens[end : root + 1]
        copied = 0
        while length and copied < len(said) and chain[copied % len(chain)] == said[copied]:
            copied += 1
        recalled, token = [], tokens[root]
        for following in said:
            if following not in remembered.get(token, ()):
                break
            recalled.append(remembered[token].index(following))
            token = following
        found.append(Place(length, copied, of_tree, recalled))
    return found


def costs(path: Path):
    """Milliseconds of a verification, a root expansion of one row and a level, at a middle context length."""
    table = json.loads(path.read_text())
    context = sorted({point["context"] for point in table["verify"]})[1]

    def curve(kind: str):
        points = [(p["count"], p["median"]) for p in table[kind] if p["context"] == context]

        def at(count: int) -> float:
            for (a, low), (b, high) in zip(points, points[1:], strict=False):
                if count <= b:
                    return low + (high - low) * max(0, count - a) / (b - a)
            return points[-1][1]

        return at

    # As replay has it: what a level takes, times what fewer rows save.
    by_rows = curve("level_rows") if table.get("level_rows") else lambda _: 1.0
    of_level = curve("level")(1)
    return curve("verify"), curve("root")(1), lambda rows: of_level * by_rows(rows) / by_rows(10)


def report(name: str, sequences: list[list[Place]], depth: int, cost) -> list[str]:
    verify, root, level = cost
    every = [place for places in sequences for place in places]
    # How often each place of what was remembered is right: the tree of recycled tokens is the same everywhere.
    share = [sum(p.recalled[:1] == [at] for p in every) / len(every) for at in range(REMEMBERED)]
    heap, order = [(-s, (at,)) for at, s in enumerate(share)], {}
    while len(order) < max(SIZES):
        worth, path = heapq.heappop(heap)
        order[path] = len(order)
        for at, s in enumerate(share):
            heapq.heappush(heap, (worth * s, (*path, at)))

    def tree(place: Place, d: int, v: int):
        return sum(rank < v for rank in place.ranks[d]), root + d * level(min(10, v)) + verify(v)

    def copy(place: Place, k: int):
        return min(place.copied, k), verify(k)

    def recycle(place: Place, v: int):
        count = 0
        while count < len(place.recalled) and order.get(tuple(place.recalled[: count + 1]), v) < v:
            count += 1
        return count, verify(v)

    def rate(decide) -> float:
        tokens = time = 0
        for places in sequences:
            at = 0
            while at < len(places):
                accepted, ms = decide(places[at])
                tokens, time, at = tokens + accepted + 1, time + ms, at + accepted + 1
        return 1e3 * tokens / time

    def foresight(options) -> float:
        """Dinkelbach's iteration over a dynamic programme from the end of each sequence."""
        worth = 0.0
        while True:
            total = [0, 0.0]
            for places in sequences:
                ahead = [(0, 0.0)] * (len(places) + 1)
                for at in range(len(places) - 1, -1, -1):
                    ways = []
                    for accepted, ms in options(places[at]):
                        tokens, time = ahead[min(at + accepted + 1, len(places))]
                        ways.append((accepted + 1 + tokens, ms + time))
                    ahead[at] = max(ways, key=lambda way: way[0] - worth * way[1])
                total = [total[0] + ahead[0][0], total[1] + ahead[0][1]]
            if total[0] / total[1] <= worth * (1 + 1e-9):
                return 1e3 * worth
            worth = total[0] / total[1]

    pairs = [(d, v) for d in range(depth + 1) for v in SIZES]
    constant, d, v = max((rate(lambda p, d=d, v=v: tree(p, d, v)), d, v) for d, v in pairs)
    rules = [(m, k) for m in (1, 2, 3, 4, 6) for k in CHAINS]
    by_rule = lambda m, k: lambda p: copy(p, k) if p.match >= m else tree(p, d, v)
    rule, m, k = max((rate(by_rule(m, k)), m, k) for m, k in rules)
    alone = max(rate(lambda p, v=v: recycle(p, v)) for v in SIZES)
    no_head = max(rate(lambda p, v=v: copy(p, k) if p.match >= m else recycle(p, v)) for v in SIZES)
    third = max(
        rate(lambda p, w=w: copy(p, k) if p.match >= m else recycle(p, w) if p.match else tree(p, d, v)) for w in SIZES
    )
    known = lambda p: [tree(p, d, v), (0, verify(0)), *([copy(p, k)] if p.match else [])]
    bound = foresight(known)
    recycled = foresight(lambda p: [*known(p), recycle(p, 4), recycle(p, 8)])
    over = lambda rate, base: f"{100 * (rate / base - 1):+.1f} %"
    return [
        name,
        f"{constant:.1f}",
        f"{rule:.1f} ({m}, {k}; {d}, {v})",
        *(over(found, rule) for found in (alone, no_head, third)),
        over(recycled, bound),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, nargs="+", required=True, help="folders of ltd-trace record")
    parser.add_argument("--latency", type=Path, required=True, help="table of ltd-trace latency")
    parser.add_argument("--target", type=Path, default=Path("models/smollm2-135m-instruct"))
    options = parser.parse_args()
    target = Target(options.target, torch.device("cpu"), torch.float32)
    columns = ["trace", "best constant", "best copy rule (M, K; D, V)", "recycling alone", "copies, else recycling"]
    columns += ["copies, recycling where 1 matches, else trees", "foresight gains by recycling"]
    print("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))
    for folder in options.trace:
        header, sequences = read(folder)
        found = [places(target, *sequence) for sequence in sequences]
        print("| " + " | ".join(report(folder.name, found, header["depth"], costs(options.latency))) + " |", flush=True)


if __name__ == "__main__":
    main()
