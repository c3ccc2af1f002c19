"""fit and evaluate: what a step does, that runs repeat to the bit, and what is refused."""

import math
import os
from dataclasses import replace

import numpy as np
import pytest

from minipeft.contract import attach
from minipeft.display import progress
from minipeft.engine import no_grad
from minipeft.generation import metrics
from minipeft.generation.sampling import generate_many
from minipeft.generation.scoring import score
from minipeft.methods import LoRA, TopK
from minipeft.nn.finite import NonFinite, NonFiniteLoss
from minipeft.storage.checkpoint import CheckpointError, load_arrays, save_arrays
from minipeft.tasks.table_to_text import TableExample
from minipeft.training import loop as train
from minipeft.training import malloc
from minipeft.training.batches import IGNORE, Batch, TaskBatches, TokenBatches
from minipeft.training.evaluation import evaluate, mean_loss
from minipeft.training.looks import Evaluation
from minipeft.training.loop import fit
from minipeft.training.optim import Schedule
from minipeft.training.resume import Checkpoint
from minipeft.training.step import loss_of
from tests.contract.throwaway import Masked
from tests.short_runs import VOCAB, lora, run, same, values
from tests.tiny import Rows, Sounds, bert, gpt, tokenizer

AT_ONCE = Schedule(warmup=0.0)

# -- a step ---------------------------------------------------------------------------------------


def test_a_step_is_the_gradient_of_the_loss():
    model, _ = lora()
    before, data = values(model), Rows(VOCAB).batch(0, 3, 0)
    loss = loss_of(model, data)
    loss.backward()
    gradients = {path: p.grad.copy() for path, p in train.trainable(model)}
    for _, p in train.trainable(model):
        p.grad = None
    history, after = run(1, model, optimizer="sgd", lr=0.5, clip=None, schedule=AT_ONCE)
    assert history.loss == [loss.item()] and history.lr == [0.5]
    for path, w in after.items():
        assert np.allclose(w, before[path] - 0.5 * gradients[path], rtol=0, atol=1e-15)


def test_the_joint_norm_of_an_update_is_clipped():
    _, free = run(1, optimizer="sgd", lr=1.0, clip=None, schedule=AT_ONCE)
    _, held = run(1, optimizer="sgd", lr=1.0, clip=0.01, schedule=AT_ONCE)
    start = values(lora()[0])
    moves = {k: free[k] - start[k] for k in start}
    norm = math.sqrt(sum((m * m).sum() for m in moves.values()))
    assert norm > 0.02
    for k in start:
        assert np.allclose(held[k] - start[k], moves[k] * (0.01 / norm), rtol=0, atol=1e-14)


def test_the_rate_follows_the_schedule():
    history, _ = run(5, schedule=Schedule("cosine", 0.4), lr=0.1)
    wanted = [0.05, 0.1, 0.1, 0.075, 0.025]
    assert history.lr == pytest.approx(wanted)


def test_a_step_takes_the_rate_of_the_schedule():
    model, _ = lora()
    for step, rate in enumerate((0.1, 0.2)):
        loss_of(model, Rows(VOCAB).batch(step, 3, 0)).backward()
        for _, p in train.trainable(model):
            p.data, p.grad = p.data - rate * p.grad, None
    _, after = run(2, optimizer="sgd", lr=0.2, schedule=Schedule(warmup=1.0), clip=None)
    assert all(np.allclose(after[k], w, rtol=0, atol=1e-14) for k, w in values(model).items())


def test_only_the_targets_of_a_task_are_learnt():
    model, _ = lora()
    data = TaskBatches(model, Sounds().load("train")).batch(0, 4, 0)
    with no_grad():
        logits = model(data.ids).data
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    at = np.nonzero(data.labels != IGNORE)
    wanted = -logp[(*at, data.labels[at])].mean()
    assert at[0].size < data.labels.size
    assert loss_of(model, data).item() == pytest.approx(wanted, abs=1e-12)


def test_accumulated_batches_equal_a_large_one():
    one = run(3, batch=6, accumulate=1)
    two = run(3, batch=3, accumulate=2)
    six = run(3, batch=1, accumulate=6)
    for history, trained in (two, six):
        assert history.loss == pytest.approx(one[0].loss, abs=1e-12)
        for k, w in trained.items():
            assert np.abs(w - one[1][k]).max() < 1e-12
    assert any((w != two[1][k]).any() for k, w in run(3, batch=3)[1].items())


class Few(Rows):
    """Rows with unlike numbers of labels: a step of four has 6, 6, 1 and 1."""

    def __init__(self, counts=(6, 6, 1, 1)):
        super().__init__(VOCAB)
        self.counts = counts

    def batch(self, step, size, seed):
        data = super().batch(step, size, seed)
        labels = data.labels.copy()
        for row in range(size):
            count = self.counts[(step * size + row) % len(self.counts)]
            labels[row, : self.length - count] = IGNORE
        return replace(data, labels=labels)


@pytest.mark.parametrize("counts", [(6, 6, 1, 1), (1, 5, 3, 2), (4, 2, 0, 0), (0, 0, 3, 1)])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_label_of_a_step_weighs_the_same(counts, threads):
    """Batches of a step, and parts of a batch, have unlike numbers of them, or none."""
    one = run(3, lora()[0], Few(counts), batch=4, smoothing=0.1)
    for accumulate in (2, 4):
        history, trained = run(
            3, lora()[0], Few(counts), batch=4 // accumulate, accumulate=accumulate,
            threads=threads, smoothing=0.1,
        )  # fmt: skip
        assert history.loss == pytest.approx(one[0].loss, abs=1e-12)
        for path, w in trained.items():
            assert np.abs(w - one[1][path]).max() < 1e-12


def test_a_task_accumulates_as_a_large_batch():
    one = run(3, lora()[0], Sounds(), batch=6)
    for settings in ({"accumulate": 2}, {"accumulate": 2, "threads": 2}):
        history, trained = run(3, lora()[0], Sounds(), batch=3, **settings)
        assert history.loss == pytest.approx(one[0].loss, abs=1e-12)
        assert all(np.abs(w - one[1][path]).max() < 1e-12 for path, w in trained.items())


def test_a_linear_head_accumulates_as_a_large_batch():
    def start():
        model = gpt(head="linear", classes=5)
        attach(model, LoRA(r=2))
        return model

    one = run(3, start(), Sounds(), batch=6)
    two = run(3, start(), Sounds(), batch=2, accumulate=3)
    assert two[0].loss == pytest.approx(one[0].loss, abs=1e-12)
    assert all(np.abs(w - one[1][path]).max() < 1e-12 for path, w in two[1].items())


def test_a_step_without_a_label_is_refused():
    with pytest.raises(ValueError, match="no label of step 1 counts"):
        run(3, task=Few((1, 1, 1, 1, 0, 0, 0, 0)), batch=2, accumulate=2)


def test_seeded_runs_are_equal_to_the_bit():
    one, two, other = run(seed=1), run(seed=1), run(seed=2)
    assert one[0].loss == two[0].loss and same(one[1], two[1])
    assert one[0].loss != other[0].loss


def test_dropout_is_drawn_from_the_seed():
    def dropped(seed):
        return run(2, lora(dropout=0.3)[0], Same(), seed=seed)[0].loss

    assert dropped(1) == dropped(1) != dropped(2)
    still = run(2, lora(dropout=0.3)[0], Same(), lr=0.0)[0].loss
    assert still[0] != still[1]  # each step draws anew
    assert run(2, lora()[0], Same(), seed=1)[0].loss == run(2, lora()[0], Same(), seed=2)[0].loss


class Same(Rows):
    """The same batch for every step and seed."""

    def __init__(self):
        super().__init__(VOCAB)

    def batch(self, step, size, seed):
        return super().batch(0, size, 0)


def test_a_run_learns_its_task():
    model = gpt(dtype=np.float32)
    before = evaluate(model, Sounds())
    history = fit(model, Sounds(), steps=40, lr=0.02, batch=6, quiet=True)
    after = evaluate(model, Sounds())
    assert np.mean(history.loss[-5:]) < 0.2 * np.mean(history.loss[:5])
    assert after["accuracy"] == 100.0 and after["loss"] < 0.2 * before["loss"]
    assert all(w.dtype == np.float32 for w in values(model).values())
    assert len(history.loss) == len(history.lr) == len(history.seconds) == 40


def test_a_linear_head_learns():
    model = gpt(head="linear", classes=5)
    attach(model, LoRA(r=2))
    fit(model, Sounds(), steps=40, lr=0.05, batch=6, quiet=True)
    assert evaluate(model, Sounds())["accuracy"] == 100.0


class Unlike(Sounds):
    """The same task behind nothing, a word or more: prompts of unlike lengths."""

    def load(self, split, n=None, seed=0, pattern=0):
        leads = ("", "the owl hoots. ", "a fox sleeps. the dog barks. ")
        found = super().load(split, n, seed, pattern)
        return [replace(e, prompt=leads[i % 3] + e.prompt) for i, e in enumerate(found)]


@pytest.mark.parametrize(
    ("make", "fields"),
    [(gpt, {}), (gpt, {"head": "linear", "classes": 5}), (bert, {}),
     (bert, {"head": "linear", "classes": 5})],
    ids=["gpt", "gpt-linear", "bert", "bert-linear"],
)  # fmt: skip
def test_padded_examples_are_learnt_and_judged_as_if_alone(make, fields):
    """Every head, with prompts of unlike lengths: padding changes no loss and no verdict."""
    model = make(2, spread=0.6, **fields)
    examples = Unlike().load("validation")
    source = TaskBatches.of(model, examples)
    data = source.collate(range(6))
    assert not data.mask.all()
    total = counted = 0.0
    for i in range(6):
        alone = source.collate([i])
        labels = int((alone.labels != IGNORE).sum())
        total += loss_of(model, alone).item() * labels
        counted += labels
    assert loss_of(model, data).item() == pytest.approx(total / counted, rel=1e-9)
    one, several = evaluate(model, Unlike(), batch=1), evaluate(model, Unlike(), batch=6)
    assert one == pytest.approx(several, rel=1e-9)
    if fields:  # where the true classes are those that it picks for each example alone
        with no_grad():
            picked = [int(model(source.collate([i]).ids).data.argmax()) for i in range(6)]
            padded = model(data.ids).data.argmax(-1).tolist()
        assert picked != padded
        task = Unlike()
        task.load = lambda *args, **kwargs: [
            replace(e, label=c, target=e.options[c]) for e, c in zip(examples, picked, strict=True)
        ]
        assert evaluate(model, task, batch=6)["accuracy"] == 100


def test_the_rate_of_the_last_method_is_the_default():
    model = gpt()
    attach(model, TopK(k=1))
    attach(model, LoRA(r=2))
    history = fit(model, Rows(VOCAB), steps=1, schedule=AT_ONCE, quiet=True)
    assert history.lr == [LoRA.lr] and LoRA.lr != TopK.lr
    with pytest.raises(ValueError, match="fit needs lr=: no method is attached"):
        fit(gpt(), Rows(VOCAB), steps=1)


def test_the_evaluation_is_called_when_due_and_at_the_end():
    history, _ = run(5, evaluation=Evaluation(lambda m: {"x": m.config.width}, every=2))
    assert history.evaluations == [{"step": s, "x": 16} for s in (2.0, 4.0, 5.0)]
    history, _ = run(3, evaluation=lambda m: {"x": 1.0})
    assert history.evaluations == [{"step": 3.0, "x": 1.0}]


def test_progress_is_printed(monkeypatch, capsys):
    clock = iter(range(0, 1000, 3))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    run(3, quiet=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("training  1/3  loss ") and lines[0].endswith("s to go")
    assert lines[-1].startswith("training  done in ")


class Hooks(LoRA):
    """LoRA with a penalty, and a record of the steps."""

    def extra_loss(self, at):
        seen.append("loss")
        return sum((p * p).sum() for _, p in at.trainable()) * 10.0

    def after_step(self, at, step, total):
        seen.append((step, total))


seen: list = []


def test_the_hooks_of_a_method_are_called():
    seen.clear()
    model = gpt()
    handle = attach(model, Hooks(r=2))
    size = sum((p.data**2).sum() for _, p in handle.trainable())
    plain = loss_of(model, Rows(VOCAB).batch(0, 3, 0)).item()
    history, _ = run(2, model)
    assert seen == ["loss", (0, 2), "loss", (1, 2)]
    assert history.loss[0] == pytest.approx(plain + 10 * size)
    assert {len(norms) for norms in handle.gradients.values()} == {2}


# -- what is refused ------------------------------------------------------------------------------


def test_wrong_names_are_refused():
    with pytest.raises(ValueError, match="'adamw', 'sgd' or 'muon', got 'adam'"):
        run(optimizer="adam")
    with pytest.raises(ValueError, match="Schedule: decline must be .*'trapezoid', got 'down'"):
        run(schedule="down")


def test_nothing_trains():
    model = gpt()
    for p in model.parameters():
        p.requires_grad = False
    with pytest.raises(ValueError, match="nothing in the model trains: attach a method"):
        run(model=model)


def test_a_parameter_that_no_forward_pass_reaches_is_named():
    model = gpt()
    attach(model, Unused(r=2))
    with pytest.raises(RuntimeError, match="1 trainable parameters got no gradient.*spare"):
        run(1, model)


class Unused(LoRA):
    """LoRA with a Parameter that is not used."""

    def wrap(self, path, module, where):
        where.shared("spare", lambda: np.ones(3))
        return super().wrap(path, module, where)


@pytest.mark.parametrize(
    ("path", "operation"),
    [
        ("blocks.1.mlp.fc_in.weight", r"linear\(blocks.1.mlp.fc_in.weight"),
        ("blocks.0.ln_1.bias", r"layer_norm\(blocks.0.ln_1"),
        ("blocks.0.attn.q_proj.A", r"add_low_rank\(.*blocks.0.attn.q_proj.A"),
    ],
)
def test_a_loss_that_is_not_finite_is_traced_to_where_it_began(path, operation):
    model, _ = lora()
    bad = dict(model.named_parameters())[path]

    class Later(Rows):
        def batch(self, step, size, seed):
            if step == 2:
                bad.data = np.full_like(bad.data, np.nan)
            return super().batch(step, size, seed)

    ids = Rows(VOCAB).batch(2, 3, 7).ids[0].tolist()
    with pytest.raises(NonFiniteLoss, match=operation) as error:
        run(5, model, Later(VOCAB), seed=7)
    text = str(error.value)
    assert "at step 2 (seed 7, batch of 3 rows" in text and str(ids)[:-1] in text
    assert f"Parameters with NaN or infinity: {path}." in text


def test_too_high_a_rate_is_told_without_warnings():
    model, _ = lora(dtype=np.float32)
    with pytest.raises(NonFiniteLoss, match="A smaller lr, or clip=1.0, is the usual cure"):
        run(50, model, optimizer="sgd", lr=1e30, clip=None, schedule=AT_ONCE)


# -- going on after a stop ------------------------------------------------------------------------


class Stop(Exception):
    """The power fails."""


class Failing(Rows):
    def batch(self, step, size, seed):
        if step == 5:
            raise Stop
        return super().batch(step, size, seed)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(tmp_path, optimizer):
    def start():
        return lora(dropout=0.1)[0]

    file, settings = tmp_path / "state.safetensors", {"optimizer": optimizer}
    whole, wanted = run(7, start(), **settings)
    settings |= {"checkpoint": Checkpoint(file, every=2)}
    with pytest.raises(Stop):
        run(7, start(), Failing(VOCAB), **settings)
    assert load_arrays(file)[1]["steps"] == "5"  # also between two regular saves
    history, got = run(7, start(), **settings)
    assert history.loss == whole.loss and history.lr == whole.lr and len(history.seconds) == 7
    assert same(got, wanted)
    assert run(7, start(), **settings)[0].loss == whole.loss  # already done


def test_who_watches_is_told_every_step_once(tmp_path):
    def start():
        return lora()[0]

    seen, settings = [], {"checkpoint": Checkpoint(tmp_path / "state.safetensors", 2)}
    run(3, start(), watch=seen.append)
    assert seen == [0, 1, 2, 3]
    del seen[:]
    with pytest.raises(Stop):
        run(7, start(), Failing(VOCAB), watch=seen.append, **settings)
    assert seen == [0, 1, 2, 3, 4, 5]
    run(7, start(), watch=seen.append, **settings)
    assert seen == [0, 1, 2, 3, 4, 5, 6, 7]


def test_a_mask_that_hides_nothing_is_left_out():
    model, seen = bert(), []
    forward = model.forward
    model.forward = lambda ids, mask=None: seen.append(mask) or forward(ids, mask=mask)
    ids = np.array([[3, 4, 5], [6, 7, 1]])
    for mask in (np.ones((2, 3), bool), ids > 1):
        loss_of(model, Batch(ids, ids, mask))
    assert seen[0] is None and (seen[1] == (ids > 1)).all()


class Counting(LoRA):
    """LoRA whose scale falls as steps go by, from a count that is saved."""

    def after_step(self, at, step, total):
        at.count_ = getattr(at, "count_", 0) + 1
        for wrapper in at.wrappers.values():
            wrapper.scale = 2.0 / (1 + at.count_)

    def state(self, at):
        return {"count": np.array([getattr(at, "count_", 0)])}

    def load_state(self, at, state):
        at.count_ = int(state["count"][0]) - 1
        self.after_step(at, 0, 0)


def test_the_state_of_a_method_is_resumed(tmp_path):
    def start():
        model = gpt()
        attach(model, Counting(r=2))
        return model

    whole, wanted = run(7, start())
    settings = {"checkpoint": Checkpoint(tmp_path / "state.safetensors", 2)}
    with pytest.raises(Stop):
        run(7, start(), Failing(VOCAB), **settings)
    history, got = run(7, start(), **settings)
    assert history.loss == whole.loss and same(got, wanted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.01}, r"lr: 0.02 there, 0.01 here"),
        ({"seed": 1}, "seed: 0 there, 1 here"),
        ({"batch": 2}, "batch: 3 there, 2 here"),
        ({"steps": 9}, "steps: 4 there, 9 here"),
        ({"schedule": "cosine"}, "decline: 'linear' there, 'cosine' here"),
        ({"optimizer": "sgd"}, "optimizer: 'adamw' there"),
        ({"clip": None}, "clip: 1.0 there, None here"),
        ({"smoothing": 0.1}, "smoothing: 0.0 there, 0.1 here"),
        ({"task": Rows(VOCAB, 5)}, "data: "),
        ({"model": lora(1)[0]}, "frozen: "),
        ({"model": gpt()}, "methods: "),
    ],
)
def test_the_state_of_another_run_is_refused(tmp_path, change, message):
    file = tmp_path / "state.safetensors"
    run(checkpoint=file)
    with pytest.raises(CheckpointError, match=f"belongs to another run .*{message}"):
        run(**({"checkpoint": file} | change))


def test_other_files_are_no_training_states(tmp_path):
    file = tmp_path / "state.safetensors"
    save_arrays(file, {"x": np.ones(2)}, {})
    with pytest.raises(CheckpointError, match="is no training state: format=None"):
        run(checkpoint=file)
    run(checkpoint=tmp_path / "true.safetensors")
    arrays, facts = load_arrays(tmp_path / "true.safetensors")
    name = next(k for k in arrays if k.startswith("m:"))
    save_arrays(file, {k: a for k, a in arrays.items() if k != name}, facts)
    with pytest.raises(CheckpointError, match=f"state of other parameters: {name}"):
        run(checkpoint=file)
    save_arrays(file, arrays | {name: arrays[name][:1]}, facts)
    with pytest.raises(CheckpointError, match=f"state of other parameters: {name}"):
        run(checkpoint=file)


def test_another_machine_is_a_warning(tmp_path, monkeypatch):
    file = tmp_path / "state.safetensors"
    run(checkpoint=file)
    monkeypatch.setattr(
        "minipeft.training.resume.in_force", lambda: "openblas Other with 2 threads"
    )
    with pytest.warns(UserWarning, match="Other with 2 threads.*last bits may differ"):
        run(checkpoint=file)


# -- evaluate -------------------------------------------------------------------------------------


def test_a_classification_is_judged_by_its_verbalizers():
    model, examples = gpt(2), Sounds().load("validation")
    result = evaluate(model, Sounds(), batch=4)
    picked = [int(np.argmax(score(model, e.prompt, e.options))) for e in examples]
    assert 0 < sum(p == e.label for p, e in zip(picked, examples, strict=True)) < len(examples)
    assert result["accuracy"] == metrics.accuracy(picked, [e.label for e in examples])
    assert result["n"] == len(examples) == 6
    assert set(result) == {"loss", "n", "accuracy"}


def test_the_loss_is_per_target_token():
    model, examples = gpt(2), Sounds().load("validation")
    total, count = 0.0, 0
    for e in examples:
        data = TaskBatches(model, [e]).collate([0])
        n = int((data.labels != IGNORE).sum())
        total, count = total + loss_of(model, data).item() * n, count + n
    assert evaluate(model, Sounds(), batch=4)["loss"] == pytest.approx(total / count, abs=1e-12)
    source = TaskBatches(model, examples)
    assert mean_loss(model, source, batch=5) == pytest.approx(total / count, abs=1e-12)


def test_rows_without_a_label_do_not_count_in_a_mean_loss():
    class Some(Few):
        def __len__(self):
            return 4

        def collate(self, chosen):
            whole = self.batch(0, 4, 0)
            return Batch(*(a[list(chosen)] for a in (whole.ids, whole.labels, whole.mask)))

    model = gpt(2)
    wanted = loss_of(model, Some((6, 1, 0, 0)).batch(0, 4, 0)).item()
    for batch in (1, 2, 3, 4):
        assert mean_loss(model, Some((6, 1, 0, 0)), batch) == pytest.approx(wanted, abs=1e-12)
    with pytest.raises(ValueError, match="no loss where no label counts"):
        mean_loss(model, Some((0,)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["classification", "linear", "generation"])
def test_a_model_that_is_not_finite_gets_no_score(kind, value):
    model = gpt(head="linear", classes=5) if kind == "linear" else gpt()
    weight = model.blocks[1].mlp.fc_in.weight
    weight.data[0, 0] = value
    task = Sounds("generation" if kind == "generation" else "classification")
    with pytest.raises(NonFinite, match="the loss of rows 0 to 3 is not finite") as error:
        evaluate(model, task, batch=4)
    assert "First operation that went bad: linear(blocks.1.mlp.fc_in.weight" in str(error.value)
    assert "NaN or infinity: blocks.1.mlp.fc_in.weight" in str(error.value)


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 64])
def test_a_mean_loss_weighs_every_label_the_same(batch):
    """Rows of 1, 2, 5 and 9 labels, in batches whose last one may be short."""
    texts = [[4], [4, 5], [6, 7, 8, 9, 4], [9, 8, 7, 6, 5, 4, 9, 8, 7]]
    source = TokenBatches.apart([[3, *t] for t in texts], 12, end=0, fill=0)  # no end is learnt
    model, losses, counts = gpt(2), [], []
    for i in range(4):
        data = source.collate([i])
        losses.append(loss_of(model, data).item())
        counts.append(int((data.labels != IGNORE).sum()))
    assert len(set(counts)) == 4 and len({round(x, 3) for x in losses}) == 4
    wanted = np.average(losses, weights=counts)
    assert mean_loss(model, source, batch) == pytest.approx(wanted, abs=1e-12)
    assert abs(wanted - np.mean(losses)) > 0.01


def test_a_linear_head_is_judged_by_its_classes():
    model, examples = gpt(1, head="linear", classes=5), Sounds().load("validation")
    with no_grad():
        picked = [
            int(model(np.array([tokenizer().encode(e.prompt)])).data.argmax()) for e in examples
        ]
    result = evaluate(model, Sounds(), batch=4)
    assert result["accuracy"] == metrics.accuracy(picked, [e.label for e in examples])


def test_a_generation_is_judged_by_its_texts():
    model, task = gpt(0), Sounds("generation")
    fit(model, task, steps=40, lr=0.01, batch=6, quiet=True)
    result = evaluate(model, task, n=4)
    assert set(result) == {"loss", "n", "bleu", "rouge_l", "exact"}
    examples = task.load("validation", 4)
    texts = [t.strip() for t in generate_many(model, [e.prompt for e in examples])]
    references = [[r.strip() for r in e.references] for e in examples]
    assert result["bleu"] == metrics.bleu(texts, references)
    assert result["rouge_l"] == metrics.rouge_l(texts, references) > 50
    assert result["exact"] == metrics.exact_match(texts, references) > 0


class Asking(Sounds):
    """The same task with scores of its own; the mews and the barks are both true."""

    def __init__(self, kind, metric, *also):
        self.kind, self.metric, self.also = kind, metric, also

    def load(self, *args, **settings):
        found = super().load(*args, **settings)
        if self.kind == "generation":
            return [TableExample(**vars(e), slots=(e.target.strip(), "a fur")) for e in found]
        return [replace(e, references=(e.target, " barks", " meows")) for e in found]


def test_a_task_is_judged_by_what_it_names_too():
    model = gpt(2)
    for name in ("f1", "matthews", "mc1", "mc2"):
        result = evaluate(model, Asking("classification", name), batch=4)
        assert list(result) == ["loss", "n", name, "accuracy"]
    task = Asking("classification", "accuracy", "mc2", "f1", "matthews", "mc1")
    result, examples = evaluate(model, task, batch=4), task.load("validation")
    assert list(result)[:3] == ["loss", "n", "accuracy"] and len(result) == 7
    labels = [e.label for e in examples]
    scores = [score(model, e.prompt, e.options) for e in examples]
    picked = [int(np.argmax(s)) for s in scores]
    assert result["f1"] == metrics.f1(picked, labels)
    assert result["matthews"] == metrics.matthews(picked, labels) != result["f1"]
    assert result["mc1"] == result["accuracy"]
    true = [[o in e.references for o in e.options] for e in examples]
    assert result["mc2"] == pytest.approx(metrics.mc2(scores, true), abs=1e-9)
    result = evaluate(gpt(1, head="linear", classes=5), task)
    assert "matthews" in result and "mc2" not in result  # there are classes and no options


def test_a_text_is_judged_by_what_its_task_names_too():
    model, task = gpt(0), Asking("generation", "exact", "ter", "slot_error")
    fit(model, task, steps=40, lr=0.01, batch=6, quiet=True)
    result, examples = evaluate(model, task), task.load("validation")
    assert list(result) == ["loss", "n", "exact", "bleu", "rouge_l", "ter", "slot_error"]
    texts = [t.strip() for t in generate_many(model, [e.prompt for e in examples])]
    assert result["ter"] == metrics.ter(texts, [[e.target.strip()] for e in examples])
    assert result["slot_error"] == metrics.slot_error(texts, [e.slots for e in examples]) >= 50


def test_examples_are_of_the_split_and_pattern_asked_for():
    asked = []

    class Noting(Sounds):
        def load(self, split, n=None, seed=0, pattern=0):
            asked.append((split, n, seed, pattern))
            return super().load(split, n, seed, pattern)

    evaluate(gpt(), Noting(), "test", n=3, pattern=1, seed=5)
    fit(gpt(), Noting(), steps=1, lr=0.1, n=2, pattern=1, seed=3, quiet=True)
    assert asked == [("test", 3, 5, 1), ("train", 2, 0, 1)]


def test_malloc_is_tuned_only_where_it_may_be(monkeypatch):
    monkeypatch.setenv("MINIPEFT_MALLOC", "0")
    assert malloc.tune_malloc() is False
    monkeypatch.delenv("MINIPEFT_MALLOC")
    monkeypatch.setattr(malloc.platform, "libc_ver", lambda: ("", ""))
    assert malloc.tune_malloc() is False


def resident():
    """Bytes of this process that are in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def leave_freed_blocks():
    """Allocate 100 MB in blocks that malloc keeps when they are freed; what pins them."""
    blocks = [np.ones(1 << 17) for _ in range(100)]
    pin = np.ones(1 << 17)
    del blocks
    return pin


def test_freed_blocks_stay_neither_during_a_run_nor_after_it():
    if not malloc.tune_malloc():
        pytest.skip("posix: only glibc's malloc is tuned")
    start, seen = resident(), []
    pins = [leave_freed_blocks()]
    assert resident() - start > 90e6

    def watch(done):
        seen.append(resident() - start)
        if done == 2:
            pins.append(leave_freed_blocks())
            seen.append(resident() - start)

    run(2, watch=watch)
    assert seen[0] < 30e6 and seen[-1] > 80e6 and resident() - start < 30e6


# -- threads, the best weights, early stopping --------------------------------------------------


@pytest.mark.parametrize("kind", ["rows", "task"])
def test_threads_give_the_gradients_of_the_whole_batch(kind):
    """Parts of unlike size, with unlike numbers of labels: the mean is over labels."""
    task = Rows(VOCAB) if kind == "rows" else Sounds()
    one, a = run(3, task=task, batch=5)
    three, b = run(3, task=task, batch=5, threads=3)
    np.testing.assert_allclose(one.loss, three.loss, rtol=1e-12)
    for path in a:
        np.testing.assert_allclose(a[path], b[path], rtol=1e-9, atol=1e-13, err_msg=path)


def test_threads_repeat_to_the_bit():
    """What they draw is test_streams' matter."""
    runs = [run(3, lora(dropout=0.3)[0], batch=4, threads=2) for _ in range(2)]
    assert runs[0][0].loss == runs[1][0].loss and same(runs[0][1], runs[1][1])


def test_a_penalty_counts_once_a_step():
    def two_steps(batch, task=None, **settings):
        model = gpt()
        attach(model, Masked(keep=1.0, strength=10.0))
        for _, p in train.trainable(model):
            p.data = p.data + 0.1
        return run(2, model, task or Few(), batch=batch, **settings)

    history, wanted = two_steps(4)
    plain = loss_of(gpt(), Few().batch(0, 4, 0)).item()
    assert history.loss[0] > plain + 1  # there is a penalty
    for settings in (
        {"threads": 2, "batch": 4}, {"accumulate": 2, "batch": 2}, {"accumulate": 4, "batch": 1},
        {"accumulate": 2, "batch": 2, "threads": 2},
    ):  # fmt: skip
        found, got = two_steps(**settings)
        assert found.loss == pytest.approx(history.loss, rel=1e-12)
        assert all(np.abs(w - wanted[path]).max() < 1e-12 for path, w in got.items())
    late = two_steps(2, Few((0, 0, 3, 1)), accumulate=2)[0]  # the first batch has no label
    assert late.loss == pytest.approx(two_steps(4, Few((0, 0, 3, 1)))[0].loss, rel=1e-12)


def test_threads_notice_a_loss_that_is_not_finite():
    model, _ = lora()
    model.ln_f.weight.data = model.ln_f.weight.data * np.inf
    with pytest.raises(NonFiniteLoss, match="not finite at step 0"):
        run(1, model, batch=4, threads=2)


def scripted(*losses):
    """An evaluation that returns these losses, one after another, and what trained then."""
    seen = []

    def evaluation(model):
        seen.append(values(model))
        return {"loss": losses[len(seen) - 1]}

    return evaluation, seen


def test_the_best_weights_are_kept():
    evaluation, seen = scripted(3.0, 1.0, 2.0, 1.0)
    history, end = run(4, evaluation=Evaluation(evaluation, 1, "loss"))
    assert len(history.loss) == 4 and same(end, seen[1]) and not same(end, seen[3])
    evaluation, seen = scripted(3.0, 1.0, 2.0, 1.0)
    assert same(run(4, evaluation=Evaluation(evaluation, every=1))[1], seen[3])

    def accuracy(model):
        return {"accuracy": -evaluation(model)["loss"]}

    evaluation, seen = scripted(3.0, 1.0, 2.0, 5.0)
    assert same(run(4, evaluation=Evaluation(accuracy, 1, "accuracy"))[1], seen[1])


def test_patience_ends_a_run():
    evaluation, seen = scripted(3.0, 1.0, 2.0, 1.5, 0.1)
    history, end = run(9, evaluation=Evaluation(evaluation, 1, "loss", patience=2))
    assert len(history.loss) == 4 and same(end, seen[1])


def test_the_best_weights_survive_an_interruption(tmp_path):
    losses, state = (3.0, 1.0, 2.0, 2.5, 2.6, 2.7), tmp_path / "state.safetensors"
    settings = {"every": 1, "keep": "loss", "patience": 4}
    evaluation, seen = scripted(*losses)
    whole, end = run(9, evaluation=Evaluation(evaluation, **settings))

    class Stop(Exception):
        pass

    three, calls = scripted(*losses)

    def stopping(model):
        if len(calls) == 3:
            raise Stop
        return three(model)

    with pytest.raises(Stop):
        run(9, evaluation=Evaluation(stopping, **settings), checkpoint=Checkpoint(state, 1))
    rest, _ = scripted(*losses[3:])
    rest = Evaluation(rest, **settings)
    again, resumed = run(9, evaluation=rest, checkpoint=Checkpoint(state, 1))
    assert again.loss == whole.loss and again.evaluations == whole.evaluations
    assert same(resumed, end) and same(end, seen[1])


def test_keeping_needs_an_evaluation_with_that_number():
    with pytest.raises(ValueError, match="keep= must name a number of the evaluation, got ''"):
        Evaluation(lambda m: {}, keep="")
    with pytest.raises(ValueError, match="patience= needs keep="):
        Evaluation(lambda m: {}, patience=1)
    with pytest.raises(ValueError, match="keep='f1', but the evaluation returns loss, accuracy"):
        run(1, evaluation=Evaluation(lambda m: {"loss": 1.0, "accuracy": 2.0}, keep="f1"))


class Dropping(LoRA):
    """LoRA of which half of the parts go without it in each pass, by turns, as in AdapterDrop."""

    name = "dropping"
    skips = True

    def wrap(self, path, module, where):
        wrapper = super().wrap(path, module, where)
        wrapper.__class__ = type("Dropped", (Dropped, type(wrapper)), {})
        wrapper.turn = where.layer
        return wrapper


class Dropped:
    never = False

    def forward(self, x):
        self.turn += 1
        return self.base(x) if self.never or self.turn % 2 else super().forward(x)


def test_a_method_may_skip_parts_but_not_for_ever():
    model = gpt()
    handle = attach(model, Dropping(r=2))
    fit(model, Rows(VOCAB), steps=4, lr=0.01, batch=2, quiet=True)
    assert all(np.any(p.data) for path, p in handle.trainable() if path.endswith("B"))
    handle.detach()
    handle = attach(model, Dropping(r=2))
    next(iter(handle.wrappers.values())).never = True
    steps = []
    with pytest.raises(RuntimeError, match="2 trainable parameters got no gradient"):
        fit(model, Rows(VOCAB), steps=30, lr=0.01, batch=2, quiet=True, watch=steps.append)
    assert len(steps) == train.WATCHED  # before the first step, and after all but the last of them
