"""The door from text to ids for an encoder such as BERT: its special tokens, pairs, segments."""

import dataclasses
import json

import numpy as np
import pytest

from minipeft.cli.answers import answers
from minipeft.contract import attach
from minipeft.contract.watching import outputs
from minipeft.engine import no_grad
from minipeft.generation.scoring import score
from minipeft.methods import LoRA
from minipeft.models.inputs import answer_rows, text_ids, texts_of
from minipeft.storage.text import Tokenizer
from minipeft.tasks import get_task
from minipeft.tasks.base import Example
from minipeft.training.batches import TaskBatches
from minipeft.training.evaluation import evaluate, mean_loss
from minipeft.training.loop import fit
from minipeft.training.step import loss_of
from tests.tiny import PAIRS, bert, encoder, gpt, tokenizer, wordpiece

W = wordpiece()
CLS, SEP = W.cls_id, W.sep_id


def test_a_pair_stands_between_separators():
    a, b = W.encode("the cat"), W.encode("meows")
    assert text_ids(encoder(), [a, b]) == ([CLS, *a, SEP, *b, SEP], len(a) + 2)
    assert text_ids(encoder(), [a]) == ([CLS, *a, SEP], len(a) + 2)
    assert text_ids(bert(), [[7, 8]]) == ([tokenizer().end_id, 7, 8], 3)
    assert text_ids(gpt(), [[7, 8]]) == ([7, 8], 2)


def test_masks_stand_before_the_separator():
    [(ids, first, said)] = answer_rows(encoder("mlm"), [7, 8], [[9], [10, 11]])
    assert ids == [CLS, 7, 8, W.mask_id, W.mask_id, SEP] and first == 3
    assert said == {0: [9, SEP], 1: [10, 11]}
    assert len(score(encoder("mlm"), "the cat", [" meows", " barks"])) == 2


@pytest.mark.parametrize(
    "model",
    [gpt(head="linear", classes=2), bert(head="linear", classes=2), encoder("mlm"), gpt()],
    ids=["causal", "no separator", "masks", "lm"],
)
def test_who_cannot_read_a_pair_reads_the_prompt(model):
    examples = [PAIRS[0], Example("a cat", " no", PAIRS[0].options, 0)]
    texts = texts_of(model, examples)
    assert texts == [[model.tokenizer.encode(e.prompt)] for e in examples]
    assert TaskBatches.of(model, examples).collate([0, 1]).segments is None
    read = texts_of(encoder(), examples)
    assert read == [[W.encode(t) for t in PAIRS[0].pair], [W.encode("a cat")]]


def test_segments_of_a_batch():
    examples = [Example("", " no", pair=("the cat", "meows a"), label=0),
                Example("a hen", " no", label=0)]  # fmt: skip
    data = TaskBatches.of(encoder(), examples).collate([0, 1])
    a, b = W.encode("the cat"), W.encode("meows a")
    two = [0] * (len(a) + 2) + [1] * (len(b) + 1)
    assert data.segments.dtype == np.int64 and data.segments.tolist() == [two, [0] * len(two)]
    assert (data.ids[1, ~data.mask[1]] == W.pad_id).all() and not data.mask[1].all()
    part = data.part(slice(0, 1))
    assert part.segments.tolist() == data.segments[:1].tolist() and "mask" not in part.given()
    assert TaskBatches.of(encoder(), examples[1:]).collate([0]).segments is None


def test_a_pair_that_is_none_or_too_long_is_refused():
    with pytest.raises(ValueError, match="empty"):
        TaskBatches.of(encoder(), [dataclasses.replace(PAIRS[0], pair=("a", ""))])
    for wrong in ("ab?", ("a",), ("a", None)):
        with pytest.raises(ValueError, match="example 0, 'a cat meows.' …: pair must be two texts"):
            TaskBatches.of(encoder(), [dataclasses.replace(PAIRS[0], pair=wrong)])
    needed = sum(len(W.encode(t)) for t in PAIRS[0].pair) + 3
    assert len(TaskBatches.of(encoder(context=needed), PAIRS[:1])) == 1
    with pytest.raises(ValueError, match=f"has {needed} tokens, the context holds {needed - 1}"):
        TaskBatches.of(encoder(context=needed - 1), PAIRS[:1])


class Pairs:
    """Whether an animal makes a sound."""

    name, kind, metric, also = "pairs", "classification", "accuracy", ()

    def __init__(self, examples=PAIRS):
        self.examples = examples

    def load(self, split, n=None, seed=0, pattern=0):
        return self.examples[:n]


@pytest.mark.parametrize("pool", ["first", "mean"])
def test_segments_reach_the_model_in_training_and_evaluation(pool):
    model = encoder(pool=pool)
    source = TaskBatches.of(model, PAIRS)
    data = source.collate(range(len(PAIRS)))

    def run():
        with no_grad():
            whole = model(data.ids, segments=data.segments, mask=data.mask).data
            return whole, model(data.ids, mask=data.mask).data

    gaps = [float(y[0, 1] - y[0, 0]) for y in run()]
    assert abs(gaps[0] - gaps[1]) > 0.01
    model.head.bias.data = model.head.bias.data - [0, sum(gaps) / 2]  # of row 0 they decide
    logits, without = run()
    assert logits[0].argmax() != without[0].argmax()
    logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    loss = -logp[np.arange(len(PAIRS)), data.labels].mean()
    assert loss_of(model, data).item() == pytest.approx(loss, abs=1e-12)
    assert mean_loss(model, source, 4) == pytest.approx(loss, abs=1e-12)
    found = [dataclasses.replace(e, label=c, target=e.options[c])
             for e, c in zip(PAIRS, logits.argmax(1).tolist(), strict=True)]  # fmt: skip
    assert evaluate(model, Pairs(found))["accuracy"] == 100
    told = [answer["text"] for answer in answers(model, found, ("no", "yes"))]
    assert told == [e.target.strip() for e in found]
    [(_, seen)] = outputs(model, [data], "head")
    assert np.array_equal(seen["head"], logits)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("pool", ["first", "mean"])
def test_a_task_of_pairs_trains(pool, threads):
    model = encoder(pool=pool, dtype=np.float32)
    attach(model, LoRA(r=4))
    before = evaluate(model, Pairs())["loss"]
    fit(model, Pairs(), steps=150, lr=0.01, batch=8, quiet=True, threads=threads)
    after = evaluate(model, Pairs())
    assert after["loss"] < 0.2 * before and after["accuracy"] == 100


@pytest.mark.parametrize("name", ["nli", "nli-shift", "paraphrase"])
def test_tasks_of_pairs_give_their_two_texts(name):
    for e in get_task(name).load("train", 20, pattern=1):
        assert len(e.pair) == 2 and all(text in e.prompt for text in e.pair)
        assert e.prompt.index(e.pair[0]) < e.prompt.rindex(e.pair[1])


# -- a published vocabulary -----------------------------------------------------------------------


def test_bert_golden_cases(real_data, tmp_path):
    from tokenizers import BertWordPieceTokenizer

    golden = json.loads(real_data("tokenizer_golden/golden_gpt2_bert.json").read_text())["bert"]
    inner = BertWordPieceTokenizer(str(real_data("bert_tokenizer/vocab.txt")))
    inner.enable_padding(length=128)
    inner.enable_truncation(max_length=5)
    inner.save(str(tmp_path / "tokenizer.json"))
    read = Tokenizer.load(tmp_path / "tokenizer.json")
    assert (read.vocab_size, read.pad_id, read.mask_id) == (30522, 0, 103)
    assert (read.cls_id, read.sep_id, read.end_id) == (101, 102, 102)
    model = encoder()
    model.tokenizer = read
    assert len(golden) == 30
    for case in golden.values():
        texts = [case[name] for name in ("text", "text_pair") if name in case]
        assert text_ids(model, read.encode_many(texts))[0] == case["ids"], texts
    assert "text_pair" in golden["TEXT_PAIR"]
