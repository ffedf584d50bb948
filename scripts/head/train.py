"""Trains an EAGLE-3 head on conversations of its target.

    python scripts/head/train.py --target MODEL --conversations FOLDER --run FOLDER

EAGLE-3's training-time test (arXiv 2503.01840): from every position the head drafts `--steps` tokens, reading its own
output after the first, and is taught the target's probabilities at each. The target's features are computed on the
way. The run's folder holds the checkpoint, with which the same command goes on where it was stopped, and the head in
the official layout (`FOLDER/head`), both as of the last checkpoint.
"""

import argparse
import ctypes
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from conversations import Conversation, load_conversations
from head import DraftVocabulary, Head, begin_with, load_head, new_head, save_head, training_time_test
from loss import SoftCrossEntropy
from model_folder import DTYPES, NORMS, InputError, check_same, fingerprint, occupied, run_command, write_atomically
from optimiser import HeadOptimiser
from supervision import Supervision
from target import Target, add_target_arguments, load_target

# Conversations that are sorted by length together, so that a batch has little padding.
SORTED_TOGETHER = 512
# Conversations from which the features' scales are measured.
SCALE_SAMPLE = 64


@dataclass(frozen=True)
class Settings:
    """What decides the head that comes out; kept in the checkpoint, which is only continued with the same."""

    seed: int
    epochs: int
    batch_tokens: int
    learning_rate: float
    warmup_share: float
    weight_decay: float
    max_grad_norm: float
    steps: int
    step_decay: float
    draft_vocabulary: int
    norms: str = NORMS[0]

    def check(self) -> None:
        for name, holds, expected in (
            ("epochs", self.epochs > 0, "a positive number"),
            ("batch_tokens", self.batch_tokens > 0, "a positive number"),
            ("learning_rate", self.learning_rate > 0, "a positive number"),
            ("warmup_share", 0 <= self.warmup_share < 1, "0..1"),
            ("weight_decay", self.weight_decay >= 0, "0 or more"),
            ("max_grad_norm", self.max_grad_norm > 0, "a positive number"),
            ("steps", self.steps > 0, "a positive number"),
            ("step_decay", 0 < self.step_decay <= 1, "a number in 0..1"),
        ):
            if not holds:
                raise InputError(f"--{name.replace('_', '-')}: expected {expected}, found {getattr(self, name)}")


def batches(lengths: Sequence[int], settings: Settings) -> list[np.ndarray]:
    """The conversations of each update, all epochs: similar lengths together, at most `batch_tokens` with padding."""
    plan = []
    for epoch in range(settings.epochs):
        random = np.random.default_rng([settings.seed, epoch])
        order = random.permutation(len(lengths))
        of_epoch = []
        for start in range(0, len(order), SORTED_TOGETHER):
            group = sorted(order[start : start + SORTED_TOGETHER], key=lambda index: lengths[index])
            batch: list[int] = []
            for index in group:
                if batch and (len(batch) + 1) * lengths[index] > settings.batch_tokens:
                    of_epoch.append(np.array(batch))
                    batch = []
                batch.append(index)
            of_epoch.append(np.array(batch))
        plan += [of_epoch[index] for index in random.permutation(len(of_epoch))]
    return plan


def learning_rate(settings: Settings, update: int, updates: int) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    warmup = settings.warmup_share * updates
    if update < warmup:
        return settings.learning_rate * (update + 1) / (warmup + 1)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (update - warmup) / (updates - warmup)))


def measure_scales(target: Target, conversations: Sequence[Conversation]) -> torch.Tensor:
    """Root mean square of each feature dimension over answers, `[3 * hidden]`.

    Residual streams have dimensions that are hundreds of times larger than the rest: unscaled, they are all that the
    head's `fc` sees.
    """
    total, rows = torch.zeros(3 * target.config.hidden, device=target.device, dtype=torch.float64), 0
    for conversation in conversations[:SCALE_SAMPLE]:
        _, features = target.read(torch.tensor(conversation.tokens.tolist(), device=target.device)[None])
        answer = features[0, conversation.answer :]
        total += answer.double().square().sum(0)
        rows += len(answer)
    return (total / rows).sqrt().float().clamp(min=1e-6)


def losses_and_hits(head: Head, batch: Supervision, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Per step the mean cross-entropy to the target's probabilities, and the share of equal first choices."""
    choices, probabilities = batch.choices_and_probabilities(head.vocabulary)
    losses, hits = [], []
    for step, hidden in enumerate(training_time_test(head, batch.tokens, batch.features, steps)):
        judged = batch.judgements(step)
        logits = head.logits(hidden[batch.rows(step)])
        # A step may have no row at all, where all answers are shorter.
        losses.append(SoftCrossEntropy.apply(logits, probabilities, judged) / max(1, len(judged)))
        proposed = head.vocabulary.target_ids[logits.detach().argmax(-1)]
        hits.append((proposed == choices[judged]).sum() / max(1, len(judged)))
    return torch.stack(losses), torch.stack(hits)


class Training:
    """A head, its optimiser and how many updates they have seen."""

    def __init__(
        self,
        target: Target,
        conversations: list[Conversation],
        settings: Settings,
        dtype: torch.dtype,
        start: Path | None = None,
    ):
        """`start` is the folder of a head to begin with, in place of one that has learned nothing."""
        settings.check()
        self.target, self.conversations, self.settings = target, conversations, settings
        self.plan = batches([len(conversation.tokens) for conversation in conversations], settings)
        self.update = 0
        self.save_dtype = dtype
        counts = torch.zeros(target.config.vocabulary, dtype=torch.long)
        for conversation in conversations:
            answer = torch.from_numpy(conversation.tokens[conversation.answer :].astype(np.int64))
            counts += answer.bincount(minlength=len(counts))
        vocabulary = DraftVocabulary.most_frequent(counts, settings.draft_vocabulary)
        self.coverage = float(counts[vocabulary.target_ids].sum() / counts.sum())
        config = target.config.of_head(len(vocabulary), dtype, settings.norms)
        self.head = new_head(config, vocabulary, target, settings.seed)
        self.head.suit(measure_scales(target, conversations))
        if start:
            begin_with(self.head, load_head(start, target))
        self.optimiser = HeadOptimiser(self.head, settings.weight_decay)
        # Data decide as much as settings do.
        tokens = sum(len(conversation.tokens) for conversation in conversations)
        data = {"target": fingerprint(target.folder), "conversations": len(conversations), "tokens": tokens}
        self.identity = {**asdict(settings), **data, "start": fingerprint(start) if start else None}
        # A training that was begun before there was a choice goes on.
        if settings.norms == NORMS[0]:
            del self.identity["norms"]

    def step(self) -> tuple[torch.Tensor, torch.Tensor]:
        """One update; its losses and hits."""
        settings, device = self.settings, self.target.device
        batch = Supervision(self.target, [self.conversations[index] for index in self.plan[self.update]])
        with torch.autocast(device.type, torch.bfloat16, enabled=self.target.dtype == torch.bfloat16):
            losses, hits = losses_and_hits(self.head, batch, settings.steps)
        weights = settings.step_decay ** torch.arange(settings.steps, device=device)
        loss = (weights * losses).sum() / weights.sum()
        if not torch.isfinite(loss):
            raise InputError(
                f"update {self.update}: expected a finite loss, found {float(loss)}: lower --learning-rate"
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.head.parameters(), settings.max_grad_norm)
        self.optimiser.step(learning_rate(settings, self.update, len(self.plan)))
        self.update += 1
        return losses.detach(), hits

    def store(self, run: Path) -> None:
        tensors = {"feature_scale": self.head.feature_scale, "target_ids": self.head.vocabulary.target_ids}
        for name, parameter in self.head.named_parameters():
            tensors[f"head.{name}"] = parameter.detach()
        tensors |= self.optimiser.state()
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        metadata = {"update": str(self.update), "settings": json.dumps(self.identity)}
        write_atomically(run / "checkpoint.safetensors", save(tensors, metadata=metadata))
        save_head(run / "head", self.head, self.save_dtype)

    def restore(self, run: Path) -> bool:
        """Goes on from the folder's checkpoint, if there is one."""
        path = run / "checkpoint.safetensors"
        if not path.is_file():
            return False
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            check_same(path, json.loads(metadata["settings"]), self.identity)
            with torch.no_grad():
                self.head.feature_scale.copy_(tensors["feature_scale"])
                for name, parameter in self.head.named_parameters():
                    parameter.copy_(tensors[f"head.{name}"])
            self.optimiser.restore(tensors)
            self.update = int(metadata["update"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{path}: expected a checkpoint of this training, found: {error!r}") from error
        return True


def give_back_memory() -> None:
    """Has the C library return the pages of all that is free: matrices of ever other sizes leave gaps, and updates would
    fill the memory with them (`scripts/head/train` has the library keep what it has)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def train(
    training: Training, run: Path, log_seconds: float, checkpoint_seconds: float, until: int | None = None
) -> None:
    """Updates until the plan, or `until`, is fulfilled; stores head and checkpoint now and then, and at the end."""
    updates = len(training.plan)
    if training.restore(run):
        print(f"train: going on from update {training.update} of {updates}", flush=True)
    print(
        f"train: {len(training.conversations)} conversations, {updates} updates, draft vocabulary covers "
        f"{training.coverage:.2%} of the answers",
        flush=True,
    )
    until = updates if until is None else min(until, updates)
    sizes = [sum(len(training.conversations[index].tokens) for index in batch) for batch in training.plan]
    started = logged = stored = time.monotonic()
    begun, recent = training.update, []
    while training.update < until:
        recent.append(training.step())
        give_back_memory()
        now = time.monotonic()
        if now - logged >= log_seconds or training.update == until:
            logged = now
            losses, hits = (torch.stack(values).mean(0).tolist() for values in zip(*recent))
            rate = sum(sizes[begun : training.update]) / (now - started)
            left = sum(sizes[training.update :]) / rate
            steps = lambda values: " ".join(f"{value:.3f}" for value in values)
            print(
                f"train: update {training.update}/{updates}: loss {steps(losses)}, accuracy {steps(hits)}, "
                f"{rate:.0f} tokens/s, {left / 60:.1f} min left",
                flush=True,
            )
            recent = []
        if now - stored >= checkpoint_seconds:
            training.store(run)
            stored = time.monotonic()
    training.store(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], epilog="See docs/head.md.")
    parser.add_argument("--conversations", type=Path, nargs="+", required=True, help="folders made by generate.py")
    parser.add_argument("--run", type=Path, required=True, help="folder of the training; made or continued")
    parser.add_argument("--start", type=Path, help="head to begin with (default: one that has learned nothing)")
    parser.add_argument("--seed", type=int, default=1, help="seed of weights and order (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=2, help="times each conversation is seen (default %(default)s)")
    parser.add_argument(
        "--batch-tokens", type=int, default=1024, help="tokens of an update, padding included (default %(default)s)"
    )
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="highest (default %(default)s)")
    parser.add_argument(
        "--warmup-share",
        type=float,
        default=0.03,
        help="share of updates with a rising learning rate (default %(default)s)",
    )
    parser.add_argument(
        "--weight-decay", type=float, default=0.01, help="relative to the step size (default %(default)s)"
    )
    parser.add_argument(
        "--max-grad-norm", type=float, default=1.0, help="gradients are scaled down to it (default %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=5, help="tokens drafted from each position (default %(default)s)")
    parser.add_argument(
        "--step-decay",
        type=float,
        default=0.8,
        help="weight of a step's loss relative to the step before (default %(default)s)",
    )
    parser.add_argument(
        "--draft-vocabulary",
        type=int,
        default=8192,
        help="tokens that the head can propose: the answers' most frequent (default %(default)s)",
    )
    parser.add_argument(
        "--norms",
        choices=NORMS,
        default=NORMS[0],
        help="eagle3.1 norms each feature before fc, and what the next step reads (default %(default)s)",
    )
    parser.add_argument("--save-dtype", choices=DTYPES, default="bf16", help="of the saved head (default %(default)s)")
    parser.add_argument("--log-seconds", type=float, default=30, help="between progress lines (default %(default)s)")
    parser.add_argument(
        "--checkpoint-seconds", type=float, default=300, help="between checkpoints (default %(default)s)"
    )
    add_target_arguments(parser)
    options = parser.parse_args()
    settings = Settings(**{name: getattr(options, name) for name in Settings.__dataclass_fields__})
    target = load_target(options)
    conversations = [conversation for folder in options.conversations for conversation in load_conversations(folder)]
    training = Training(target, conversations, settings, DTYPES[options.save_dtype], options.start)
    with occupied(options.run):
        train(training, options.run, options.log_seconds, options.checkpoint_seconds)


if __name__ == "__main__":
    run_command("train", main)
