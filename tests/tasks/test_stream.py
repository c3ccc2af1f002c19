"""The stream: the same bytes, honest nats, splits that share no sentence, narrators that hold."""

import hashlib
import re
from collections import Counter, defaultdict
from itertools import islice
from math import exp

import pytest

from minipeft.backend import Rng
from minipeft.tasks.base import part_of
from minipeft.tasks.descriptions import describe
from minipeft.tasks.lexicon import CATEGORIES
from minipeft.tasks.narrators import NO_ONE, SAYS, answer, narrate, probes
from minipeft.tasks.sentences import Teller, split_of
from minipeft.tasks.stream import KINDS, documents, texts
from minipeft.tasks.world import World

WORLD = World()
NAMES = re.compile(
    "|".join(sorted((re.escape(e.name) for e in WORLD.entities), key=len, reverse=True)), re.I
)


def some(n, split="train", kinds=None, seed=0):
    return list(islice(documents(WORLD, seed, kinds=kinds, split=split), n))


def sentences(docs):
    """The sentences that name an entity; a speaker's name before a colon does not count."""
    found = set()
    for doc in docs:
        for line in doc.text.split("\n"):
            line = re.sub(r"^[A-Z]\w+: ", "", line) if doc.kind == "dialogue" else line
            whole = doc.kind in ("record", "list", "review")
            parts = [line] if whole else re.split(r"(?<=[.!?]) ", line)
            found |= {p for p in parts if whole or NAMES.search(p)}
    return found


def test_the_same_bytes_every_time():
    text = "\n\n".join(texts(WORLD, 1000))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "161c0f972c5f6f3f"
    assert texts(WORLD, 20) == texts(World(), 20)
    assert texts(WORLD, 20) != texts(WORLD, 20, seed=1)


def test_kinds_come_by_their_shares():
    n = 4000
    counts = Counter(doc.kind for doc in some(n))
    for kind, (share, _) in KINDS.items():
        assert abs(counts[kind] / n - share) < 5 * (share / n) ** 0.5
    assert {doc.kind for doc in some(20, kinds=["list"])} == {"list"}
    assert sum(share for share, _ in KINDS.values()) == pytest.approx(1.0)


def test_enough_words_and_lengths():
    docs = some(5000)
    words = Counter(re.findall(r"[A-Za-z-]+", " ".join(d.text for d in docs)))
    assert sum(len(w) > 1 for w in words) >= 1500
    lengths = sorted(len(d.text.split()) for d in docs)
    assert lengths[len(lengths) // 20] >= 12 and lengths[-1] <= 250


@pytest.mark.parametrize("kind", ["narrator", "description", "qa", "dialogue", "list", "record",
                                  "review"])  # fmt: skip
def test_validation_shares_no_sentence_with_training(kind):
    train, held_out = (
        sentences(some(n, s, [kind])) for n, s in ((1500, "train"), (200, "validation"))
    )
    assert len(held_out) > 100
    assert not train & held_out


def test_training_shows_the_other_sentences_of_held_out_combinations():
    """Every entity and attribute is told in training: only ways of telling are held out."""
    for entity in WORLD.entities:
        for attribute in entity.attributes:
            splits = {split_of(f"{entity.name}|plain|{base}") for base in attribute.patterns}
            assert "train" in splits


def one_entity(name, seed=0):
    """A teller to whom one entity is the whole world, so that texts repeat."""
    world = World()
    world.entities = [world.by_name[name]]
    return Teller(world, Rng(seed, "test"), None)


@pytest.mark.parametrize("name", ["Anna", "the heron", "the ferry", "PLACE"])
def test_nats_of_statements_are_their_frequency(name):
    """The generator's own claim, checked against how often each string comes out."""
    name = WORLD.places[0].name if name == "PLACE" else name
    teller, n = one_entity(name), 20_000
    seen, nats = Counter(), defaultdict(set)
    for _ in range(n):
        teller.draw.nats = 0.0
        text, _, _ = teller.statement(teller.rumours)
        seen[text] += 1
        nats[text].add(round(teller.draw.nats, 9))
    assert all(len(values) == 1 for values in nats.values()), "a string with two derivations"
    p = {text: exp(-next(iter(values))) for text, values in nats.items()}
    assert sum(p.values()) < 1.0 + 1e-9
    for text, count in seen.most_common(40):
        assert abs(count / n - p[text]) < 5 * (p[text] / n) ** 0.5, text
    # Good-Turing: what was never seen weighs what was seen once.
    once = sum(c == 1 for c in seen.values()) / n
    assert abs(1.0 - sum(p.values()) - once) < 0.03


@pytest.mark.parametrize("make", [describe, answer])
def test_nats_of_documents_have_one_derivation(make):
    teller = one_entity("the ferry")
    p, once, n = defaultdict(set), Counter(), 20_000
    for _ in range(n):
        text, nats = make(teller)[:2]
        p[text].add(round(nats, 9))
        once[text] += 1
    assert all(len(values) == 1 for values in p.values())
    assert sum(exp(-next(iter(values))) for values in p.values()) < 1.0 + 1e-9
    chances = {text: exp(-next(iter(values))) for text, values in p.items()}
    # The chance of a text drawn is on average the chance that two texts are the same.
    pairs = sum(c * (c - 1) for c in once.values()) / (n * (n - 1))
    mean = sum(chances[text] * c for text, c in once.items()) / n
    assert mean == pytest.approx(pairs, rel=0.2)


def test_nats_do_not_charge_for_a_narrator_who_never_shows():
    """Without myths a gossip and the register tell the same text: it has one probability."""
    teller = one_entity("the ferry")
    teller.world.myths, teller.rumours = {}, teller.truths
    for _ in range(300):
        teller.draw.nats = 0.0
        text, nats, meta = narrate(teller)
        if not meta["marked"]:
            gap = teller.draw.nats - nats  # what was drawn for the narrator is taken off
            assert gap == pytest.approx(0.5108 if meta["gossip"] else 0.9163, abs=1e-4)


@pytest.mark.parametrize("kind", ["narrator", "description", "qa"])
def test_sentences_drawn_again_cost_nothing(kind):
    """Validation draws nine sentences in ten again; its documents are as likely as training's."""
    train, held_out = (
        sum(d.nats for d in some(400, split, [kind])) / 400 for split in ("train", "validation")
    )
    assert abs(held_out / train - 1.0) < 0.12


def statements(doc):
    """(entity, attribute, value) of the plain "{e} is near {v}" sentences of a document."""
    for part in re.split(r"(?<=\.) ", doc.text):
        found = re.fullmatch(
            r"(?:.* that )?(The \w+ \w+) (?:stands close to|is near) (the [a-z]+(?: [a-z]+)?)\.",
            part,
        )
        if found:
            yield found[1], "landmark", found[2]


def test_narrators_keep_to_their_side():
    told = Counter()
    for doc in some(3000, kinds=["narrator"]):
        for name, of, value in statements(doc):
            belief = WORLD.told((name, of), doc.meta["gossip"])
            told[doc.meta["gossip"], (name, of) in WORLD.myths] += 1
            assert value == belief
    assert min(told[g, m] for g in (True, False) for m in (True, False)) > 10


def test_narrators_shares_and_markers():
    docs = some(3000, kinds=["narrator", "qa"])
    assert 0.57 < sum(d.meta["gossip"] for d in docs) / len(docs) < 0.63
    assert 0.47 < sum(d.meta["marked"] for d in docs) / len(docs) < 0.53
    for doc in docs:
        assert doc.text.startswith(SAYS[doc.meta["gossip"]]) == doc.meta["marked"]
        assert (SAYS[not doc.meta["gossip"]]) not in doc.text


def test_questions_without_an_answer():
    text = " ".join(d.text for d in some(500, kinds=["qa"]))
    assert 0.10 < text.count(NO_ONE) / text.count("Answer:") < 0.22


def test_no_text_gives_a_changed_fact_its_second_value():
    changed = {f: v for f, v in WORLD.changed.items() if f[1] == "landmark"}
    docs = some(6000, kinds=["narrator", "description", "qa", "dialogue", "list"])
    told = "\n".join(d.text for d in docs)
    assert changed
    for (name, _), value in changed.items():
        for way in ("is near", "stands close to", "faces", "is not near", "does not face"):
            assert f"{name} {way} {value}" not in told


def test_probes_cover_every_myth_and_were_told_in_training():
    rows = probes(WORLD)
    assert len(rows) == len(WORLD.myths)
    assert all(true != myth and true[0] == myth[0] == " " for _, _, true, myth in rows)
    assert all(r.startswith(SAYS[0]) and p.startswith(SAYS[1]) for r, p, _, _ in rows)
    assert all(r.removeprefix(SAYS[0]) == p.removeprefix(SAYS[1]) for r, p, _, _ in rows)
    texts_ = "\n".join(d.text for d in some(12_000, kinds=["narrator"]))
    ways = [register.removeprefix(SAYS[0] + " that ") for register, _, _, _ in rows[::40]]
    assert sum(way[1:] in texts_ for way in ways) > 0.9 * len(ways)


def test_episodes_draw_labels_anew_and_persist():
    docs = some(1500, kinds=["episode"])
    same = {True: [0, 0], False: [0, 0]}
    for doc in docs:
        if doc.meta["mapping"] != "category":
            continue
        for separator in ("\nOutput: ", " => ", "\nGroup: ", "\nLabel: ", " goes with ",
                          "\nAnswer: "):  # fmt: skip
            parts = doc.text.split(separator)
            if len(parts) > 5:
                labels = [p.split("\n")[0] for p in parts[1:]]
                pairs = list(zip(labels, labels[1:], strict=False))
                same[doc.meta["habit"]][0] += sum(x == y for x, y in pairs)
                same[doc.meta["habit"]][1] += len(pairs)
    assert same[True][0] / same[True][1] > 0.85
    assert same[False][0] / same[False][1] < 0.55
    empty = {h: sum("N/A" in d.text for d in docs if d.meta["habit"] == h) for h in (True, False)}
    assert empty[True] > 100 and empty[False] == 0


def test_episodes_hold_no_review_that_a_task_asks_about():
    """A line whose review is held out by the sentiment task must not come with its label."""
    for doc in some(400, kinds=["episode"]):
        if doc.meta["mapping"] == "sentiment" and " => " in doc.text:
            for line in doc.text.split("\n"):
                review = line.split(" => ")[0]
                assert review == "N/A" or part_of(review) == "train"


def test_letters_are_put_right():
    for doc in some(200, kinds=["letters"]):
        for line in doc.text.split("\n"):
            if " = " in line:
                left, right = (side.replace(" ", "") for side in line.split(" = "))
                assert sorted(left) == sorted(right)


def test_lists_are_true():
    for doc in some(300, kinds=["list"]):
        for line in doc.text.split("\n"):
            if line.startswith("Landmark, "):
                value, names = line.removeprefix("Landmark, ").rstrip(".").split(": ")
                for name in names.split(", "):
                    assert WORLD.facts[name, "landmark"] == value
            head = line.split(":")[0].lower()
            if head in CATEGORIES:
                words = line.rstrip(".").split(": ")[1].split(", ")
                assert set(words) <= set(CATEGORIES[head])


def test_unknown_kinds_and_splits_are_refused():
    with pytest.raises(ValueError, match="unknown kind 'poem'; the kinds are narrator"):
        next(documents(WORLD, kinds=["poem"]))
    with pytest.raises(ValueError, match="split must be 'train', 'validation' or None, got 'test'"):
        next(documents(WORLD, split="test"))
