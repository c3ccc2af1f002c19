"""Records and the sentences that tell them: "name: The Blue Door | kind: pub" and plain English.

Eight categories, each with three to eight slots. The pretraining text holds a table, an arrow and
a telling in full sentences (`record_document`); what the table-to-text task asks for instead is
an advertisement (`adverts`), which no pretraining text contains.
"""

from __future__ import annotations

from dataclasses import dataclass

from minipeft.world.grammar import Draw, a, join, sentence

ARROW = " =>"  # between the table and its telling


@dataclass(frozen=True)
class Slot:
    """One line of a table and the ways of saying it; `{v}` is the value.

    note    a few words, for an advertisement: "near the {v}"
    verbs   what follows the subject: "stands near the {v}"
    tails   what may follow the noun: "a pub near the {v}"
    front   whether the value may stand before the noun: "a cheap pub"
    """

    values: tuple[str, ...]
    note: str
    verbs: tuple[str, ...]
    tails: tuple[str, ...] = ()
    front: bool = False


@dataclass(frozen=True)
class Category:
    """A kind of record: its nouns, its names (one word of each column) and its further slots."""

    kinds: tuple[str, ...]
    names: tuple[tuple[str, ...], ...]
    slots: dict[str, Slot]


@dataclass(frozen=True)
class Record:
    """A filled table, its one-line text, and several tellings of all its slots."""

    category: str
    slots: dict[str, str]
    table: str
    sentences: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(w.strip() for w in text.split(","))


AREAS = _words("old town, new town, harbour quarter, upper town, market quarter, valley")
TOWNS = _words("Marlow, Ashby, Thornton, Hillford, Kingsley, Eastwick, Norton, Stonebridge")
YEARS = tuple(str(y) for y in range(1950, 2020, 5))
WOMEN = _words("Anna, Clara, Edith, Grace, Helen, Irene, Laura, Martha, Nora, Rose, Sarah, Vera")
MEN = _words("Adam, Bruno, Edgar, Felix, George, Hugo, Jack, Leo, Martin, Oscar, Peter, Simon")
SURNAMES = _words("Baker, Carter, Dale, Field, Hill, Lane, Moore, Price, Reed, Stone, Wood, Young")
COLOURS = _words("white, black, brown, grey, red, green, blue, yellow")

CATEGORIES: dict[str, Category] = {
    "place": Category(
        _words("pub, restaurant, café, inn, tea room, wine bar"),
        (
            ("The",),
            _words("Blue, Old, Little, Red, Green, Quiet, Wild, White, Good, Black, New"),
            _words("Door, Lantern, Fork, Barrel, Swan, Anchor, Garden, Kettle, Wheel, Star, Spoon"),
        ),
        {
            "food": Slot(
                _words("Thai, French, Indian, Italian, English, Chinese, Greek, Spanish"),
                "{v} food",
                ("serves {v} food", "offers {v} food", "is known for its {v} food"),
                ("with {v} food", "that serves {v} food"),
            ),
            "price": Slot(
                _words("cheap, moderate, expensive"),
                "{v} prices",
                ("is {v}", "has {v} prices"),
                (),
                True,
            ),
            "rating": Slot(
                _words("one star, two stars, three stars, four stars, five stars"),
                "{v}",
                ("has {v}", "has a rating of {v}", "was given {v}"),
                ("with {v}", "rated at {v}"),
            ),
            "area": Slot(
                AREAS,
                "in the {v}",
                ("lies in the {v}", "can be found in the {v}"),
                ("in the {v}",),
            ),
            "near": Slot(
                _words("mill, station, bridge, church, museum, town hall, theatre, park"),
                "near the {v}",
                ("stands near the {v}", "is close to the {v}"),
                ("near the {v}", "close to the {v}"),
            ),
            "guests": Slot(
                _words("families, adults only, students, walkers"),
                "for {v}",
                ("is meant for {v}", "is for {v}"),
                ("for {v}",),
            ),
        },
    ),
    "person": Category(
        _words("baker, doctor, teacher, farmer, painter, sailor, tailor, writer, gardener, singer"),
        (WOMEN + MEN, SURNAMES),
        {
            "home": Slot(TOWNS, "from {v}", ("lives in {v}", "comes from {v}"), ("from {v}",)),
            "age": Slot(
                _words("young, middle-aged, old"), "{v}", ("is {v}", "is rather {v}"), (), True
            ),
            "pet": Slot(
                _words("dog, cat, parrot, horse, goat, rabbit"),
                "with a {v}",
                ("keeps a {v}", "has a {v}", "owns a {v}"),
                ("with a {v}", "who keeps a {v}"),
            ),
            "likes": Slot(
                _words("chess, music, swimming, cooking, long walks, old maps"),
                "fond of {v}",
                ("likes {v}", "is fond of {v}"),
                ("who likes {v}",),
            ),
            "speaks": Slot(
                _words("French, German, Greek, Spanish, Italian"),
                "speaks {v}",
                ("speaks {v}", "has learnt {v}"),
                ("who speaks {v}",),
            ),
        },
    ),
    "animal": Category(
        _words("dog, cat, horse, goat, parrot, rabbit, donkey, pony"),
        (
            _words(
                "Bonny, Rufus, Daisy, Max, Molly, Toby, Ginger, Lucky, Pepper, Rocky, Luna, Milo"
            ),
        ),
        {
            "colour": Slot(
                _words("white, black, brown, grey"),
                "{v}",
                ("is {v}", "is {v} all over"),
                (),
                True,
            ),
            "size": Slot(_words("small, large, tiny, big"), "{v}", ("is {v}",), (), True),
            "eats": Slot(
                _words("apples, hay, fish, bread, carrots, seeds"),
                "eats {v}",
                ("eats {v}", "lives on {v}"),
                ("that eats {v}",),
            ),
            "lives": Slot(
                _words("barn, kitchen, field, garden, stable, yard"),
                "from the {v}",
                ("lives in the {v}", "sleeps in the {v}"),
                ("from the {v}",),
            ),
            "owner": Slot(
                WOMEN + MEN,
                "owner {v}",
                ("belongs to {v}", "is owned by {v}"),
                ("that belongs to {v}",),
            ),
        },
    ),
    "thing": Category(
        _words("lamp, chair, clock, kettle, table, bicycle, mirror, radio, basket, box"),
        (
            _words("North, Union, Royal, Comet, Falcon, Orient, Atlas, Crown"),
            _words("One, Two, Three, Four, Five, Six, Seven, Eight, Nine, Ten"),
        ),
        {
            "colour": Slot(COLOURS, "{v}", ("is {v}", "comes in {v}"), (), True),
            "made of": Slot(
                _words("wood, iron, glass, copper, brass, steel"),
                "{v}",
                ("is made of {v}",),
                ("made of {v}", "of {v}"),
            ),
            "cost": Slot(
                _words("ten pounds, twenty pounds, fifty pounds, ninety pounds"),
                "{v}",
                ("costs {v}", "is sold for {v}"),
                ("for {v}", "that costs {v}"),
            ),
            "weight": Slot(_words("light, heavy"), "{v}", ("is {v}", "is quite {v}"), (), True),
            "maker": Slot(
                SURNAMES,
                "by {v}",
                ("is made by {v}", "comes from {v}"),
                ("by {v}", "from the house of {v}"),
            ),
        },
    ),
    "film": Category(
        _words("comedy, drama, thriller, romance, western, cartoon"),
        (
            _words("The Last, The Long, The Lost, A Second, The Silent, One More, The Hidden"),
            _words("Summer, Train, Letter, Harbour, Winter, Song, Journey, Island, Dance, River"),
        ),
        {
            "year": Slot(YEARS, "{v}", ("came out in {v}", "was made in {v}"), ("from {v}",)),
            "director": Slot(
                SURNAMES,
                "by {v}",
                ("was directed by {v}", "was made by {v}"),
                ("by {v}", "directed by {v}"),
            ),
            "star": Slot(
                WOMEN + MEN,
                "with {v}",
                ("stars {v}", "has {v} in the lead"),
                ("with {v}", "starring {v}"),
            ),
            "length": Slot(
                _words("one hour, two hours, three hours"),
                "{v}",
                ("lasts {v}", "runs for {v}"),
                ("of {v}", "that lasts {v}"),
            ),
            "set in": Slot(
                TOWNS, "set in {v}", ("is set in {v}", "takes place in {v}"), ("set in {v}",)
            ),
            "mood": Slot(_words("sad, cheerful, dark, gentle"), "{v}", ("is {v}",), (), True),
        },
    ),
    "event": Category(
        _words("concert, fair, market, race, festival, lecture, dance"),
        (
            _words("The Spring, The Autumn, The Midnight, The Harbour, The Royal, The Village"),
            _words("Meeting, Gathering, Night, Day, Round, Hour, Party"),
        ),
        {
            "day": Slot(
                _words("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday"),
                "on {v}",
                ("takes place on {v}", "is held on {v}"),
                ("on {v}",),
            ),
            "time": Slot(
                _words("noon, six, seven, eight, nine, midnight"),
                "at {v}",
                ("begins at {v}", "starts at {v}"),
                ("that begins at {v}",),
            ),
            "town": Slot(TOWNS, "in {v}", ("comes to {v}", "is held in {v}"), ("in {v}",)),
            "entry": Slot(
                _words("two pounds, five pounds, ten pounds"),
                "entry {v}",
                ("costs {v}", "asks {v} for entry"),
                ("for {v}",),
            ),
            "host": Slot(
                WOMEN + MEN, "host {v}", ("is hosted by {v}", "is led by {v}"), ("hosted by {v}",)
            ),
            "size": Slot(_words("small, large, huge"), "{v}", ("is {v}",), (), True),
        },
    ),
    "dish": Category(
        _words("soup, stew, pie, salad, cake, curry, pudding"),
        (
            _words("Miller's, Sailor's, Summer, Winter, Sunday, Garden, Mountain, Market"),
            _words("Dream, Delight, Bowl, Plate, Surprise, Supper, Treat"),
        ),
        {
            "main part": Slot(
                _words("lamb, fish, rice, beans, apples, mushrooms, cheese, cabbage"),
                "made with {v}",
                ("is made with {v}", "contains {v}"),
                ("with {v}", "made with {v}"),
            ),
            "taste": Slot(
                _words("sweet, spicy, sour, mild, salty"), "{v}", ("is {v}", "tastes {v}"), (), True
            ),
            "origin": Slot(
                _words("France, India, Italy, Greece, Spain, China, Mexico, Japan"),
                "from {v}",
                ("comes from {v}", "was first made in {v}"),
                ("from {v}",),
            ),
            "served": Slot(
                _words("cold, warm"),
                "served {v}",
                ("is served {v}", "is eaten {v}"),
                ("served {v}",),
            ),
            "time": Slot(
                _words("ten minutes, half an hour, one hour, two hours"),
                "ready in {v}",
                ("is ready in {v}", "takes {v}"),
                ("that takes {v}",),
            ),
        },
    ),
    "book": Category(
        _words("novel, guide, diary, play, history, story book"),
        (
            _words("A Life in, Letters from, The Road to, Walks around, Back to, Alone in"),
            TOWNS,
        ),
        {
            "author": Slot(
                SURNAMES,
                "by {v}",
                ("was written by {v}", "is the work of {v}"),
                ("by {v}", "written by {v}"),
            ),
            "year": Slot(YEARS, "{v}", ("came out in {v}", "dates from {v}"), ("from {v}",)),
            "pages": Slot(
                _words("90 pages, 120 pages, 200 pages, 350 pages, 500 pages"),
                "{v}",
                ("has {v}", "runs to {v}"),
                ("of {v}", "with {v}"),
            ),
            "about": Slot(
                _words("the sea, war, love, farming, birds, music, the moon"),
                "about {v}",
                ("is about {v}", "deals with {v}"),
                ("about {v}", "that deals with {v}"),
            ),
            "cover": Slot(COLOURS, "{v} cover", ("has a {v} cover",), ("with a {v} cover",)),
        },
    ),
}


def record(draw: Draw, category: str = "", tellings: int = 3) -> Record:
    """An invented record with `tellings` tellings; none bears a name of the world's entities."""
    category = category or draw.pick(tuple(CATEGORIES))
    spec = CATEGORIES[category]
    slots = {"name": " ".join(draw.pick(column) for column in spec.names)}
    slots["kind"] = draw.pick(spec.kinds)
    least = 1 if len(spec.slots) < 6 else 2  # with name and kind: three slots or four
    count = draw.integer(least, len(spec.slots) + 1)
    chosen = set(draw.sample(tuple(spec.slots), count))
    slots |= {s: draw.pick(spec.slots[s].values) for s in spec.slots if s in chosen}
    sentences = tuple(telling(draw, category, slots) for _ in range(tellings))
    return Record(category, slots, table(slots), sentences)


def table(slots: dict[str, str]) -> str:
    """The slots on one line: "name: The Blue Door | kind: pub | food: Thai"."""
    return " | ".join(f"{slot}: {value}" for slot, value in slots.items())


def telling(draw: Draw, category: str, slots: dict[str, str]) -> str:
    """All slots in one to three full sentences, in an order drawn anew."""
    spec, name, kind = CATEGORIES[category].slots, slots["name"], slots["kind"]
    rest = draw.shuffle([s for s in slots if s in spec])
    fronts = [s for s in rest if spec[s].front]
    front = fronts[0] if fronts and draw.flip(0.7) else None
    if front:
        rest.remove(front)
    tails = [s for s in rest if spec[s].tails][: draw.integer(0, 3)]
    noun = a(f"{slots[front]} {kind}" if front else kind)
    phrases = [draw.pick(spec[s].tails).format(v=slots[s]) for s in tails]
    after = " ".join(["", *sorted(phrases, key=_is_clause)])
    verbs = [draw.pick(spec[s].verbs).format(v=slots[s]) for s in rest if s not in tails]
    pronoun = pronoun_of(category, name)
    if verbs and len(verbs) < 3 and not tails and draw.flip(0.5):
        return sentence(f"{name}, {noun}, {join(verbs)}")
    out = sentence(f"{name} is {noun}{after}")
    half = draw.integer(1, len(verbs) + 1) if verbs else 0
    for group in (verbs[:half], verbs[half:]):
        if group:
            out += " " + sentence(f"{pronoun} {join(group)}")
    return out


CALLS = ("Looking for {}?", "In search of {}?", "In want of {}?")


def adverts(category: str, slots: dict[str, str]) -> tuple[str, ...]:
    """All slots as an advertisement, one for each of CALLS.

    The first slot that can stand before the noun goes into the call, the others follow the name
    in the table's order: "Looking for a cheap pub? Try The Blue Door: Thai food, near the mill!"
    """
    spec = CATEGORIES[category].slots
    given = [s for s in slots if s in spec]
    front = next((s for s in given if spec[s].front), None)
    noun = a(f"{slots[front]} {slots['kind']}" if front else slots["kind"])
    notes = ", ".join(spec[s].note.format(v=slots[s]) for s in given if s != front)
    rest = f"Try {slots['name']}{': ' if notes else ''}{notes}!"
    return tuple(f"{call.format(noun)} {rest}" for call in CALLS)


def record_document(draw: Draw) -> str:
    """One to three records for the pretraining text, each with one telling."""
    made = [record(draw, tellings=1) for _ in range(draw.integer(1, 4))]
    return "\n".join(f"{r.table}{ARROW} {r.sentences[0]}" for r in made)


def _is_clause(phrase: str) -> bool:
    """Clauses stand last, so that nothing seems to hang on their verb."""
    return phrase.startswith(("who ", "that "))


def pronoun_of(category: str, name: str) -> str:
    """It, she or he, for a name of that category."""
    if category != "person":
        return "it"
    return "she" if name.split()[0] in WOMEN else "he"
