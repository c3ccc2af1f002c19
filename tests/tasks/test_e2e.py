"""E2E: the published files read whole, odd files refused or counted with a reason."""

import pytest

from minipeft.tasks import get_task
from minipeft.tasks.e2e import E2E, slots_of

ROW = '"name[The Mill], eatType[pub]",The Mill is a pub.\n'


def test_the_published_files(real_data):
    task = E2E(real_data("e2e_nlg"))
    assert [len(task.rows(s)) for s in task.splits] == [42_061, 4_672, 4_693]
    assert [len(task.groups(s)) for s in task.splits] == [4_862, 547, 630]
    assert task.malformed == {"trainset.csv": 0, "devset.csv": 0, "testset_w_refs.csv": 0}


def test_examples_of_the_published_files(real_data):
    task = get_task("e2e", path=real_data("e2e_nlg"))
    train = task.load("train", 200)
    assert train == task.load("train", 1000)[:200] != task.load("train", 200, seed=1)
    test = task.load("test")
    assert len(test) == 630 and len({e.prompt for e in test}) == 630
    assert sum(len(e.references) for e in test) == 4_577  # 116 texts occur twice
    for e in train + test:
        assert e.prompt.startswith("name: ") and e.prompt.endswith(" =>")
        assert e.target == e.references[0] and e.target.startswith(" ") and e.target.strip()
    assert any("£" in e.prompt for e in train)
    seen = {m for m, _ in task.rows("train")}
    assert not seen & set(task.groups("test"))


def test_slots():
    text = "name[The Mill], priceRange[more than £30], near[Café Adriatic]"
    assert slots_of(text) == {
        "name": "The Mill", "priceRange": "more than £30", "near": "Café Adriatic"
    }  # fmt: skip
    for broken in ("", "The Mill", "name[The Mill", "name[The Mill] eatType[pub]", "[x]"):
        assert slots_of(broken) == {}


def test_malformed_rows_are_counted_and_reported(tmp_path):
    (tmp_path / "trainset.csv").write_text(
        "mr,ref\n" + ROW + "no slots,A text.\n" + '"name[X]",\n' + "name[Y]\n"
        + '"name[Z]",One,two\n' + ROW, encoding="utf-8"
    )  # fmt: skip
    task = E2E(tmp_path)
    with pytest.warns(UserWarning, match=r"4 malformed of 6 rows \(ending on lines 3, 4, 5, 6\)"):
        assert len(task.rows("train")) == 2
    assert task.malformed == {"trainset.csv": 4}


def test_rows_of_one_record_are_references_of_each_other(tmp_path):
    rows = ROW + ROW.replace("is a pub", "serves beer") + '"name[Y]",Y.\n'
    (tmp_path / "testset.csv").write_text("﻿mr,ref\n" + rows, encoding="utf-8")
    examples = E2E(tmp_path).load("test")
    assert sorted(len(e.references) for e in examples) == [1, 2]


def test_missing_and_foreign_files_are_named(tmp_path):
    task = E2E(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        task.load("test", 5)
    message = str(caught.value)
    assert "testset_w_refs.csv or testset.csv" in message and str(tmp_path) in message
    assert "--path" in message and "table-to-text" in message
    (tmp_path / "devset.csv").write_text("question,answer\na,b\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no column mr and ref.*says question,answer"):
        task.load("validation")
    (tmp_path / "trainset.csv").write_text("mr,ref\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no well-formed row"):
        task.load("train")


def test_without_a_path_the_cache_is_looked_in(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIPEFT_CACHE", str(tmp_path))
    (tmp_path / "e2e_nlg").mkdir()
    (tmp_path / "e2e_nlg" / "trainset.csv").write_text("mr,ref\n" + ROW, encoding="utf-8")
    assert E2E().load("train")[0].target == " The Mill is a pub."
