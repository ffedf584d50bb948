"""The target: a Llama-architecture model with the features that an EAGLE-3 head reads, and its batched decoding.

Computes what ltd-engine computes, for batches. Two ways through it: `read` runs whole sequences (training, prompts),
`extend` adds one token per row on top of a cache (`continue_prompts`). Imported by the commands of this folder; see
docs/head.md.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from model_folder import DTYPES, TARGET_ARCHITECTURE, Config, InputError, Weights, load_config

# Share of stopped rows at which a batch is packed: copying the cache costs about as much as a step or two.
PACKING_SHARE = 0.25

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
        shape = (rows, config.kv_heads, capacity, config.head_dim)
        empty = lambda: torch.zeros(shape, device=target.device, dtype=target.dtype)
        self.keys = [empty() for _ in target.layers]
        self.values = [empty() for _ in target.layers]

    def keep(self, rows: torch.Tensor) -> None:
        """Drops all rows but these."""
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
    def read(self, tokens: torch.Tensor, cache: KvCache | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Whole sequences `[batch, n]`, padded on the right with any token; fills the first `n` places of a cache.

        Returns the last layer's output `[batch, n, hidden]` (for `logits`) and the features
        `[batch, n, 3 * hidden]`.
        """

        def attend(index: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            if cache is not None:
                cache.keys[index][:, :, : k.shape[2]] = k
                cache.values[index][:, :, : v.shape[2]] = v
            # No row of a sequence looks at its padding: that comes later than all of them.
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

        positions = torch.arange(tokens.shape[1], device=self.device)
        return self._forward(tokens, self.rotary.at(positions), attend)

    @torch.no_grad()
    def extend(self, tokens: torch.Tensor, positions: torch.Tensor, cache: KvCache) -> torch.Tensor:
        """One more token per row, both `[rows]`; returns the last layer's output `[rows, hidden]`.

        A row sees the cached places up to its own position: what padding or a stopped row left beyond is unseen.
        """
        rows = torch.arange(len(tokens), device=self.device)
        length = int(positions.max()) + 1
        unseen = torch.arange(length, device=self.device) > positions.unsqueeze(1)
        mask = torch.zeros(unseen.shape, device=self.device, dtype=self.dtype).masked_fill(unseen, float("-inf"))
        mask = mask[:, None, None]
        kv_heads = self.config.kv_heads

        def attend(index: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            keys, values = cache.keys[index], cache.values[index]
            keys[rows, :, positions] = k[:, :, 0]
            values[rows, :, positions] = v[:, :, 0]
            # Query heads that share a key head become rows of one problem: no copy of the cache per head.
            grouped = q[:, :, 0].unflatten(1, (kv_heads, -1))
            attended = F.scaled_dot_product_attention(grouped, keys[:, :, :length], values[:, :, :length], mask)
            return attended.flatten(1, 2).unsqueeze(2)

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


def continue_prompts(
    target: Target,
    prompts: Sequence[Sequence[int]],
    temperatures: Sequence[float],
    uniforms: np.ndarray,
    stop: Sequence[int],
) -> list[list[int]]:
    """Continues each prompt until a stop token (kept) or until its row of `uniforms` is used up.

    `uniforms` `[prompts, limit]` are in 0..1: the draws of each row. Temperature 0 is greedy. What a row becomes
    does not depend on the rows beside it, but for the rounding of batched arithmetic.
    """
    limit = uniforms.shape[1]
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=target.device)
    longest = int(lengths.max())
    tokens = torch.tensor([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts], device=target.device)
    cache = KvCache(target, len(prompts), longest + limit)
    output, _ = target.read(tokens, cache)
    rows = torch.arange(len(prompts), device=target.device)
    hidden = output[rows, lengths - 1]
    temperatures = torch.tensor(temperatures, device=target.device)
    uniforms = torch.from_numpy(uniforms).to(target.device, torch.float32)

    continuations: list[list[int]] = [[] for _ in prompts]
    # The prompt of each row of the batch; -1: the row has stopped and is carried along until it is packed away.
    owners = list(range(len(prompts)))
    positions = lengths
    for index in range(limit):
        choices = choose(target.logits(hidden), temperatures, uniforms[:, index])
        for row, token in enumerate(choices.tolist()):
            if owners[row] >= 0:
                continuations[owners[row]].append(token)
                if token in stop:
                    owners[row] = -1
        live = [row for row, owner in enumerate(owners) if owner >= 0]
        if not live or index + 1 == limit:
            break
        if len(live) <= (1 - PACKING_SHARE) * len(owners):
            owners = [owners[row] for row in live]
            kept = torch.tensor(live, device=target.device)
            cache.keep(kept)
            choices, positions = choices[kept], positions[kept]
            temperatures, uniforms = temperatures[kept], uniforms[kept]
        hidden = target.extend(choices, positions, cache)
        positions = positions + 1
    return continuations


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
