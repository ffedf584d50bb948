"""Generates training conversations: questions that the target makes up, answered by the target.

    python scripts/head/generate.py --target MODEL --out FOLDER --tokens 2000000 [--openings FILE] [--exclude PATH]...

The target continues its chat template's open user turn, which makes a question (the Magpie method, arXiv 2406.08464),
and then answers it: greedily, but for a share that is sampled. Left to itself a target asks what it was tuned on most;
with openings it completes the question that one of them begins. A target without tokenizer.json continues its
beginning-of-sequence token, and what it has sampled so far is the prompt. Work is a fixed sequence of items, each with
random numbers of its own; an item whose question is empty, too long, excluded or already asked becomes no
conversation. A run that was stopped is continued by the same command; with a higher goal it goes on.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from conversations import (
    Conversation,
    TextModel,
    end_tokens,
    load_conversations,
    load_questions,
    normalised,
    open_folder,
    read_shards,
    write_shard,
)
from model_folder import InputError, fingerprint, occupied, run_command
from target import Batch, Request, Target, add_target_arguments, load_target

# What an item's random numbers are for; each purpose has its own stream.
QUESTION_DRAWS, ANSWER_DRAWS, SAMPLED_OR_NOT = range(3)
# Items whose conversations are stored at once.
SHARD_ITEMS = 32
# Items without any conversation after which the run gives up.
HOPELESS_ITEMS = 512
# Tokens that a chat template puts between a question and its answer.
TEMPLATE_ROOM = 16


@dataclass(frozen=True)
class Settings:
    """What decides the conversations; kept beside them, and a folder is only continued with the same."""

    seed: int
    sampled_share: float
    temperature: float
    question_temperature: float
    max_question: int
    max_answer: int
    openings: tuple[str, ...] = ()

    def manifest(self, target: Target) -> dict:
        """What is kept; of openings a digest."""
        settings = {name: value for name, value in asdict(self).items() if name != "openings"}
        if self.openings:
            settings["openings"] = hashlib.sha256(json.dumps(self.openings).encode()).hexdigest()[:16]
        return {"target": fingerprint(target.folder), **settings}

    def check(self, target: Target) -> None:
        limit = target.config.max_positions
        for name, holds, expected in (
            ("sampled_share", 0 <= self.sampled_share <= 1, "0..1"),
            ("temperature", self.temperature > 0, "a positive number"),
            ("question_temperature", self.question_temperature > 0, "a positive number"),
            ("max_question", 0 < self.max_question < limit, f"1..{limit - 1}"),
            ("max_answer", 0 < self.max_answer < limit, f"1..{limit - 1}"),
        ):
            if not holds:
                raise InputError(f"--{name.replace('_', '-')}: expected {expected}, found {getattr(self, name)}")


class Exclusions:
    """What must never be asked: the questions of files, and the prompts of folders of conversations."""

    def __init__(self, paths: Sequence[Path]):
        self.questions: set[str] = set()
        self.prompts: set[tuple[int, ...]] = set()
        for path in paths:
            if path.is_dir():
                self.prompts.update(conversation.prompt for conversation in load_conversations(path))
            else:
                self.questions.update(map(normalised, load_questions(path)))


class Items:
    """What becomes of items: each has a question to complete and then, if that is fit, an answer to give."""

    def __init__(self, target: Target, exclusions: Exclusions, settings: Settings):
        self.exclusions, self.settings = exclusions, settings
        # Prompts of earlier shards, and by item what the current ones have come to.
        self.seen: set[tuple[int, ...]] = set()
        self.prompts: dict[int, tuple[int, ...]] = {}
        self.finished: dict[int, Conversation | None] = {}
        self.text = TextModel(target.folder) if (target.folder / "tokenizer.json").is_file() else None
        self.eos = end_tokens(target.folder)
        if self.text is None and settings.openings:
            raise InputError(f"{target.folder / 'tokenizer.json'}: expected for --openings, found none")
        self.beginning = self.text.open_user_turn() if self.text else (target.config.raw["bos_token_id"],)
        self.openings = [self.text.encode(opening) for opening in settings.openings] or [()]

    def question(self, item: int) -> Request:
        settings = self.settings
        text = (*self.beginning, *self._opening(item))
        return Request(
            text, settings.question_temperature, draws(settings.seed, item, QUESTION_DRAWS, settings.max_question)
        )

    def follow(self, item: int, made: list[int]) -> Request | None:
        """The answer to ask for where `made` is a question; None where the item is finished."""
        settings = self.settings
        prompt = self.prompts.get(item)
        if prompt is not None:
            tokens = np.array([*prompt, *made])
            self.finished[item] = Conversation(tokens, len(prompt), item, self._temperature(item))
            return None
        prompt = self._prompt(self._opening(item), made)
        if not prompt or prompt in self.seen or prompt in self.exclusions.prompts:
            self.finished[item] = None
            return None
        self.prompts[item] = prompt
        return Request(prompt, self._temperature(item), draws(settings.seed, item, ANSWER_DRAWS, settings.max_answer))

    def take(self, items: range) -> list[Conversation] | None:
        """The conversations of items, once all are finished, without those whose prompt an earlier item has."""
        if not all(item in self.finished for item in items):
            return None
        shard = []
        for item in items:
            conversation = self.finished.pop(item)
            prompt = self.prompts.pop(item, None)
            if conversation and prompt not in self.seen:
                self.seen.add(prompt)
                shard.append(conversation)
        return shard

    def _temperature(self, item: int) -> float:
        sampled = draws(self.settings.seed, item, SAMPLED_OR_NOT, 1)[0] < self.settings.sampled_share
        return self.settings.temperature if sampled else 0.0

    def _opening(self, item: int) -> tuple[int, ...]:
        return self.openings[item % len(self.openings)]

    def _prompt(self, opening: tuple[int, ...], turn: list[int]) -> tuple[int, ...] | None:
        ended = turn[-1] in self.eos
        if self.text is None:
            return None if ended else (*self.beginning, *turn)
        question = self.text.decode([*opening, *turn[:-1]]).strip() if ended else ""
        if not question or normalised(question) in self.exclusions.questions:
            return None
        return self.text.chat_prompt(question)


def draws(seed: int, item: int, purpose: int, count: int) -> np.ndarray:
    """Uniform numbers; those of an item depend on nothing but the seed, the item and the purpose."""
    return np.random.default_rng([seed, item, purpose]).random(count, np.float32)


@dataclass
class Progress:
    next_item: int = 0
    conversations: int = 0
    answer_tokens: int = 0

    def add(self, end: int, shard: list[Conversation]) -> None:
        self.next_item = end
        self.conversations += len(shard)
        self.answer_tokens += sum(conversation.answer_tokens for conversation in shard)

    def __str__(self) -> str:
        return f"{self.conversations} conversations, {self.answer_tokens} answer tokens"


def generate(
    target: Target,
    out: Path,
    settings: Settings,
    exclude: Sequence[Path],
    tokens: int,
    batch: int,
    shard_items: int = SHARD_ITEMS,
) -> None:
    """Fills a folder until its answers hold `tokens` tokens; `batch` items are worked on at once."""
    settings.check(target)
    if batch < 1:
        raise InputError(f"--batch: expected a positive number, found {batch}")
    open_folder(out, settings.manifest(target))
    items = Items(target, Exclusions(exclude), settings)
    progress = Progress()
    for end, shard in read_shards(out):
        progress.add(end, shard)
        items.seen.update(conversation.prompt for conversation in shard)
    started, before, first = time.monotonic(), progress.answer_tokens, progress.next_item
    room = settings.max_question + settings.max_answer + TEMPLATE_ROOM
    work = Batch(target, items.eos, batch, room, items.follow)
    next_item = first
    while progress.answer_tokens < tokens:
        # No question is begun while enough texts wait.
        while len(work.waiting) < work.places():
            work.add(next_item, items.question(next_item))
            next_item += 1
        work.step()
        end = progress.next_item + shard_items
        shard = items.take(range(progress.next_item, end))
        if shard is None:
            continue
        write_shard(out, progress.next_item, end, shard, target.config.vocabulary)
        progress.add(end, shard)
        if not progress.conversations and progress.next_item - first >= HOPELESS_ITEMS:
            raise InputError(
                f"{target.folder}: none of {HOPELESS_ITEMS} items had a fit question: --max-question too low?"
            )
        rate = (progress.answer_tokens - before) / (time.monotonic() - started)
        remaining = max(0, tokens - progress.answer_tokens) / max(rate, 1e-9)
        print(f"generate: {out}: {progress} of {tokens}, {rate:.0f}/s, {remaining / 60:.1f} min left", flush=True)
    print(f"generate: {out} holds {progress}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], epilog="See docs/head.md.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the conversations; made or continued")
    parser.add_argument("--tokens", type=int, required=True, help="answer tokens to generate in all, or a few more")
    parser.add_argument("--seed", type=int, default=1, help="seed of all random numbers (default %(default)s)")
    parser.add_argument(
        "--sampled-share",
        type=float,
        default=0.2,
        help="share of answers that are sampled instead of greedy (default %(default)s)",
    )
    parser.add_argument(
        "--temperature", type=float, default=0.7, help="temperature of the sampled answers (default %(default)s)"
    )
    parser.add_argument(
        "--question-temperature", type=float, default=1.0, help="temperature of the questions (default %(default)s)"
    )
    parser.add_argument(
        "--max-question",
        type=int,
        default=128,
        help="tokens a target may write of a question; longer ones are left out (default %(default)s)",
    )
    parser.add_argument(
        "--max-answer", type=int, default=512, help="tokens at which an answer is cut (default %(default)s)"
    )
    parser.add_argument(
        "--openings",
        type=Path,
        metavar="FILE",
        help="beginnings of questions, by turns, in FastChat's question.jsonl form (default: none)",
    )
    parser.add_argument(
        "--exclude",
        type=Path,
        nargs="*",
        default=[],
        metavar="PATH",
        help="question files and folders of conversations whose questions are never asked",
    )
    parser.add_argument("--batch", type=int, default=64, help="items worked on at once (default %(default)s)")
    add_target_arguments(parser)
    options = parser.parse_args()
    options.openings = tuple(load_questions(options.openings)) if options.openings else ()
    settings = Settings(**{name: getattr(options, name) for name in Settings.__dataclass_fields__})
    with occupied(options.out):
        generate(load_target(options), options.out, settings, options.exclude, options.tokens, options.batch)


if __name__ == "__main__":
    run_command("generate", main)
