"""The native half of ltd_policy. W is the beam width of the package, the continuations of each node."""

from collections.abc import Sequence as Tokens
from os import PathLike
from typing import Literal, SupportsIndex, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Controller",
    "CopySource",
    "Latency",
    "Occurrence",
    "PackageError",
    "Policy",
    "Sequence",
    "SequenceError",
    "Source",
    "Verification",
    "__version__",
]

__version__: str

_Integers = Tokens[int] | NDArray[np.uint32] | NDArray[np.int32] | NDArray[np.int64]
_Floats = NDArray[np.float32]

class PackageError(ValueError):
    """A package that cannot be used: damaged, of another version, or of other models."""

class SequenceError(RuntimeError):
    """A call that a sequence cannot follow: something comes first."""

@final
class Policy:
    """A package of ltd-export, checked when it was loaded. Several threads may use it at once."""

    @staticmethod
    def load(
        folder: str | PathLike[str],
        *,
        device: str | None = None,
        dtype: str | None = None,
        threads: int | None = None,
        temperature: float | None = None,
        top_p: float = 1.0,
        top_k: int | None = None,
    ) -> Policy:
        """Loads a package. What is known here is compared with what it was made for.

        device: "cpu" or "cuda"; dtype: "f32", "bf16" or "f16". Other conditions are a UserWarning: decisions stay
        lossless, but a constant may be faster. Raises PackageError.
        """

    @property
    def manifest_json(self) -> str:
        """The manifest (docs/policy-format.md)."""
    @property
    def kind(self) -> Literal["fallback", "pair", "factored"]: ...
    @property
    def beam_width(self) -> int:
        """W."""
    @property
    def max_depth(self) -> int:
        """The deepest draft that it may ask for: levels below the first."""
    @property
    def chooses_source(self) -> bool: ...
    @property
    def latency(self) -> Latency | None:
        """The table of a factored policy."""
    def check_models(self, *, target: str | None = None, draft: str | None = None) -> None:
        """Raises PackageError unless it is of models with these sums (model_sha256)."""
    def sequence(self, prompt: _Integers, root: SupportsIndex) -> Sequence:
        """The decisions of one sequence: its prompt, and the target's first token after it."""
    def controller(self) -> Controller:
        """The decisions alone, for a program that keeps trees of its own."""
    def observe(
        self,
        decision: Literal["depth", "size", "factored"],
        scores: _Floats,
        draft_depth: SupportsIndex,
        context_length: SupportsIndex,
        frontier: SupportsIndex | None = None,
    ) -> _Floats:
        """What the network of a decision sees of a tree: see Controller.continue_drafting."""
    def observe_source(self, sequence: Sequence) -> _Floats:
        """What the network of the source sees of a sequence."""

@final
class Latency:
    """What the parts of a cycle cost, in milliseconds, by the package's table."""

    def root_ms(self, rows: SupportsIndex, context: SupportsIndex) -> float:
        """A root expansion that reads so many tokens."""
    def level_ms(self, depth: SupportsIndex, rows: SupportsIndex, context: SupportsIndex) -> float:
        """The draft forward of a level over so many nodes."""
    def verify_ms(self, size: SupportsIndex, context: SupportsIndex) -> float:
        """The verification of so many candidates."""

@final
class Controller:
    """Decides about trees that the program keeps itself, cycle after cycle."""

    @property
    def size_limit(self) -> int:
        """The most candidates that it lets the target verify."""
    def begin_cycle(self) -> None:
        """Forgets the cycle before."""
    def continue_drafting(
        self,
        scores: _Floats,
        draft_depth: SupportsIndex,
        context_length: SupportsIndex,
        frontier: SupportsIndex | None = None,
    ) -> bool:
        """Whether to draft one more level.

        scores: cumulative log-probs of all candidates, level after level, [W + draft_depth * W * W]; minus infinity
        where a node was not expanded. frontier: nodes that the next level would expand, W by default. context_length:
        tokens before the root.
        """
    def verification_size(
        self,
        scores: _Floats,
        draft_depth: SupportsIndex,
        context_length: SupportsIndex,
        frontier: SupportsIndex | None = None,
    ) -> int:
        """How many candidates the target verifies."""

@final
class Sequence:
    """Steers the cycles of one sequence. Calls from several threads wait for one another."""

    @property
    def root(self) -> int:
        """The token that the next cycle begins with."""
    @property
    def context_length(self) -> int:
        """Tokens before the root."""
    @property
    def size_limit(self) -> int:
        """The most candidates that are verified of a tree."""
    @property
    def frontier_tokens(self) -> NDArray[np.uint32]:
        """Tokens that the next level expands, [frontier]; the root before there is a tree."""
    @property
    def frontier_parents(self) -> NDArray[np.int64]:
        """For each of them, the row of the level before that proposed it; empty before there is a tree."""
    def begin(self) -> Source:
        """Begins a cycle: what it drafts from. One that was not committed is forgotten."""
    def begin_copy(self, chain: SupportsIndex) -> None:
        """Begins a cycle that copies so many tokens, at most 4096, whatever the policy thinks of it."""
    def expected_of_chains(self) -> tuple[NDArray[np.int64], _Floats]:
        """Lengths of the chains that may be copied, and how many of their tokens are expected to be accepted.

        Of a factored policy that chooses sources; both are empty for others.
        """
    def push_level(self, log_probs: _Floats, tokens: _Integers | NDArray[np.int64]) -> None:
        """Adds a level: the W best continuations of each node of the frontier, best first, [frontier, W].

        First those of the root, [1, W]. A program that expands the whole beam passes as many of its rows as the
        frontier has.
        """
    def continue_drafting(self) -> bool:
        """Whether to add one more level. To be asked after each."""
    def verification_size(self) -> int:
        """Candidates to verify."""
    def verification(self, at_most: SupportsIndex | None = None) -> Verification:
        """The tree of tokens that the target verifies, with at most so many candidates.

        Asked again in a cycle, it is made anew.
        """
    def commit(self, accepted: _Integers, next: SupportsIndex) -> None:
        """Ends the cycle: the draft tokens that the target accepted, and its own token after them.

        Without a cycle it was a step of plain decoding.
        """

@final
class Source:
    """What a cycle drafts from."""

    @property
    def kind(self) -> Literal["tree", "copy", "merged"]: ...
    @property
    def chain(self) -> int:
        """Tokens to copy at most; a copy of none is a step of plain decoding."""
    @property
    def drafts(self) -> bool:
        """Whether the draft model drafts a tree."""

@final
class Verification:
    """The tree of tokens that the target verifies. Its length is the number of rows, the root's included."""

    @property
    def tokens(self) -> NDArray[np.uint32]:
        """Tokens of all rows, root first."""
    @property
    def parents(self) -> NDArray[np.int64]:
        """Row of each row's parent; -1 for the root."""
    @property
    def depths(self) -> NDArray[np.int64]:
        """Depth of each row, root 0: its position is the context length plus this."""
    @property
    def chain_rows(self) -> NDArray[np.int64]:
        """Rows of the chain that was copied, one below another."""
    def mask(self) -> NDArray[np.bool_]:
        """Which rows each row sees among themselves, [rows, rows]."""
    def __len__(self) -> int: ...

@final
class CopySource:
    """Finds the longest earlier occurrence of the latest tokens of a growing text, in constant time per token."""

    def __new__(cls, limit: SupportsIndex = 16) -> CopySource:
        """limit: latest tokens that are compared at most, up to 4096."""
    def extend(self, tokens: _Integers) -> None:
        """Adds the next tokens."""
    def find(self) -> Occurrence | None:
        """The longest earlier occurrence, of which the latest; None if the last token is new."""
    def chain(self, length: SupportsIndex) -> NDArray[np.uint32]:
        """The tokens that followed it, periodic where it runs into the present; none where nothing matches."""
    def __len__(self) -> int: ...

@final
class Occurrence:
    """An earlier occurrence of the latest tokens."""

    @property
    def length(self) -> int:
        """Tokens that are the same, up to the limit."""
    @property
    def end(self) -> int:
        """Number of the token that followed the latest occurrence."""
    @property
    def occurrences(self) -> int:
        """Earlier occurrences of these tokens."""
    @property
    def agreeing(self) -> int:
        """Those that were followed by the same token as the latest one."""
