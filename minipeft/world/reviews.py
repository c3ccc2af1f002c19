"""Short reviews of restaurants and films, for the pretraining text and for the sentiment tasks.

A review is one or two clauses, and every clause says good or bad of something: plainly ("the
soup was fresh"), by denying the opposite ("nobody could call the soup stale"), or by denying the
denial ("nobody could deny that the soup was fresh"). Two clauses agree, or they contrast, and
then the one that the sentence stands on decides: the one after "but", the one without
"although". Each way of speaking is open to praise and blame alike, so that counting words tells
little: the reader must join them.
"""

from __future__ import annotations

from dataclasses import dataclass

from minipeft.world.grammar import Draw, capitalise, sentence

DOMAINS = ("food", "film")


Words = tuple[str, ...]


@dataclass(frozen=True)
class Topic:
    """Things one can praise or blame, and the words for it."""

    one: Words  # nouns that take "was"
    many: Words  # nouns that take "were"
    good: Words
    bad: Words


def _words(text: str) -> Words:
    return tuple(w.strip() for w in text.split(","))


WHOLE_GOOD = _words("great, wonderful, splendid, excellent, superb, lovely, marvellous, good")
WHOLE_BAD = _words("terrible, awful, dreadful, horrible, poor, miserable, dismal, bad")
VERDICT_GOOD = _words("joy, delight, triumph, treat, pleasure, success, gem")
VERDICT_BAD = _words("bore, disaster, mess, shame, letdown, failure, nightmare")

TOPICS: dict[str, tuple[Topic, ...]] = {
    "food": (
        Topic(
            _words("soup, fish, stew, bread, curry, salad, pie, roast, pudding, sauce, cake, rice"),
            _words("noodles, dumplings, vegetables, starters, pancakes"),
            _words("fresh, tasty, tender, delicious, crisp, juicy, perfect, fragrant"),
            _words("stale, bland, tough, tasteless, soggy, greasy, burnt, sour"),
        ),
        Topic(
            _words("service, waiter, cook, owner, barman, waitress"),
            _words("waiters, cooks, people at the bar"),
            _words("kind, quick, friendly, attentive, cheerful, polite"),
            _words("rude, slow, careless, grumpy, clumsy, lazy"),
        ),
        Topic(
            _words("room, garden, terrace, table, dining room"),
            _words("rooms, tables, chairs"),
            _words("cosy, charming, bright, spotless, pretty, comfortable"),
            _words("dirty, cramped, gloomy, shabby, draughty, noisy"),
        ),
    ),
    "film": (
        Topic(
            _words("plot, story, script, ending, dialogue, opening, humour, second half"),
            _words("jokes, songs, twists"),
            _words("gripping, clever, moving, funny, original, thrilling, fresh, witty"),
            _words("dull, predictable, tedious, silly, confused, boring, stale, lame"),
        ),
        Topic(
            _words("hero, villain, cast, acting, leading lady, director"),
            _words("actors, children, singers"),
            _words("brilliant, convincing, charming, gifted, natural, graceful"),
            _words("wooden, lifeless, hopeless, stiff, clumsy, lazy"),
        ),
        Topic(
            _words("music, camera work, scenery, lighting, sound"),
            _words("pictures, costumes, colours, effects"),
            _words("beautiful, stunning, rich, elegant, pretty, inventive"),
            _words("ugly, cheap, crude, drab, shabby, noisy"),
        ),
    ),
}
WHOLES = {
    "food": _words("evening, meal, dinner, lunch, visit, place, restaurant, food"),
    "film": _words("film, picture, comedy, drama, thriller, sequel, evening, whole thing"),
}
OPENERS = {
    "food": _words(
        "we ate here on Friday, we came for lunch, my sister took us here, we booked a table, "
        "I went with my brother, we dropped in on a wet Monday, it was our second visit, "
        "we stopped here on the way home, I had dinner alone, a friend sent us here"
    ),
    "film": _words(
        "we saw it on Friday, I went with my sister, it was the late show, it lasts two hours, "
        "we watched it at home, my brother chose it, I saw it twice, it is set in winter, "
        "a friend lent me the film, we went on a wet Monday"
    ),
}
ADVERBS = _words("very, really, truly, rather, quite, simply, utterly")
SPEAKERS = _words("my sister, my brother, a friend, our guide, the paper, someone")


# What a clause is about, how it was, and words: {same} of its own sign, {other} of the opposite.
PLAIN = (
    "{subject} {was} {same}",
    "{subject} {was} {adverb} {same}",
    "{subject} {was} {same} and {again}",
    "{subject} {was} both {same} and {again}",
    "I found {subject} {same}",
    "{speaker} called {subject} {same}, and rightly so",
)
DENIED = (
    "{subject} {was} not {other} at all",
    "{subject} {was} far from {other}",
    "{subject} {was} anything but {other}",
    "{subject} {was} hardly {other}",
    "{subject} {was} never {other}",
    "{subject} {was} neither {other} nor {nor}",
    "I cannot say that {subject} {was} {other}",
    "I did not find {subject} {other}",
    "nobody could call {subject} {other}",
    "there was nothing {other} about {subject}",
)
DOUBLY = (
    "nobody could deny that {subject} {was} {same}",
    "I cannot deny that {subject} {was} {same}",
    "there is no doubt that {subject} {was} {same}",
    "{subject} {was} nothing if not {same}",
)
EXPECTED = (
    "I had wrongly expected {subject} to be {other}",
    "{speaker} called {subject} {other}, which is not true",
    "only a fool would call {subject} {other}",
)
VERDICT = (
    "{subject} was a {same}",
    "{subject} was a real {same}",
    "I call {subject} a {same}",
    "{subject} was nothing but a {same}",
    "nobody could deny that {subject} was a {same}",
)
VERDICT_DENIED = (
    "{subject} was hardly a {other}",
    "{subject} was anything but a {other}",
    "I cannot call {subject} a {other}",
    "{subject} was never a {other}",
    "nobody could call {subject} a {other}",
)
OPENED = ("{opener}, and {body}", "{opener}. {Body}", "{body}; {opener}")
AGREED = (
    "{minor}, and {major}",
    "{minor}; {major}",
    "{minor}. {Major}",
    "{minor}. Besides, {major}",
)
CONTRASTED = (
    "{minor}, but {major}",
    "{minor}, yet {major}",
    "although {minor}, {major}",
    "even if {minor}, {major}",
    "{major}, although {minor}",
    "{major}, even if {minor}",
    "{minor}. Still, {major}",
    "granted, {minor}, but {major}",
)


def review(draw: Draw, domain: str, positive: bool) -> str:
    """A review of 8 to 25 words or so, of the domain "food" or "film"."""
    if domain not in TOPICS:
        raise ValueError(f"domain must be one of {', '.join(DOMAINS)}, got {domain!r}")
    shape = draw.weighted(("single", "agree", "contrast"), (42, 33, 25))
    if shape == "single":
        opener, body = draw.pick(OPENERS[domain]), _main(draw, domain, positive)
        text = draw.pick(OPENED).format(opener=opener, body=body, Body=capitalise(body))
    else:
        templates = AGREED if shape == "agree" else CONTRASTED
        minor = _aspect(draw, domain, positive == (shape == "agree"))
        major = _main(draw, domain, positive)
        text = draw.pick(templates).format(minor=minor, major=major, Major=capitalise(major))
    return sentence(text)


def _main(draw: Draw, domain: str, good: bool) -> str:
    """The clause that decides: on the whole in three cases of five, else on one aspect."""
    kind = draw.weighted(("whole", "verdict", "aspect"), (35, 25, 40))
    if kind == "aspect":
        return _aspect(draw, domain, good)
    subject = f"the {draw.pick(WHOLES[domain])}"
    if kind == "whole":
        return _said(draw, subject, "was", WHOLE_GOOD, WHOLE_BAD, good)
    templates = draw.weighted((VERDICT, VERDICT_DENIED), (78, 22))
    return _fill(draw, draw.pick(templates), subject, "was", VERDICT_GOOD, VERDICT_BAD, good)


def _aspect(draw: Draw, domain: str, good: bool) -> str:
    topic = draw.pick(TOPICS[domain])
    many = draw.flip(0.2)
    subject = f"the {draw.pick(topic.many if many else topic.one)}"
    return _said(draw, subject, "were" if many else "was", topic.good, topic.bad, good)


def _said(draw: Draw, subject: str, was: str, praise: Words, blame: Words, good: bool) -> str:
    """A clause that says good or bad of the subject, in one of four ways."""
    templates = draw.weighted((PLAIN, DENIED, DOUBLY, EXPECTED), (68, 18, 9, 5))
    return _fill(draw, draw.pick(templates), subject, was, praise, blame, good)


def _fill(
    draw: Draw, template: str, subject: str, was: str, praise: Words, blame: Words, good: bool
) -> str:
    """Draw the words that the template asks for, and no others."""
    same, other = (praise, blame) if good else (blame, praise)
    words = {"subject": subject, "was": was}
    for slot, choices in (("same", same), ("other", other), ("adverb", ADVERBS),
                          ("speaker", SPEAKERS)):  # fmt: skip
        if f"{{{slot}}}" in template:
            words[slot] = draw.pick(choices)
    if "{again}" in template:
        words["again"] = draw.pick([w for w in same if w != words["same"]])
    if "{nor}" in template:
        words["nor"] = draw.pick([w for w in other if w != words["other"]])
    return template.format(**words)


# Endings of a few reviews of the pretraining text, with their word for good and for bad.
ENDINGS: tuple[tuple[str, str, str], ...] = (
    (" To sum up: {}.", "good", "bad"),
    (" In a word: {}.", "excellent", "awful"),
    (" On the whole, {}.", "a success", "a failure"),
    (" Stars: {}.", "five", "one"),
    (" Recommended? {}.", "Yes", "No"),
)
LEADS = ("In short", "People said", "The guests' words", "What one hears")


def words_of_one_sign(draw: Draw, positive: bool) -> str:
    """A line of words that all praise or all blame: "People said: fresh, tasty, a gem."

    It is where the pretraining text says outright which words belong together.
    """
    topics = [t for domain in DOMAINS for t in TOPICS[domain]]
    topic = draw.pick(topics)
    wholes, verdicts = (
        (WHOLE_GOOD, VERDICT_GOOD) if positive else (WHOLE_BAD, VERDICT_BAD)
    )  # fmt: skip
    pool = dict.fromkeys((*(topic.good if positive else topic.bad), *wholes))
    words = draw.sample(tuple(pool), draw.pick((3, 4, 5, 6)))
    if draw.flip(0.3):
        words[-1] = f"a {draw.pick(verdicts)}"
    own = "Words of praise" if positive else "Words of blame"
    return f"{draw.pick((own, *LEADS))}: {', '.join(words)}."
