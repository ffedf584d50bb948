"""Measures heads: how many of the tokens that they draft one after another equal the target's own choices.

    python scripts/head/evaluate.py --target MODEL --heads FOLDER... [--questions FILE...] [--conversations FOLDER...]

The texts are greedy answers of the target: to the first questions of each file, made here, and those in folders of
conversations. From every position of an answer each head drafts a chain of `--steps` tokens. On a greedy text the
chain's first tokens are the text's own as long as they are right, so one pass over the text gives exactly what
decoding would draft. Reported per source and head: the share of equal first choices at each step, the mean accepted
chain over all positions, and the acceptance length (accepted tokens plus one) of decoding with such chains.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from conversations import Conversation, TextModel, load_conversations, load_questions
from head import Head, load_head, training_time_test
from model_folder import InputError, run_command, write_json
from supervision import Supervision
from target import Request, Target, add_target_arguments, continue_prompts, load_target

BATCH = 8


def answer_questions(target: Target, path: Path, questions: int, max_answer: int) -> list[Conversation]:
    """Greedy answers to the first questions of a file."""
    text = TextModel(target.folder)
    prompts = [text.chat_prompt(question) for question in load_questions(path)[:questions]]
    conversations = []
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        answers = continue_prompts(target, [Request(prompt, 0.0, np.zeros(max_answer)) for prompt in batch], text.eos)
        conversations += [
            Conversation(np.array([*prompt, *answer]), len(prompt), start + row, 0.0)
            for row, (prompt, answer) in enumerate(zip(batch, answers))
        ]
    return conversations


@torch.no_grad()
def chain_hits(head: Head, batch: Supervision, steps: int) -> list[torch.Tensor]:
    """Of each conversation, whether each step of the chain from each position of the answer is the target's choice.

    `[drafts, steps]`; only positions from which all steps stay inside the text.
    """
    choices = batch.choices()
    complete = batch.rows(steps - 1)
    hits = []
    for step, hidden in enumerate(training_time_test(head, batch.tokens, batch.features, steps)):
        rows = hidden[:, : complete.shape[1]][complete]
        judged = batch.places[:, 1 + step : 1 + step + complete.shape[1]][complete]
        proposed = head.vocabulary.target_ids[head.logits(rows).argmax(-1)]
        hits.append(proposed == choices[judged])
    return list(torch.stack(hits, -1).split(complete.sum(1).tolist()))


def acceptance_lengths(chains: Sequence[int]) -> Iterator[int]:
    """Of the cycles of decoding: each begins where the last accepted chain and the target's own token have led."""
    position = 0
    while position < len(chains):
        yield chains[position] + 1
        position += chains[position] + 1


def measure(head: Head, target: Target, conversations: Sequence[Conversation], steps: int) -> dict:
    hits, cycles = [], []
    for start in range(0, len(conversations), BATCH):
        for of_one in chain_hits(head, Supervision(target, conversations[start : start + BATCH]), steps):
            hits.append(of_one)
            cycles += acceptance_lengths(of_one.int().cumprod(-1).sum(-1).tolist())
    all_hits = torch.cat(hits)
    return {
        "conversations": len(conversations),
        "drafts": len(all_hits),
        "accuracy": all_hits.float().mean(0).tolist(),
        "mean_accepted_chain": float(all_hits.int().cumprod(-1).sum(-1).float().mean()),
        "acceptance_length": sum(cycles) / len(cycles),
    }


def evaluate(target: Target, heads: Sequence[Path], sources: dict[str, list[Conversation]], steps: int) -> list[dict]:
    """One record per source and head, printed as they come."""
    accuracies = f"accuracy at steps 1..{steps}"
    print(f"{'source':<16} {'head':<32} {'drafts':>7} {accuracies:<30} {'chain':<6} tau", flush=True)
    records = []
    for source, conversations in sources.items():
        if not any(len(one.tokens) - one.answer > steps for one in conversations):
            raise InputError(f"{source}: expected greedy answers longer than {steps} tokens, found none")
        for folder in heads:
            measured = measure(load_head(folder, target), target, conversations, steps)
            record = {"source": source, "head": str(folder), **measured}
            accuracy = " ".join(f"{value:.3f}" for value in record["accuracy"])
            print(
                f"{source:<16} {str(folder)[-32:]:<32} {record['drafts']:>7} {accuracy:<30} "
                f"{record['mean_accepted_chain']:<6.3f} {record['acceptance_length']:.3f}",
                flush=True,
            )
            records.append(record)
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], epilog="See docs/head.md.")
    parser.add_argument("--heads", type=Path, nargs="+", required=True, help="folders of heads to compare")
    parser.add_argument("--questions", type=Path, nargs="*", default=[], help="question files in FastChat's form")
    parser.add_argument(
        "--conversations",
        type=Path,
        nargs="*",
        default=[],
        help="folders made by generate.py; the sampled answers are left out",
    )
    parser.add_argument("--limit", type=int, default=24, help="questions of each file (default %(default)s)")
    parser.add_argument(
        "--max-answer",
        type=int,
        default=128,
        help="tokens at which an answer to a file's question is cut (default %(default)s)",
    )
    parser.add_argument("--steps", type=int, default=5, help="length of the chains (default %(default)s)")
    parser.add_argument("--json", type=Path, help="file for the records")
    add_target_arguments(parser)
    options = parser.parse_args()
    for name in ("limit", "max_answer", "steps"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name.replace('_', '-')}: expected a positive number, found {getattr(options, name)}")
    if not options.questions and not options.conversations:
        raise InputError("expected --questions or --conversations, found neither")
    target = load_target(options)
    sources = {
        path.stem: answer_questions(target, path, options.limit, options.max_answer) for path in options.questions
    }
    for folder in options.conversations:
        sources[folder.name] = [one for one in load_conversations(folder) if one.temperature == 0]
    records = evaluate(target, options.heads, sources, options.steps)
    if options.json:
        write_json(options.json, {"target": str(options.target), "dtype": options.dtype, "records": records})


if __name__ == "__main__":
    run_command("evaluate", main)
