"""A BERT's answers at its masks: what it reads there, that it learns, and what it refuses."""

import dataclasses

import numpy as np
import pytest

from minipeft.backend import Rng
from minipeft.contract import attach
from minipeft.engine import no_grad
from minipeft.generation.sampling import generate
from minipeft.generation.scoring import score, score_many
from minipeft.methods import METHODS, LoRA
from minipeft.models.inputs import answer_rows
from minipeft.tasks.base import Example
from minipeft.training.batches import IGNORE, TaskBatches
from minipeft.training.evaluation import evaluate
from minipeft.training.loop import fit
from minipeft.training.step import loss_of
from tests.tiny import SOUNDS, Sounds, bert, gpt, tokenizer

T = tokenizer()
LONG = (" meows", " barks the cow", " sleeps.")  # of unlike lengths in tokens


def log_softmax(z):
    z = z.astype(np.float64)
    return (
        z - z.max(-1, keepdims=True) - np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1))[:, None]
    )


def at_masks(model, prompt, n):
    """log p of every token at each of n masks after a prompt.  -> (n, V)"""
    head = T.encode(prompt)
    ids = np.array([[T.end_id, *head, *[T.mask_id] * n, T.end_id]])
    with no_grad():
        return log_softmax(model(ids).data[0, 1 + len(head) : -1])


# -- prompts --------------------------------------------------------------------------------------


def test_blanks_for_the_longest_option():
    [(ids, first, said)] = answer_rows(bert(), [7, 8], [[3], [4, 5, 6]])
    end, mask = T.end_id, T.mask_id
    assert ids == [end, 7, 8, mask, mask, mask, end] and first == 3
    assert said == {0: [3, end, end], 1: [4, 5, 6]}


def test_a_causal_model_is_asked_in_as_few_rows_as_can_be():
    assert answer_rows(gpt(), [7, 8], [[3], [4]]) == [([7, 8], 1, {0: [3], 1: [4]})]
    rows = [([7, 8], 1, {0: [3]}), ([7, 8, 4, 5], 1, {1: [4, 5, 6]})]
    assert answer_rows(gpt(), [7, 8], [[3], [4, 5, 6]]) == rows
    assert answer_rows(gpt(), [7, 8], [[3]], ends=True) == [([7, 8, 3], 1, {0: [3, T.end_id]})]


def test_a_mask_outside_the_vocabulary_is_refused():
    model = bert()
    model.config = dataclasses.replace(model.config, vocab=T.vocab_size)
    with pytest.raises(
        ValueError, match=f"mask has id {T.mask_id}, .* needs vocab={T.mask_id + 1}"
    ):
        score(model, "the cat", SOUNDS[:2])
    with pytest.raises(ValueError, match="outside the model's vocabulary"):
        TaskBatches(model, Sounds().load("train"))


def test_the_loss_is_at_the_masks():
    examples = [Example("the cat", LONG[0], LONG, 0), Example("a very small cow", LONG[1], LONG, 1)]
    n = max(len(o) for o in T.encode_many(LONG))
    data = TaskBatches(bert(), examples).collate([0, 1])
    for row, example in enumerate(examples):
        hit = data.labels[row] != IGNORE
        wanted = T.encode(example.target)
        assert (data.ids[row, hit] == T.mask_id).all() and hit.sum() == n
        assert data.labels[row, hit].tolist() == wanted + [T.end_id] * (n - len(wanted))
        assert data.ids[row, 0] == T.end_id
        length = int(data.mask[row].sum())
        assert data.ids[row, 1 : length - n - 1].tolist() == T.encode(example.prompt)
        assert data.ids[row, length - 1] == T.end_id and (data.ids[row, length:] == T.pad_id).all()


def test_nothing_in_a_row_tells_the_right_answer():
    rows = [TaskBatches(bert(), [Example("the cat", LONG[i], LONG, i)]) for i in range(3)]
    assert len({tuple(source.rows[0][0]) for source in rows}) == 1


def test_a_classifier_reads_the_end_token_in_front():
    examples = Sounds().load("train")
    model = bert(head="linear", classes=5)
    data = TaskBatches.of(model, examples).collate([2, 0])
    assert (data.ids[:, 0] == T.end_id).all()
    assert data.ids[1, data.mask[1]].tolist() == [T.end_id, *T.encode(examples[0].prompt)]
    assert data.labels.tolist() == [examples[2].label, examples[0].label]
    plain = TaskBatches.of(gpt(head="linear", classes=5), examples).collate([0])
    assert plain.ids[0].tolist() == T.encode(examples[0].prompt)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="example 0, 'the cat' …: head='mlm' needs a label"):
        TaskBatches.of(bert(), Sounds("generation").load("train"))
    exact = len(T.encode("the cat")) + 3
    one = [Example("the cat", SOUNDS[0], SOUNDS[:1], 0)]
    assert len(TaskBatches(bert(context=exact), one)) == 1
    with pytest.raises(ValueError, match=rf"has {exact} tokens, the context holds {exact - 1}"):
        TaskBatches(bert(context=exact - 1), one)


# -- scores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("options", [SOUNDS[:3], LONG], ids=["one token", "several"])
def test_scores_are_log_probabilities_at_the_masks(options, normalize):
    model, encoded = bert(), T.encode_many(list(options))
    n = max(len(e) for e in encoded)
    logp = at_masks(model, "the cat", n)
    wanted = []
    for e in encoded:
        filled = e if normalize else e + [T.end_id] * (n - len(e))
        found = sum(logp[k, token] for k, token in enumerate(filled))
        wanted.append(found / len(e) if normalize else found)
    assert score(model, "the cat", options, normalize=normalize) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_many_questions_score_as_each_alone(batch):
    model = bert()
    questions = [("the cat", SOUNDS[:2]), ("a very small hen", LONG), ("a", SOUNDS[2:])]
    alone = [score(model, *question) for question in questions]
    together = score_many(model, questions, batch=batch)
    for a, b in zip(alone, together, strict=True):
        assert a == pytest.approx(b, abs=1e-11)


def test_prompt_masks_and_end_tokens_may_fill_the_context():
    needed = len(T.encode("the cat")) + max(len(T.encode(o)) for o in LONG) + 2
    wanted = score(bert(context=24), "the cat", LONG)
    model = bert(context=24)
    model.config = dataclasses.replace(model.config, context=needed)
    assert score(model, "the cat", LONG) == pytest.approx(wanted, abs=1e-12)
    model.config = dataclasses.replace(model.config, context=needed - 1)
    with pytest.raises(ValueError, match="does not fit into the context of"):
        score(model, "the cat", LONG)


def test_what_cannot_be_scored_is_refused():
    model = bert()
    with pytest.raises(ValueError, match="continuations that are not empty"):
        score(model, "the cat", [])
    with pytest.raises(ValueError, match="the prompt is empty"):
        score(model, "", SOUNDS[:2])
    with pytest.raises(ValueError, match="does not fit into the context of 4"):
        score(bert(context=4), "the cat and the hen", SOUNDS[:2])
    with pytest.raises(ValueError, match="generation needs a language model's head, .* 'mlm'"):
        generate(model, "the cat")
    with pytest.raises(ValueError, match="scoring needs a language model's head, .* 'linear'"):
        score(bert(head="linear", classes=3), "the cat", SOUNDS[:2])


# -- fit and evaluate -----------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["mlm", "linear"])
def test_a_bert_is_judged(head):
    model = bert(**({"head": "linear", "classes": 5} if head == "linear" else {}))
    task = Sounds()
    found = evaluate(model, task)
    examples, right, losses = task.load("validation"), 0, []
    for e in examples:
        if head == "linear":
            ids = np.array([[T.end_id, *T.encode(e.prompt)]])
            logp = log_softmax(model(ids).data)
            right += int(logp.argmax()) == e.label
            losses.append(-logp[0, e.label])
        else:
            tokens = [T.encode(o)[0] for o in e.options]
            logp = at_masks(model, e.prompt, 1)[0]
            right += int(np.argmax(logp[tokens])) == e.label
            losses.append(-logp[tokens[e.label]])
    assert found["accuracy"] == pytest.approx(100 * right / len(examples))
    assert found["loss"] == pytest.approx(np.mean(losses)) and found["n"] == len(examples)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("head", ["mlm", "linear"])
def test_a_bert_learns_its_task(method, head):
    settings = {"head": "linear", "classes": 5} if head == "linear" else {}
    model = bert(dtype=np.float32, spread=0.1, **settings)
    attach(model, METHODS[method](r=4) if method == "lora" else METHODS[method]())
    fit(model, Sounds(), steps=120, lr=0.02, batch=6, quiet=True)
    assert evaluate(model, Sounds())["accuracy"] == 100


def test_an_adapter_takes_part_in_scoring():
    model = bert()
    before = score(model, "the cat", SOUNDS[:2])
    handle = attach(model, LoRA(r=2))
    for path, p in handle.trainable():
        p.data = 0.3 * Rng(1, path).normal(p.shape)
    assert score(model, "the cat", SOUNDS[:2]) != pytest.approx(before, abs=1e-3)


def test_the_loss_of_a_task_is_the_mean_at_its_masks():
    model, data = bert(), TaskBatches.of(bert(), Sounds().load("train")).collate([0, 1, 2])
    logits = model(data.ids, mask=data.mask).data[data.labels != IGNORE]
    wanted = -log_softmax(logits)[np.arange(3), data.labels[data.labels != IGNORE]].mean()
    assert loss_of(model, data).item() == pytest.approx(wanted, abs=1e-12)
