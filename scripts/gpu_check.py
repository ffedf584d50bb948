"""Checks and measures LTD on a machine with a GPU, and writes a Markdown section about it.

The parts come in the order of their importance. Each has a time limit, and what is left of the whole time bounds all of
them. A part that has ended well is not run again: call it once more with the same folder to go on.
"""

import argparse
import dataclasses
import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ("ltd-bench", "ltd-decode", "ltd-train")
PAIRS = {
    name: (f"tests/fixtures/{name}/target", f"tests/fixtures/{name}/draft", "1 88 108 105 36")
    for name in ("tiny-pair", "tiny-gqa-pair")
}
DEFAULT = ("models/smollm2-135m-instruct", "assets/eagle3-smollm2-135m", "1 504 3575 282 4649 314")
MODES = (
    "--mode ar",
    "--mode static --depth 3 --size 12",
    "--mode static --depth 7 --size 59",
    "--mode static --source copy",
    "--mode static --source merged --depth 3 --size 12",
)
SAMPLING = ("--temperature 0", "--temperature 0.7 --top-p 0.9 --top-k 40 --seed 5")
GRAPHS = ("off", "auto")
MODELS = ("llama-3.1-8b", "qwen3-14b")


class Failed(Exception):
    """A part has not ended well; the text says why."""


@dataclasses.dataclass
class Run:
    """Where things are, and until when there is time."""

    programs: Path
    out: Path
    device: str
    deadline: float
    short: bool

    def identity(self) -> dict:
        """What results are of: with other programs, or in another form, they are others."""
        programs = [(self.programs / name).stat() for name in PROGRAMS]
        return {
            "device": self.device,
            "short": self.short,
            "programs": [[program.st_size, int(program.st_mtime)] for program in programs],
        }

    def program(self, limit: float, *arguments: str, **options) -> str:
        """The output of a program, which may take so many seconds."""
        limit = min(limit, self.deadline - time.monotonic())
        if limit <= 0:
            raise Failed("no time was left")
        command = [str(self.programs / arguments[0]), *arguments[1:]]
        try:
            done = subprocess.run(command, cwd=ROOT, timeout=limit, capture_output=True, text=True, **options)
        except subprocess.TimeoutExpired as expired:
            raise Failed(f"it took more than {limit:.0f} s: {' '.join(command)}") from expired
        if done.returncode:
            raise Failed(f"exit code {done.returncode} of {' '.join(command)}\n{done.stderr.strip()[-2000:]}")
        # Where nothing can be captured, programs go on without graphs.
        if without := [line for line in done.stderr.splitlines() if "engine.cuda_graphs:" in line]:
            raise Failed(f"{without[0]}: {' '.join(command)}")
        return done.stdout


def decoded(run: Run, device: str, pair: tuple[str, str, str], count: int, arguments: str) -> list[int]:
    """The tokens that `ltd-decode` gives in f32."""
    target, draft, tokens = pair
    paths = ["--target", target, "--draft", draft, "--token-ids", tokens]
    rest = ["--dtype", "f32", "--device", device, "--max-length", "256", "--max-new-tokens", str(count), "--json"]
    answer = run.program(60, "ltd-decode", *paths, *arguments.split(), *rest)
    return json.loads(answer.splitlines()[-1])["output_ids"]


def write(path: Path, text: str) -> None:
    """All of it or nothing."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text)
    temporary.replace(path)


def parity(run: Run) -> dict:
    """In f32 the tokens are those of a CPU that decodes plainly, whatever is drafted, however tokens are chosen, and
    whether forwards are graphs."""
    pairs = dict(PAIRS)
    if (ROOT / DEFAULT[0]).is_dir() and not run.short:
        pairs["default pair"] = DEFAULT
    # What was compared before is not compared again, should time have ended.
    path = run.out / "parity.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known = known if known.get("of") == run.identity() else {"of": run.identity()}
    count = 12 if run.short else 96
    samplings, modes = SAMPLING[: 1 if run.short else None], MODES[: 2 if run.short else None]
    for graphs in GRAPHS:
        for (name, pair), sampling, mode in itertools.product(pairs.items(), samplings, modes):
            case = f"{name}, {mode} {sampling}, graphs {graphs}"
            if case in known:
                continue
            plain = f"{name}, CPU {sampling}"
            if plain not in known:
                known[plain] = decoded(run, "cpu", pair, count, f"{MODES[0]} {sampling}")
            found = decoded(run, run.device, pair, count, f"{mode} {sampling} --cuda-graphs {graphs}")
            if found != known[plain]:
                raise Failed(f"{case}: {found} where a CPU says {known[plain]}")
            known[case] = len(found)
            write(path, json.dumps(known))
    return {"tokens": sum(value for value in known.values() if isinstance(value, int)), "pairs": sorted(pairs)}


def speed(model: str):
    def measure(run: Run) -> dict:
        config = f"tests/fixtures/families/configs/{model}/target/config.json"
        subject = ["--random-weights", config, "--device", run.device, "--dtype", "bf16"]
        forwards = ["--tokens", "1,8,60", "--trees", "7x59,3x24", "--memory-cycles", "4" if run.short else "60"]
        effort = ["--repeats", "2" if run.short else "21", "--prompts", "1" if run.short else "3"]
        length = ["--max-new-tokens", "8" if run.short else "64"]
        found = {}
        for graphs in GRAPHS:
            figures = run.out / f"{model}-graphs-{graphs}.json"
            figures.unlink(missing_ok=True)
            results = ["--cuda-graphs", graphs, "--launches", "--json", str(figures)]
            run.program(240, "ltd-bench", "engine", *subject, *results, *forwards, *effort, *length)
            found[graphs] = json.loads(figures.read_text())
        return found

    measure.__doc__ = (
        f"Plain decoding, forwards, levels and cycles at the dimensions of {model}, random weights; kernel by kernel, "
        "then with the target's forwards as CUDA graphs, in a run of its own."
    )
    return measure


def quickstart(run: Run) -> dict:
    """The whole quickstart on the default pair, on the device."""
    for needed in (DEFAULT[0], "data"):
        if not (ROOT / needed).is_dir():
            raise Failed(f"{needed} is not on this machine: carry it, or run scripts/setup where there is a network")
    folder = run.out / "quickstart"
    resume = ["--resume", str(folder)] if (folder / "run.json").exists() else []
    begin = ["--config", "configs/quickstart.json", "--run-dir", str(folder), "--set", f"engine.device={run.device}"]
    run.program(900, "ltd-train", *(resume or begin))
    return {"summary": (folder / "summary.md").read_text()}


PARTS = {"parity": parity, **{model: speed(model) for model in MODELS}, "quickstart": quickstart}


def libraries() -> list[str]:
    """Folders of LibTorch and of what it is linked to, in Python's PyTorch."""
    found = importlib.util.find_spec("torch")
    if found is None or not found.submodule_search_locations:
        return []
    torch = Path(found.submodule_search_locations[0])
    return [str(torch / "lib"), *(str(path) for path in sorted(torch.parent.glob("nvidia/*/lib")))]


def unpacked(programs: Path, out: Path) -> Path:
    """The folder of the programs, which may be an archive of them."""
    if programs.is_dir():
        folder = programs.resolve()
    else:
        folder = out.resolve() / "programs"
        with tarfile.open(programs) as archive:
            # Older versions of Python have no filters.
            archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    missing = [name for name in PROGRAMS if not (folder / name).is_file()]
    if missing:
        raise Failed(f"{programs}: {', '.join(missing)} expected there: scripts/gpu-pack packs them")
    return folder


def device_name() -> str:
    if not shutil.which("nvidia-smi"):
        return "a device of unknown name (there is no nvidia-smi)"
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    lines = subprocess.run(query, capture_output=True, text=True).stdout.strip().splitlines()
    return "; ".join(lines) or "a device that nvidia-smi does not name"


def rows_of(figures: dict) -> list[tuple[str, float, float]]:
    """What ltd-bench has measured: what, milliseconds and the floor."""
    plain = figures["autoregressive"]
    rows = [("plain decoding, a token", plain["ms"], plain["floor_ms"])]
    rows += [(f"forward of {row['tokens']}", row["ms"], row["floor_ms"]) for row in figures["verify"]]
    rows += [(f"level {row['depth']}", row["ms"], row["floor_ms"]) for row in figures["draft_level"]]
    rows += [(f"cycle ({row['depth']}, {row['size']})", row["ms"], row["floor_ms"]) for row in figures["cycles"]]
    return rows


def table_of(found: dict) -> list[str]:
    """What matters of the figures of ltd-bench, kernel by kernel and with graphs."""
    limits = found["off"]["limits"]
    lines = [f"{limits['bytes_per_second'] / 1e9:.0f} GB/s, {limits['operations_per_second'] / 1e12:.0f} TFLOP/s."]
    for graphs, form in (("off", "Kernel by kernel"), ("auto", "With graphs")):
        plain, outside = found[graphs]["autoregressive"], found[graphs]["outside_forwards_share"]
        lines += [
            f"{form}: plain decoding {plain['tokens_per_second']:.1f} tokens/s, {plain['share_of_bandwidth']:.0%} of "
            f"the bandwidth; outside of forwards {outside:.1%}."
        ]
        kernels = found[graphs]["launches"]
        if kernels["step"]:
            counts = ", ".join(f"{phase.replace('_', ' ')} {count}" for phase, count in kernels.items())
            lines += [f"Kernels by LibTorch's profiler: {counts}."]
    rows = zip(rows_of(found["off"]), rows_of(found["auto"]), strict=True)
    return [
        *lines,
        "",
        "| what | ms | with graphs | floor | over it | with graphs |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            f"| {what} | {ms:.2f} | {graphs:.2f} | {floor:.2f} | {ms / floor:.2f} | {graphs / floor:.2f} |"
            for (what, ms, floor), (_, graphs, _) in rows
        ),
    ]


def section(name: str, found: dict) -> list[str]:
    """What the report says of a part."""
    if name in MODELS:
        return table_of(found)
    if name == "parity":
        return [f"{found['tokens']} tokens are equal ({', '.join(found['pairs'])})."]
    return [found["summary"]]


def report(run: Run) -> str:
    form = ", in the short form that measures nothing" if run.short else ""
    said = f"`scripts/gpu-check`, {time.strftime('%Y-%m-%d')}, device `{run.device}`{form}."
    lines = [f"## On {device_name()}", "", said, ""]
    for name, part in PARTS.items():
        result = before(run, name)
        lines += [f"### {name}", "", part.__doc__, ""]
        if result is None:
            lines += ["Not run."]
        elif "problem" in result:
            lines += ["Not done:", "", "```", result["problem"], "```"]
        else:
            lines += result["section"]
        lines += [""]
    return "\n".join(lines)


def before(run: Run, name: str) -> dict | None:
    """The result of a part of these programs, if there is one."""
    path = run.out / f"part-{name}.json"
    result = json.loads(path.read_text()) if path.exists() else None
    return result if result and result["of"] == run.identity() else None


def do(run: Run, name: str) -> dict:
    """Runs a part; whatever goes wrong is its result."""
    start = time.monotonic()
    try:
        found = PARTS[name](run)
        result = {"found": found, "section": section(name, found)}
    except Failed as problem:
        result = {"problem": str(problem)}
    except Exception as problem:
        # Figures that nobody has seen yet must not keep the other parts from running.
        result = {"problem": f"{type(problem).__name__}: {problem}"}
    return {"of": run.identity(), "seconds": round(time.monotonic() - start, 1), **result}


def main() -> int:
    parser = argparse.ArgumentParser(prog="gpu-check", description=__doc__.split("\n")[0], epilog="See docs/gpu.md.")
    parser.add_argument("--minutes", type=float, default=10, help="for all parts together [10]")
    parser.add_argument(
        "--out", type=Path, default=Path("gpu-check"), help="folder of results, to go on with [gpu-check]"
    )
    parser.add_argument("--programs", type=Path, help="folder of the programs, or what scripts/gpu-pack made")
    parser.add_argument("--device", default="cuda", help="as in a configuration [cuda]")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {','.join(PARTS)}, in this order [all]")
    parser.add_argument("--short", action="store_true", help="to see that it works, not to measure")
    options = parser.parse_args()
    parts = [name for name in options.parts.split(",") if name]
    unknown = [name for name in parts if name not in PARTS]
    if unknown:
        parser.error(f"--parts: unknown part {unknown[0]}; expected {', '.join(PARTS)}")
    if not options.minutes > 0:
        parser.error(f"--minutes: {options.minutes:g}; expected more than 0")
    candidates = [options.programs] if options.programs else [Path("gpu-programs.tar.xz"), ROOT / "target/release"]
    programs = next((path for path in candidates if path.exists()), None)
    if programs is None:
        parser.error(f"--programs: no {' and no '.join(map(str, candidates))}; scripts/gpu-pack makes the first")
    own = os.environ.get("LD_LIBRARY_PATH")
    os.environ["LD_LIBRARY_PATH"] = ":".join([*([own] if own else []), *libraries()])
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        folder = unpacked(programs, options.out)
    except (OSError, tarfile.TarError, Failed) as problem:
        print(f"gpu-check: {problem}", file=sys.stderr)
        return 2
    deadline = time.monotonic() + 60 * options.minutes
    run = Run(folder, options.out.resolve(), options.device, deadline, options.short)
    failed = False
    for name in parts:
        result = before(run, name)
        if result and "found" in result:
            print(f"gpu-check: {name}: done before", file=sys.stderr)
            continue
        result = do(run, name)
        write(run.out / f"part-{name}.json", json.dumps(result))
        write(run.out / "report.md", report(run))
        failed = failed or "problem" in result
        said = f"not done: {result['problem']}" if "problem" in result else "done"
        print(f"gpu-check: {name}: {said} ({result['seconds']} s)", file=sys.stderr)
    text = report(run)
    write(run.out / "report.md", text)
    print(text)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
