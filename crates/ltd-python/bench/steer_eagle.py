"""EAGLE's own Python on the CPU: its default tree, constants, and trees by policies, in turns and with the same text.

    git clone https://github.com/SafeAILab/EAGLE eagle && git -C eagle checkout cb7e0841
    .venv/bin/python -m pip install --target .venv/eagle transformers==4.53.1 numpy==2.2.6
    .venv/bin/maturin build --release -m crates/ltd-python/Cargo.toml --out wheels
    .venv/bin/python -m zipfile -e wheels/ltd_policy-*.whl wheels/site
    PYTHONPATH=wheels/site:.venv/eagle scripts/head/python-without-cuda \\
        crates/ltd-python/bench/steer_eagle.py --eagle eagle

scripts/setup comes before. Where PyTorch is installed with its CUDA libraries, any Python will do. transformers is the
oldest that EAGLE's requirements allow; 5.24 lacks a module that EAGLE imports (modeling_attn_mask_utils). That it warns
of rotary frequencies that are not in the checkpoint means nothing: EAGLE computes them.

Everything is in float32 and greedy. A text is that of EAGLE's plain decoding up to the shorter length: EAGLE stops after
the cycle that reaches --max-new-tokens. Forwards of other widths round otherwise, so texts may part where the target's
two best tokens have logits that are closer than rounding. Such a tie is told, and what comes after it is not compared.
Any other difference ends the command with exit code 1. Times are those of whole calls, the prompt included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import ltd_policy
import torch
from ltd_policy.eagle import steering
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[3]
POLICIES = ROOT / "tests/fixtures/policies"
TASKS = ["gsm8k", "mt_bench", "alpaca"]
# Logits are about 20, and a sum of some hundred products rounds them by some 1e-6 of that in each of 30 layers.
TIE = 1e-3


@dataclass
class Contender:
    name: str
    # What decoding is within, and what decodes.
    within: Callable[[], AbstractContextManager]
    generate: Callable
    # Of each round.
    tokens: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    cycles: list[int] = field(default_factory=list)

    def decode(self, prompt: torch.Tensor, count: int) -> tuple[list[int], int, float]:
        """New tokens, cycles and seconds."""
        with self.within():
            start = time.perf_counter()
            output, _, last = self.generate(prompt, temperature=0.0, max_new_tokens=count, log=True)
            return output[0, prompt.shape[1] :].tolist(), last + 1, time.perf_counter() - start

    def rates(self) -> list[float]:
        return [tokens / seconds for tokens, seconds in zip(self.tokens, self.seconds)]


@contextmanager
def constants(layer: torch.nn.Module, depth: int, size: int) -> Iterator[None]:
    """EAGLE's own trees, of another depth and size."""
    before = layer.depth, layer.total_tokens
    layer.depth, layer.total_tokens = depth, size
    try:
        yield
    finally:
        layer.depth, layer.total_tokens = before


def with_an_index(target: Path, folder: Path) -> Path:
    """The target, where EAGLE looks up which shard has the embedding: a single file has no index of shards."""
    if (target / "model.safetensors.index.json").exists():
        return target
    for path in target.iterdir():
        (folder / path.name).symlink_to(path.resolve())
    with safe_open(target / "model.safetensors", framework="pt") as file:
        weights = dict.fromkeys(file.keys(), "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    return folder


def prompts_of(paths: list[Path], number: int, tokenizer) -> list[torch.Tensor]:
    prompts = []
    for path in paths:
        questions = [json.loads(line) for line in path.read_text().splitlines()[:number]]
        for question in questions:
            turns = [{"role": "user", "content": question["turns"][0]}]
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            prompts.append(tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids)
    return prompts


@torch.no_grad()
def parting(model, prompt: torch.Tensor, expected: list[int], found: list[int]) -> tuple[int, float] | None:
    """Where a text parts from the expected one, and by how much the logits of the two tokens differ there."""
    pairs = zip(expected, found)
    place = next((place for place, (one, other) in enumerate(pairs) if one != other), None)
    if place is None:
        return None
    model.base_model.model.tree_mask = None
    before = torch.cat((prompt, torch.tensor([expected[:place]], dtype=prompt.dtype)), dim=1)
    logits = model.base_model(before).logits[0, -1]
    return place, float((logits[expected[place]] - logits[found[place]]).abs())


def policies_of(arguments: argparse.Namespace) -> dict[str, ltd_policy.Policy]:
    target, draft = (ltd_policy.model_sha256(folder) for folder in (arguments.target, arguments.draft))
    policies = {}
    for folder in arguments.policy:
        here = {"device": "cpu", "dtype": "f32", "threads": torch.get_num_threads(), "temperature": 0.0}
        policies[folder.name] = ltd_policy.Policy.load(folder, **here)
        policies[folder.name].check_models(target=target, draft=draft)
    return policies


def contenders_of(
    model, constant_trees: list[tuple[int, int]], policies: dict[str, ltd_policy.Policy]
) -> list[Contender]:
    layer = model.ea_layer
    default = f"EAGLE's default ({layer.depth}, {layer.total_tokens})"
    contenders = [
        Contender("plain", nullcontext, model.naivegenerate),
        Contender(default, nullcontext, model.eagenerate),
    ]
    for depth, size in constant_trees:
        within = lambda depth=depth, size=size: constants(layer, depth, size)
        contenders.append(Contender(f"EAGLE's trees at ({depth}, {size})", within, model.eagenerate))
    for name, policy in policies.items():
        within = lambda policy=policy: steering(model, policy)
        contenders.append(Contender(f"policy {name}", within, model.eagenerate))
    return contenders


def measure(model, contenders: list[Contender], prompts: list[torch.Tensor], arguments: argparse.Namespace) -> int:
    """Decodes everything in every round; the number of texts that are others."""
    plain, ends, wrong, ties = contenders[0], model.tokenizer.eos_token_id, 0, set()
    for contender in contenders:
        contender.decode(prompts[0], 8)
    for turn in range(arguments.rounds):
        for contender in contenders:
            for of_rounds in (contender.tokens, contender.seconds, contender.cycles):
                of_rounds.append(0)
        for number, prompt in enumerate(prompts):
            texts = {}
            # Each is first as often as any other.
            first = (turn + number) % len(contenders)
            for contender in contenders[first:] + contenders[:first]:
                tokens, cycles, seconds = contender.decode(prompt, arguments.max_new_tokens)
                contender.tokens[-1] += len(tokens)
                contender.seconds[-1] += seconds
                contender.cycles[-1] += cycles
                # A cycle may go on behind the end.
                texts[contender.name] = tokens[: tokens.index(ends) + 1] if ends in tokens else tokens
            for name, text in texts.items():
                parted = parting(model, prompt, texts[plain.name], text)
                if parted is None or (name, number) in ties:
                    continue
                place, gap = parted
                is_tie = gap < TIE
                print(f"{name}, question {number}: parts at token {place}, logits {gap:.2g} apart")
                ties.update([(name, number)] if is_tie else [])
                wrong += not is_tie
        print(f"round {turn + 1} of {arguments.rounds}", file=sys.stderr)
    print(f"texts: {len(prompts) * (len(contenders) - 1)} compared, {wrong} others, {len(ties)} that part at a tie")
    return wrong


def table(contenders: list[Contender]) -> str:
    lines = ["| | tokens/s, median of rounds | lowest .. highest | over plain | tokens per cycle |", "|" + " --- |" * 5]
    plain = statistics.median(contenders[0].rates())
    for contender in contenders:
        rates, accepted = contender.rates(), sum(contender.tokens) / sum(contender.cycles)
        median = statistics.median(rates)
        spread = f"{min(rates):.2f} .. {max(rates):.2f}"
        lines.append(f"| {contender.name} | {median:.2f} | {spread} | {median / plain:.2f} | {accepted:.2f} |")
    return "\n".join(lines)


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown CPU"


def pair_of_numbers(text: str) -> tuple[int, int]:
    try:
        depth, size = (int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected DEPTH,SIZE, found {text!r}") from None
    return depth, size


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--eagle", type=Path, required=True, help="a checkout of SafeAILab/EAGLE")
    parser.add_argument("--target", type=Path, default=ROOT / "models/smollm2-135m-instruct")
    parser.add_argument("--draft", type=Path, default=ROOT / "tests/fixtures/eagle3-smollm2-135m")
    parser.add_argument("--policy", type=Path, nargs="+", default=[POLICIES / "pair", POLICIES / "factored"])
    parser.add_argument("--constants", type=pair_of_numbers, nargs="*", default=[(1, 4), (1, 8)], help="DEPTH,SIZE")
    parser.add_argument("--questions", type=Path, nargs="+", help="JSONL with turns; some of EAGLE's own by default")
    parser.add_argument("--number", type=int, default=3, help="questions of each file")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of PyTorch; its own choice by default")
    arguments = parser.parse_args()
    if not (arguments.eagle / "eagle/model/ea_model.py").is_file():
        parser.error(f"--eagle: expected a checkout with eagle/model/ea_model.py, found none in {arguments.eagle}")
    own = [arguments.eagle / "eagle/data" / task / "question.jsonl" for task in TASKS]
    arguments.questions = arguments.questions or own
    missing = [str(path) for path in arguments.questions if not path.is_file()]
    if missing:
        parser.error(f"--questions: expected files, found none at {', '.join(missing)}")
    for name in ("number", "max_new_tokens", "rounds", "threads"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')}: expected at least 1, found {value}")
    return arguments


def main() -> int:
    arguments = parsed()
    sys.path.insert(0, str(arguments.eagle.resolve()))
    from eagle.model.ea_model import EaModel

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    try:
        policies = policies_of(arguments)
    except (ltd_policy.PackageError, FileNotFoundError) as error:
        print(f"steer_eagle: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        model = EaModel.from_pretrained(
            base_model_path=str(with_an_index(arguments.target, Path(folder))),
            ea_model_path=str(arguments.draft),
            torch_dtype=torch.float32,
        ).eval()
        prompts = prompts_of(arguments.questions, arguments.number, model.tokenizer)
        print(f"{cpu()}, {torch.get_num_threads()} threads, {len(prompts)} questions, {arguments.rounds} rounds")
        contenders = contenders_of(model, arguments.constants, policies)
        wrong = measure(model, contenders, prompts, arguments)
    print(table(contenders))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
