"""A reader of claims: it knows the forms of the grammar and gets back what a text says.

What two texts have to do with each other, and whether one is good English, follows from that.
"""

import re

from minipeft.tasks.nli import ENTAILED, FALSE, OPEN
from minipeft.world.grammar import third
from minipeft.world.lexicon import ANIMALS, THINGS
from minipeft.world.reviews import TOPICS as REVIEWED
from minipeft.world.sentences import FRONTS, bend, deny
from minipeft.world.statements import TOPICS

SORTS = {noun: sort for nouns in (ANIMALS, THINGS) for sort, ns in nouns.items() for noun in ns}


def forms():
    """(pattern of a clause, topic's name, topic, denied) for all that the grammar can say."""
    for topics in TOPICS.values():
        for topic in topics:
            values = "|".join(re.escape(topic.attribute.show(v)) for v in topic.values)
            for way in topic.ways:
                for denied in (False, True) if "{e}" not in way else (False,):
                    bent = "{e} " + (deny(way) if denied else bend(way, "plain"))
                    form = (way if "{e}" in way else bent).replace("{e}", "(?P<e>.+)")
                    form = form.replace("{av}", "{v}").replace("{v}", f"(?P<v>{values})")
                    yield re.compile(form, re.I), topic.attribute.name, topic, denied


FORMS = list(forms())


def claims(clause):
    """What a clause says, as (subject, topic, single, value, denied): the nearest reading.

    "The home of Anna Dale is in Newgate" is about Anna Dale, not about a place of that name.
    """
    found = {
        (m["e"].lower(), name, topic.single, m["v"].lower(), denied)
        for form, name, topic, denied in FORMS
        if (m := form.fullmatch(clause))
    }
    assert found, f"no reading of {clause!r}"
    least = min(len(subject) for subject, *_ in found)
    return [c for c in found if len(c[0]) == least]


def read(text):
    """The claims of a text of one clause, of two about one subject, or of two about two."""
    text = text.removesuffix(".")
    text = re.sub("^(?:" + "|".join(FRONTS) + ")", "", text, flags=re.I)
    if found := re.fullmatch(r"(.+), (?:who|which) (.+), (.+)", text):
        return claims(f"{found[1]} {found[2]}") + claims(f"{found[1]} {found[3]}")
    if ", and " in text:
        return [c for clause in text.split(", and ") for c in claims(clause)]
    if " and " not in text:
        return claims(text)
    first, second = text.split(" and ")
    return claims(first) + claims(f"{claims(first)[0][0]} {second}")


def same(x, y):
    """Whether two texts say the same."""
    return set(read(x)) == set(read(y))


def relation(premise, hypothesis):
    """The relation of two texts by the rules of claims alone."""
    known = read(premise)
    asked, topic, single, value, denied = claims(hypothesis[:-1])[0]
    quantifier, noun = asked.split()[0], asked.split()[-1]
    for who, about, _, said, no in known:
        if about != topic:
            continue
        general = who.split()[0] if who.split()[0] in ("every", "no", "some") else ""
        sort = who.split()[-1]
        if quantifier == "some":
            covered = noun == (sort if general else SORTS[sort])
            if general == "no" and covered and said == value:
                return FALSE
            if general == "every" and covered:
                return ENTAILED if said == value else FALSE if single else OPEN
            if not general and covered and said == value and not no:
                return ENTAILED
            continue
        if general:
            if general == "some" or SORTS.get(noun) != sort:
                continue
            no = general == "no"
        elif who != asked:
            continue
        if said == value:
            return ENTAILED if no == denied else FALSE
        if single and not no:  # it has another value, so not this one
            return ENTAILED if denied else FALSE
    return OPEN


# -- good English

NAME = r"(?:The [A-Z]\w+ [A-Z]\w+|[A-Z]\w+ [A-Z]\w+|[Tt]he [a-z]+ [a-z]+)"


def any_of(words):
    return "(?:" + "|".join(map(re.escape, words)) + ")"


def predicates(plural):
    """Every right predicate of that number."""
    for topic in (topic for topics in TOPICS.values() for topic in topics):
        values = any_of(topic.attribute.show(v) for v in topic.values)
        for phrase in topic.phrases:
            verb, _, rest = phrase.partition(" ")
            plain = {True: "are", False: "is"}[plural] if verb == "be" else (
                verb if plural else third(verb)
            )  # fmt: skip
            denied = f"{plain} not" if verb == "be" else f"{'do' if plural else 'does'} not {verb}"
            for said in (plain, denied):
                yield f"{said} {rest}".replace("{av}", values).replace("{v}", values)


def reviews():
    for topic in REVIEWED["food"]:
        for nouns, verb in ((topic.one, "was"), (topic.many, "were")):
            yield f"[Tt]he {any_of(nouns)} at {NAME} {verb} {any_of(topic.good + topic.bad)}"


RIGHT = [re.compile(form) for form in (
    *(f"{NAME} {p}" for p in predicates(False)),
    *(f"{NAME} and {NAME} {p}" for p in predicates(True)),
    *reviews(),
)]  # fmt: skip


def good_english(text):
    """Whether the grammar could have made this sentence."""
    return any(form.fullmatch(text.removesuffix(".")) for form in RIGHT)
