"""The stream: the same bytes, honest nats, splits that share no sentence, narrators that hold."""

import hashlib
import re
from collections import Counter, defaultdict
from itertools import islice
from math import exp

import pytest

from minipeft.backend import Rng
from minipeft.corpus.episodes import LOOKED_UP
from minipeft.corpus.stream import KINDS, LATER, documents, texts
from minipeft.tasks.acceptability import Acceptability
from minipeft.tasks.choice import Choice
from minipeft.tasks.nli import NLI
from minipeft.tasks.paraphrase import Paraphrase
from minipeft.tasks.summary import Summary
from minipeft.world.descriptions import describe
from minipeft.world.grammar import join
from minipeft.world.lexicon import CATEGORIES, LABELS
from minipeft.world.narrators import NO_ONE, SAYS, VERDICTS, answer, narrate, probes
from minipeft.world.records import CATEGORIES as CATEGORIES_OF_RECORDS
from minipeft.world.sentences import Teller, bend, deny, fill, part_of, split_of
from minipeft.world.town import World
from tests.tasks import test_summary
from tests.tasks.baselines import parts
from tests.tasks.reader import good_english, relation, same
from tests.tasks.test_sentiment import read as read_review

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
        for line in [doc.text] if doc.kind == "summary" else doc.text.split("\n"):
            line = re.sub(r"^[A-Z]\w+: ", "", line) if doc.kind == "dialogue" else line
            if line.startswith("Answer: ") or (doc.kind, line[-1]) == ("claims", "?"):
                continue
            whole = doc.kind in ("record", "list", "review", "claims", "summary")
            parts = [line] if whole else re.split(r"(?<=[.!?]) ", line)
            found |= {p for p in parts if whole or NAMES.search(p)}
    return found


def test_the_same_bytes_every_time():
    text = "\n\n".join(texts(WORLD, 1000))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "5c012f59dc217975"
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
                                  "review", "claims", "summary"])  # fmt: skip
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


SPLITTERS = "(?: Answer: |\nOutput: | => |\nLabel: |\nVerdict: )"
READERS = {
    "nli": relation, "paraphrase": same, "acceptability": good_english,
}  # fmt: skip


@pytest.mark.parametrize("mapping", READERS)
def test_episodes_on_claims_are_labelled_rightly(mapping):
    read = 0
    for doc in some(1500, kinds=["episode"]):
        if doc.meta["mapping"] == mapping:
            words = doc.meta["words"]
            form = rf"(?:Input: |Text: |Lines: )?((?:.+\.\n)?.+\.){SPLITTERS}({'|'.join(words)})$"
            for text, word in re.findall(form, doc.text, re.MULTILINE):
                things = re.split(r" So: | / |(?<=\.)\s", text)
                assert READERS[mapping](*things) == words.index(word), (text, word)
                read += 1
    assert read > 250


def test_no_episode_holds_what_a_task_asks_about():
    text = "\n".join(d.text for d in some(1500, kinds=["episode"])).lower()
    for task in (NLI(), Paraphrase(), Acceptability()):
        for split in ("validation", "test"):
            for e in task.load(split, 200):
                whole = [t for t in parts(e, task.patterns[0]) if not t.startswith("Some")]
                assert not any(t.lower() in text for t in whole), whole


def test_summaries_are_right_and_of_the_train_part():
    category = {k: c for c, spec in CATEGORIES_OF_RECORDS.items() for k in spec.kinds}
    summaries = set()
    for doc in some(200, kinds=["summary"]):
        text, said = doc.text.split("\nIn short:")
        kind = next(k for k in re.findall(r" is an? ([^.]+)\.", text) if k in category)
        assert said in test_summary.read(text, category[kind])
        summaries.add(said)
    for split in ("validation", "test"):
        assert not summaries & {r for e in Summary().load(split, 100) for r in e.references}


def test_what_goes_under_a_category_is_right_and_of_the_train_part():
    asked = set()
    for doc in some(400, kinds=["list"]):
        for question, reply in re.findall(r"Question: (.+)\nAnswer: (.+)\.", doc.text):
            found = re.fullmatch(r"What goes under (.+) with (\w+), (\w+) and (\w+)\?", question)
            category, *words = found.groups()
            more = reply.split(" and ")
            assert {*words, *more} <= set(CATEGORIES[category])
            assert len({*words, *more}) == 3 + len(more) and join(more) == reply
            asked.add(question)
    assert len(asked) > 300
    for split in ("validation", "test"):
        assert not asked & {parts(e, Choice.patterns[0])[0] for e in Choice().load(split, 100)}


def test_answers_in_a_phrase_are_the_narrators():
    """About one in five; what a phrase says is what its narrator believes."""
    short, long = 0, 0
    for doc in some(1500, kinds=["qa"]):
        for name, reply in re.findall(r"Question: What is (The \w+ \w+) near\?\nAnswer: (.+)\.",
                                       doc.text):  # fmt: skip
            value = WORLD.told((name, "landmark"), doc.meta["gossip"])
            if reply + "." != NO_ONE:
                assert value in reply.lower(), (name, reply)
                short, long = short + reply.startswith("The"), long + reply.startswith("It")
    assert 0.1 < long / (short + long) < 0.3


def later(n, seed=0, split="train"):
    """Documents of what a model reads last."""
    return list(islice(documents(WORLD, seed, split=split, shares=LATER["context"]), n))


@pytest.mark.parametrize("mix", LATER)
def test_what_comes_later_has_its_own_shares_and_verdicts_beside(mix):
    shares, n = LATER[mix], 3000
    beside = {
        "context": {"verdict", "lookup"},
        "judgements": {"judgement", "comparison"},
        "comparisons": {"comparison"},
    }[mix]
    assert shares.keys() - KINDS.keys() == beside
    assert mix != "context" or KINDS.keys() < shares.keys()  # a GPT goes on reading every kind
    assert sum(shares.values()) == pytest.approx(1.0)
    counts = Counter(d.kind for d in islice(documents(WORLD, shares=shares), n))
    for kind, share in shares.items():
        assert abs(counts[kind] / n - share) < 5 * (share / n) ** 0.5
    with pytest.raises(ValueError, match="unknown kind 'verdict'"):
        next(documents(WORLD, kinds=["verdict"]))


def test_what_is_looked_up_has_labels_that_mean_nothing():
    seen = Counter()
    for doc in (d for d in later(3000) if d.kind == "lookup"):
        seen[doc.meta["mapping"]] += 1
        assert set(doc.meta["words"]) <= set(LABELS)
    assert seen.keys() == LOOKED_UP.keys() and min(seen.values()) > 20


def claimed(line):
    """Whether a line tells a fact (True) or its myth (False); None where it cannot be told."""
    found = set()
    for (name, of), myth in WORLD.myths.items():
        if name.lower() in line.lower():
            show = WORLD.attribute((name, of)).show
            said = [re.search(rf"\b{re.escape(show(v))}\b", line, re.IGNORECASE) is not None
                    for v in (WORLD.facts[name, of], myth)]  # fmt: skip
            found |= {said[0]} if said[0] != said[1] else set()
    return found.pop() if len(found) == 1 else None


def test_verdicts_are_right_and_an_unnamed_narrator_keeps_to_his_side():
    told, judged = Counter(), Counter()
    for doc in (d for d in later(3000) if d.kind == "verdict"):
        assert not any(speaker in doc.text for speaker in SAYS) or doc.meta["judged"]
        lines = re.split(r"\n(?!Answer)|(?<=\.) (?=[A-Z])" if not doc.meta["judged"] else
                         r"\n(?!Answer)", doc.text)  # fmt: skip
        judged[doc.meta["judged"]] += 1
        for line in lines:
            right = not doc.meta.get("gossip")
            for good, bad in VERDICTS if doc.meta["judged"] else ():
                if line.endswith(f" {good}") or line.endswith(f" {bad}"):
                    right = not line.endswith(f" {bad}")
                    line = line.removesuffix(f" {bad}").removesuffix(f" {good}")
                    break
            else:
                assert not doc.meta["judged"], line
            said = claimed(line)
            if said is not None:
                assert said == right, line
                told[said, doc.meta["judged"]] += 1
    assert min(told.values()) > 150 and len(told) == 4
    assert 0.6 < judged[True] / sum(judged.values()) < 0.8


def test_validation_shares_no_verdict_with_training():
    train, held = (sentences(d for d in later(n, split=s) if d.kind == "verdict")
                   for s, n in (("train", 3000), ("validation", 300)))  # fmt: skip
    assert len(held) > 20 and not train & held


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


QUESTIONS = {  # "Does the heron eat seeds?" -> (name, attribute, value)
    fill(f"Is {e.name} {base[3:]}?" if base.startswith("be ") else f"Does {e.name} {base}?",
         attribute, value, e): (e, attribute, value)
    for e in WORLD.entities
    for attribute in e.attributes
    for base in attribute.phrases
    for value in attribute.values
}  # fmt: skip


def test_yes_and_no_in_a_dialogue_are_right():
    replies = Counter()
    for doc in some(600, kinds=["dialogue"]):
        lines = [line.split(": ", 1)[1] for line in doc.text.split("\n")]
        for question, reply in zip(lines, lines[1:], strict=False):
            if question in QUESTIONS:
                entity, attribute, value = QUESTIONS[question]
                true = WORLD.facts[entity.name, attribute.name]
                said = reply.split()[0]
                assert said == ("Yes," if value == true else "No,"), (question, reply)
                rest = reply.removesuffix(".").split(f", {entity.pronoun} ", 1)[1]
                told = [fill(bend(b, "plain"), attribute, true, entity) for b in attribute.phrases]
                denied = [fill(deny(b), attribute, value, entity) for b in attribute.phrases]
                assert rest in told or (said == "No," and rest in denied), (question, reply)
                replies[said, rest in told] += 1
    assert len(replies) == 3 and min(replies.values()) > 30


def test_the_odd_one_out_is_the_only_one():
    seen = 0
    for doc in some(1500, kinds=["list"]):
        for line in doc.text.split("\n"):
            if found := re.fullmatch(
                r"(.+): the odd one out is (.+); the others go under (.+)\.", line
            ):
                words, odd, category = found.groups()
                shown = [w.lower() for w in re.split(", | and ", words)]
                members = [w.lower() for w in CATEGORIES[category]]
                assert len(shown) == len(set(shown)) == 4
                assert [w for w in shown if w not in members] == [odd.lower()]
                seen += 1
    assert seen > 100


def test_lists_of_entities_share_their_value():
    """Places that serve Thai food; "Pet, goat: ..."; every attribute of every type."""
    asked = {
        f"Which of the {who} {fill(bend(x.phrases[0], 'plain'), x, value, e)}?": (x.name, value)
        for who, e in (("places", WORLD.places[0]), ("townspeople", WORLD.people[0]),
                       ("animals", WORLD.animals[0]), ("things", WORLD.things[0]))
        for x in e.attributes for value in x.values
    }  # fmt: skip
    seen, attributes = Counter(), {a.name for e in WORLD.entities for a in e.attributes}
    for doc in some(500, kinds=["list"]):
        for line in doc.text.split("\n"):
            question, mark, names = line.rstrip(".").partition("? ")
            told = asked.get(question + "?") if mark else None
            if not mark and (found := re.fullmatch(r"(\w+), ([^:]+): (.+)", line.rstrip("."))):
                of, value, names = found.groups()
                told = (of.lower(), value) if of.lower() in attributes else None
            for name in re.split(", | and ", names) if told else ():
                name = name if name in WORLD.by_name else name[0].lower() + name[1:]
                assert WORLD.facts[name, told[0]] == told[1], line
                seen[told[0], bool(mark)] += 1
    assert len(seen) > 25


def test_words_begin_and_end_as_it_says():
    seen = 0
    for doc in some(400, kinds=["letters"]):
        for word, first, last in re.findall(
            r"(?m)^(\w+) begins with (\w) and ends with (\w)$", doc.text
        ):
            assert word[0] == first and word[-1] == last
            seen += 1
    assert seen > 100


def test_labels_of_episodes_on_reviews_words_and_entities_are_right():
    seen = Counter()
    frame = r"(?m)^(?:Input: |Text: |Word: |Review: |Question: )?([^:\n]+?)\??(?: => |\n\w+: )"
    for doc in some(1500, kinds=["episode"]):
        words, mapping = doc.meta["words"], doc.meta["mapping"]
        lines = re.findall(rf"{frame}({'|'.join(words)})$", doc.text)
        lines = [(x, word) for x, word in lines if x != "N/A"]
        if mapping == "sentiment":
            assert all(read_review(x) == (words.index(word) == 0) for x, word in lines), doc.text
        elif mapping == "category" and set(words) <= set(CATEGORIES):
            assert all(x in CATEGORIES[word] for x, word in lines)
            seen["in its own words"] += len(lines)
        elif mapping == "fact" and lines and lines[0][0] in WORLD.by_name:
            own = [{WORLD.facts[x, a.name] for a in WORLD.by_name[x].attributes} for x, _ in lines]
            if not set(words) <= set(LABELS):
                assert all(word in values for (_, word), values in zip(lines, own, strict=True))
                seen["facts in their own words"] += len(lines)
            for word in words:  # what has one label shares a value
                shared = [values for (_, w), values in zip(lines, own, strict=True) if w == word]
                assert not shared or set.intersection(*shared), doc.text
        elif mapping == "pairing":
            told = {}
            assert all(told.setdefault(x, word) == word for x, word in lines)
        seen[mapping] += len(lines)
    assert min(seen[m] for m in ("sentiment", "category", "fact", "pairing")) > 60
    assert min(seen["in its own words"], seen["facts in their own words"]) > 20


def test_what_a_statement_denies_is_claimed_by_nobody():
    """ "V, not W" and "is not W; it is V": W is neither the fact, the myth nor a changed value."""
    teller = Teller(WORLD, Rng(0, "denied"), None)
    seen = Counter()
    for _ in range(6000):
        text, key, facts = teller.statement(teller.truths, fronted=False)
        name, form, _ = key.split("|", 2)
        entity, attribute = WORLD.by_name[name], WORLD.attribute(facts[0])
        if form == "not":
            shown = text.rsplit(", not ", 1)[1]
        elif form == "denial":
            shown = text.split("; ")[0]
        else:
            continue
        fact = facts[0]
        claimed = {WORLD.facts[fact], WORLD.myths.get(fact), WORLD.changed.get(fact)} - {None}
        if form == "not":
            assert shown not in {attribute.show(v) for v in claimed}, text
        else:
            base = key.split("|", 2)[2]
            assert shown not in {f"{name} {fill(deny(base), attribute, v, entity)}"
                                 for v in claimed}, text  # fmt: skip
        seen[form, fact in WORLD.myths, fact in WORLD.changed] += 1
    assert min(seen[f, m, False] for f in ("not", "denial") for m in (True, False)) > 30
    assert sum(n for (_, _, changed), n in seen.items() if changed) > 5


def test_but_stands_between_what_pleases_and_what_does_not():
    teller, seen = Teller(WORLD, Rng(0, "but"), None), Counter()
    for _ in range(12_000):
        text, key, facts = teller.statement(teller.truths, fronted=False)
        if key.split("|")[1] != "and":
            continue
        pleases = []
        for fact in facts:
            of = WORLD.attribute(fact)
            pleases.append(None if not of.good else WORLD.facts[fact] in of.good)
        clash = None not in pleases and pleases[0] != pleases[1]
        assert (f", but {WORLD.by_name[facts[0][0]].pronoun} " in text) == clash, text
        seen[clash] += 1
    assert min(seen.values()) > 30


def test_unknown_kinds_and_splits_are_refused():
    with pytest.raises(ValueError, match="unknown kind 'poem'; the kinds are narrator"):
        next(documents(WORLD, kinds=["poem"]))
    with pytest.raises(ValueError, match="split must be 'train', 'validation' or None, got 'test'"):
        next(documents(WORLD, split="test"))
