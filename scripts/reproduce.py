"""The paper's experiments on the default pair; see scripts/reproduce.

Each step leaves a file or a folder under --out; what is done there is passed over.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

CONFIG = "configs/quickstart.json"
PROGRAMS = Path("target/release")
# Of HumanEval and rewriting the first 140 are learned from and chosen by (configs/quickstart.json).
TASKS = {
    "humaneval": ("data/tasks/humaneval.jsonl", 140),
    "gsm8k": ("data/tasks/gsm8k.jsonl", 0),
    "mt_bench": ("data/tasks/mt_bench.jsonl", 0),
    "rewriting": ("data/tasks/rewriting.jsonl", 140),
    "context": ("data/tasks/context.jsonl", 0),
    "mixed": ("data/tasks/mixed.jsonl", 0),
}
TEMPERATURES = ("0", "1")
# Steps of the paper's recipe over those that are made here.
SCALE = 50
STEPS = 20_000
SIZE = {"total_timesteps": STEPS, "random_depth": {"min": 0, "max": 4}}


@dataclass
class Variant:
    """A way to train, as changes of the configuration."""

    name: str
    what: str
    changes: dict[str, object] = field(default_factory=dict)
    # Whether it takes part in the comparison on live cycles; replay tells of the others.
    live: bool = True


def rounds(*kinds: str, steps: int = STEPS) -> list[dict[str, object]]:
    """Stages in which one policy learns against the others."""
    return [{"train": kind, "total_timesteps": steps} for kind in kinds]


def variants(verification_size: int) -> list[Variant]:
    """The rows of the ablation tables, all learned from the recordings of the first run."""
    none = {"stages.predictor": None, "stages.imitation": None, "stages.rounds": 0}
    depth = {"total_timesteps": STEPS, "verification_size": verification_size}
    apart = {**none, "stages.size": SIZE, "stages.depth": depth}
    full = {**apart, "stages.rounds": 1, "stages.round": rounds("size", "depth")}
    scaled = {
        **none,
        "stages.size": {"total_timesteps": 100_000 // SCALE, "random_depth": {"min": 1, "max": 7}},
        "stages.depth": {"total_timesteps": 1_000_000 // SCALE, "verification_size": verification_size},
        "stages.rounds": 1,
        "stages.round": [
            *rounds("size", steps=100_000 // SCALE),
            *rounds("depth", steps=1_000_000 // SCALE),
            *rounds("size", steps=100_000 // SCALE),
        ],
        "reward": "throughput",
        "depth.layout": "reference",
        "size.layout": "reference",
    }
    paper = {"n_steps": 2048, "batch_size": 256, "n_epochs": 20, "learning_rate": 1e-3, "advantage": "sampled"}
    official = {"n_steps": 128, "batch_size": 64, "n_epochs": 1, "learning_rate": 3e-4, "advantage": "sampled"}

    def ppo(values: dict[str, object]) -> dict[str, object]:
        return {
            f"{policy}.ppo.{key}": value
            for policy, gamma in (("size", 0.9), ("depth", 0.999))
            for key, value in {**values, "gamma": gamma}.items()
        }

    return [
        Variant("size-alone", "size learned, depth constant", {**none, "stages.size": SIZE, "stages.depth": None}),
        Variant("depth-alone", "depth learned, size constant", {**none, "stages.size": None, "stages.depth": depth}),
        Variant("apart", "both, each alone", apart),
        Variant("alternating", "both, then each against the other", full),
        Variant("reward-throughput", "reward tau / T", {**full, "reward": "throughput"}, live=False),
        Variant("reward-acceptance", "reward tau", {**full, "reward": "acceptance"}, live=False),
        Variant("reward-time", "reward -T", {**full, "reward": "time"}, live=False),
        Variant(
            "reference-layout",
            "observations of the released code",
            {**full, "depth.layout": "reference", "size.layout": "reference"},
            live=False,
        ),
        Variant("paper", f"the paper's values, steps / {SCALE}", {**scaled, **ppo(paper)}),
        Variant("official", f"the released scripts' values, steps / {SCALE}", {**scaled, **ppo(official)}),
    ]


class Reproduction:
    """The steps."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.out, self.questions, self.max_minutes = arguments.out, arguments.questions, arguments.max_minutes
        self.contenders, out = arguments.contenders, arguments.out
        self.runs = out / "runs"
        self.latency = self.runs / "ours" / "latency.json"

    def run(self) -> None:
        self.check_contenders()
        self.runs.mkdir(parents=True, exist_ok=True)
        self.train("ours", [])
        best = self.summary("ours")["best_constant"]
        trees = f"{best['depth']},{best['size']}"
        for variant in variants(best["size"]):
            sets = {
                "replay.trace": str(self.runs / "ours" / "trace"),
                "replay.latency": str(self.latency),
                "evaluation.default.depth": best["depth"],
                "evaluation.default.size": best["size"],
                "evaluation.max_minutes": 0.1,
                **variant.changes,
            }
            self.train(variant.name, [f"--set={key}={json.dumps(value)}" for key, value in sets.items()])
        packages = {variant.name: self.export(variant.name) for variant in variants(1) if variant.live}
        stages = sorted(path.name for path in (self.runs / "ours" / "stages").iterdir())
        for name, stage in (("ours-factored", stages[0]), ("ours-pair", stages[-1])):
            packages[name] = self.export("ours", name, stage)
        classifiers = self.classify(best["size"])
        self.compare(packages, trees, classifiers)
        traces = [self.record(task, temperature) for task in TASKS for temperature in TEMPERATURES]
        self.report(traces)

    def program(self, name: str, *arguments: str) -> str:
        """Runs a program of ours, whose progress is shown, and returns what it prints."""
        command = [str(PROGRAMS / name), *arguments]
        print("+", " ".join(command), file=sys.stderr, flush=True)
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            sys.exit(done.returncode)
        return done.stdout

    def check_contenders(self) -> None:
        """Fails now rather than when the comparison begins."""
        rows = [line.split("|") for line in self.program("ltd-train", "contenders").splitlines()]
        known = [row[1].strip() for row in rows[2:]] + ["all"]
        expected = ", ".join(known)
        for name in self.contenders.split(","):
            if name.strip() not in known:
                print(
                    f"scripts/reproduce: --contenders: unknown contender `{name}`, expected {expected}", file=sys.stderr
                )
                sys.exit(2)

    def train(self, name: str, sets: list[str]) -> None:
        run = self.runs / name
        if (run / "summary.json").exists():
            return
        if (run / "checkpoint.safetensors").exists():
            self.program("ltd-train", "--resume", str(run))
        else:
            self.program("ltd-train", "--config", CONFIG, "--run-dir", str(run), *sets)

    def summary(self, name: str) -> dict:
        return json.loads((self.runs / name / "summary.json").read_text())

    def export(self, run: str, name: str | None = None, stage: str | None = None) -> Path:
        package = self.out / "packages" / (name or run)
        if not (package / "manifest.json").exists():
            package.parent.mkdir(exist_ok=True)
            chosen = ["--stage", stage] if stage else []
            self.program("ltd-export", "--run", str(self.runs / run), "--out", str(package), *chosen)
        return package

    def classify(self, size: int) -> Path:
        classifiers, trace = self.out / "classifiers.safetensors", self.out / "states"
        if not classifiers.exists():
            record = ["record", "--config", CONFIG, "--questions", TASKS["humaneval"][0], "--limit", "140"]
            self.program("ltd-trace", *record, "--entropies", "--states", "--out", str(trace))
            learn = ["classify", "--trace", str(trace), "--latency", str(self.latency), "--size", str(size)]
            self.program("ltd-train", *learn, "--out", str(classifiers))
        return classifiers

    def asked(self) -> list[str]:
        """The questions of each task, as files: not all of them begin with the first."""
        folder = self.out / "questions"
        folder.mkdir(exist_ok=True)
        files = []
        for task, (source, skip) in TASKS.items():
            lines = Path(source).read_text().splitlines(keepends=True)[skip:][: self.questions]
            file = folder / f"{task}.jsonl"
            file.write_text("".join(lines))
            files.append(str(file))
        return files

    def compare(self, packages: dict[str, Path], trees: str, classifiers: Path) -> None:
        results = self.out / "results.jsonl"
        rule = self.summary("ours")["copy_rule"]
        copies = f"{rule['copies']['match_length']},{rule['copies']['chain']},{rule['depth']},{rule['size']}"
        constants = dict.fromkeys([trees, "1,4", "3,24"])
        arguments = ["compare", "--config", CONFIG, "--ignore-fallback", "--contenders", self.contenders]
        arguments += ["--contender-trees", trees, "--latency", str(self.latency), "--classifiers", str(classifiers)]
        arguments += ["--temperature", ",".join(TEMPERATURES), "--results", str(results)]
        arguments += [f"--constant={constant}" for constant in constants]
        arguments += [f"--copy-rule={rule}" for rule in dict.fromkeys([copies, "2,8,1,4"])]
        arguments += ["--whole-beam", trees]
        arguments += [f"--policy={package}" for package in packages.values()]
        arguments += [f"--questions={file}" for file in self.asked()]
        if self.max_minutes:
            arguments += ["--max-minutes", str(self.max_minutes)]
        self.program("ltd-train", *arguments)

    def record(self, task: str, temperature: str) -> Path:
        trace = self.out / "recorded" / f"{task}-{temperature}"
        trace.parent.mkdir(exist_ok=True)
        questions = str(self.out / "questions" / f"{task}.jsonl")
        chosen = [] if temperature == "0" else ["--temperature", temperature, "--seed", "1"]
        record = ["record", "--config", CONFIG, "--questions", questions, *chosen]
        self.program("ltd-trace", *record, "--out", str(trace))
        return trace

    def report(self, traces: list[Path]) -> None:
        out = self.out / "report"
        recorded = [f"--trace={trace}" for trace in traces]
        results = str(self.out / "results.jsonl")
        runs = [f"--run={self.runs / name}" for name in ["ours", *(variant.name for variant in variants(1))]]
        figures = self.out / "report.json"
        report = ["report", results, *recorded, "--latency", str(self.latency), *runs, "--out", str(out)]
        print(self.program("ltd-train", *report, "--json", str(figures)))
        write_tables(json.loads(figures.read_text()))


RESULTS = Path("docs/results.md")
BEGIN, END = "<!-- tables of scripts/reproduce -->", "<!-- end of the tables -->"


def shown(name: str) -> str:
    """A contender's name in a table: packages without their folder, settings as (depth, size)."""
    name = name.rsplit("/", maxsplit=1)[-1]
    name = re.sub(r"depth (\d+), size (\d+)", r"(\1, \2)", name)
    return re.sub(r"^(.*), copying (\d+) tokens where (\d+) match$", r"copy \2 where \3 match, else \1", name)


def percent(ratio: dict) -> str:
    """A gain with its interval, with a star where it is sure, as ltd-train report tells it."""
    value, least, most = (100 * (number - 1) for number in (ratio["value"], *ratio["interval"]))
    return f"{value:+.1f} % ({least:+.1f} .. {most:+.1f}){'*' if ratio['sure'] else ''}"


def tables(report: dict) -> str:
    """The tables of docs/results.md: each task, and the mean of all contenders."""
    lines = []
    for mean in report["means"]:
        temperature = mean["sampling"]["temperature"]
        title = f"temperature {temperature:g}" if temperature else "greedy"
        head = (title, "plain, tokens/s", "best static setting, over plain", "pair", "factored", "ceiling")
        lines += [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
        for part in report["parts"]:
            if part["sampling"] != mean["sampling"]:
                continue
            rows = {shown(row["name"]): row for row in part["contenders"]}
            best = shown(part["best_static"])
            ceiling = f"{100 * (part['ceiling']['over_static'] - 1):+.0f} %" if part["ceiling"] else ""
            cells = [part["task"], f"{rows['ar']['tokens_per_second']:.1f}", f"{best}: {rows[best]['speedup']:.2f}"]
            cells += [percent(rows[name]["over_static"]) for name in ("ours-pair", "ours-factored")]
            lines.append(f"| {' | '.join([*cells, ceiling])} |")
        lines.append("")
    titles = [line.split(" | ")[0].removeprefix("| ") for line in lines if "plain, tokens/s" in line]
    head = ["contender", *(cell for title in titles for cell in (f"{title}: over plain", "over best static"))]
    lines += [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for rows in zip(*(mean["contenders"] for mean in report["means"])):
        cells = [cell for row in rows for cell in (f"{row['speedup']['value']:.2f}", percent(row["over_static"]))]
        lines.append(f"| {' | '.join([shown(rows[0]['name']), *cells])} |")
    return "\n".join(lines)


def write_tables(report: dict) -> None:
    """Puts the tables into docs/results.md, whose words are written by hand."""
    before, rest = RESULTS.read_text().split(BEGIN)
    _, after = rest.split(END)
    RESULTS.write_text(f"{before}{BEGIN}\n\n{tables(report)}\n\n{END}{after}")
    print(f"the tables of {RESULTS} are those of this run", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/reproduce", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce"), help="folder of all results")
    parser.add_argument("--questions", type=int, default=10, help="questions of each task [default: 10]")
    parser.add_argument("--contenders", default="all", help="published rules that take part [default: all]")
    parser.add_argument("--max-minutes", type=float, help="end the comparison after this time [default: never]")
    # Looks at the arguments alone, before anything is built.
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.questions < 1:
        parser.error("--questions: expected at least 1")
    if arguments.max_minutes is not None and not arguments.max_minutes > 0:
        parser.error("--max-minutes: expected more than 0")
    if arguments.out.exists() and not arguments.out.is_dir():
        parser.error(f"--out: {arguments.out} is a file, expected a folder")
    if arguments.check:
        return
    Reproduction(arguments).run()


if __name__ == "__main__":
    main()
