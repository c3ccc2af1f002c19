"""Documents on claims: every verdict, every "so" and every correction in them is right."""

import re
from collections import Counter
from itertools import islice

from minipeft.corpus.relations import FORMS, RELATIONS
from minipeft.corpus.stream import documents
from minipeft.tasks.acceptability import Acceptability
from minipeft.tasks.nli import ENTAILED, FALSE, NLI, OPEN
from minipeft.tasks.paraphrase import Paraphrase
from minipeft.world.town import World
from tests.tasks.baselines import parts
from tests.tasks.reader import SORTS, good_english, read, relation, same

WORLD = World()
DOCS = list(islice(documents(WORLD, kinds=["claims"]), 1500))
LABELS = {
    "different": 0, "the same": 1, "no": 0, "yes": 1, "false": 0, "true": 1, "bad": 0, "good": 1,
    "wrong": 0, "right": 1,
}  # fmt: skip
OUTCOMES = {
    "true": ENTAILED, "yes": ENTAILED, "certain": ENTAILED, "neither": OPEN, "possible": OPEN,
    "false": FALSE, "no": FALSE, "impossible": FALSE,
}  # fmt: skip


def judged(of, form):
    """(things, verdict) of every line with a verdict on a relation."""
    for doc in DOCS:
        if (doc.meta["relation"], doc.meta["form"]) == (of, form):
            question, *lines = doc.text.split("\n")
            assert question == RELATIONS[of][1]
            for line in lines:
                what, verdict = re.split(r" => | \| (?=[a-z ]+$)", line)
                yield re.split(r" [|/] ", what), verdict


def told(of):
    return [
        line for doc in DOCS if (doc.meta["relation"], doc.meta["form"]) == (of, "told")
        for line in doc.text.split("\n")
    ]  # fmt: skip


def test_all_relations_in_all_forms():
    counts = Counter((d.meta["relation"], d.meta["form"]) for d in DOCS)
    for relation_, (share, _, _) in RELATIONS.items():
        for form, other in FORMS.items():
            assert abs(counts[relation_, form] / len(DOCS) - share * other) < 0.04


def test_short_things_are_the_same_or_not():
    seen = Counter()
    for (x, y), verdict in judged("same", "short"):
        phrase = re.match("[a-z]+s |does ", x) and not x.startswith("the ")
        try:
            alike = same(f"X {x}", f"X {y}")
        except AssertionError:  # a value or a name
            phrase, alike = False, x == y
        seen[bool(phrase), verdict] += 1
        assert alike == LABELS[verdict], (x, y, verdict)
    assert len(seen) == 12 and min(seen.values()) > 20


def test_short_things_follow_or_not():
    seen = Counter()
    for (x, y), verdict in judged("follows", "short"):
        one, two = (re.sub("^an? ", "", t) for t in (x, y))
        if one in SORTS:
            assert OUTCOMES[verdict] == (ENTAILED if SORTS[one] == two else FALSE)
            seen["kind", OUTCOMES[verdict]] += 1
        elif two in SORTS:
            assert SORTS[two] == one and OUTCOMES[verdict] == OPEN
        else:
            assert relation(f"X {x}.", f"X {y}.") == OUTCOMES[verdict], (x, y, verdict)
            seen["phrase", OUTCOMES[verdict]] += 1
    assert len(seen) == 5 and min(seen.values()) > 20


def test_short_beginnings_agree_or_not():
    verdicts = Counter()
    for (x,), verdict in judged("grammar", "short"):
        verdicts[LABELS[verdict]] += 1
        many = " and " in x or re.match("the [a-z ]*(?<!s)s at ", x) is not None
        many = many or re.match("the (people|spices)", x) is not None
        said = re.search(r" (is|was|does|are|were|do)( not\b.*)?$", x)
        if said:
            assert (said[1] in ("are", "were", "do")) == (many == LABELS[verdict]), (x, verdict)
        else:
            assert x.split()[-1].endswith("s") == (many != LABELS[verdict]), (x, verdict)
    assert min(verdicts.values()) > 200


def test_sentences_with_a_verdict():
    for (x, y), verdict in judged("same", "long"):
        assert same(x, y) == LABELS[verdict], (x, y)
    for (x, y), verdict in judged("follows", "long"):
        assert relation(x, y) == OUTCOMES[verdict], (x, y)
    for (x,), verdict in judged("grammar", "long"):
        assert good_english(x) == LABELS[verdict], x


def test_judgements_are_of_one_line_and_right():
    """And of one word, which is hidden: before "same" a "the" would give it away."""
    seen = Counter()
    docs = islice(documents(WORLD, shares={"judgement": 1.0}), 600)
    for doc in docs:
        of = doc.meta["relation"]
        question = RELATIONS[of][1] + " "
        assert doc.text.startswith(question) and "\n" not in doc.text
        what, verdict = re.split(r" => | \| (?=[a-z]+$)", doc.text.removeprefix(question))
        things = re.split(r" [|/] ", what)
        truth = {"same": same, "follows": relation, "grammar": good_english}[of](*things)
        labels = OUTCOMES if of == "follows" else LABELS | {"same": 1}
        assert truth == labels[verdict], doc.text
        seen[of, truth] += 1
    assert len(seen) == 7 and min(seen.values()) > 30


def test_comparisons_say_what_two_sentences_share():
    """Each verdict stands at the end of its line, and holds whatever the others say."""
    seen = Counter()
    for doc in islice(documents(WORLD, shares={"comparison": 1.0}), 600):
        first, *lines = doc.text.split("\n")
        x, y, end = first.split(" | ")
        one, other = read(x), read(y)
        things = [{(topic, value) for _, topic, _, value, _ in c} for c in (one, other)]
        alike = {
            "name": {c[0] for c in one} == {c[0] for c in other},
            "thing": things[0] == things[1],
            "not": sum(c[4] for c in one) == sum(c[4] for c in other),
            "all": same(x, y),
        }
        assert end == "so"
        assert lines == [f"{of} {'yes' if yes else 'no'}" for of, yes in alike.items()], first
        seen[tuple(alike.values())] += 1
    assert len(seen) == 9 and min(seen.values()) > 5  # all eight, and names exchanged


def test_sentences_that_say_the_same_outright():
    for line in told("same"):
        if " = " in line:
            first, *rest = line.split(" = ")
            assert all(same(first, other) for other in rest), line
            continue
        found = re.fullmatch(
            r"(.+\.) (?:(?:In other words|That is to say), (.+)|"
            r"(?:To say that (.+) is another thing|It is not the same that (.+))\.)", line,
        )  # fmt: skip
        x, like, *unlike = found.groups()
        other = like or unlike[0] or unlike[1]
        assert same(x, other) == bool(like), line


def test_sentences_that_follow_outright():
    labels = Counter()
    for line in told("follows"):
        sort = re.search(r" An? (\w+) is an? (\w+)\.", line)
        if sort:
            assert SORTS[sort[1]] == sort[2]
            line = line.replace(sort[0], "")
        forms = (
            r"(.+\.) (?:So|It follows that|Therefore) (.+)",
            r"(.+\.) (?:It does not follow that|It may or may not be that) (.+)",
            r"(.+\.) (?:So it is not true that|It cannot be that) (.+)",
        )
        label = next(i for i in (FALSE, OPEN, ENTAILED) if re.fullmatch(forms[i], line))
        x, y = re.fullmatch(forms[label], line).groups()
        labels[label, sort is not None] += 1
        assert relation(x, y) == label, line
    assert len(labels) == 6 and min(labels.values()) > 20


def test_corrections_are_right():
    for line in told("grammar"):
        found = re.fullmatch(
            r"(?:Wrong: |One does not say: )?(.+\.) (?:Better|Right|One says): (.+\.)", line
        )
        wrong, right = found.groups()
        assert good_english(right) and not good_english(wrong), line
        assert len(wrong.split()) == len(right.split())


def test_no_text_that_a_task_asks_about():
    late = documents(WORLD, shares={"judgement": 0.5, "comparison": 0.5})
    text = "\n".join(d.text for d in (*DOCS, *islice(late, 3000))).lower()
    for task in (NLI(), Paraphrase(), Acceptability()):
        for split in ("validation", "test"):
            for e in task.load(split, 200):
                whole = [t for t in parts(e, task.patterns[0]) if not t.startswith("Some")]
                assert not any(t.lower() in text for t in whole), whole
