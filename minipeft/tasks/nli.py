"""Natural language inference: does the first text make the second true? Like MNLI and RTE.

The hypothesis is drawn first, in the same way for every label, and then a premise that makes it
true, leaves it open or makes it false: so the hypothesis alone tells nothing. A reader must see
through another wording, through "not", and through kinds (what every bird does the heron does).
`NLIShift` adds a split in which every word of the hypothesis stands in the premise, and yet it
does not follow, as in HANS.
"""

from __future__ import annotations

from minipeft.backend import Rng
from minipeft.tasks.base import Example, Pattern, Task
from minipeft.world.grammar import Draw, sentence, third
from minipeft.world.sentences import fill, part_of
from minipeft.world.statements import Claim, another, claim, subject

ENTAILED, OPEN, FALSE = 0, 1, 2
DENIED_SHARE = 0.3  # hypotheses with "not"
SOME_SHARE = 0.3  # hypotheses on animals and things that speak of some bird
KIND_SHARE = 0.5  # premises on animals and things that turn on a kind
DOUBLE_SHARE = 0.4  # premises with a second claim

Turns = list[tuple[str, Claim]]  # what a pair turns on, and the premise


class NLI(Task):
    """Pairs of premise and hypothesis: 0 it follows, 1 it is open, 2 it is false.

    The splits share no subject, so no text, and of kinds no combination: where "every bird is
    green" is tested, no other split speaks of green birds. `Example.kind` names what the pair
    turns on.
    """

    name = "nli"
    patterns = (
        Pattern("Text: {x}\nClaim: {y}\nAnswer:", (" true", " neither", " false")),
        Pattern("Input: {x} So: {y}\nOutput:", (" yes", " neither", " no")),
        Pattern("{x} Does it follow? {y} The answer is:", (" Yes", " neither", " No")),
        Pattern("{x} => {y} This is", (" right", " neither", " bad")),
    )

    def _draw(self, split: str, n: int, seed: int, pattern: Pattern) -> list[Example]:
        draw = Draw(Rng(seed, "nli", split))
        shift = split == "shift"
        seen: set[tuple[str, str]] = set()
        out: list[Example] = []
        while len(out) < n:
            for label in draw.shuffle((OPEN, FALSE) if shift else (ENTAILED, OPEN, FALSE)):
                x = y = ""
                while not x or (x, y) in seen:
                    x, y, turn = overlap(draw, label) if shift else inference(draw, split, label)
                seen.add((x, y))
                word, prompt = pattern.words[label], pattern.template.format(x=x, y=y)
                out.append(Example(prompt, word, pattern.words, label, (word,), turn, (x, y)))
        return out[:n]


class NLIShift(NLI):
    """NLI with one split more, "shift": full word overlap, and it never follows.

    The labels of "shift" are 1 and 2; who asks only whether it follows adds the two up.
    """

    name = "nli-shift"
    splits = ("train", "validation", "test", "shift")
    sizes = (1000, 500, 500, 500)


def inference(draw: Draw, part: str, label: int) -> tuple[str, str, str]:
    """A premise and a hypothesis of one part, and what they turn on."""
    while True:
        y = claim(draw, subject(draw, part))
        kinds = y.subject.type in ("animal", "thing")
        while kinds and part_of(y.combination) != part:
            y = claim(draw, subject(draw, part, y.subject.type))
        some = kinds and draw.flip(SOME_SHARE)
        if not some and draw.flip(DENIED_SHARE):
            y = y.turned()
        found = [] if some else turns(draw, part, y, label)
        if some or kinds and draw.flip(KIND_SHARE):
            found = (_some_turns if some else _kind_turns)(draw, part, y, label)
        turn, x = draw.pick(
            [(t, c) for t, c in found if not c.general or part_of(c.combination) == part]
        )
        hypothesis = y.of_kind("some") if some else y
        texts = _premise(draw, x, y), sentence(hypothesis.told(draw.pick(hypothesis.ways())))
        if texts[0] != texts[1]:
            return *texts, turn


def turns(draw: Draw, part: str, y: Claim, label: int) -> Turns:
    """Premises about one subject for a hypothesis about one subject."""
    if label == ENTAILED:
        single = y.denied and y.topic.single
        return [("wording", y)] + ([("value", y.other(draw))] if single else [])
    if label == FALSE:
        single = not y.denied and y.topic.single
        return [("negation", y.turned())] + ([("value", y.other(draw))] if single else [])
    return [
        ("subject", y.of(another(draw, part, y.subject))),
        ("topic", claim(draw, y.subject, y.topic)),
        ("negation", y.other(draw).turned()) if y.topic.single else ("value", y.other(draw)),
    ]


def _kind_turns(draw: Draw, part: str, y: Claim, label: int) -> Turns:
    """Premises about a kind for a hypothesis about one subject."""
    alien = y.of(another(draw, part, y.subject, alien=True))
    if label == ENTAILED:
        return [("kind", y.of_kind("no" if y.denied else "every"))]
    if label == FALSE:
        single = not y.denied and y.topic.single
        found = [("kind", y.of_kind("every" if y.denied else "no"))]
        return found + ([("kind", y.other(draw).of_kind("every"))] if single else [])
    return [("kind", y.of_kind("some")), ("kind", alien.of_kind("no" if y.denied else "every"))]


def _some_turns(draw: Draw, part: str, y: Claim, label: int) -> Turns:
    """Premises for the hypothesis that some bird does what y says."""
    alien = y.of(another(draw, part, y.subject, alien=True))
    if label == ENTAILED:
        return [("some", y), ("some", y.of_kind("every"))]
    if label == FALSE:
        return [("some", y.of_kind("no"))]
    return [("some", alien), ("some", y.other(draw)), ("some", alien.of_kind("every"))]


def _premise(draw: Draw, x: Claim, y: Claim) -> str:
    """The claim x as a sentence, sometimes beside one on a topic that neither x nor y has."""
    if x.denied or x.general or not draw.flip(DOUBLE_SHARE):
        return sentence(x.told(draw.pick(x.ways())))
    both = draw.shuffle((x, claim(draw, x.subject, x.topic, y.topic)))
    first, second = (c.verb_phrase(draw.pick(c.topic.phrases)) for c in both)
    link = draw.pick((" {} and {}", f", {x.subject.relative} {{}}, {{}}"))
    return sentence(x.subject.name + link.format(first, second))


def overlap(draw: Draw, label: int) -> tuple[str, str, str]:
    """A pair of the shift: the words of the hypothesis all stand in the premise."""
    y = claim(draw, subject(draw, "test", draw.pick(("place", "person"))))
    name, attribute, other = y.subject.name, y.topic.attribute, y.other(draw)
    turn = draw.pick(("swap", "or", "if") if label == OPEN else ("not", "denial"))
    ways = y.topic.phrases
    way = draw.pick([w for w in ways if w.endswith("v}")] if turn == "not" else ways)
    second = claim(draw, y.subject, y.topic)
    told = second.verb_phrase(draw.pick(second.topic.phrases))
    if turn == "swap":
        x = f"{name} {told}, and {another(draw, 'test', y.subject).name} {y.verb_phrase(way)}"
    elif turn == "or":
        both = " or ".join(draw.shuffle((attribute.show(y.value), attribute.show(other.value))))
        x = f"{name} {fill(third(way).replace('{av}', '{v}'), attribute, both, y.subject)}"
    elif turn == "if":
        x = f"if {y.told(way)}, {y.subject.pronoun} {told}"
    elif turn == "not":
        x = f"{other.told(way)}, not {attribute.show(y.value)}"
    else:
        x = f"{y.turned().told(way)}; {y.subject.pronoun} {other.verb_phrase(way)}"
    return sentence(x), sentence(y.told(way)), turn
