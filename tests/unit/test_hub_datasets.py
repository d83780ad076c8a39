"""Datasets from local files in the shapes of the known ones, read by the real library."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from glimp_integrations import ConfigError
from glimp_integrations.bench import Grade, load_task
from glimp_integrations.bench.known_datasets import KNOWN
from glimp_integrations.calibration.prompts import read

datasets = pytest.importorskip("datasets")

AIME = [
    {"id": 60, "problem": "Find $1 + 1$.", "solution": "Add.", "answer": "002", "year": "2024"},
    {"id": 61, "problem": "Find $5^2$.", "solution": "Square.", "answer": "025", "year": "2024"},
    {"id": 62, "problem": "Find $30^2$.", "solution": "Square.", "answer": "900", "year": "2024"},
]
GPQA = [
    {
        "Record ID": f"rec{i}",
        "Question": f"Which gas is number {i}?\n",
        "Correct Answer": f"right {i}\n",
        "Incorrect Answer 1": f"wrong {i}",
        "Incorrect Answer 2": f"bad {i}",
        "Incorrect Answer 3": f"off {i} ",
        "Subdomain": "Chemistry",
    }
    for i in range(40)
]
MATH = [
    {
        "problem": "Solve $2x = 1$.",
        "solution": "Halve.",
        "answer": "\\frac{1}{2}",
        "subject": "Algebra",
        "level": 1,
        "unique_id": "test/algebra/1.json",
    }
]

# Before its release 5, the library leaves CSV files open.
LEFT_OPEN = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <_io.FileIO.*csv:pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GLIMP_OFFLINE", "1")  # whatever is asked of the hub here is a mistake


def folder(path: Path, rows: Sequence[Mapping[str, Any]], split: str = "test") -> Path:
    path.mkdir(exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (path / f"{split}.jsonl").write_text(lines)
    return path


def test_aime_from_a_local_copy(tmp_path: Path) -> None:
    place = folder(tmp_path / "aime", AIME, "train")
    task = load_task(f"aime24:{place}")
    assert [(i.id, i.answer) for i in task.items] == [("60", "002"), ("61", "025"), ("62", "900")]
    assert task.items[0].metadata == {"solution": "Add.", "year": "2024"}
    assert task.name == "aime24:aime" and str(tmp_path) not in json.dumps(task.identity)
    (message,) = task.messages(task.items[0])
    assert message["content"].startswith("Find $1 + 1$.\n\n") and "\\boxed{}" in message["content"]
    assert len(load_task(f"aime24:{place}", n=2).items) == 2
    more = load_task(f"aime24:{place}", n=9)
    assert more.notes == [f"aime24:{place}: 3 questions, fewer than the 9 asked for"]
    assert read(f"aime24:{place}", n=1, column="")[0] == [message]  # `glimp calibrate`, too


@pytest.mark.parametrize(
    ("reply", "right", "extracted"),
    [
        ("so \\boxed{25}", True, "25"),
        ("\\boxed{025}", True, "25"),
        ("\\boxed{\\text{ 25 }}.", True, "25"),
        ("\\boxed{$25$}", True, "25"),
        ("first \\boxed{24}, no: \\boxed{\\mathbf{25.}}", True, "25"),
        ("\\boxed{\\frac{50}{2}}", True, None),
        ("\\boxed{m + n = 25}", True, None),
        ("\\boxed{-25}", False, "-25"),
        ("\\boxed{250}", False, "250"),
        ("\\boxed{}", False, None),
        ("It follows that the square is 25", False, None),
    ],
)
def test_aime_grades_whole_numbers(
    tmp_path: Path, reply: str, right: bool, extracted: str | None
) -> None:
    task = load_task(f"aime25:{folder(tmp_path / 'aime', AIME)}")
    grade = task.grade(task.items[1], reply)
    assert grade.right is right and grade.marked is ("boxed" in reply)
    if extracted is not None:
        assert grade.extracted == extracted


def test_an_answer_of_the_aime_that_is_no_number_is_refused(tmp_path: Path) -> None:
    place = folder(tmp_path / "aime", [*AIME, {**AIME[0], "id": 63, "answer": "two"}])
    with pytest.raises(ConfigError, match=r"row 4: 'answer' is 'two'; expected a whole number"):
        load_task(f"aime24:{place}")


@LEFT_OPEN
def test_gpqa_lists_its_choices_in_a_fixed_order(tmp_path: Path) -> None:
    place = tmp_path / "gpqa"
    place.mkdir()
    with (place / "gpqa_diamond.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(GPQA[0]))
        writer.writeheader()
        writer.writerows(GPQA)
    task = load_task(f"gpqa-diamond:{place}", seed=1)
    again = load_task(f"gpqa-diamond:{place / 'gpqa_diamond.csv'}", seed=2)
    assert [i.digest for i in task.items] == [i.digest for i in again.items]
    item = task.items[0]
    assert item.id == "rec0"
    question, choices = item.question.split("\n\n")
    assert question == "Which gas is number 0?"
    lines = choices.splitlines()
    assert [line[:3] for line in lines] == ["A) ", "B) ", "C) ", "D) "]
    assert {line[3:] for line in lines} == {"right 0", "wrong 0", "bad 0", "off 0"}
    assert next(line for line in lines if "right" in line)[0] == item.answer
    # No place is right much more often than another: 10 of 40 expected.
    places = [i.answer for i in task.items]
    assert all(3 <= places.count(letter) <= 18 for letter in "ABCD")
    assert lines == ["A) right 0", "B) off 0", "C) wrong 0", "D) bad 0"]  # in every release


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("\\boxed{C}", "C"),
        ("\\boxed{\\text{(C)}}", "C"),
        ("\\boxed{\\textbf{C) right 2}}", "C"),
        ("\\boxed{right 2}", "C"),
        ("A or C? \\boxed{A}", "A"),
        ("\\boxed{A field of them}", None),
        ("\\boxed{E}", None),
        ("So the answer is **C**.", "C"),
        ("Answer: C", "C"),
        ("\n(C)\n\n", "C"),
        ("I cannot say", None),
    ],
)
def test_letters_are_graded(tmp_path: Path, reply: str, letter: str | None) -> None:
    task = load_task(f"gpqa-diamond:{folder(tmp_path / 'gpqa', GPQA[2:3])}")
    assert task.items[0].answer == "C"
    marked = "boxed" in reply
    assert task.grade(task.items[0], reply) == Grade(float(letter == "C"), letter, marked)


def test_choices_of_any_dataset(tmp_path: Path) -> None:
    rows = [{"question": "2 + 2?", "answer": 4, "b": 5, "c": 4, "d": " 6"}]
    task = load_task(f"hf:{folder(tmp_path / 'sums', rows)}", choice_columns=["b", "c", "d"])
    assert task.format.name == "letter"
    assert sorted(task.items[0].metadata["choices"].values()) == ["4", "5", "6"]
    alone = [{**rows[0], "b": 4, "d": 4}]
    with pytest.raises(ConfigError, match="row 1 has 1 different choices"):
        load_task(f"hf:{folder(tmp_path / 'one', alone)}", choice_columns=["b", "c", "d"])


def test_mathematics_is_graded_by_math_verify(tmp_path: Path) -> None:
    place = tmp_path / "math"
    place.mkdir()
    datasets.Dataset.from_list(MATH).to_parquet(str(place / "test.parquet"))
    task = load_task(f"math-500:{place}")
    (item,) = task.items
    assert item.id == "test/algebra/1.json"
    assert task.grade(item, "\\boxed{0.5}").right and task.grade(item, "\\boxed{\\tfrac12}").right
    assert not task.grade(item, "\\boxed{2}").right
    assert load_task(f"hf:{place / 'test.parquet'}", question_column="problem").name


def test_mistakes_are_named(tmp_path: Path) -> None:
    place = folder(tmp_path / "aime", AIME)
    columns = "'id', 'problem', 'solution', 'answer', 'year'; name it with"
    for name, options, message in [
        (f"hf:{place}", {}, f"has no column 'question' but {columns} --question-column"),
        (f"aime24:{place}", {"answer_column": "a"}, f"no column 'a' but {columns} --answer-column"),
        (f"aime24:{place}", {"choice_columns": ["w"]}, "no column 'w' but .*--choice-columns"),
        (f"aime24:{place}", {"split": "train"}, r"no split 'train' but 'test'.*--split"),
        (f"hf:{place}:main", {}, r"'main' not found. Available: \['default'\]"),
        (f"hf:{tmp_path / 'none'}", {}, "there is no file or folder .*none"),
        (f"math-500:{tmp_path / 'none.csv'}", {}, "there is no file or folder .*none.csv"),
        ("hf:questions.parquet", {}, "there is no file or folder questions.parquet"),
        ("hf:", {}, "names no dataset"),
        ("aime24", {}, "GLIMP_OFFLINE is set, and HuggingFaceH4/aime_2024 is not in the cache"),
        ("aime23", {}, "did you mean aime25, aime24"),
        ("gsm_symbolic", {"split": "test"}, "'gsm_symbolic' is no dataset"),
        (f"aime24:{place}", {"n": 0}, "n is 0"),
    ]:
        with pytest.raises(ConfigError, match=message):
            load_task(name, **options)


def test_rows_that_cannot_be_asked_or_graded_are_named(tmp_path: Path) -> None:
    for number, (field, value, message) in enumerate(
        [
            ("answer", None, r"row 2: 'answer' is None; expected a text or a number"),
            ("answer", "  ", r"row 2: 'answer' is blank; there is nothing to grade"),
            ("problem", None, r"row 2: 'problem' is None; expected a text"),
            ("id", 60, "has the id '60' twice"),
        ]
    ):
        place = folder(tmp_path / str(number), [AIME[0], {**AIME[1], field: value}])
        with pytest.raises(ConfigError, match=message):
            load_task(f"aime24:{place}")
        assert len(load_task(f"aime24:{place}", n=1).items) == 1  # the row is not asked for


@LEFT_OPEN
def test_datasets_without_questions_are_named(tmp_path: Path) -> None:
    headed = tmp_path / "headed"
    headed.mkdir()
    (headed / "test.csv").write_text("id,problem,answer\n")
    with pytest.raises(ConfigError, match="holds no questions"):
        load_task(f"aime24:{headed}")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ConfigError, match="JSON, Parquet and CSV"):
        load_task(f"aime24:{tmp_path / 'nothing'}")
    with pytest.raises(ConfigError, match=r"task .aime24:.*JSON, Parquet and CSV"):
        load_task(f"aime24:{folder(tmp_path / 'empty', [])}")
    broken = folder(tmp_path / "broken", AIME)
    (broken / "test.jsonl").write_text('{"id": 1, "problem": "oh')
    with pytest.raises(ConfigError, match=r"Missing a closing quotation mark.*JSON, Parquet"):
        load_task(f"aime24:{broken}")


def test_the_split_is_the_only_one_or_test(tmp_path: Path) -> None:
    place = folder(tmp_path / "aime", AIME)
    folder(place, AIME[:1], "train")
    assert len(load_task(f"aime24:{place}").items) == 3
    assert len(load_task(f"aime24:{place}", split="train").items) == 1
    assert len(load_task(f"aime24:{place}", split="test[:2]").items) == 2
    folder(place, AIME[:1], "validation")
    (place / "test.jsonl").unlink()
    with pytest.raises(ConfigError, match="has the splits train, validation; choose one"):
        load_task(f"aime24:{place}")


def test_known_datasets_are_pinned() -> None:
    assert set(KNOWN) == {"aime24", "aime25", "gpqa-diamond", "math-500"}
    assert all(len(source.revision or "") == 40 and source.split for source in KNOWN.values())


def test_without_the_library_the_remedy_is_named() -> None:
    code = (
        "import sys; sys.modules['datasets'] = None\n"
        "from glimp_integrations.bench import load_task\n"
        "load_task('aime24')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "needs datasets: pip install 'glimp-integrations[bench]'" in done.stderr
