"""What can be said of an entity: values of each attribute and the ways to tell it.

A pattern is a verb phrase with the verb in its base form ("serve {v} food"), or a whole clause
that names the entity ("the food at {e} is {v}"). {v} is the value, {av} the value with its
article. Every attribute has patterns that end in the value, so that a prompt can stop there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from minipeft.world import lexicon as lx


@dataclass(frozen=True)
class Attribute:
    """One attribute of a type of entity: its values, verb phrases, clauses and questions."""

    name: str
    values: tuple[str, ...]
    phrases: tuple[str, ...]
    clauses: tuple[str, ...]
    questions: tuple[str, ...]
    article: bool = False  # the value is a noun that wants "a" when it stands alone
    good: tuple[str, ...] = ()  # values that please; the others of such an attribute do not

    @cached_property
    def patterns(self) -> tuple[str, ...]:
        """All phrases and clauses."""
        return self.phrases + self.clauses

    @cached_property
    def value_last(self) -> tuple[str, ...]:
        """The patterns that end in the value."""
        return tuple(p for p in self.patterns if p.endswith("v}"))

    def show(self, value: str) -> str:
        """The value as it stands at the end of a sentence or as an answer."""
        return lx.with_article(value) if self.article else value


PLACE = (
    Attribute(
        "kind", lx.KINDS,
        ("be {av}", "call itself {av}", "be run as {av}", "look like {av}", "operate as {av}"),
        ("the sign above {e} shows {av}", "the people behind {e} run {av}"),
        ("What kind of place is {e}?", "What is {e}?", "What would you call {e}?",
         "What sort of house is {e}?"),
        article=True,
    ),
    Attribute(
        "food", lx.FOODS,
        ("serve {v} food", "offer {v} dishes", "cook {v} meals", "have a menu that is {v}",
         "sell food that is {v}", "be known for {v} cooking"),
        ("the food at {e} is {v}", "the cooking at {e} is {v}", "the menu of {e} is {v}"),
        ("What food does {e} serve?", "What kind of cooking does {e} offer?",
         "What is on the menu of {e}?", "Which cuisine will I find at {e}?"),
    ),
    Attribute(
        "price", lx.PRICES,
        ("be {v}", "count as {v}", "seem {v} to most guests", "have a name for being {v}"),
        ("a meal at {e} is {v}", "dinner at {e} is {v}", "the wine at {e} is {v}",
         "most guests find {e} {v}"),
        ("How expensive is {e}?", "What are the prices at {e} like?",
         "How much does {e} cost?", "Is {e} cheap or expensive?"),
        good=("cheap", "affordable"),
    ),
    Attribute(
        "rating", lx.RATINGS,
        ("have {v}", "hold {v}", "deserve {v}", "show {v} on its door"),
        ("the guide gives {e} {v}", "visitors give {e} {v}", "critics award {e} {v}",
         "the paper grants {e} {v}"),
        ("How is {e} rated?", "How many stars does {e} have?", "What rating has {e} got?",
         "What do critics give {e}?"),
        good=("four stars", "five stars"),
    ),
    Attribute(
        "area", lx.AREAS,
        ("lie in {v}", "stand in {v}", "be in {v}", "be found in {v}", "belong to {v}"),
        ("you will find {e} in {v}", "the road to {e} ends in {v}", "the house of {e} is in {v}"),
        ("Where is {e}?", "In which part of town is {e}?", "Which district is {e} in?",
         "Where can I find {e}?"),
    ),
    Attribute(
        "landmark", lx.LANDMARKS,
        ("be near {v}", "stand close to {v}", "face {v}", "be a short walk from {v}",
         "look out on {v}"),
        ("from {e} one can see {v}", "the windows of {e} overlook {v}",
         "the terrace of {e} is next to {v}"),
        ("What is {e} near?", "What stands next to {e}?", "What can one see from {e}?",
         "Which landmark is close to {e}?"),
    ),
    Attribute(
        "children", lx.WELCOMES,
        ("make children feel {v}", "let families know that they are {v}",
         "tell parents that children are {v}"),
        ("children are {v} at {e}", "at {e} children are {v}", "at {e} families are {v}",
         "in the rooms of {e} small guests are {v}"),
        ("Are children welcome or unwelcome at {e}?", "Are families welcome or unwelcome at {e}?",
         "How do children feel at {e}?"),
        good=("welcome",),
    ),
)  # fmt: skip

PERSON = (
    Attribute(
        "trade", lx.TRADES,
        ("work as {av}", "be {av}", "earn a living as {av}", "be {av} by trade",
         "be employed as {av}"),
        ("the neighbours know {e} as {av}", "the trade of {e} is that of {av}"),
        ("What does {e} do for a living?", "What is the trade of {e}?", "What work does {e} do?",
         "What is {e} by trade?"),
        article=True,
    ),
    Attribute(
        "home", lx.AREAS,
        ("live in {v}", "have a house in {v}", "rent a flat in {v}", "come from {v}"),
        ("the home of {e} is in {v}", "you can visit {e} in {v}", "the family of {e} lives in {v}"),
        ("Where does {e} live?", "Where is the home of {e}?",
         "In which part of town is {e} at home?", "Where can I visit {e}?"),
    ),
    Attribute(
        "pet", lx.PETS,
        ("keep {av}", "own {av}", "have {av}", "look after {av}", "walk around with {av}"),
        ("the pet of {e} is {av}", "the best friend of {e} is {av}"),
        ("What pet does {e} keep?", "Which animal does {e} own?", "What is the pet of {e}?",
         "What animal lives with {e}?"),
        article=True,
    ),
    Attribute(
        "likes", lx.LIKES,
        ("like {v}", "love {v}", "enjoy {v}", "spend every weekend on {v}",
         "talk about {v} all day", "dream of {v}"),
        ("the hobby of {e} is {v}", "what {e} likes best is {v}",
         "nothing pleases {e} more than {v}"),
        ("What does {e} like?", "What is the hobby of {e}?", "What does {e} enjoy most?",
         "How does {e} spend the weekend?"),
    ),
)  # fmt: skip

_COLOUR = Attribute(
    "colour", lx.COLOURS,
    ("be {v}", "look {v}", "be {v} all over", "appear {v} from afar"),
    ("the colour of {e} is {v}", "painters paint {e} {v}", "everyone calls {e} {v}"),
    ("What colour is {e}?", "Which colour has {e}?", "What does {e} look like?",
     "What is the colour of {e}?"),
)  # fmt: skip

ANIMAL = (
    Attribute(
        "kind", tuple(lx.ANIMALS),
        ("be {av}", "count as {av}", "be a kind of {v}", "behave like {av}"),
        ("the books call {e} {av}", "children learn that {e} is {av}"),
        ("What kind of animal is {e}?", "What is {e}?", "What sort of creature is {e}?",
         "What do the books call {e}?"),
        article=True,
    ),
    _COLOUR,
    Attribute(
        "habitat", lx.HABITATS,
        ("live {v}", "sleep {v}", "hide {v}", "be at home {v}", "raise its young {v}"),
        ("one can see {e} {v}", "the tracks of {e} are found {v}"),
        ("Where does {e} live?", "Where is {e} at home?", "Where does {e} sleep?",
         "Where can one see {e}?"),
    ),
    Attribute(
        "diet", lx.DIETS,
        ("eat {v}", "feed on {v}", "live on {v}", "look for {v}", "be fond of {v}"),
        ("the food of {e} is {v}", "what {e} eats is {v}", "one can feed {e} with {v}"),
        ("What does {e} eat?", "What does {e} feed on?", "What is the food of {e}?",
         "What is {e} fond of?"),
    ),
    Attribute(
        "hour", lx.HOURS,
        ("wake {v}", "be busy {v}", "come out {v}", "look for food {v}"),
        ("one hears {e} {v}", "the best time to watch {e} is {v}"),
        ("When is {e} busy?", "When does {e} come out?", "When does {e} wake?",
         "When can one hear {e}?"),
    ),
)  # fmt: skip

THING = (
    Attribute(
        "kind", tuple(lx.THINGS),
        ("be {av}", "count as {av}", "serve as {av}", "be used as {av}"),
        ("the list names {e} as {av}", "children learn that {e} is {av}"),
        ("What kind of thing is {e}?", "What is {e}?", "What is {e} used as?",
         "What sort of object is {e}?"),
        article=True,
    ),
    _COLOUR,
    Attribute(
        "material", lx.MATERIALS,
        ("be made of {v}", "consist of {v}", "be built from {v}", "contain plenty of {v}"),
        ("the maker of {e} used {v}", "the material of {e} is {v}"),
        ("What is {e} made of?", "What does {e} consist of?", "What is the material of {e}?",
         "What did the maker of {e} use?"),
    ),
    Attribute(
        "room", lx.ROOMS,
        ("stand in {v}", "be kept in {v}", "be stored in {v}", "gather dust in {v}"),
        ("you will find {e} in {v}", "the place of {e} is in {v}"),
        ("Where is {e} kept?", "Where is {e}?", "Where does {e} stand?", "Where can I find {e}?"),
    ),
    Attribute(
        "cost", lx.COSTS,
        ("cost {v}", "sell for {v}", "be worth {v}", "be on offer for {v}"),
        ("the price of {e} is {v}", "the label on {e} says {v}", "the town paid {v} for {e}"),
        ("What does {e} cost?", "What is {e} worth?", "What is the price of {e}?",
         "What does the label on {e} say?"),
    ),
)  # fmt: skip

ATTRIBUTES = {"place": PLACE, "person": PERSON, "animal": ANIMAL, "thing": THING}
