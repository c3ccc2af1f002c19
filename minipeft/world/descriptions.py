"""Texts that tell the truth about the world: descriptions, lists and dialogues."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from minipeft.world import lexicon as lx
from minipeft.world.attributes import Attribute
from minipeft.world.grammar import a, capitalise, join, plural, sentence
from minipeft.world.sentences import Teller, bend, deny, fill, linked, polarity
from minipeft.world.town import Entity

Values = dict[str, str]
Intro = tuple[tuple[str, ...], Callable[[str, Values], str]]

# First sentences: the attributes that each one uses, and the sentence made of the values.
INTROS: dict[str, tuple[Intro, ...]] = {
    "place": (
        (("kind", "price", "area"),
         lambda e, v: f"{e} is {a(v['price'] + ' ' + v['kind'])} in {v['area']}"),
        (("kind", "landmark"), lambda e, v: f"{e} is {a(v['kind'])} near {v['landmark']}"),
        (("kind", "area", "price"),
         lambda e, v: f"in {v['area']} stands {e}, {a(v['price'] + ' ' + v['kind'])}"),
        (("kind", "landmark"),
         lambda e, v: f"near {v['landmark']} there is {a(v['kind'])} called {e}"),
        (("kind", "food", "rating"),
         lambda e, v: f"{e} is {a(v['food'] + ' ' + v['kind'])} with {v['rating']}"),
        (("kind", "food", "landmark"),
         lambda e, v: f"anyone who walks past {v['landmark']} will notice {e}, "
                      f"{a(v['food'] + ' ' + v['kind'])}"),
        (("kind", "food", "area"),
         lambda e, v: f"if you look for {a(v['food'] + ' ' + v['kind'])} in {v['area']}, try {e}"),
        (("kind", "food"), lambda e, v: f"{e}, {a(v['kind'])}, serves {v['food']} food"),
        (("kind", "price", "food"),
         lambda e, v: f"those who like {v['food']} food and {a(v['price'] + ' ' + v['kind'])} "
                      f"go to {e}"),
        (("rating", "area", "kind"),
         lambda e, v: f"among the {plural(v['kind'])} of {v['area']} {e} has {v['rating']}"),
    ),
    "person": (
        (("trade", "home"), lambda e, v: f"{e} is {a(v['trade'])} who lives in {v['home']}"),
        (("trade", "pet"), lambda e, v: f"{e}, {a(v['trade'])}, keeps {a(v['pet'])}"),
        (("trade", "likes"), lambda e, v: f"{e} is {a(v['trade'])} and likes {v['likes']}"),
        (("home", "trade"), lambda e, v: f"in {v['home']} lives {e}, {a(v['trade'])}"),
        (("trade", "home"),
         lambda e, v: f"{e} comes from {v['home']} and works as {a(v['trade'])}"),
        (("home", "pet"), lambda e, v: f"{e} shares a house in {v['home']} with {a(v['pet'])}"),
        (("trade", "likes"),
         lambda e, v: f"if {e} were not {a(v['trade'])}, {v['likes']} would fill the day"),
    ),
    "animal": (
        (("kind", "colour"), lambda e, v: f"{e} is {a(v['colour'] + ' ' + v['kind'])}"),
        (("kind", "diet"), lambda e, v: f"{e} is {a(v['kind'])} that eats {v['diet']}"),
        (("kind", "habitat"), lambda e, v: f"{e} is {a(v['kind'])} that lives {v['habitat']}"),
        (("kind", "colour", "hour"),
         lambda e, v: f"{e}, {a(v['colour'] + ' ' + v['kind'])}, wakes {v['hour']}"),
    ),
    "thing": (
        (("kind", "material"), lambda e, v: f"{e} is {a(v['kind'])} made of {v['material']}"),
        (("kind", "room"), lambda e, v: f"{e} is {a(v['kind'])} and stands in {v['room']}"),
        (("room", "colour"), lambda e, v: f"in {v['room']} stands {e}, which is {v['colour']}"),
        (("kind", "colour"), lambda e, v: f"{e} is {a(v['colour'] + ' ' + v['kind'])}"),
    ),
}  # fmt: skip
NOUNS = {"person": "trade", "place": "kind", "animal": "kind", "thing": "kind"}
CLOSINGS = {
    "place": ("Book a table before you go.", "On Mondays it is closed.",
              "People come from far away.", "The owner has run it for years."),
    "person": ("Everyone in town says hello.", "The door is always open.",
               "Visitors are rare but happy.", "Few people know more about the town."),
    "animal": ("Children draw pictures of it.", "It seldom makes a noise.",
               "There are many stories about it.", "Few have seen one up close."),
    "thing": ("It has seen better days.", "Nobody would sell it.",
              "It was mended last year.", "Visitors often ask about it."),
}  # fmt: skip
CLOSING_SHARE = 0.25


def describe(teller: Teller) -> tuple[str, float]:
    """Three to five true sentences about one entity, and their nats."""
    draw = teller.draw
    draw.nats = 0.0
    chosen: list[tuple[Entity, Values, tuple[str, ...]]] = []

    def intro() -> tuple[str, str]:
        entity = draw.pick(teller.world.entities)
        values = {x.name: teller.truths[entity.name, x.name] for x in entity.attributes}
        number = draw.integer(0, len(INTROS[entity.type]))
        used, make = INTROS[entity.type][number]
        chosen[:] = [(entity, values, used)]
        return make(entity.name, values), f"{entity.name}|intro|{number}"

    lines = [sentence(teller.keep(intro))]
    entity, values, used = chosen[0]
    rest = [x for x in entity.attributes if x.name not in used]
    rest = draw.sample(rest, draw.integer(min(2, len(rest)), len(rest) + 1))
    noun = values[NOUNS[entity.type]]
    while rest:
        one = rest.pop()
        two = rest.pop() if rest and draw.flip(0.5) else None
        lines.append(sentence(_more(teller, entity, noun, values, one, two)))
    if draw.flip(CLOSING_SHARE):
        lines.append(draw.pick(CLOSINGS[entity.type]))
    return " ".join(lines), draw.nats


def _more(
    teller: Teller, entity: Entity, noun: str, values: Values, one: Attribute, two: Attribute | None
) -> str:
    """One more sentence: by pronoun, by name or as "the pub"; one attribute or two."""
    draw = teller.draw
    subjects = (entity.pronoun, entity.name, "the " + noun)

    def make() -> tuple[str, str]:
        subject = draw.weighted(subjects, (0.6, 0.2, 0.2))
        first, base = teller.phrase(entity, one, values[one.name])
        if two is None:
            text = f"{subject} {first}"
        else:
            second, other = teller.phrase(entity, two, values[two.name])
            base += "|" + other
            clash = polarity(one, values[one.name]) * polarity(two, values[two.name]) < 0
            text = f"{subject} {linked(entity, first, second, clash)}"
        return text, f"{entity.name}|more|{base}" if subject == entity.name else ""

    return teller.keep(make)


def listing(teller: Teller) -> tuple[str, None]:
    """A list: words of a category, places of an area, or an inventory with numbers."""
    draw = teller.draw
    lines = []
    for _ in range(draw.pick((2, 3, 4))):
        make = draw.weighted((_words, _odd, _group, _shopping), (0.4, 0.1, 0.4, 0.1))
        lines.append(teller.keep_text(partial(make, teller)))
    return "\n".join(lines), None


def _words(teller: Teller) -> str:
    draw = teller.draw
    category = draw.pick(list(lx.CATEGORIES))
    words = draw.sample(lx.CATEGORIES[category], draw.integer(3, 7))
    style = draw.pick(("colon", "are", "such", "belong"))
    if style == "colon":
        return f"{capitalise(category)}: {', '.join(words)}."
    if style == "are":
        return sentence(f"{join(words)} all go under {category}")
    if style == "such":
        return sentence(f"the list of {category} names {join(words)}")
    return sentence(f"under {category} you will find {join(words)}")


def _odd(teller: Teller) -> str:
    draw = teller.draw
    one, two = draw.sample(list(lx.CATEGORIES), 2)
    words = draw.sample(lx.CATEGORIES[one], 3)
    odd = draw.pick([w for w in lx.CATEGORIES[two] if w not in lx.CATEGORIES[one]])
    mixed = draw.shuffle([*words, odd])
    return f"{capitalise(join(mixed))}: the odd one out is {odd}; the others go under {one}."


def _group(teller: Teller) -> str:
    """Entities that share a true value: places that serve Thai food."""
    draw = teller.draw
    entity, attribute = draw.pick(teller.pairs)
    value = teller.truths[entity.name, attribute.name]
    others = teller.sharing(entity, attribute, value)
    names = draw.sample(others, min(len(others), draw.integer(2, 6)))
    base = attribute.phrases[0]
    who = {"place": "places", "person": "townspeople", "animal": "animals", "thing": "things"}
    if draw.flip(0.5):
        said = fill(bend(base, "plain"), attribute, value, entity)
        return f"Which of the {who[entity.type]} {said}? {capitalise(join(names))}."
    return f"{capitalise(attribute.name)}, {value}: {', '.join(names)}."


def _shopping(teller: Teller) -> str:
    draw = teller.draw
    counts = ("two", "three", "four", "five", "six", "ten", "twelve")
    pool = lx.CATEGORIES["fruits"][:12] + lx.CATEGORIES["vegetables"][:4]
    items = [f"{draw.pick(counts)} {plural(w)}" for w in draw.sample(pool, draw.integer(3, 6))]
    return f"{draw.pick(('To buy', 'Shopping list', 'For the kitchen'))}: {', '.join(items)}."


GREETINGS = ("Good morning!", "Hello!", "Good evening!", "How are you?", "There you are!")
REPLIES = ("Hello to you!", "Very well, thank you.", "I am glad to see you.", "A bit tired today.")
PARTINGS = ("Thank you!", "I must go now.", "See you tomorrow!", "Good to know.", "That helps.")
FAREWELLS = ("Goodbye!", "You are welcome.", "Take care!", "Until then!")
DOUBTS = ("Are you sure?", "Really?", "I had no idea.", "Who told you that?", "I thought so.")
SURE = ("Yes, I am sure.", "I read it in the town register.", "I saw it with my own eyes.",
        "Everybody at the town hall knows it.")  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
PASTIMES = ("had dinner at", "walked past", "met a friend at", "waited two hours at",
            "forgot my hat at", "heard music at", "lost my keys at", "saw the mayor at",
            "had breakfast at", "played cards at")  # fmt: skip


def dialogue(teller: Teller) -> tuple[str, None]:
    """Two people of the town talk about one or two entities, truly."""
    draw = teller.draw
    one, two = (p.name for p in draw.sample(teller.world.people, 2))
    said: list[str] = []
    if draw.flip(0.4):
        said += [draw.pick(GREETINGS), draw.pick(REPLIES)]
    for _ in range(draw.pick((1, 2))):
        said += draw.weighted((_asked, _yes_no, _meeting), (0.4, 0.35, 0.25))(teller)
    if draw.flip(0.4):
        said += [draw.pick(PARTINGS), draw.pick(FAREWELLS)]
    return "\n".join(f"{(one, two)[i % 2]}: {line}" for i, line in enumerate(said)), None


def _asked(teller: Teller) -> list[str]:
    """A question and its answer as a sentence, then perhaps a doubt."""
    draw = teller.draw
    question, entity, attribute = teller.ask()
    value = teller.truths[entity.name, attribute.name]
    reply, _ = teller.phrase(entity, attribute, value)
    lines = [question, sentence(f"{entity.pronoun} {reply}")]
    if draw.flip(0.4):
        lines += [draw.pick(DOUBTS), draw.pick(SURE)]
    return lines


def _yes_no(teller: Teller) -> list[str]:
    """A question to which the answer is yes, or no and the truth."""
    draw = teller.draw
    lines: list[str] = []

    def make() -> tuple[str, str]:
        entity, attribute = draw.pick(teller.pairs)
        value = teller.truths[entity.name, attribute.name]
        base = draw.pick(attribute.phrases)
        asked = value if draw.flip(0.5) else teller.wrong(entity, attribute) or value
        be, name = base.startswith("be "), entity.name
        question = f"Is {name} {base[3:]}?" if be else f"Does {name} {base}?"
        truth = fill(bend(base, "plain"), attribute, value, entity)
        denied = fill(deny(base), attribute, asked, entity)
        replies = (f"Yes, {entity.pronoun} {truth}.",) if asked == value else (
            f"No, {entity.pronoun} {truth}.", f"No, {entity.pronoun} {denied}."
        )  # fmt: skip
        lines[:] = [fill(question, attribute, asked, entity), draw.pick(replies)]
        return lines[0], f"{name}|yes or no|{base}"

    teller.keep(make)
    return lines


def _meeting(teller: Teller) -> list[str]:
    """Someone tells of last week, or two people agree where to meet."""
    draw = teller.draw
    lines: list[str] = []

    def make() -> tuple[str, str]:
        place = draw.pick(teller.world.places)
        attribute = draw.pick(place.attributes)
        told, _ = teller.phrase(place, attribute, teller.truths[place.name, attribute.name])
        day = draw.pick(DAYS)
        if draw.flip(0.5):
            key = draw.pick(PASTIMES)
            lines[:] = [f"Last {day} I {key} {place.name}.", f"I know it. It {told}."]
        else:
            hour = draw.pick(("noon", "six", "seven", "eight", "nine"))
            key = f"{day} {hour}"
            reply = draw.pick(("Gladly.", "Why not?", "If you like."))
            lines[:] = [f"Shall we meet at {place.name} on {day} at {hour}?", f"{reply} It {told}."]
        return lines[0], f"{place.name}|meet|{key}"

    teller.keep(make)
    return lines
