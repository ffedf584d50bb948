"""Conversations: the target's text (questions, tokenizer, chat template) and the folders of shards they are kept in.

A shard holds what a run of items (see generate.py) became: all tokens in one array, and per conversation its length,
where its answer starts, its item and its temperature. Token ids take two bytes where the vocabulary allows. The name
of a shard is its first item; the next shard continues where it ends, so that a generator that was stopped goes on
without repeating or losing anything. Imported by the commands of this folder; see docs/head.md.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import jinja2
import numpy as np
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from tokenizers import Tokenizer

from model_folder import InputError, check_same, read_json, read_text, write_atomically, write_json

MANIFEST = "conversations.json"
# Stands for the message when the text around it is looked for.
PLACEHOLDER = "MESSAGE"


@dataclass(frozen=True)
class Conversation:
    tokens: np.ndarray
    """The prompt and its answer."""
    answer: int
    """Where the answer starts."""
    item: int
    temperature: float

    @property
    def prompt(self) -> tuple[int, ...]:
        return tuple(self.tokens[: self.answer].tolist())

    @property
    def answer_tokens(self) -> int:
        return len(self.tokens) - self.answer


def open_folder(folder: Path, manifest: dict) -> None:
    """Starts a folder, or checks that it was made with the same settings."""
    path = folder / MANIFEST
    if not path.is_file():
        write_json(path, manifest)
        return
    check_same(path, read_json(path), manifest)


def write_shard(folder: Path, first: int, end: int, conversations: list[Conversation], vocabulary: int) -> None:
    """Stores what became of the items `first..end`; not every item becomes a conversation."""
    dtype = np.uint16 if vocabulary <= 1 << 16 else np.int32
    tensors = {
        "tokens": np.concatenate([conversation.tokens for conversation in conversations] or [[]]).astype(dtype),
        "lengths": np.array([len(conversation.tokens) for conversation in conversations], np.int32),
        "answers": np.array([conversation.answer for conversation in conversations], np.int32),
        "items": np.array([conversation.item for conversation in conversations], np.int64),
        "temperatures": np.array([conversation.temperature for conversation in conversations], np.float32),
    }
    data = save(tensors, metadata={"items": f"{first}..{end}"})
    write_atomically(folder / f"{first:09}.safetensors", data)


def read_shards(folder: Path) -> Iterator[tuple[int, list[Conversation]]]:
    """The shards in order, each with the item after its last."""
    expected = 0
    for path in sorted(folder.glob("[0-9]*.safetensors")):
        first, end, conversations = read_shard(path)
        if first != expected:
            raise InputError(f"{path}: expected the shard that starts at item {expected}, found {first}")
        expected = end
        yield end, conversations


def read_shard(path: Path) -> tuple[int, int, list[Conversation]]:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        first, end = map(int, metadata["items"].split(".."))
        tokens = np.split(tensors["tokens"], np.cumsum(tensors["lengths"])[:-1])
        rows = zip(tokens, *(tensors[name].tolist() for name in ("answers", "items", "temperatures")))
        return first, end, [Conversation(*row) for row in rows]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: expected a shard of conversations, found: {error}") from error


def load_conversations(folder: Path) -> list[Conversation]:
    conversations = [conversation for _, shard in read_shards(folder) for conversation in shard]
    if not conversations:
        raise InputError(f"{folder}: expected conversations in shards, found none")
    return conversations


def load_questions(path: Path) -> list[str]:
    """The first message of each line of a file in FastChat's `question.jsonl` form."""
    questions = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            turns = json.loads(line)["turns"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}:{number}: expected a JSON object with `turns`, found {line[:40]!r}") from error
        if not (isinstance(turns, list) and turns and isinstance(turns[0], str) and turns[0].strip()):
            raise InputError(f"{path}:{number}: turns: expected a list with a message, found {turns!r}")
        questions.append(turns[0])
    if not questions:
        raise InputError(f"{path}: expected one JSON object per line, found no questions")
    return questions


def normalised(text: str) -> str:
    """Two questions that differ only in case, spacing or punctuation are the same."""
    return " ".join(re.findall(r"\w+", text.casefold())) or text.strip()


class TextModel:
    """How a target reads and writes text: its tokenizer, chat template and stop tokens."""

    def __init__(self, folder: Path):
        self.folder = folder
        path = folder / "tokenizer.json"
        try:
            self.tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers has no exception of its own
            raise InputError(f"{path}: {error}") from error
        # As in transformers: what the file says of both was meant for training.
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.template, self.special = chat_template(folder)
        ends = [self.special.get("eos_token"), self.end_of_turn()]
        self.eos = end_tokens(folder, [self.tokenizer.token_to_id(end) for end in ends if end])

    def render(self, message: str, answer: bool) -> str:
        """One user message in the chat template; with `answer`, ready for the model's answer."""
        try:
            return self.render_messages([("user", message)], answer)
        except (jinja2.TemplateError, TypeError) as error:
            raise InputError(f"{self.folder}: chat template: {error}") from error

    def render_messages(self, messages: list[tuple[str, str]], answer: bool) -> str:
        return self.template.render(
            messages=[{"role": role, "content": content} for role, content in messages],
            tools=None,
            documents=None,
            add_generation_prompt=answer,
            **self.special,
        )

    def end_of_turn(self) -> str | None:
        """The special token that the template writes after an answer; none if it cannot be told."""
        try:
            text = self.render_messages([("user", "Hello"), ("assistant", PLACEHOLDER)], answer=False)
        except (jinja2.TemplateError, TypeError):
            return None
        after = text.rpartition(PLACEHOLDER)[2].lstrip() if PLACEHOLDER in text else ""
        added = self.tokenizer.get_added_tokens_decoder().values()
        special = (token.content for token in added if token.special)
        return max(filter(after.startswith, special), key=len, default=None)

    def chat_prompt(self, message: str) -> tuple[int, ...]:
        return self.encode(self.render(message, answer=True))

    def open_user_turn(self) -> tuple[int, ...]:
        """The chat template up to where the user's message begins: the target continues it with a question."""
        before, found, after = self.render(PLACEHOLDER, answer=False).partition(PLACEHOLDER)
        if not found or not set(self.encode(after)[:1]) & set(self.eos):
            raise InputError(
                f"{self.folder}: chat template: expected an end-of-sequence token after the user's message, "
                f"found {after!r}: the target cannot make up questions"
            )
        return self.encode(before)

    def decode(self, tokens: Iterable[int]) -> str:
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True)

    def encode(self, text: str) -> tuple[int, ...]:
        # The template writes the special tokens itself.
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)


def end_tokens(folder: Path, others: Iterable[int | None] = ()) -> tuple[int, ...]:
    """`eos_token_id` of `generation_config.json` and of `config.json`, and the others, each once."""
    tokens = []
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        found = read_json(path).get("eos_token_id") if path.is_file() else None
        tokens += found if isinstance(found, list) else [found]
    tokens = tuple(dict.fromkeys(token for token in [*tokens, *others] if token is not None))
    if not tokens:
        raise InputError(f"{folder}: expected eos_token_id in generation_config.json or config.json, found none")
    return tokens


class Generation(Extension):
    """`{% generation %}`, which transformers adds to Jinja: it renders what it holds."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


def chat_template(folder: Path) -> tuple[jinja2.Template, dict[str, str]]:
    """`chat_template.jinja`, else `chat_template` of `tokenizer_config.json`, and the tokens that it may name."""
    config = read_json(folder / "tokenizer_config.json")
    template = config.get("chat_template")
    if (folder / "chat_template.jinja").is_file():
        template = read_text(folder / "chat_template.jinja")
    elif isinstance(template, list):
        template = next((named["template"] for named in template if named["name"] == "default"), None)
    if not isinstance(template, str):
        raise InputError(
            f"{folder}: expected chat_template in tokenizer_config.json, or chat_template.jinja, found neither"
        )
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = datetime.now().strftime
    environment.filters["tojson"] = to_json
    special = {}
    for key in ("bos_token", "eos_token"):
        token = config.get(key) or ""
        special[key] = token["content"] if isinstance(token, dict) else token
    try:
        return environment.from_string(template), special
    except jinja2.TemplateError as error:
        raise InputError(f"{folder}: chat template: {error}") from error


def raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def to_json(value: object, ensure_ascii: bool = False, indent: int | None = None, **options: object) -> str:
    """Jinja's own filter escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)
