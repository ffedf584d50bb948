"""The EAGLE-3 head (arXiv 2503.01840): one decoder layer that reads the target's features.

Parameters carry the names of the official layout. `training_time_test` runs a head on whole sequences as decoding
runs it token by token. Imported by the commands of this folder; see docs/head.md.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import nn

from model_folder import HEAD_ARCHITECTURE, Config, InputError, Weights, load_config, write_atomically, write_json
from target import Rotary, Target, merge_heads, rotate, split_heads


@dataclass(frozen=True)
class DraftVocabulary:
    """`target_ids[i]` is the target's token for draft token `i`."""

    target_ids: torch.Tensor
    target_size: int

    def __len__(self) -> int:
        return len(self.target_ids)

    @property
    def d2t(self) -> torch.Tensor:
        """What to add to a draft id to get the target's."""
        return self.target_ids - torch.arange(len(self), device=self.target_ids.device)

    @property
    def t2d(self) -> torch.Tensor:
        """Marks the target's tokens that are covered."""
        covered = torch.zeros(self.target_size, dtype=torch.bool, device=self.target_ids.device)
        covered[self.target_ids] = True
        return covered

    def to(self, device: torch.device) -> "DraftVocabulary":
        return DraftVocabulary(self.target_ids.to(device), self.target_size)

    @classmethod
    def most_frequent(cls, counts: torch.Tensor, size: int) -> "DraftVocabulary":
        """The `size` tokens with the highest counts, in order of the target's ids; equal counts: the lower id."""
        if not 1 <= size <= len(counts):
            raise InputError(f"--draft-vocabulary: expected 1..{len(counts)} tokens, found {size}")
        ranked = counts.sort(descending=True, stable=True).indices[:size]
        return cls(ranked.sort().values, len(counts))

    @classmethod
    def from_offsets(cls, d2t: torch.Tensor, target_size: int, source: object) -> "DraftVocabulary":
        target_ids = d2t.long() + torch.arange(len(d2t))
        for draft_id in ((target_ids < 0) | (target_ids >= target_size)).nonzero().flatten()[:1].tolist():
            raise InputError(
                f"{source}: d2t: expected target tokens 0..{target_size - 1}, "
                f"found {int(target_ids[draft_id])} for draft token {draft_id}"
            )
        return cls(target_ids, target_size)


class Attention(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.q_proj = nn.Linear(2 * config.hidden, queries, bias=False)
        self.k_proj = nn.Linear(2 * config.hidden, keys, bias=False)
        self.v_proj = nn.Linear(2 * config.hidden, keys, bias=False)
        self.o_proj = nn.Linear(queries, config.hidden, bias=False)


class Mlp(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden, config.intermediate, bias=False)
        self.up_proj = nn.Linear(config.hidden, config.intermediate, bias=False)
        self.down_proj = nn.Linear(config.intermediate, config.hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Midlayer(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        norm = lambda: nn.RMSNorm(config.hidden, config.rms_norm_eps)
        self.hidden_norm, self.input_layernorm, self.post_attention_layernorm = norm(), norm(), norm()
        self.self_attn = Attention(config)
        self.mlp = Mlp(config)


class Head(nn.Module):
    def __init__(self, config: Config, vocabulary: DraftVocabulary, embedding: torch.Tensor):
        """`embedding` is the target's (a head folder may bring its own); it is not trained."""
        super().__init__()
        self.config, self.vocabulary, self.embedding = config, vocabulary.to(embedding.device), embedding
        if config.norms_features:
            self.fc_norm = nn.ModuleList(nn.RMSNorm(config.target_hidden, config.rms_norm_eps) for _ in range(3))
        self.fc = nn.Linear(3 * config.target_hidden, config.hidden, bias=False)
        self.midlayer = Midlayer(config)
        self.norm = nn.RMSNorm(config.hidden, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden, config.draft_vocabulary, bias=False)
        # Divides the features while training; the saved fc has it folded in (`save_head`).
        self.register_buffer("feature_scale", torch.ones(3 * config.target_hidden), persistent=False)
        self.rotary = Rotary(config, embedding.device, torch.float32)
        self.to(embedding.device)

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """The target's features `[batch, rows, 3 * target_hidden]` as a residual stream `[batch, rows, hidden]`."""
        features = features.float()
        if self.config.norms_features:
            parts = features.chunk(3, -1)
            features = torch.cat([norm(part) for norm, part in zip(self.fc_norm, parts)], -1)
        # The residual stream stays in f32 where autocast multiplies in bf16.
        return self.fc(features / self.feature_scale).float()

    def suit(self, scales: torch.Tensor) -> None:
        """Brings features of these scales `[3 * target_hidden]` to about 1 before `fc`.

        Norms of the features do so by their weights: they divide by the root mean square over the dimensions.
        """
        with torch.no_grad():
            if self.config.norms_features:
                for norm, part in zip(self.fc_norm, scales.chunk(3)):
                    norm.weight.copy_(part.square().mean().sqrt() / part)
            else:
                self.feature_scale.copy_(scales)

    def attention_inputs(
        self, tokens: torch.Tensor, hidden: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys, values `[batch, heads, rows, head_dim]` of rows that read `tokens` and `hidden`."""
        layer, config = self.midlayer, self.config
        embedded = layer.input_layernorm(F.embedding(tokens, self.embedding).float())
        x = torch.cat([embedded, layer.hidden_norm(hidden)], -1)
        rotation = self.rotary.at(positions)
        q = rotate(split_heads(layer.self_attn.q_proj(x), config.heads), rotation)
        k = rotate(split_heads(layer.self_attn.k_proj(x), config.kv_heads), rotation)
        return q, k, split_heads(layer.self_attn.v_proj(x), config.kv_heads)

    def layer_output(self, hidden: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """The rest of the layer: `[batch, rows, hidden]`, input of the next step and of `logits`."""
        x = hidden + self.midlayer.self_attn.o_proj(merge_heads(attended))
        x = x + self.midlayer.mlp(self.midlayer.post_attention_layernorm(x))
        return self.norm(x) if self.config.norms_output else x

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[..., hidden] -> [..., draft_vocabulary]`."""
        return self.lm_head(hidden if self.config.norms_output else self.norm(hidden))


def new_head(config: Config, vocabulary: DraftVocabulary, target: Target, seed: int) -> Head:
    """A head that has learned nothing; its output layer starts as the target's, cut to the draft vocabulary."""
    head = Head(config, vocabulary, target.embedding)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in head.parameters():
            if parameter.dim() == 2:
                deviation = parameter.shape[1] ** -0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation)
        head.norm.weight.copy_(target.norm)
        head.lm_head.weight.copy_(target.output[vocabulary.target_ids])
    return head


def begin_with(head: Head, start: Head) -> None:
    """Gives a head what another one of its shape has learned. Both may propose other tokens: those that only the new one
    has keep their rows of the output layer. The features' scales must be set."""
    for key, norms in (("fc_norm", "norms_features"), ("norm_output", "norms_output")):
        found, expected = (str(getattr(one.config, norms)).lower() for one in (start, head))
        if found != expected:
            raise InputError(f"--start: {key} in config.json: expected {expected}, as --norms says, found {found}")
    known = dict(start.named_parameters())
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            if name != "lm_head.weight":
                if parameter.shape != known[name].shape:
                    found, expected = tuple(known[name].shape), tuple(parameter.shape)
                    raise InputError(f"--start: {name}: expected the shape {expected}, found {found}")
                parameter.copy_(known[name])
        # A saved head has its scales folded in.
        head.fc.weight.copy_(start.fc.weight / start.feature_scale * head.feature_scale)
        places = torch.full((head.vocabulary.target_size,), -1, device=head.embedding.device)
        places[start.vocabulary.target_ids] = torch.arange(len(start.vocabulary), device=places.device)
        places = places[head.vocabulary.target_ids]
        head.lm_head.weight[places >= 0] = start.lm_head.weight[places[places >= 0]]


def training_time_test(head: Head, tokens: torch.Tensor, features: torch.Tensor, steps: int) -> list[torch.Tensor]:
    """The layer outputs of `steps` successive drafts from every position, `steps` times `[batch, rows, hidden]`.

    `tokens` `[batch, n]`, `features` `[batch, n, 3 * target_hidden]`. Row `t` of step 0 stands where decoding
    stands when the target has read token `t` and produced token `t + 1`: it reads that token and the features of
    `t`. Row `t` of step `k` reads token `t + 1 + k` (as if the drafts before had been right) and its own output of
    step `k - 1`, and predicts token `t + 2 + k`; there are `n - 1 - k` such rows.
    """
    rows = tokens.shape[1] - 1
    positions = torch.arange(rows, device=tokens.device)
    hidden = head.project(features[:, :rows])
    keys, values, outputs = [], [], []
    for step in range(steps):
        hidden = hidden[:, : rows - step]
        # A step further into the draft is a position further into the text.
        q, k, v = head.attention_inputs(tokens[:, 1 + step :], hidden, positions[: rows - step] + step)
        keys.append(k)
        values.append(v)
        hidden = head.layer_output(hidden, attend(q, keys, values))
        outputs.append(hidden)
    return outputs


def attend(q: torch.Tensor, keys: list[torch.Tensor], values: list[torch.Tensor]) -> torch.Tensor:
    """Attention of the last step's rows, `[batch, heads, rows, head_dim]`.

    `keys` and `values` hold those of all steps so far. Row `t` sees what decoding has cached for it: the rows up to
    `t` of step 0 (made from the target's features), and row `t` of each later step (its own drafts).
    """
    if len(keys) == 1:
        return F.scaled_dot_product_attention(q, keys[0], values[0], is_causal=True, enable_gqa=True)
    _, kv_heads, _, head_dim = keys[0].shape
    rows = q.shape[2]
    first, own = keys[0][:, :, :rows], [k[:, :, None, :rows] for k in keys[1:]]
    # `[batch, kv_heads, group, rows, head_dim]`: the query heads that share a key head side by side.
    q = q.unflatten(1, (kv_heads, -1)) * head_dim**-0.5
    scores = (q.flatten(2, 3) @ first.mT).view(*q.shape[:-1], rows)
    future = torch.ones(rows, rows, dtype=torch.bool, device=q.device).triu(1)
    scores = scores.masked_fill(future, float("-inf"))
    own_scores = torch.stack([(q * k).sum(-1) for k in own], -1)
    weights = torch.cat([scores, own_scores], -1).softmax(-1, dtype=torch.float32).to(q.dtype)
    shared, diagonal = weights[..., :rows], weights[..., rows:]
    attended = (shared.flatten(2, 3) @ values[0][:, :, :rows]).view_as(q)
    for step, v in enumerate(values[1:]):
        attended = attended + diagonal[..., step, None] * v[:, :, None, :rows]
    return attended.flatten(1, 2)


def folded_tensors(head: Head) -> dict[str, torch.Tensor]:
    """The head's parameters under their official names, the scaling of the features folded into `fc`."""
    tensors = {name: parameter.detach() for name, parameter in head.named_parameters()}
    tensors["fc.weight"] = tensors["fc.weight"] / head.feature_scale
    return tensors


def save_head(folder: Path, head: Head, dtype: torch.dtype) -> None:
    """Writes a folder in the official layout; each file appears complete or not at all."""
    tensors = {name: tensor.to("cpu", dtype).contiguous() for name, tensor in folded_tensors(head).items()}
    tensors["d2t"] = head.vocabulary.d2t.cpu()
    tensors["t2d"] = head.vocabulary.t2d.cpu()
    write_json(folder / "config.json", head.config.raw)
    write_atomically(folder / "model.safetensors", save(tensors, metadata={"format": "pt"}))


def load_head(folder: Path, target: Target) -> Head:
    """Reads a head for a target, in f32 on the target's device."""
    config = load_config(folder, HEAD_ARCHITECTURE)
    weights = Weights(folder)
    for what, found, expected in (
        ("vocab_size", config.vocabulary, target.config.vocabulary),
        ("target_hidden_size", config.target_hidden, target.config.hidden),
    ):
        if found != expected:
            raise InputError(f"{folder}: {what}: expected {expected} as in {target.folder}, found {found}")
    embedding = target.embedding
    if "embed_tokens.weight" in weights:
        embedding = weights.take("embed_tokens.weight", config.vocabulary, config.hidden).to(target.device)
    if "d2t" in weights or config.draft_vocabulary < config.vocabulary:
        d2t = weights.take("d2t", config.draft_vocabulary)
    else:
        d2t = torch.zeros(config.draft_vocabulary)
    # Marks the image of d2t, nothing new.
    weights.discard("t2d")
    head = Head(config, DraftVocabulary.from_offsets(d2t, config.vocabulary, folder), embedding)
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            parameter.copy_(weights.take(name, *parameter.shape))
    weights.finish()
    return head
