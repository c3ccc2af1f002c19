"""The recipe of the base models in small: text, rows, a model file with its card."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from minipeft.corpus import pretraining as recipes
from minipeft.corpus.pretraining import (
    RECIPES,
    Leg,
    MixedLengths,
    pretrain,
    rows,
    train_tokenizer,
)
from minipeft.corpus.stream import texts
from minipeft.engine import no_grad
from minipeft.models import build, preset
from minipeft.storage.checkpoint import fingerprint, load_model
from minipeft.storage.files import data_dir
from minipeft.storage.text import Tokenizer
from minipeft.tasks.shapes import Shapes
from minipeft.training.batches import TokenBatches
from minipeft.training.evaluation import mean_loss
from minipeft.training.looks import History
from minipeft.training.loop import fit
from minipeft.training.resume import Checkpoint
from minipeft.world.town import World

SMALL = {"megabytes": 0.03, "length": 32, "batch": 4, "steps": 4, "long_every": 3,
         "later": Leg()}  # fmt: skip


@pytest.fixture
def small(monkeypatch):
    """Recipes that take a second."""
    for name, recipe in RECIPES.items():
        size = {"pictures": 64, "batch": 16, "steps": 4} if recipe.pictures else SMALL
        checkpoints = (0, 2, 3) if recipe.checkpoints else ()
        monkeypatch.setitem(RECIPES, name, replace(recipe, **size, checkpoints=checkpoints))
    monkeypatch.setattr(recipes, "HELD_OUT_MEGABYTES", 0.004)
    monkeypatch.setattr(recipes, "HELD_OUT_PICTURES", 100)
    return RECIPES["tiny-gpt"]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load(data_dir() / "tokenizer.json")


def test_the_shipped_tokenizer_fits_the_models(tokenizer):
    for name in ("tiny-gpt", "gpt-0.2m", "gpt-3.1m"):
        assert tokenizer.vocab_size == preset(name).vocab
    assert tokenizer.mask_id + 1 == preset("tiny-bert").vocab


def test_every_recipe_is_of_a_model_and_v1():
    for name, recipe in RECIPES.items():
        config = preset(name)
        assert recipe.version == "v1" and hasattr(config, "image") == bool(recipe.pictures)
        assert all(0 <= step < recipe.steps for step in recipe.checkpoints)
    assert {preset(n).context for n in RECIPES if "vit" not in n} == {256}
    first, *rest = RECIPES["tiny-gpt"].checkpoints  # the end is the sixth
    ratios = [b / a for a, b in zip(rest, [*rest[1:], RECIPES["tiny-gpt"].steps], strict=True)]
    assert first == 0 and len(rest) == 4 and max(ratios) < 1.5 * min(ratios)


def test_a_tokenizer_is_trained_on_the_stream():
    one, two = (train_tokenizer(World(0), 0.05, 400) for _ in range(2))
    text = "\n".join(texts(World(0), 5))
    assert one.encode(text) == two.encode(text) and one.decode(one.encode(text)) == text
    assert one.vocab_size == 400 and len(one.encode(text)) < 0.6 * len(text)


def test_rows_are_the_stream_packed(tokenizer):
    packed = rows(tokenizer, World(0), 0, "train", 0.01, 32)
    first = [*tokenizer.encode(texts(World(0), 1)[0]), tokenizer.end_id]
    assert packed.rows.shape[1] == 33
    assert packed.rows[0, : len(first)].tolist() == first[:33]
    filled = int((packed.rows != tokenizer.pad_id).sum())
    assert 0.5 * 0.01e6 / 5 < filled < 0.01e6 / 2
    held = rows(tokenizer, World(0), 0, "validation", 0.01, 32)
    known = {tuple(r) for r in packed.rows.tolist()}
    assert not any(tuple(r) in known for r in held.rows.tolist())


def test_every_nth_batch_has_long_rows_and_as_many_tokens():
    short, long = (TokenBatches(np.arange(40 * n).reshape(40, n), -1) for n in (9, 17))
    mixed = MixedLengths(short, long, every=3)
    got = [mixed.batch(step, 4, seed=1).ids for step in range(9)]
    assert [x.shape for x in got] == [(4, 8), (4, 8), (2, 16)] * 3
    assert (got[0] == short.batch(0, 4, 1).ids).all()
    assert all((got[3 * i + 2] == long.batch(i, 2, 1).ids).all() for i in range(3))
    assert mixed.batch(2, 1, seed=1).ids.shape == (1, 16)


def test_as_many_tokens_is_the_nearest_number_of_rows():
    for width, size, rows_ in ((13, 8, 5), (13, 4, 2), (12, 4, 3), (40, 4, 1), (80, 4, 1)):
        usual, other = (TokenBatches(np.arange(40 * n).reshape(40, n), -1) for n in (8, width))
        for mixed in (MixedLengths(usual, other, every=1),
                      MixedLengths(usual, usual, every=99, first=other, until=9)):  # fmt: skip
            assert len(mixed.batch(0, size, seed=1).ids) == rows_, (width, size)


def test_text_ends_before_its_limit():
    for megabytes in (0.001, 0.004):
        taken = recipes._texts(World(0), 0, "train", megabytes)
        stream = texts(World(0), len(taken) + 1)
        assert taken == stream[:-1]
        assert sum(map(len, taken)) < megabytes * 1e6 <= sum(map(len, stream))


def test_a_story_tells_the_mean_of_each_part_of_the_losses():
    losses = [float(i) for i in range(83)]  # parts of two, and one that is left
    history = History(losses, [0.1] * 83, [36.0] * 83, [{"step": 83.0, "loss": 1.23456}])
    story = recipes._story(history, 5.0)
    assert story["training_curve"] == [2 * i + 0.5 for i in range(41)] + [82.0]
    assert story["hours"] == 0.83 and story["validation_curve"] == [(83, 1.2346)]
    assert story["validation_loss"] == 1.2346 and "validation_step" not in story


def test_pictures_are_judged_to_the_last(monkeypatch):
    """101 of them, in parts of a hundred."""
    monkeypatch.setattr(recipes, "HELD_OUT_PICTURES", 101)
    model, recipe = build(preset("tiny-vit"), seed=1), RECIPES["tiny-vit"]
    train, evaluation = recipes._on_pictures(model, replace(recipe, pictures=8))
    held = Shapes().load("validation", 101, recipe.seed)
    with no_grad():
        logits = model(held.pixels).data.astype(np.float64)
    right = logits.argmax(1) == held.labels
    nats = np.log(np.exp(logits).sum(1)) - logits[np.arange(101), held.labels]
    found = evaluation(model)
    assert len(train) == 8 and found["accuracy"] == pytest.approx(100 * right.mean())
    assert found["loss"] == pytest.approx(nats.mean(), rel=1e-5)


def test_the_first_batches_may_have_shorter_rows_and_as_many_tokens():
    few, short, long = (TokenBatches(np.arange(40 * n).reshape(40, n), -1) for n in (5, 9, 17))
    mixed = MixedLengths(short, long, every=3, first=few, until=4)
    got = [mixed.batch(step, 4, seed=1).ids for step in range(6)]
    assert [x.shape for x in got] == [(7, 4), (7, 4), (2, 16), (7, 4), (4, 8), (2, 16)]
    assert (got[3] == few.batch(3, 7, 1).ids).all() and (got[4] == short.batch(4, 4, 1).ids).all()


def test_a_model_is_written_with_its_card(small, tmp_path, tokenizer):
    file = tmp_path / "models" / "mine.safetensors"  # the folder is made
    card = pretrain("tiny-gpt", file, quiet=True)
    model = load_model(file)
    assert model.card == json.loads(json.dumps(card))
    assert card["command"] == "minipeft pretrain tiny-gpt" and card["recipe"]["steps"] == 4
    assert card["tokens_seen"] == 4 * 4 * 32 and len(card["training_curve"]) == 4
    assert [step for step, _ in card["validation_curve"]] == [1, 2, 3, 4]
    context = model.config.context
    held = rows(tokenizer, World(small.world), small.seed, "validation", 0.004, context)
    stored = mean_loss(model, held, 32)
    assert card["validation_loss"] == pytest.approx(stored, abs=0.01)  # half precision
    assert stored < np.log(model.config.vocab)
    before = card["validation_curve"][0][1]
    assert card["validation_loss"] < before


def test_checkpoints_are_written_on_the_way(small, tmp_path):
    card = pretrain("tiny-gpt", tmp_path / "mine.safetensors", quiet=True)
    names = {f"mine-{k}.safetensors" for k in (0, 2, 3)}
    assert {f.name for f in tmp_path.iterdir()} == names | {"mine.safetensors"}
    models = {k: load_model(tmp_path / f"mine-{k}.safetensors") for k in (0, 2, 3)}
    untrained = build(preset("tiny-gpt"), seed=small.seed).state_dict()
    for name, array in models[0].state_dict().items():
        assert (array == untrained[name].astype("f2").astype("f4")).all()
    curve = dict(card["validation_curve"])
    for k, model in models.items():
        told = model.card
        assert (told["name"], told["steps"]) == (f"tiny-gpt-{k}", k)
        assert told["tokens_seen"] == k * 4 * 32 and told["command"] == card["command"]
        assert k == 0 or told["validation_loss"] == curve[k]
    assert models[0].card["validation_loss"] > curve[2] > curve[3]


def test_a_bert_s_second_leg_hides_other_shares(small, monkeypatch, tmp_path):
    later = Leg("judgements", 0.03, 2, 0.01, rate=0.2, last=0.6)
    monkeypatch.setitem(RECIPES, "tiny-bert", replace(RECIPES["tiny-bert"], later=later))
    seen = []

    def watched(model, train, *, evaluation, **settings):
        hiding = [(rows.rate, rows.last) for rows in (train.rows, train.long)]
        seen.append((*hiding, evaluation.of(model)))
        return fit(model, train, evaluation=evaluation, **settings)

    monkeypatch.setattr(recipes, "fit", watched)
    card = pretrain("tiny-bert", tmp_path / "bert.safetensors", quiet=True)
    assert [s[:2] for s in seen] == [2 * ((0.3, 0.0),), 2 * ((0.2, 0.6),)]
    assert all(set(s[2]) == {"loss", "long_loss"} for s in seen)
    assert card["recipe"]["later"]["last"] == 0.6 and card["validation_long_loss"] > 0


@pytest.fixture
def leg(small):
    """A leg on judgements that begins with comparisons alone."""
    recipe = replace(RECIPES["tiny-bert"], short=(0, 0))
    later = Leg("judgements", rate=0.05, last=1.0, first=("comparisons", 52, 5))
    return recipes._on_text(build(preset("tiny-bert")), recipe, later)[0]


def test_judgements_are_rows_of_their_own(leg, tokenizer):
    ended = (leg.rows.rows == tokenizer.end_id).cumsum(axis=1) > 0
    assert 0 < ended[:, -1].mean() < 1  # some fit into the row, some do not
    assert set(leg.rows.rows[ended]) == {tokenizer.end_id, tokenizer.pad_id}
    assert leg.long is leg.rows


def test_a_leg_may_begin_with_rows_of_another_mix(leg, tokenizer):
    def compared(step):
        batch = leg.batch(step, 20, seed=0)
        whole = np.where(batch.labels >= 0, batch.labels, batch.ids)
        texts = [tokenizer.decode(row) for row in whole.tolist()]
        return batch.ids.shape, np.mean([" | so\nname " in text for text in texts])

    assert leg.every == 3
    for step in (0, 1, 3, 4):
        assert compared(step) == ((12, 52), 1.0)
    for step in (2, 5, 6, 7):  # every third is of the mix itself
        shape, share = compared(step)
        assert shape == (20, 32) and 0 < share < 1


def test_a_second_leg_goes_on_with_other_text(small, monkeypatch, tmp_path):
    first = pretrain("tiny-gpt", tmp_path / "first.safetensors", quiet=True)
    later = Leg("context", 0.03, 3, 0.01)
    monkeypatch.setitem(RECIPES, "tiny-gpt", replace(small, later=later))
    seen = []

    def stopped(model, train, **settings):
        seen.append((train, settings))
        if len(seen) == 2:  # the state after two steps of the second leg
            one = {"watch": lambda step: {}[step] if step == 2 else None,
                   "checkpoint": Checkpoint(settings["checkpoint"], 1)}  # fmt: skip
            with pytest.raises(KeyError):
                fit(model, train, **settings | one)
            raise InterruptedError
        return fit(model, train, **settings)

    state = tmp_path / "state.safetensors"
    monkeypatch.setattr(recipes, "fit", stopped)
    with pytest.raises(InterruptedError):
        pretrain("tiny-gpt", tmp_path / "mine.safetensors", checkpoint=state, quiet=True)
    (one, before), (two, after) = seen
    assert before["steps"] == 4 and (after["steps"], after["lr"]) == (3, 0.01)
    kinds = "Not true[.]|Wrong[.]|That is a myth|So people say"  # LATER has verdicts
    tokenizer = Tokenizer.load(data_dir() / "tokenizer.json")
    found = [re.search(kinds, tokenizer.decode(x.rows.rows.ravel().tolist())) for x in (one, two)]
    assert found[0] is None and found[1] is not None
    monkeypatch.setattr(recipes, "fit", fit)
    card = pretrain("tiny-gpt", tmp_path / "mine.safetensors", checkpoint=state, quiet=True)
    whole = pretrain("tiny-gpt", tmp_path / "whole.safetensors", quiet=True)
    models = [load_model(tmp_path / f"{n}.safetensors") for n in ("mine", "whole", "first")]
    a, b, c = (fingerprint(m.state_dict()) for m in models)
    assert a == b != c and card["validation_curve"] == whole["validation_curve"]
    assert card["steps"] == 7 and card["tokens_seen"] == 7 * 4 * 32 and len(card["passes"]) == 2
    assert card["validation_curve"][:4] == first["validation_curve"]
    assert [step for step, _ in card["validation_curve"]] == list(range(1, 8))


def test_a_bert_fills_in_masked_words(small, tmp_path, tokenizer):
    file = tmp_path / "mine.safetensors"
    card = pretrain("tiny-bert", file, quiet=True)
    model = load_model(file)
    assert type(model).__name__ == "BERT" and list(tmp_path.iterdir()) == [file]
    losses = [loss for _, loss in card["validation_curve"]]
    assert losses == sorted(losses, reverse=True) and losses[-1] < np.log(2001)
    assert card["tokens_seen"] == 4 * 4 * 32
    train, _ = recipes._on_text(model, RECIPES["tiny-bert"])
    for step, shape in enumerate([(4, 32), (4, 32), (1, 256)]):  # as long as a GPT's
        batch = train.batch(step, 4, seed=0)
        assert batch.ids.shape == shape and (batch.ids[:, 0] == tokenizer.end_id).all()
        hidden = batch.labels >= 0
        assert 0.02 < hidden.mean() < 0.4 and (batch.ids[hidden] == tokenizer.mask_id).mean() > 0.5


def test_a_vit_tells_shapes_apart(small, tmp_path):
    file = tmp_path / "mine.safetensors"
    card = pretrain("tiny-vit", file, quiet=True)
    model = load_model(file)
    assert card["pictures_seen"] == 64 and "tokens_seen" not in card and card["passes"] == [1.0]
    images = Shapes().load("validation", 100)
    with no_grad():
        logits = model(images.pixels).data
    right = 100 * np.mean(logits.argmax(1) == images.labels)
    assert card["validation_accuracy"] == pytest.approx(right, abs=2.1)  # half precision
    train, _ = recipes._on_pictures(model, RECIPES["tiny-vit"])
    shown = Shapes().load("train", 64)
    assert (train.pixels == shown.pixels).all() and (train.labels == shown.labels).all()


def test_the_recipe_trains_on_the_training_text(small, tmp_path, monkeypatch, tokenizer):
    class Caught(Exception):
        pass

    def fit(model, source, **settings):
        raise Caught(source)

    monkeypatch.setattr(recipes, "fit", fit)
    with pytest.raises(Caught) as caught:
        pretrain("tiny-gpt", tmp_path / "mine.safetensors", quiet=True)
    mixed = caught.value.args[0]
    for source, length in ((mixed.rows, 32), (mixed.long, preset("tiny-gpt").context)):
        wanted = rows(tokenizer, World(0), small.seed, "train", small.megabytes, length)
        assert (source.rows == wanted.rows).all()


def test_a_stopped_run_goes_on_to_the_same_model(small, tmp_path, monkeypatch):
    whole = pretrain("tiny-gpt", tmp_path / "whole.safetensors", quiet=True)
    state = tmp_path / "state.safetensors"
    fit, calls = recipes.fit, []

    def failing(model, source, **settings):
        def evaluation(m):
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return settings["evaluation"].of(m)

        settings["checkpoint"] = Checkpoint(settings["checkpoint"], 1)
        judged = replace(settings["evaluation"], of=evaluation)
        return fit(model, source, **settings | {"evaluation": judged})

    monkeypatch.setattr(recipes, "fit", failing)
    with pytest.raises(KeyboardInterrupt):
        pretrain("tiny-gpt", tmp_path / "mine.safetensors", checkpoint=state, quiet=True)
    assert not (tmp_path / "mine.safetensors").exists()
    card = pretrain("tiny-gpt", tmp_path / "mine.safetensors", checkpoint=state, quiet=True)
    assert len(calls) == 5  # steps 3 and 4 anew, not 1 and 2
    assert card["training_curve"] == whole["training_curve"]
    for step in ("{}", "{}-0", "{}-2", "{}-3"):
        files = (tmp_path / f"{step.format(n)}.safetensors" for n in ("whole", "mine"))
        a, b = (load_model(file).state_dict() for file in files)
        assert all((a[k] == b[k]).all() for k in a)


def test_an_unknown_recipe_names_the_known():
    with pytest.raises(ValueError, match="no recipe 'tiny-gtp'; there are tiny-gpt"):
        pretrain("tiny-gtp")
    with pytest.raises(ValueError, match="steps must be a whole number >= 1, got 0"):
        pretrain("tiny-gpt", steps=0)
