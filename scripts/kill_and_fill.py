#!/usr/bin/env python3
"""Kills programs at random moments, fills their disk, and lets them go on: the result is that of an undisturbed run.

    kill_and_fill.py [--kills N] [--full N] [--rank-kills N] [--seed S] [--programs FOLDER]

Training (recorded and live stages), recording and export of the tiny pair. What is compared, byte for byte, depends
on nothing but the seed: rewards are acceptance lengths, or come from a latency table that is made up. After each kill
every file is whole, at the end there is none too many, and TensorBoard's own reader finds each step once. A disk that
is full (a limit on the length of files and, for root, a small tmpfs) ends a program with an error and exit code 1.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_pair import PAIR, ROOT, write_config, write_questions

EVENTS = "events.out.tfevents."
UNFINISHED = (".writing-", ".exporting-")
# Seconds after which a program hangs.
PATIENCE = 600
# What the clock decides, in any run and in one that learns live.
TIMED = {"time/fps", "time/time_elapsed"}
TIMED_LIVE = {"env/tokens_per_second", "env/cycle_ms", "env/draft_ms", "env/verify_ms", "env/policy_ms"} | {
    "eval/tokens_per_second"
}
TIMED_FINALLY = {"eval/speedup", "eval/speedup_vs_static"}


class Failure(Exception):
    """Something is not as it should be."""


def expect(holds: bool, problem: str) -> None:
    if not holds:
        raise Failure(problem)


def fingerprint(folder: Path) -> str:
    return hashlib.sha256(b"".join((folder / f).read_bytes() for f in ("config.json", "model.safetensors"))).hexdigest()


def surface(counts: list[int], cost: Callable[[int, int], float]) -> list[dict]:
    """Costs of a made-up machine, of which no two samples are alike."""
    points = []
    for context in (4, 128):
        for count in counts:
            low, median, high = (round(cost(count, context) * factor, 4) for factor in (0.9, 1.0, 1.2))
            samples = [low, low, median, high, high]
            points.append(
                {"count": count, "context": context, "median": median, "low": low, "high": high, "samples": samples}
            )
    return points


def latency_table() -> dict:
    return {
        "version": 2,
        "identity": {
            "target": fingerprint(PAIR / "target"),
            "draft": fingerprint(PAIR / "draft"),
            "dtype": "f32",
            "device": "cpu",
            "driver": None,
            "threads": 1,
            "machine": "made up",
            "beam_width": 10,
        },
        "root": surface([1, 13], lambda count, _: 1.0 + 0.01 * count),
        "level": surface([1, 12], lambda count, context: 1.0 + 0.02 * count + 0.001 * context),
        "verify": surface([1, 64], lambda count, context: 5.0 + 0.1 * count + 0.002 * context),
        "decision": {"depth_us": 5.0, "size_us": 5.0},
        "held_out_error": None,
    }


@dataclass
class Subject:
    """Something to disturb: what is started first, how it is gone on with, and what it leaves."""

    name: str
    start: Callable[[Path], list[str]]
    go_on: Callable[[Path], list[str]]
    result: Callable[[Path], dict]
    seconds: float = 0.0
    expected: dict = field(default_factory=dict)
    longest: int = 0


class Torture:
    def __init__(self, programs: Path, folder: Path, seed: int) -> None:
        self.programs = programs
        self.folder = folder
        self.random = random.Random(seed)
        self.places = 0
        self.questions = write_questions(folder, 4)
        latency = folder / "latency.json"
        latency.write_text(json.dumps(latency_table()))
        self.recorded = recorded = self.config(
            "recorded",
            {
                "reward": "gain",
                "replay": {"latency": str(latency), "noise": True, "held_out": 0.3},
                "stages": {
                    "predictor": {"epochs": 3, "net_arch": [16]},
                    "imitation": {"epochs": 2},
                    "size": {"total_timesteps": 384},
                    "depth": {"total_timesteps": 640},
                    "rounds": 1,
                    "round": [{"train": "size", "total_timesteps": 256}, {"train": "depth", "total_timesteps": 256}],
                    "candidates": 3,
                },
            },
        )
        # One snapshot per stage: the clock chooses among several.
        live = self.config(
            "live",
            {
                "reward": "acceptance",
                "stages": {
                    "size": {"total_timesteps": 256},
                    "depth": {"total_timesteps": 384},
                    "rounds": 0,
                    "candidates": 1,
                },
            },
        )
        record = [
            "ltd-trace",
            "record",
            "--config",
            str(live),
            "--questions",
            str(self.questions),
            "--set",
            "max_new_tokens=64",
            "--limit",
            "16",
            "--out",
        ]
        self.subjects = [
            self.training("recorded", recorded, frozenset()),
            self.training("live", live, TIMED_LIVE),
            Subject("record", lambda place: [*record, str(place)], lambda place: [*record, str(place)], files),
        ]

    def config(self, name: str, changes: dict) -> Path:
        return write_config(self.folder, name, self.questions, changes)

    def training(self, name: str, config: Path, timed: frozenset[str] | set[str]) -> Subject:
        def go_on(place: Path) -> list[str]:
            if (place / "run.json").exists():
                return ["ltd-train", "--resume", str(place)]
            return ["ltd-train", "--config", str(config), "--run-dir", str(place)]

        return Subject(name, go_on, go_on, lambda place: run_result(place, timed))

    def exporting(self, run: Path) -> Subject:
        command = ["ltd-export", "--run", str(run), "--out"]
        return Subject("export", lambda place: [*command, str(place)], lambda place: [*command, str(place)], files)

    def prepare(self) -> None:
        """Undisturbed results. Runs have the same name wherever they are: manifests tell it."""
        run = None
        for subject in self.subjects:
            place = self.new_place()
            self.reference(subject, place)
            run = place if subject.name == "recorded" else run
        assert run is not None
        export = self.exporting(run)
        self.reference(export, self.new_place())
        self.subjects.append(export)

    def reference(self, subject: Subject, place: Path) -> None:
        begun = time.monotonic()
        code, errors = self.wait(self.launch(subject.start(place)))
        subject.seconds = time.monotonic() - begun
        expect(code == 0, f"{subject.name}, undisturbed: exit code {code}: {errors}")
        check_whole(place, finished=True)
        subject.expected = subject.result(place)
        subject.longest = max(path.stat().st_size for path in place.rglob("*") if path.is_file())
        print(f"{subject.name}: {subject.seconds:.1f} s undisturbed", flush=True)

    def new_place(self) -> Path:
        self.places += 1
        return self.folder / f"{self.places:03}" / "result"

    def launch(self, command: list[str], limit: int | None = None) -> subprocess.Popen:
        def restrict() -> None:
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        # The place of the result is the last argument of all commands.
        Path(command[-1]).parent.mkdir(exist_ok=True, parents=True)
        return subprocess.Popen(
            [self.programs / command[0], *command[1:]],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=restrict,
        )

    def wait(self, process: subprocess.Popen) -> tuple[int, str]:
        try:
            _, errors = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired as expired:
            process.kill()
            process.communicate()
            raise Failure(f"{process.args} hangs") from expired
        return process.returncode, errors

    def finish(self, subject: Subject, place: Path, code: int, errors: str) -> None:
        """What a disturbed program has left at its end is what an undisturbed one leaves."""
        expect(code == 0, f"{subject.name}: exit code {code}: {errors}")
        check_whole(place, finished=True)
        compare(subject.expected, subject.result(place), subject.name)
        shutil.rmtree(place.parent)

    def kill(self, kills: int) -> None:
        """Starts a subject, kills it, goes on, kills it again, until it comes to its end or kills are used up."""
        done = 0
        while done < kills:
            # Most of what can go wrong is in a run with recorded stages.
            subject = self.random.choices(self.subjects, [5, 2, 2, 2])[0]
            place, before = self.new_place(), done
            while True:
                fresh = not place.exists()
                if subject.name == "export" and not fresh:
                    # It was killed after its end.
                    code, errors = 0, ""
                    break
                process = self.launch(subject.start(place) if fresh else subject.go_on(place))
                if done < kills:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(self.random.uniform(0, subject.seconds))
                        code, errors = self.wait(process)
                        break
                    process.send_signal(signal.SIGKILL)
                    self.wait(process)
                    done += 1
                    check_whole(place, finished=False)
                else:
                    code, errors = self.wait(process)
                    break
            self.finish(subject, place, code, errors)
            print(f"{done} of {kills} kills: {subject.name} after {done - before} of them", flush=True)

    def fill(self, times: int) -> None:
        """Lets a disk fill under a subject, makes room, and goes on."""
        disks = can_mount(self.folder)
        done = 0
        while done < times:
            subject = self.random.choice(self.subjects)
            place = self.new_place()
            filled = self.full_disk(subject, place) if disks and done % 2 else self.short_files(subject, place)
            if filled:
                done += 1
                print(f"{done} of {times} full disks: {subject.name}, {filled}", flush=True)

    def short_files(self, subject: Subject, place: Path) -> str | None:
        limit = int(subject.longest ** self.random.uniform(0.3, 1.0))
        code, errors = self.wait(self.launch(subject.start(place), limit))
        self.check_full(subject, place, code, errors)
        if code != 0:
            code_after, errors = self.wait(self.launch(subject.go_on(place)))
            self.finish(subject, place, code_after, errors)
        return f"files of at most {limit} bytes" if code != 0 else None

    def full_disk(self, subject: Subject, place: Path) -> str | None:
        disk = place.parent
        disk.mkdir()
        mount(disk, 16 << 20)
        try:
            process = self.launch(subject.start(place))
            moment = self.random.uniform(0, subject.seconds)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(moment)
            fill(disk / "filler")
            code, errors = self.wait(process)
            self.check_full(subject, place, code, errors)
            (disk / "filler").unlink()
            if code != 0:
                code_after, errors = self.wait(self.launch(subject.go_on(place)))
                expect(code_after == 0, f"{subject.name}: exit code {code_after}: {errors}")
                check_whole(place, finished=True)
                compare(subject.expected, subject.result(place), subject.name)
        finally:
            subprocess.run(["umount", disk], check=True)
        shutil.rmtree(disk)
        return f"after {moment:.1f} s" if code != 0 else None

    def kill_ranks(self, kills: int, ranks: int) -> None:
        """Kills ranks of a run under torchrun, which starts all of them again until the run is over."""
        program = str(self.programs.resolve() / "ltd-train")
        torchrun = [str(ROOT / "scripts/head/python-without-cuda"), "-m", "torch.distributed.run", "--no-python"]
        torchrun += [f"--nproc-per-node={ranks}", f"--max-restarts={kills}", "--standalone", "--monitor-interval=0.1"]

        def start(place: Path) -> subprocess.Popen:
            place.parent.mkdir(parents=True)
            command = [*torchrun, program, "--config", str(self.recorded), "--share-device", "--run-dir", str(place)]
            pipe = subprocess.PIPE
            return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=pipe, text=True)

        place, begun = self.new_place(), time.monotonic()
        code, errors = self.wait(start(place))
        seconds = time.monotonic() - begun
        expect(code == 0, f"{ranks} ranks, undisturbed: exit code {code}: {errors}")
        expected = run_result(place, frozenset())
        print(f"{ranks} ranks: {seconds:.1f} s undisturbed", flush=True)
        done = 0
        while done < kills:
            place, before = self.new_place(), done
            process = start(place)
            while done < kills and process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(self.random.uniform(0, seconds))
                victims = children(process.pid, program)
                if victims:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(self.random.choice(victims), signal.SIGKILL)
                        done += 1
            code, errors = self.wait(process)
            expect(code == 0, f"{ranks} ranks: exit code {code}: {errors}")
            expect("panicked" not in errors, f"{ranks} ranks: {errors}")
            check_whole(place, finished=True)
            compare(expected, run_result(place, frozenset()), f"{ranks} ranks")
            shutil.rmtree(place.parent)
            print(f"{done} of {kills} kills: {ranks} ranks after {done - before} of them", flush=True)

    def check_full(self, subject: Subject, place: Path, code: int, errors: str) -> None:
        expect(code in (0, 1), f"{subject.name} on a full disk: exit code {code}: {errors}")
        expect("panicked" not in errors, f"{subject.name} on a full disk: {errors}")
        if code == 1:
            expect("No space left" in errors or "File too large" in errors, f"{subject.name}: {errors}")
            if (place / "run.json").exists():
                expect(f"go on with: ltd-train --resume {place}" in errors, f"{subject.name}: no advice: {errors}")
            check_whole(place, finished=False)


def children(parent: int, program: str) -> list[int]:
    """Processes below another that run a program."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # After the name, which may have any signs, in parentheses.
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent and os.readlink(path / "exe") == program:
                found.append(int(path.name))
    return sorted(found)


def can_mount(folder: Path) -> bool:
    probe = folder / "probe"
    probe.mkdir()
    mounted = (
        os.geteuid() == 0
        and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", probe], stderr=subprocess.DEVNULL
        ).returncode
        == 0
    )
    if mounted:
        subprocess.run(["umount", probe], check=True)
    probe.rmdir()
    return mounted


def mount(disk: Path, size: int) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for length in (1 << 16, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(length)) == length:
                    pass


def relative_files(place: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(place.rglob("*")):
        if path.is_file():
            yield str(path.relative_to(place)), path


def files(place: Path) -> dict:
    """Every file of a folder, as it is."""
    return {name: path.read_bytes() for name, path in relative_files(place)}


def run_result(place: Path, timed: set[str] | frozenset[str]) -> dict:
    """What a run leaves and the clock does not decide; of the rest, that it is there."""
    result: dict = {}
    for name, path in relative_files(place):
        parts = name.split("/")
        if parts[-1].startswith(EVENTS):
            result.setdefault("/".join([*parts[:-1], EVENTS]), []).append(None)
        elif name == "metrics.jsonl":
            result[name] = [curve_point(json.loads(line), timed) for line in path.read_text().splitlines()]
        elif parts[-1] == "stage.json":
            manifest = json.loads(path.read_text())
            # Which policies ship, the final measurement says.
            manifest["fallback"] = None
            if timed:
                # A rule of copying is chosen by what cycles cost on this machine, and decides what is drafted.
                manifest["expected"] = manifest["acceptance_per_depth"] = None
                if "pair" in manifest["policy"]:
                    manifest["policy"]["pair"]["source"] = None
            result[name] = manifest
        elif parts[0] in ("stages", "trace"):
            result[name] = path.read_bytes()
        else:
            result[name] = None
    return result


def curve_point(record: dict, timed: set[str] | frozenset[str]) -> dict:
    unknown = TIMED | TIMED_FINALLY | timed
    values = {
        tag: None if tag in unknown or tag.startswith("ranks/") else value for tag, value in record["values"].items()
    }
    return {
        "stage": record["stage"],
        "timesteps": record["timesteps"],
        "values": values,
        "histograms": record["histograms"],
    }


def compare(expected: dict, found: dict, name: str) -> None:
    for path in expected.keys() - found.keys():
        raise Failure(f"{name}: {path} is missing")
    for path in found.keys() - expected.keys():
        raise Failure(f"{name}: {path} is left over")
    for path, value in expected.items():
        if found[path] != value:
            detail = ""
            if isinstance(value, list):
                detail = next((f": {a} was expected, not {b}" for a, b in zip(value, found[path]) if a != b), "")
            if isinstance(value, dict):
                keys = [key for key in {**value, **found[path]} if value.get(key) != found[path].get(key)]
                detail = "".join(f": {key} {value.get(key)} was expected, not {found[path].get(key)}" for key in keys)
            raise Failure(f"{name}: {path} is not that of an undisturbed run{detail}")


def check_whole(place: Path, finished: bool) -> None:
    """Every file can be read; at the end there is nothing unfinished."""
    if finished:
        for path in [*place.parent.rglob(".*"), *place.rglob(".*")]:
            expect(not path.name.startswith(UNFINISHED), f"{path} was left behind")
    for name, path in relative_files(place):
        if Path(name).name.startswith(UNFINISHED):
            continue
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="numpy") as file:
                for key in file.keys():
                    file.get_tensor(key)
    if finished and (place / "metrics.jsonl").exists():
        check_curves(place)


def check_curves(run: Path) -> None:
    """TensorBoard shows each step once, and what the lines say."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for folder in {path.parent for path in run.rglob(f"{EVENTS}*")}:
        stage = "" if folder == run else folder.name
        reader = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0})
        reader.Reload()
        for tag in reader.Tags()["scalars"]:
            steps = [event.step for event in reader.Scalars(tag)]
            wanted = [r["timesteps"] for r in records if r["stage"] == stage and tag in r["values"]]
            expect(steps == wanted, f"{folder}: {tag} has the steps {steps}, not {wanted}")
            expect(all(a < b for a, b in zip(steps, steps[1:])), f"{folder}: {tag} has steps twice: {steps}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--kills", type=int, default=50, help="processes to kill (default %(default)s)")
    parser.add_argument("--full", type=int, default=20, help="disks to fill (default %(default)s)")
    parser.add_argument("--rank-kills", type=int, default=20, help="ranks to kill under torchrun (default %(default)s)")
    parser.add_argument("--ranks", type=int, default=2, help="ranks of such a run (default %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="of the moments (default: a new one)")
    parser.add_argument("--programs", type=Path, default=ROOT / "target/release", help="folder of the programs")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"--seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="ltd-torture-") as folder:
        torture = Torture(options.programs.resolve(), Path(folder), seed)
        try:
            if options.kills or options.full:
                torture.prepare()
                torture.kill(options.kills)
                torture.fill(options.full)
            if options.rank_kills:
                torture.kill_ranks(options.rank_kills, options.ranks)
        except Failure as failure:
            print(f"kill_and_fill: {failure} (--seed {seed})", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
