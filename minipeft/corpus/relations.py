"""Plain documents on claims: what says the same, what follows, what is good English.

The tasks on pairs and on grammar ask for these relations. A small model finds a relation in a
text only where the text names it, often and in small steps: so there are lists of short things
with a verdict each ("is cheap | is not expensive | true"), lists of whole sentences with a
verdict, and texts that use the relation ("Every bird is green. A heron is a bird. So the old
heron is green."). Last come comparisons and judgements: two sentences, and what holds of them. All
subjects are invented ones of the tasks' train part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from minipeft.tasks.acceptability import MISTAKES, agreement, corrected, utterance
from minipeft.tasks.nli import ENTAILED, FALSE, OPEN, inference, turns
from minipeft.tasks.paraphrase import pair
from minipeft.world import lexicon as lx
from minipeft.world.grammar import Draw, a, sentence
from minipeft.world.sentences import Teller
from minipeft.world.statements import another, claim, subject

PART = "train"
DENIED_SHARE = 0.3  # of phrases
FORMS = {"short": 0.35, "long": 0.35, "told": 0.3}  # short things, sentences, no verdicts
LINES = {"short": (6, 10), "long": (3, 6), "told": (3, 5)}
# relation: (share, its question, names of the verdicts by class)
RELATIONS: dict[str, tuple[float, str, tuple[tuple[str, ...], ...]]] = {
    "same": (0.35, "Do they say the same?", (
        ("different", "the same"), ("no", "yes"), ("false", "true"))),
    "follows": (0.4, "Does the second follow from the first?", (
        ("true", "neither", "false"), ("yes", "neither", "no"),
        ("certain", "possible", "impossible"))),
    "grammar": (0.25, "Is it good English?", (
        ("bad", "good"), ("no", "yes"), ("wrong", "right"))),
}  # fmt: skip
ASPECTS = ("name", "thing", "not", "all")  # in which two sentences are compared
FREE_SHARE = 0.6  # of the comparisons; the others are pairs as the task on pairs has them
VALUE_SHARE = 0.7  # of two claims of other things: another value; else another topic
FRAMES = ("{x} | {v}", "{x} => {v}")
BARS = (" | ", " / ")  # between the two of a pair

# How a text without verdicts uses a relation, by class; `{y}` goes on in the sentence.
SAME = ("{x} To say that {y} is another thing.", "{x} In other words, {y}")
SAME_MORE = ("{x} It is not the same that {y}", "{x} That is to say, {y}")
FOLLOWS = {
    ENTAILED: ("{x} So {y}", "{x} It follows that {y}", "{x} Therefore {y}"),
    OPEN: ("{x} It does not follow that {y}", "{x} It may or may not be that {y}"),
    FALSE: ("{x} So it is not true that {y}", "{x} It cannot be that {y}"),
}
BETTER = ("{x} Better: {y}", "Wrong: {x} Right: {y}", "One does not say: {x} One says: {y}")
SORTS = {
    noun: sort for nouns in (lx.ANIMALS, lx.THINGS) for sort, ns in nouns.items() for noun in ns
}


def relation_document(teller: Teller) -> tuple[str, dict[str, str]]:
    """One document on one relation: its text, and what it was (relation, form)."""
    draw = teller.draw
    relation = draw.weighted(tuple(RELATIONS), [share for share, _, _ in RELATIONS.values()])
    form = draw.weighted(tuple(FORMS), tuple(FORMS.values()))
    if form == "told":
        make, lines = partial(_TOLD[relation], draw), []
    else:
        _, question, verdicts = RELATIONS[relation]
        make, lines = partial(_judged, draw, relation, form, draw.pick(verdicts)), [question]
        make = partial(make, draw.pick(BARS), draw.pick(FRAMES))
    lines += [teller.keep_text(make) for _ in range(draw.integer(*LINES[form]))]
    return "\n".join(lines), {"relation": relation, "form": form}


def judgement(teller: Teller) -> tuple[str, dict[str, str]]:
    """The shortest document on a relation, of one line: a question, two sentences, the verdict."""
    draw = teller.draw
    relation = draw.weighted(tuple(RELATIONS), [share for share, _, _ in RELATIONS.values()])
    _, question, verdicts = RELATIONS[relation]
    words = [v.removeprefix("the ") for v in draw.pick(verdicts)]  # one word each: it is hidden
    make = partial(_judged, draw, relation, "long", tuple(words))
    line = teller.keep_text(partial(make, draw.pick(BARS), draw.pick(FRAMES)))
    return f"{question} {line}", {"relation": relation, "form": "long"}


def comparison(teller: Teller) -> str:
    """Two sentences, and in a line each whether they have the same name, thing and "not", and all.

    A verdict alone does not say what it turned on; four do. The first line ends in "so": what a
    line ends in is what a BERT must guess.
    """
    draw = teller.draw

    def make() -> str:
        x, y, same = _free(draw) if draw.flip(FREE_SHARE) else _paired(draw)
        said = (f"{of} {'yes' if yes else 'no'}" for of, yes in zip(ASPECTS, same, strict=True))
        return "\n".join((f"{x} | {y} | so", *said))

    return teller.keep_text(make)


Compared = tuple[str, str, tuple[bool, ...]]  # two sentences, and what is the same in them


def _paired(draw: Draw) -> Compared:
    """A pair as the task on pairs has it: it differs in one thing at most."""
    alike = draw.flip()
    x, y, change = pair(draw, PART, alike)
    return x, y, (change != "subject", change != "value", change != "negation", alike)


def _free(draw: Draw) -> Compared:
    """Two claims that agree or not in each of the three, whatever they do in the others."""
    one, thing, sign = draw.flip(), draw.flip(), draw.flip()
    x = claim(draw, subject(draw, PART))
    x = x.turned() if draw.flip(DENIED_SHARE) else x
    y = x if thing else x.other(draw) if draw.flip(VALUE_SHARE) else claim(draw, x.subject, x.topic)
    y = replace(y if one else y.of(another(draw, PART, x.subject)), denied=x.denied == sign)
    first, second = (sentence(c.told(draw.pick(c.ways()))) for c in (x, y))
    return first, second, (one, thing, sign, one and thing and sign)


def _judged(
    draw: Draw, relation: str, form: str, verdicts: tuple[str, ...], bar: str, frame: str
) -> str:
    """A line with its verdict at the end."""
    label = draw.integer(0, len(verdicts))
    return frame.format(x=bar.join(_THINGS[relation, form](draw, label)), v=verdicts[label])


# -- short things ----------------------------------------------------------------------------------


def _short_same(draw: Draw, label: int) -> tuple[str, str]:
    """Two values, two names or two phrases, which are the same or not."""
    one = claim(draw, subject(draw, PART))
    kind = draw.pick(("value", "name", "phrase", "phrase"))
    if kind == "name":
        other = one.subject if label else another(draw, PART, one.subject)
        return one.subject.name, other.name
    if kind == "value":
        values = one.value, one.value if label else one.other(draw).value
        first, second = (one.topic.attribute.show(v) for v in values)
        return first, second
    one = one.turned() if draw.flip(DENIED_SHARE) else one
    two = one
    if not label and draw.flip():
        two = one.turned()
    elif not label:
        two = one.other(draw)
        two = two.turned() if one.denied else two
    first, second = (c.verb_phrase(draw.pick(c.topic.phrases)) for c in (one, two))
    return first, second


def _short_follows(draw: Draw, label: int) -> tuple[str, str]:
    """What is said of one subject, and whether something else follows; or a kind and another."""
    if draw.flip(0.25):
        noun = draw.pick(tuple(SORTS))
        sort, others = SORTS[noun], lx.ANIMALS if SORTS[noun] in lx.ANIMALS else lx.THINGS
        if label == FALSE:
            sort = draw.pick([s for s in others if s != sort])
        return (a(sort), a(noun)) if label == OPEN else (a(noun), a(sort))
    y = claim(draw, subject(draw, PART))
    y = y.turned() if draw.flip(DENIED_SHARE) else y
    same = [x for _, x in turns(draw, PART, y, label) if x.subject.name == y.subject.name]
    first, second = (c.verb_phrase(draw.pick(c.topic.phrases)) for c in (draw.pick(same), y))
    return first, second


def _short_grammar(draw: Draw, label: int) -> tuple[str]:
    return (agreement(draw, PART, right=label == 1),)


# -- sentences -------------------------------------------------------------------------------------


def _long_same(draw: Draw, label: int) -> tuple[str, str]:
    return pair(draw, PART, same=label == 1)[:2]


def _long_follows(draw: Draw, label: int) -> tuple[str, str]:
    return inference(draw, PART, label)[:2]


def _long_grammar(draw: Draw, label: int) -> tuple[str]:
    return (utterance(draw, PART, "right" if label else draw.pick(MISTAKES)),)


_THINGS: dict[tuple[str, str], Callable[[Draw, int], tuple[str, ...]]] = {
    ("same", "short"): _short_same, ("same", "long"): _long_same,
    ("follows", "short"): _short_follows, ("follows", "long"): _long_follows,
    ("grammar", "short"): _short_grammar, ("grammar", "long"): _long_grammar,
}  # fmt: skip


# -- without a verdict -----------------------------------------------------------------------------


def _told_same(draw: Draw) -> str:
    """Two or three ways to say one thing, or two things that differ."""
    same = draw.flip(0.7)
    if same and draw.flip():
        one = claim(draw, subject(draw, PART))
        ways = draw.shuffle(one.ways())[:3]
        return sentence(" = ".join(one.told(way) for way in ways))
    x, y, _ = pair(draw, PART, same)
    return _used(draw.pick((SAME[same], SAME_MORE[same])), x, y)


def _told_follows(draw: Draw) -> str:
    """A premise, the kind of whom it speaks, and what follows or does not."""
    label = draw.pick((ENTAILED, OPEN, FALSE))
    x, y, turn = inference(draw, PART, label)
    nouns = [w for w in f"{x} {y}".replace(".", "").split() if w in SORTS]
    if turn in ("kind", "some") and nouns:
        x += " " + sentence(f"{a(nouns[0])} is {a(SORTS[nouns[0]])}")
    return _used(draw.pick(FOLLOWS[label]), x, y)


def _told_grammar(draw: Draw) -> str:
    wrong, right = corrected(draw, PART, draw.pick(MISTAKES))
    return draw.pick(BETTER).format(x=wrong, y=right)


_TOLD = {"same": _told_same, "follows": _told_follows, "grammar": _told_grammar}


def _used(frame: str, x: str, y: str) -> str:
    """Two sentences in a frame; the second begins small, unless with a name."""
    words = y.split()
    y = y if words[1][0].isupper() else y[0].lower() + y[1:]
    return sentence(frame.format(x=x, y=y if frame.endswith("{y}") else y.removesuffix(".")))
