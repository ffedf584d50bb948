"""What the target says about finished conversations: the features that a head reads, and what it should draft.

Imported by the commands of this folder; see docs/head.md.
"""

from collections.abc import Sequence

import torch

from conversations import Conversation
from head import DraftVocabulary
from loss import rows_at_once
from target import Target

# Rows whose logits over the target's whole vocabulary are in memory at once.
CHUNK = 1024


class Supervision:
    """A batch of conversations, padded on the right, read once by the target.

    Row `t` of step `k` of `training_time_test` stands for the draft that begins after token `t` and has got to token
    `t + 2 + k`; the target says at position `t + 1 + k` what that token should be. Only drafts that decoding makes
    count: they begin with a token of the answer, and end inside the text.
    """

    def __init__(self, target: Target, conversations: Sequence[Conversation]):
        to_device = lambda values: torch.tensor(values, device=target.device)
        self.target = target
        self.lengths = to_device([len(conversation.tokens) for conversation in conversations])
        self.answers = to_device([conversation.answer for conversation in conversations])
        longest = max(len(conversation.tokens) for conversation in conversations)
        texts = [conversation.tokens.tolist() for conversation in conversations]
        self.tokens = to_device([text + [0] * (longest - len(text)) for text in texts])
        output, self.features = target.read(self.tokens)
        positions = torch.arange(longest, device=target.device)
        judged = (positions >= self.answers[:, None]) & (positions <= self.lengths[:, None] - 2)
        # Where a position's judgement is found among all.
        self.places = torch.full(judged.shape, -1, device=target.device)
        self.places[judged] = torch.arange(int(judged.sum()), device=target.device)
        self.output = output[judged]

    def rows(self, step: int) -> torch.Tensor:
        """Marks the rows of a step that count, `[batch, n - 1 - step]`."""
        ends = torch.arange(1 + step, self.tokens.shape[1], device=self.tokens.device)
        return (ends >= self.answers[:, None] + step) & (ends <= self.lengths[:, None] - 2)

    def judgements(self, step: int) -> torch.Tensor:
        """Of each row of a step that counts, its index into `choices` and `probabilities`."""
        return self.places[:, 1 + step :][self.rows(step)]

    def choices(self) -> torch.Tensor:
        """The target's most probable tokens."""
        return torch.cat([self.target.logits(output).argmax(-1) for output in self.output.split(CHUNK)])

    def choices_and_probabilities(self, vocabulary: DraftVocabulary) -> tuple[torch.Tensor, torch.Tensor]:
        """Also the target's probabilities of the draft vocabulary's tokens, `[judgements, draft_vocabulary]`.

        They are those of the target's whole distribution: what the draft vocabulary lacks is missing in the sum.
        """
        choices, probabilities = [], []
        for output in self.output.split(CHUNK):
            for logits in self.target.logits(output).split(rows_at_once(output.device)):
                logits = logits.float()
                choices.append(logits.argmax(-1))
                probabilities.append((logits[:, vocabulary.target_ids] - logits.logsumexp(-1, keepdim=True)).exp())
        return torch.cat(choices), torch.cat(probabilities)
