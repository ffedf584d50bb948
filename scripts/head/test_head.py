"""Tests of the head's generator, trainer and evaluation, on the tiny pair and the golden files of the reference.

scripts/head/python-without-cuda -m unittest discover -s scripts/head
"""

import json
import shutil
import tempfile
import unittest
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tokenizers import Tokenizer

import conversations
import evaluate
import generate
import train
from conversations import Conversation, TextModel, load_conversations, read_shards
from head import folded_tensors, load_head, save_head, training_time_test
from loss import SoftCrossEntropy, rows_at_once
from model_folder import InputError, occupied
from supervision import Supervision
from target import Batch, Request, Target, continue_prompts

ROOT = Path(__file__).parents[2]
PAIR = ROOT / "tests/fixtures/tiny-pair"
GOLDEN = ROOT / "tests/fixtures/golden"
CPU = torch.device("cpu")
# f32 sums in another order.
TOLERANCE = 2e-4
GENERATED = generate.Settings(
    seed=3, sampled_share=0.3, temperature=0.7, question_temperature=1.0, max_question=16, max_answer=48
)
TRAINED = train.Settings(
    seed=5,
    epochs=6,
    batch_tokens=512,
    learning_rate=2e-3,
    warmup_share=0.05,
    weight_decay=0.01,
    max_grad_norm=1.0,
    steps=5,
    step_decay=0.8,
    draft_vocabulary=128,
)


def golden(name: str) -> tuple[dict[str, torch.Tensor], int]:
    """Tensors of a golden file and its beam width."""
    with safe_open(GOLDEN / f"{name}.safetensors", framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, int(file.metadata()["beam_width"])


def best_paths(run: dict[str, torch.Tensor], beam: int) -> list[list[int]]:
    """Of each level of the first cycle's tree, the flat indices from the root to its best candidate."""
    scores, parents = run["cycle.0.scores"], run["cycle.0.parents"].tolist()
    starts = [0, *range(beam, len(scores), beam * beam)]
    ends = [*starts[1:], len(scores)]
    paths = []
    for start, end in zip(starts, ends):
        node = start + int(scores[start:end].argmax())
        path = [node]
        while (parent := parents[path[0] // beam]) > 0:
            path.insert(0, parent - 1)
        paths.append(path)
    return paths


def write_text_model(folder: Path, vocabulary: dict[str, int]) -> None:
    """A tokenizer that knows words, the first four of them special, and a chat template `<u>question</s><a>`."""
    template = (
        "{% for m in messages %}<u>{{ m['content'] }}</s>{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
    )
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "normalizer": None,
        "post_processor": None,
        "decoder": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "added_tokens": [
            {
                "id": id,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for token, id in list(vocabulary.items())[:4]
        ],
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))


class TinyPair(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        torch.set_num_threads(1)
        cls.target = Target(PAIR / "target", CPU, torch.float32)

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)

    def generate(self, name: str = "made", tokens: int = 2000, settings=GENERATED, exclude=(), batch: int = 16) -> Path:
        generate.generate(self.target, self.folder / name, settings, exclude, tokens, batch, shard_items=16)
        return self.folder / name

    def train(self, name: str, made: list[Conversation], until: int | None = None) -> train.Training:
        training = train.Training(self.target, made, TRAINED, torch.float32)
        train.train(training, self.folder / name, log_seconds=1e9, checkpoint_seconds=1e9, until=until)
        return training


class ReferenceTest(TinyPair):
    """The target and the head compute what the reference implementation does."""

    def test_features_of_a_prompt_are_the_references(self):
        run, _ = golden("tiny-default-0")
        expected = run["cycle.0.features"]
        _, features = self.target.read(run["prompt_ids"].long()[None])
        torch.testing.assert_close(features[0, : len(expected)], expected, rtol=TOLERANCE, atol=TOLERANCE)

    def test_greedy_continuations_of_a_batch_are_the_references(self):
        runs = [golden(name)[0] for name in ("tiny-default-0", "tiny-default-2", "tiny-long-prompt", "tiny-depth3-all")]
        prompts = [run["prompt_ids"].tolist() for run in runs]
        expected = [run["ar_ids"][len(prompt) :].tolist() for run, prompt in zip(runs, prompts)]
        # No token stops: rows end when their draws are used up.
        requests = [Request(prompt, 0.0, np.zeros(len(wanted))) for prompt, wanted in zip(prompts, expected)]
        self.assertEqual(continue_prompts(self.target, requests, stop=()), expected)

    def test_texts_that_wait_or_follow_become_the_references(self):
        runs = [golden(name)[0] for name in ("tiny-default-0", "tiny-default-2", "tiny-long-prompt", "tiny-depth3-all")]
        prompts = [run["prompt_ids"].tolist() for run in runs]
        expected = [run["ar_ids"][len(prompt) :].tolist()[:32] for run, prompt in zip(runs, prompts)]
        made = {key: [] for key in range(len(runs))}

        def follow(key: int, tokens: list[int]) -> Request | None:
            """A few tokens at a time; of every second text the next two are given with its own."""
            made[key] += tokens
            given = expected[key][len(made[key]) : len(made[key]) + 2 * (key % 2)]
            made[key] += given
            left = len(expected[key]) - len(made[key])
            return Request([*prompts[key], *made[key]], 0.0, np.zeros(min(left, 5 + key))) if left > 0 else None

        for size, room in ((2, 0), (3, 24)):
            made = {key: [] for key in range(len(runs))}
            batch = Batch(self.target, (), size, room, follow)
            for key, prompt in enumerate(prompts):
                batch.add(key, Request(prompt, 0.0, np.zeros(3)))
            while batch.step():
                pass
            self.assertEqual([made[key] for key in range(len(runs))], expected, (size, room))

    def test_scores_along_the_best_path_of_every_level_are_the_references(self):
        for name in ("tiny-default-0", "tiny-default-2", "tiny-long-prompt", "tiny-beam4"):
            run, beam = golden(name)
            head = load_head(PAIR / "draft", self.target)
            prompt = run["prompt_ids"].tolist()
            _, features = self.target.read(torch.tensor(prompt)[None])
            for path in best_paths(run, beam):
                tokens = [*prompt, int(run["cycle.0.root_token"]), *run["cycle.0.tokens"][path[:-1]].tolist()]
                # The last row stands at the root: step 0 drafts level 0, and so on down the path.
                padded = torch.zeros(1, len(tokens) - len(prompt), features.shape[-1])
                outputs = training_time_test(
                    head, torch.tensor(tokens)[None], torch.cat([features, padded], 1), len(path)
                )
                score = 0.0
                for step, node in enumerate(path):
                    log_probs = head.logits(outputs[step][0, len(prompt) - 1]).log_softmax(-1)
                    draft_id = (head.vocabulary.target_ids == int(run["cycle.0.tokens"][node])).nonzero().item()
                    score += log_probs[draft_id].item()
                    expected = run["cycle.0.scores"][node].item()
                    self.assertAlmostEqual(score, expected, delta=TOLERANCE, msg=f"{name} {path}")


class GeneratorTest(TinyPair):
    def test_a_stopped_generator_goes_on_as_if_it_had_not_stopped(self):
        whole = self.generate("whole")
        self.generate("stopped", tokens=300)
        self.assertLess(len(load_conversations(self.folder / "stopped")), len(load_conversations(whole)))
        stopped = self.generate("stopped")
        names = sorted(path.name for path in whole.iterdir())
        self.assertEqual(names, sorted(path.name for path in stopped.iterdir()))
        for name in names:
            self.assertEqual((whole / name).read_bytes(), (stopped / name).read_bytes(), name)

    def test_what_becomes_of_an_item_does_not_depend_on_those_beside_it(self):
        few, many = (self.generate(f"batch {batch}", tokens=600, batch=batch) for batch in (3, 16))
        names = sorted(path.name for path in few.glob("*.safetensors"))
        self.assertEqual(names, sorted(path.name for path in many.glob("*.safetensors")))
        for name in names:
            self.assertEqual((few / name).read_bytes(), (many / name).read_bytes(), name)

    def test_other_settings_do_not_continue_a_folder(self):
        self.generate(tokens=100)
        with self.assertRaisesRegex(InputError, "seed is 3, now 4"):
            self.generate(tokens=200, settings=replace(GENERATED, seed=4))

    def test_answers_are_the_targets_and_some_are_sampled(self):
        made = load_conversations(self.generate())
        self.assertEqual({one.temperature for one in made}, {0.0, np.float32(0.7)})
        for one in (one for one in made if one.temperature == 0):
            output, _ = self.target.read(torch.tensor(one.tokens.tolist())[None])
            choices = self.target.logits(output[0, one.answer - 1 : -1]).argmax(-1)
            self.assertEqual(choices.tolist(), one.tokens[one.answer :].tolist())

    def test_excluded_prompts_are_not_asked_again(self):
        held_out = self.generate("held-out", tokens=300)
        prompts = {one.prompt for one in load_conversations(held_out)}
        made = {one.prompt for one in load_conversations(self.generate(exclude=[held_out]))}
        self.assertTrue(prompts and made)
        self.assertFalse(prompts & made)
        self.assertTrue(prompts & {one.prompt for one in load_conversations(self.generate("all"))})

    def test_a_missing_shard_is_named(self):
        made = self.generate()
        (made / "000000016.safetensors").unlink()
        with self.assertRaisesRegex(InputError, "expected the shard that starts at item 16, found 32"):
            list(read_shards(made))

    def test_a_question_file_that_is_none_is_named_with_its_line(self):
        path = self.folder / "questions.jsonl"
        path.write_text('{"turns": ["Why?"]}\n{"turns": []}\n')
        with self.assertRaisesRegex(InputError, r"questions\.jsonl:2: turns: expected a list with a message"):
            conversations.load_questions(path)

    def test_chat_template_opens_a_user_turn_and_ends_it(self):
        write_text_model(self.folder, {"<unk>": 0, "<u>": 1, "</s>": 2, "<a>": 3, "Hi": 4})
        (self.folder / "config.json").write_text(json.dumps({"eos_token_id": 2}))
        text = TextModel(self.folder)
        self.assertEqual(text.open_user_turn(), (1,))
        self.assertEqual(text.chat_prompt("Hi"), (1, 4, 2, 3))
        self.assertEqual(text.decode([4, 2]), "Hi")

    def test_prompts_and_their_ends_are_those_of_transformers(self):
        write_text_model(self.folder, {"<unk>": 0, "<u>": 1, "</s>": 2, "<a>": 3, "Hi": 4, "Hello": 5})
        (self.folder / "config.json").write_text("\ufeff" + json.dumps({"eos_token_id": 5}))
        path = self.folder / "tokenizer.json"
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.enable_truncation(max_length=2)
        tokenizer.enable_padding(length=9)
        tokenizer.save(str(path))
        (self.folder / "chat_template.jinja").write_text(
            "{%- for m in messages %}{% if m.role == 'user' %}<u>{{ m.content }}</s>{% continue %}{% endif %}"
            "{% generation %}<a>{{ m.content }} </s>{% endgeneration %}{% endfor %}"
            "{% if tools is iterable and tools | length %}{{ tools | tojson }}{% endif %}"
            "{% if add_generation_prompt and strftime_now('%Y') %}<a>{% endif %}"
        )
        text = TextModel(self.folder)
        self.assertEqual(text.chat_prompt("Hi"), (1, 4, 2, 3))
        self.assertEqual(text.eos, (5, 2))

    def test_questions_begin_with_the_openings_by_turns(self):
        folder = self.folder / "target"
        shutil.copytree(PAIR / "target", folder)
        special = {"<unk>": 0, "<u>": 1, "</s>": 2, "<a>": 3}
        words = {f"w{id}": id for id in range(len(special), self.target.config.vocabulary)}
        write_text_model(folder, special | words)
        target = Target(folder, CPU, torch.float32)
        settings = replace(GENERATED, openings=("w9 w8", "w7"), max_question=64)
        generate.generate(target, self.folder / "opened", settings, (), 500, 16)
        made = load_conversations(self.folder / "opened")
        self.assertEqual({one.item % 2 for one in made}, {0, 1})
        for one in made:
            opening = [(1, 9, 8), (1, 7)][one.item % 2]
            self.assertEqual(one.prompt[: len(opening)], opening)
            self.assertEqual(one.prompt[-2:], (2, 3))
        with self.assertRaisesRegex(InputError, "openings is '[0-9a-f]{16}', now None"):
            generate.generate(target, self.folder / "opened", replace(settings, openings=()), (), 600, 16)

    def test_openings_need_a_tokenizer(self):
        with self.assertRaisesRegex(InputError, r"tokenizer\.json: expected for --openings, found none"):
            self.generate(settings=replace(GENERATED, openings=("Why",)))


class TrainerTest(TinyPair):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, folder)
        generate.generate(cls.target, folder / "made", GENERATED, (), 3000, 32)
        cls.made = load_conversations(folder / "made")

    def test_a_head_learns_and_the_saved_one_is_as_good(self):
        training = train.Training(self.target, self.made, TRAINED, torch.float32)
        batch = Supervision(self.target, self.made[:8])
        greedy = [one for one in self.made if one.temperature == 0]
        with torch.no_grad():
            before, _ = train.losses_and_hits(training.head, batch, 5)
        untrained = evaluate.measure(training.head, self.target, greedy, 5)["mean_accepted_chain"]
        train.train(training, self.folder, log_seconds=1e9, checkpoint_seconds=1e9)
        with torch.no_grad():
            after, _ = train.losses_and_hits(training.head, batch, 5)
        self.assertTrue((after < before - 1).all(), f"{before} {after}")
        trained = evaluate.measure(load_head(self.folder / "head", self.target), self.target, greedy, 5)
        self.assertGreater(trained["mean_accepted_chain"], untrained + 0.5)

    def test_a_head_with_the_norms_of_eagle_3_1_learns_and_the_saved_one_is_the_same(self):
        settings = replace(TRAINED, norms="eagle3.1", epochs=3)
        training = train.Training(self.target, self.made, settings, torch.float32)
        head, batch = training.head, Supervision(self.target, self.made[:8])
        with torch.no_grad():
            normed = torch.cat([norm(part) for norm, part in zip(head.fc_norm, batch.features.chunk(3, -1))], -1)
            self.assertLess(abs(float(normed[batch.tokens > 0].square().mean().log())), 1, "about 1 before fc")
            before, _ = train.losses_and_hits(head, batch, 5)
        train.train(training, self.folder, log_seconds=1e9, checkpoint_seconds=1e9)
        with torch.no_grad():
            after, _ = train.losses_and_hits(head, batch, 5)
            self.assertTrue((after < before - 0.5).all(), f"{before} {after}")
            loaded = load_head(self.folder / "head", self.target)
            ours, theirs = (training_time_test(h, batch.tokens, batch.features, 5) for h in (head, loaded))
            for own, other in zip(ours, theirs):
                torch.testing.assert_close(own, other)
            # What a step reads is normed, and what the output layer reads is that.
            torch.testing.assert_close(head.logits(ours[1]), head.lm_head(ours[1]))
        config = json.loads((self.folder / "head/config.json").read_text())
        self.assertTrue(config["fc_norm"] and config["norm_output"])
        with self.assertRaisesRegex(InputError, "fc_norm in config.json: expected false, as --norms says, found true"):
            train.Training(self.target, self.made, TRAINED, torch.float32, self.folder / "head")

    def test_a_training_that_begins_with_a_head_begins_where_that_ended(self):
        settings = replace(TRAINED, draft_vocabulary=100)
        start = PAIR / "draft"
        known = load_head(start, self.target)
        training = train.Training(self.target, self.made, settings, torch.float32, start)
        head, batch = training.head, Supervision(self.target, self.made[:4])
        ours, theirs = (training_time_test(h, batch.tokens, batch.features, settings.steps) for h in (head, known))
        for step, (own, other) in enumerate(zip(ours, theirs)):
            self.assertLess(float((own - other).abs().max()), 1e-3, step)
        covered = known.vocabulary.t2d[head.vocabulary.target_ids]
        self.assertTrue(covered.any())
        rows = known.vocabulary.t2d.cumsum(0)[head.vocabulary.target_ids[covered]] - 1
        self.assertTrue(torch.equal(head.lm_head.weight[covered], known.lm_head.weight[rows]))
        self.assertTrue(
            torch.equal(head.lm_head.weight[~covered], self.target.output[head.vocabulary.target_ids[~covered]])
        )
        # Its checkpoint is not one of a training that began with nothing.
        with tempfile.TemporaryDirectory() as run:
            training.store(Path(run))
            with self.assertRaisesRegex(InputError, "start"):
                train.Training(self.target, self.made, settings, torch.float32).restore(Path(run))

    def test_matrices_inside_move_orthogonally_and_as_far_as_adamw_would(self):
        training = train.Training(self.target, self.made, TRAINED, torch.float32)
        moved = {"fc": training.head.fc.weight, "lm_head": training.head.lm_head.weight}
        before = {name: weight.detach().clone() for name, weight in moved.items()}
        training.step()
        rate = train.learning_rate(TRAINED, 0, len(training.plan))
        change = {name: moved[name].detach() - weight * (1 - rate * 0.01) for name, weight in before.items()}
        for name, orthogonal in (("fc", True), ("lm_head", False)):
            stretches = torch.linalg.svdvals(change[name])
            # Muon's few iterations leave the smallest stretches of a gradient smaller than the others.
            self.assertEqual(bool(stretches.median() > 0.5 * stretches.max()), orthogonal, f"{name}: {stretches}")
        # AdamW's changes of a parameter have a mean size of about 0.2 of its rate (arXiv 2502.16982).
        self.assertAlmostEqual(float(change["fc"].square().mean().sqrt()) / (0.2 * rate), 1, delta=0.3)

    def test_a_resumed_training_equals_an_uninterrupted_one(self):
        whole = self.train("whole", self.made, until=9)
        self.train("stopped", self.made, until=4)
        resumed = self.train("stopped", self.made, until=9)
        self.assertEqual((whole.update, resumed.update), (9, 9))
        for name in ("checkpoint.safetensors", "head/model.safetensors"):
            one, other = (load_file(self.folder / run / name) for run in ("whole", "stopped"))
            self.assertEqual(one.keys(), other.keys())
            for key in one:
                self.assertTrue(torch.equal(one[key], other[key]), f"{name}: {key}")

    def test_other_settings_or_a_damaged_checkpoint_do_not_continue(self):
        self.train("run", self.made, until=1)
        other = train.Training(self.target, self.made, replace(TRAINED, learning_rate=1e-3), torch.float32)
        with self.assertRaisesRegex(InputError, "learning_rate is 0.002, now 0.001"):
            other.restore(self.folder / "run")
        path = self.folder / "run/checkpoint.safetensors"
        path.write_bytes(path.read_bytes()[:1000])
        with self.assertRaisesRegex(InputError, "expected a checkpoint"):
            train.Training(self.target, self.made, TRAINED, torch.float32).restore(self.folder / "run")

    def test_a_folder_is_written_by_one_at_a_time(self):
        for _ in range(2):
            with occupied(self.folder / "run"):
                with self.assertRaisesRegex(InputError, "run: another process is writing this folder"):
                    with occupied(self.folder / "run"):
                        self.fail("two at once")

    def test_folding_the_scales_changes_nothing_but_the_last_bits(self):
        training = self.train("run", self.made, until=2)
        scale = training.head.feature_scale
        self.assertGreater((scale.max() / scale.min()).item(), 2.0)
        save_head(self.folder / "head", training.head, torch.float32)
        loaded = load_head(self.folder / "head", self.target)
        self.assertTrue(torch.equal(loaded.feature_scale, torch.ones_like(scale)))
        batch = Supervision(self.target, self.made[:4])
        with torch.no_grad():
            outputs = [
                training_time_test(head, batch.tokens, batch.features, 5)[-1] for head in (training.head, loaded)
            ]
        torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)
        self.assertFalse(torch.allclose(folded_tensors(training.head)["fc.weight"], training.head.fc.weight))

    def test_a_saved_head_has_the_layout_of_the_committed_ones(self):
        self.train("run", self.made, until=1)
        folders = self.folder / "run/head", PAIR / "draft"
        found, expected = (load_file(path / "model.safetensors") for path in folders)
        shapes = lambda tensors: {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
        self.assertEqual(shapes(found), shapes(expected))
        covered = torch.arange(len(found["d2t"])) + found["d2t"]
        self.assertTrue(torch.equal(found["t2d"].nonzero().flatten(), covered))
        configs = [json.loads((path / "config.json").read_text()) for path in folders]
        self.assertEqual(configs[0] | configs[1], configs[0] | {"bias": False})

    def test_the_loss_and_its_gradient_are_those_of_the_formula(self):
        random = torch.Generator().manual_seed(1)
        normal = lambda *shape: torch.randn(*shape, generator=random)
        # More rows than are computed at once, and some that share their probabilities.
        count = 2 * rows_at_once(CPU) + 5
        rows, probabilities = torch.arange(count) // 2, 0.9 * normal(count, 33).softmax(-1)
        for dtype in (torch.float32, torch.bfloat16):
            logits = normal(count, 33).to(dtype).requires_grad_()
            plain = -(probabilities[rows] * logits.float().log_softmax(-1)).sum()
            found = SoftCrossEntropy.apply(logits, probabilities, rows)
            torch.testing.assert_close(found, plain)
            gradients = [torch.autograd.grad(3 * loss, logits)[0] for loss in (found, plain)]
            torch.testing.assert_close(*gradients)

    def test_only_drafts_inside_an_answer_are_judged(self):
        tokens = np.array([1, 40, 41, 42, 43, 44, 45])
        batch = Supervision(self.target, [Conversation(tokens, 3, 0, 0.0), Conversation(tokens[:4], 3, 1, 0.0)])
        # Row 2 has read the prompt and stands at the answer's first token; it drafts tokens 4, 5 and 6.
        starts = [batch.rows(step).nonzero().tolist() for step in range(4)]
        self.assertEqual(starts, [[[0, 2], [0, 3], [0, 4]], [[0, 2], [0, 3]], [[0, 2]], []])
        output, _ = self.target.read(torch.tensor(tokens.tolist())[None])
        choices = self.target.logits(output[0]).argmax(-1)
        self.assertEqual(batch.choices()[batch.judgements(1)].tolist(), choices[[4, 5]].tolist())

    def test_batches_hold_every_conversation_once_an_epoch(self):
        lengths = np.random.default_rng(0).integers(5, 200, 1000).tolist()
        plan = train.batches(lengths, replace(TRAINED, epochs=2))
        self.assertEqual(sorted(np.concatenate(plan).tolist()), sorted([*range(1000)] * 2))
        self.assertTrue(all(len(batch) * max(lengths[index] for index in batch) <= 512 for batch in plan))


class EvaluationTest(TinyPair):
    def test_chains_are_what_decoding_step_by_step_drafts(self):
        run, _ = golden("tiny-default-2")
        ids, answer, steps = run["ar_ids"].long(), len(run["prompt_ids"]), 4
        head = load_head(PAIR / "draft", self.target)
        one = Conversation(ids.numpy(), answer, 0, 0.0)
        [hits] = evaluate.chain_hits(head, Supervision(self.target, [one]), steps)
        chains = hits.int().cumprod(-1).sum(-1).tolist()
        _, features = self.target.read(ids[None])
        for row, chain in enumerate(chains):
            # The draft reads its own tokens, as far as they go.
            read = answer + row
            tokens = ids[:read]
            for step in range(steps):
                padded = torch.cat([features[:, :read], torch.zeros(1, step, features.shape[-1])], 1)
                outputs = training_time_test(head, tokens_with(ids, read, tokens), padded, step + 1)
                token = head.vocabulary.target_ids[head.logits(outputs[step][0, read - 1]).argmax()]
                tokens = torch.cat([tokens, token[None]])
            accepted = 0
            while accepted < steps and tokens[read + accepted] == ids[read + accepted + 1]:
                accepted += 1
            self.assertEqual(chain, accepted, f"row {row}")

    def test_acceptance_lengths_follow_the_cycles(self):
        self.assertEqual(list(evaluate.acceptance_lengths([2, 5, 0, 1, 0, 3])), [3, 2, 4])

    def test_the_trained_head_beats_its_own_shuffled_output(self):
        run, _ = golden("tiny-default-0")
        one = Conversation(run["ar_ids"].numpy(), len(run["prompt_ids"]), 0, 0.0)
        head = load_head(PAIR / "draft", self.target)
        trained = evaluate.measure(head, self.target, [one], 5)
        with torch.no_grad():
            head.lm_head.weight.copy_(head.lm_head.weight.roll(1, 0))
        self.assertGreater(trained["mean_accepted_chain"], 3)
        self.assertLess(evaluate.measure(head, self.target, [one], 5)["mean_accepted_chain"], 0.5)


def tokens_with(ids: torch.Tensor, read: int, drafted: torch.Tensor) -> torch.Tensor:
    """The text up to and with the root token `ids[read]`, then what was drafted after it."""
    return torch.cat([ids[: read + 1], drafted[read:]])[None]


if __name__ == "__main__":
    unittest.main()
