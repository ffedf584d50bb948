"""The target: a Llama-architecture model with the features that an EAGLE-3 head reads, and its batched decoding.

Computes what ltd-engine computes, for batches. Two ways through it: `read` runs whole sequences (training, prompts),
`extend` adds one token per row on top of caches (`Batch`). Imported by the commands of this folder; see
docs/head.md.
"""

import argparse
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from model_folder import DTYPES, TARGET_ARCHITECTURE, Config, InputError, Weights, load_config

# Share of stopped rows at which a cohort is packed: copying the cache costs about as much as a step or two.
PACKING_SHARE = 0.25
# Share of a batch for which others begin: each cohort has its own attention.
REFILL_SHARE = 0.125
# How much longer than the shortest a text may be that is read beside it.
PADDING = 1.25

Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Rotary:
    """Rotary position embedding, half-split convention. The angles are f32, as in the training of these models."""

    def __init__(self, config: Config, device: torch.device, dtype: torch.dtype):
        self.dtype = dtype
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        self.frequencies = (1.0 / config.rope_theta**exponents).to(device)

    def at(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and signed sines, `[*positions.shape, head_dim]`."""
        angles = positions.unsqueeze(-1).float() * self.frequencies
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([cos, cos], -1).to(self.dtype), torch.cat([-sin, sin], -1).to(self.dtype)


def rotate(x: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotates the heads of `[batch, heads, rows, head_dim]`; the rotation is that of the rows."""
    cos, signed_sin = rotation
    return x * cos + x.roll(x.shape[-1] // 2, -1) * signed_sin


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """`[batch, rows, heads * head_dim] -> [batch, heads, rows, head_dim]`."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(1, 2).flatten(2)


@dataclass
class Layer:
    input_norm: torch.Tensor
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    output: torch.Tensor
    post_attention_norm: torch.Tensor
    gate: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor


class KvCache:
    """Keys and values of every layer, `[rows, kv_heads, capacity, head_dim]`; a row's length is its caller's."""

    def __init__(self, target: "Target", rows: int, capacity: int):
        config = target.config
        self.rows = rows
        shape = (rows, config.kv_heads, capacity, config.head_dim)
        empty = lambda: torch.zeros(shape, device=target.device, dtype=target.dtype)
        self.keys = [empty() for _ in target.layers]
        self.values = [empty() for _ in target.layers]

    def keep(self, rows: torch.Tensor) -> None:
        """These rows, by their places, in this order; one may be taken twice."""
        self.rows = len(rows)
        for kind in (self.keys, self.values):
            for layer in range(len(kind)):
                kind[layer] = kind[layer][rows]


class Target:
    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype):
        self.folder, self.device, self.dtype = folder, device, dtype
        self.config = load_config(folder, TARGET_ARCHITECTURE)
        hidden, vocabulary = self.config.hidden, self.config.vocabulary
        weights = Weights(folder)
        take = lambda name, *shape: weights.take(f"{name}.weight", *shape).to(device, dtype)
        self.embedding = take("model.embed_tokens", vocabulary, hidden)
        self.layers = [self._layer(take, f"model.layers.{index}") for index in range(self.config.layers)]
        self.norm = take("model.norm", hidden)
        if self.config.raw.get("tie_word_embeddings", False):
            weights.discard("lm_head.weight")
            self.output = self.embedding
        else:
            self.output = take("lm_head", vocabulary, hidden)
        weights.finish()
        self.rotary = Rotary(self.config, device, dtype)

    def _layer(self, take: Callable, name: str) -> Layer:
        config = self.config
        queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
        return Layer(
            input_norm=take(f"{name}.input_layernorm", config.hidden),
            q=take(f"{name}.self_attn.q_proj", queries, config.hidden),
            k=take(f"{name}.self_attn.k_proj", keys, config.hidden),
            v=take(f"{name}.self_attn.v_proj", keys, config.hidden),
            output=take(f"{name}.self_attn.o_proj", config.hidden, queries),
            post_attention_norm=take(f"{name}.post_attention_layernorm", config.hidden),
            gate=take(f"{name}.mlp.gate_proj", config.intermediate, config.hidden),
            up=take(f"{name}.mlp.up_proj", config.intermediate, config.hidden),
            down=take(f"{name}.mlp.down_proj", config.hidden, config.intermediate),
        )

    @torch.no_grad()
    def read(
        self, tokens: torch.Tensor, cache: KvCache | None = None, first: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Whole sequences `[batch, n]`, padded on the right with any token.

        In a cache they fill the first `n` places of the rows from `first` on.

        Returns the last layer's output `[batch, n, hidden]` (for `logits`) and the features
        `[batch, n, 3 * hidden]`.
        """

        def attend(index: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            if cache is not None:
                batch, _, length, _ = k.shape
                cache.keys[index][first : first + batch, :, :length] = k
                cache.values[index][first : first + batch, :, :length] = v
            # No row of a sequence looks at its padding: that comes later than all of them.
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

        positions = torch.arange(tokens.shape[1], device=self.device)
        return self._forward(tokens, self.rotary.at(positions), attend)

    @torch.no_grad()
    def extend(self, tokens: torch.Tensor, positions: torch.Tensor, caches: Sequence[KvCache]) -> torch.Tensor:
        """One more token per row, both `[rows]`, the rows of all caches in order; returns the last layer's output.

        A row sees the cached places up to its own position: what padding or a stopped row left beyond is unseen.
        """
        kv_heads = self.config.kv_heads
        spans, start = [], 0
        for cache in caches:
            span = slice(start, start + cache.rows)
            start = span.stop
            length = int(positions[span].max()) + 1
            unseen = torch.arange(length, device=self.device) > positions[span].unsqueeze(1)
            mask = torch.zeros(unseen.shape, device=self.device, dtype=self.dtype).masked_fill(unseen, float("-inf"))
            rows = torch.arange(cache.rows, device=self.device)
            spans.append((cache, span, rows, length, mask[:, None, None]))

        def attend(index: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            # Query heads that share a key head become rows of one problem: no copy of the cache per head.
            grouped = q[:, :, 0].unflatten(1, (kv_heads, -1))
            attended = []
            for cache, span, rows, length, mask in spans:
                keys, values = cache.keys[index], cache.values[index]
                keys[rows, :, positions[span]] = k[span, :, 0]
                values[rows, :, positions[span]] = v[span, :, 0]
                attended.append(
                    F.scaled_dot_product_attention(grouped[span], keys[:, :, :length], values[:, :, :length], mask)
                )
            return torch.cat(attended).flatten(1, 2).unsqueeze(2)

        cos, signed_sin = self.rotary.at(positions)
        hidden, _ = self._forward(tokens.unsqueeze(1), (cos[:, None, None], signed_sin[:, None, None]), attend)
        return hidden[:, 0]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.linear(self._norm(hidden, self.norm), self.output)

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, weight.shape, weight, self.config.rms_norm_eps)

    def _forward(
        self, tokens: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor], attend: Attend
    ) -> tuple[torch.Tensor, torch.Tensor]:
        config = self.config
        features = []
        x = F.embedding(tokens, self.embedding)
        for index, layer in enumerate(self.layers):
            if index in self.config.feature_layers:
                features.append(x)
            normed = self._norm(x, layer.input_norm)
            q = rotate(split_heads(F.linear(normed, layer.q), config.heads), rotation)
            k = rotate(split_heads(F.linear(normed, layer.k), config.kv_heads), rotation)
            v = split_heads(F.linear(normed, layer.v), config.kv_heads)
            x = x + F.linear(merge_heads(attend(index, q, k, v)), layer.output)
            normed = self._norm(x, layer.post_attention_norm)
            x = x + F.linear(F.silu(F.linear(normed, layer.gate)) * F.linear(normed, layer.up), layer.down)
        return x, torch.cat(features, -1)


@dataclass
class Request:
    """A text to continue until a stop token (kept), or by as many tokens as there are draws.

    The draws are in 0..1, one for each token. Temperature 0 is greedy.
    """

    text: Sequence[int]
    temperature: float
    draws: np.ndarray


class Row:
    """A row of a batch: what it continues, and how far it is."""

    def __init__(self, key: int, request: Request):
        self.key, self.request = key, request
        self.made: list[int] = []
        # Tokens of the text that are not read yet, how many are, and how many there is room for.
        self.ahead = deque[int]()
        self.read = len(request.text)
        self.room = 0

    def draw(self) -> float:
        return float(self.request.draws[len(self.made)])

    def going_on(self, request: Request) -> "Row | None":
        """This row with another request, if that one's text begins with what the row holds and there is room."""
        held = [*self.request.text, *self.made]
        text = list(request.text)
        if text[: len(held)] != held or len(text) + len(request.draws) > self.room:
            return None
        row = Row(self.key, request)
        row.ahead.extend(text[len(held) :])
        row.read, row.room = self.read, self.room
        return row


class Cohort:
    """Rows that began together: as old as each other, they need as much of a cache."""

    def __init__(self, target: Target, rows: list[Row], room: int):
        texts = [tuple(row.request.text) for row in rows]
        # Equal texts are read once, those of about a length together.
        distinct = sorted(set(texts), key=len)
        capacity = len(distinct[-1]) + max(room, *(len(row.request.draws) for row in rows))
        self.cache = KvCache(target, len(distinct), capacity)
        last = []
        while len(last) < len(distinct):
            first = len(last)
            part = [text for text in distinct[first:] if len(text) <= PADDING * len(distinct[first])]
            padded = [[*text, *[0] * (len(part[-1]) - len(text))] for text in part]
            output, _ = target.read(torch.tensor(padded, device=target.device), self.cache, first)
            last += [output[row, len(text) - 1] for row, text in enumerate(part)]
        places = {text: place for place, text in enumerate(distinct)}
        place = torch.tensor([places[text] for text in texts], device=target.device)
        self.cache.keep(place)
        self.hidden = torch.stack(last)[place]
        # None: the row has stopped and is carried along until it is packed away.
        self.rows: list[Row | None] = [*rows]
        for row in rows:
            row.room = capacity

    def live(self) -> int:
        return sum(row is not None for row in self.rows)

    def pack(self) -> list[int]:
        """Drops the rows that have stopped once they are many; returns the places of those that are kept."""
        kept = list(range(len(self.rows)))
        if self.live() <= (1 - PACKING_SHARE) * len(kept):
            kept = [place for place in kept if self.rows[place] is not None]
            self.cache.keep(torch.tensor(kept, device=self.hidden.device, dtype=torch.long))
            self.rows = [self.rows[place] for place in kept]
        return kept


class Batch:
    """Continues texts, up to `size` side by side: where some have stopped, those that wait take their place.

    What becomes of a text does not depend on those beside it, but for the rounding of batched arithmetic. `follow` is
    given the key of a text and what was made of it, and returns what is to be continued under that key next, or None.
    What only adds to the text of a row goes on in that row and is not read again, for as long as it adds at most `room`
    tokens to what the row began with.
    """

    def __init__(
        self,
        target: Target,
        stop: Sequence[int],
        size: int,
        room: int,
        follow: Callable[[int, list[int]], Request | None],
    ):
        self.target, self.stop, self.size, self.room, self.follow = target, stop, size, room, follow
        self.waiting = deque[Row]()
        self.cohorts: list[Cohort] = []

    def add(self, key: int, request: Request) -> None:
        self.waiting.append(Row(key, request))

    def places(self) -> int:
        """How many texts could begin now."""
        return self.size - sum(cohort.live() for cohort in self.cohorts)

    def step(self) -> bool:
        """One more token for each row. False: there is nothing to continue."""
        self._begin()
        if not self.cohorts:
            return False
        rows = [row for cohort in self.cohorts for row in cohort.rows]
        hidden = torch.cat([cohort.hidden for cohort in self.cohorts])
        temperatures = [row.request.temperature if row and not row.ahead else 0.0 for row in rows]
        draws = [row.draw() if row and not row.ahead else 0.0 for row in rows]
        on_device = lambda numbers: torch.tensor(numbers, device=hidden.device)
        choices = iter(choose(self.target.logits(hidden), on_device(temperatures), on_device(draws)).tolist())
        tokens, positions = [], []
        for cohort in self.cohorts:
            moves = [self._advance(row, next(choices)) for row in cohort.rows]
            cohort.rows = [row for row, _ in moves]
            for place in cohort.pack():
                row, token = moves[place]
                tokens.append(token)
                positions.append(row.read if row else 0)
                if row:
                    row.read += 1
        self.cohorts = [cohort for cohort in self.cohorts if cohort.rows]
        if self.cohorts:
            caches = [cohort.cache for cohort in self.cohorts]
            hidden = self.target.extend(on_device(tokens), on_device(positions), caches)
            for cohort, part in zip(self.cohorts, hidden.split([cache.rows for cache in caches])):
                cohort.hidden = part
        return True

    def _begin(self) -> None:
        """Reads texts that wait, as soon as there is place for many or nothing else to do."""
        places = self.places()
        if self.waiting and (places >= REFILL_SHARE * self.size or not self.cohorts):
            begun = [self.waiting.popleft() for _ in range(min(places, len(self.waiting)))]
            self.cohorts.append(Cohort(self.target, begun, self.room))

    def _advance(self, row: Row | None, choice: int) -> tuple[Row | None, int]:
        """What a row becomes, and the token that it reads next."""
        if row is None:
            return None, 0
        if row.ahead:
            return row, row.ahead.popleft()
        row.made.append(choice)
        if choice not in self.stop and len(row.made) < len(row.request.draws):
            return row, choice
        request = self.follow(row.key, row.made)
        if request is None:
            return None, 0
        following = row.going_on(request)
        if following is None:
            self.add(row.key, request)
        return following, choice


def continue_prompts(target: Target, requests: Sequence[Request], stop: Sequence[int]) -> list[list[int]]:
    """Continues texts side by side, each until a stop token or the end of its draws."""
    made: dict[int, list[int]] = {}
    batch = Batch(target, stop, len(requests), 0, made.__setitem__)
    for key, request in enumerate(requests):
        batch.add(key, request)
    while batch.step():
        pass
    return [made[key] for key in range(len(requests))]


def choose(logits: torch.Tensor, temperatures: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """The next token of each row: the best, or where the temperature is positive the one that the draw selects."""
    choices = logits.argmax(-1)
    sampled = (temperatures > 0).nonzero().flatten()
    if len(sampled):
        scaled = logits[sampled].float() / temperatures[sampled, None]
        cumulative = scaled.softmax(-1).cumsum(-1)
        # Rounding leaves the last sum a little off 1.
        draws = uniforms[sampled, None] * cumulative[:, -1:]
        drawn = torch.searchsorted(cumulative, draws, right=True).squeeze(-1)
        choices[sampled] = drawn.clamp(max=logits.shape[-1] - 1)
    return choices


def add_target_arguments(parser: argparse.ArgumentParser) -> None:
    """The target, and where and in which number type it runs."""
    parser.add_argument("--target", type=Path, required=True, help="Hugging Face folder of the target")
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu, cuda or cuda:N (default here: %(default)s)",
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="bf16" if torch.cuda.is_available() else "f32",
        help="number type of forwards; weights in training are f32 (default here: %(default)s)",
    )
    parser.add_argument("--threads", type=int, help="threads of PyTorch on the CPU (default: PyTorch's choice)")


def load_target(options: argparse.Namespace) -> Target:
    if options.threads is not None:
        if options.threads < 1:
            raise InputError(f"--threads: expected a positive number, found {options.threads}")
        torch.set_num_threads(options.threads)
    try:
        device = torch.device(options.device)
    except RuntimeError as error:
        raise InputError(f"--device: expected cpu, cuda or cuda:N, found {options.device}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("--device: expected a device that PyTorch finds, found cuda (none here)")
    return Target(options.target, device, DTYPES[options.dtype])
