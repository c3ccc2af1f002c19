"""A reader of claims: it knows the forms of the grammar and gets back what a text says."""

import re

from minipeft.tasks.claims import TOPICS
from minipeft.tasks.sentences import FRONTS, bend, deny


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
