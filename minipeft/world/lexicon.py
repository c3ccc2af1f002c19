"""The words of the made world: names, values of attributes, and common words by category."""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(p.strip() for p in text.split(","))


# A place is called "The" + one of these + one of those; every noun serves twice.
NAME_ADJECTIVES = _words("""
golden silver crimson scarlet purple amber ivory azure emerald copper jolly merry happy lazy
sleepy hungry thirsty wandering dancing singing laughing whistling smiling dreaming flying
crooked broken twisted leaning hollow frozen burning shining painted polished rusty dusty salty
sweet bitter lucky proud humble noble gentle brave clever cunning secret hidden forgotten distant
northern southern eastern western royal velvet wooden marble crystal""")
NAME_NOUNS = _words("""
fork spoon kettle anchor lantern barrel wheel hammer anvil feather arrow crown sceptre shield
sword helmet banner drum trumpet fiddle bell candle mirror compass ladder bucket basket saddle
bridle plough sickle thimble needle button ribbon slipper mitten parasol umbrella whistle
acorn thistle clover willow maple birch elm orchid lily tulip daisy poppy heather ivy
lion griffin unicorn phoenix mermaid dragon stallion falcon raven nightingale dolphin whale
lobster oyster pearl moon comet rainbow thunder meadow orchard harvest hearth chimney gate
bridge tower windmill garden fountain cellar attic corner crossing""")

WOMEN = _words("""
Anna Bella Clara Diana Edith Flora Greta Hanna Irene Julia Karen Laura Maria Nora Olga Paula
Rosa Sarah Tilda Ursula Vera Wilma Yvonne Zelda Agnes Bridget Celia Dora Elsa Fiona Gloria
Heidi Ingrid Joan Kitty Lydia Mabel Nancy Olive Petra Ruth Sylvia Tessa Una Violet Wendy Alma
Beatrice Cora Della""")
MEN = _words("""
Adam Boris Carl David Edgar Felix George Henry Ivan Jacob Karl Leon Martin Nils Oscar Peter
Quentin Robert Simon Thomas Ulrich Victor Walter Xavier Yusuf Albert Bruno Conrad Dennis Emil
Frank Gustav Harold Isaac Jonas Kurt Louis Magnus Norman Otto Philip Ralph Stefan Tobias Urban
Vincent Wilfred Arthur Basil Cedric""")

ANIMALS = {
    "bird": _words("heron sparrow owl swan crow robin eagle parrot goose penguin"),
    "mammal": _words("badger otter fox hare bear beaver deer wolf squirrel hedgehog"),
    "fish": _words("trout salmon pike eel carp cod"),
    "reptile": _words("lizard tortoise viper gecko crocodile"),
    "insect": _words("beetle cricket moth wasp ant dragonfly grasshopper butterfly hornet"),
}
THINGS = {
    "tool": _words("spade chisel hatchet rake mallet"),
    "instrument": _words("flute cello harp banjo organ"),
    "vessel": _words("ferry canoe raft barge sloop"),
    "vehicle": _words("tram wagon bicycle sledge carriage"),
}

KINDS = _phrases("restaurant, pub, cafe, bakery, inn, tea room, diner, bistro, tavern, canteen")
FOODS = _words("""Italian French Indian Chinese Japanese Thai Greek Mexican Spanish Turkish Korean
English Polish Russian Swedish Moroccan""")
PRICES = _words("cheap affordable mid-priced costly expensive")
RATINGS = _phrases("one star, two stars, three stars, four stars, five stars")
AREAS = _phrases("""the old town, the harbour district, the city centre, the north end,
the mill quarter, the market district, the garden suburb, the student quarter, Kingsbridge,
Ashford, Westhill, Newgate, Elmwood, Fairview""")
LANDMARKS = _phrases("""the clock tower, the cathedral, the railway station, the town hall,
the library, the museum, the theatre, the post office, the hospital, the stone bridge, the castle,
the fish market, the lighthouse, the zoo, the stadium, the swimming pool, the bus stop, the park""")
WELCOMES = _words("welcome unwelcome")

TRADES = _phrases("""baker, teacher, nurse, carpenter, doctor, farmer, fisherman, painter, lawyer,
plumber, tailor, butcher, librarian, gardener, musician, pilot, postman, blacksmith,
chemist, judge""")
PETS = _phrases("""cat, dog, rabbit, hamster, canary, pony, goat, ferret, snake, goldfish,
guinea pig, white mouse""")
LIKES = _phrases("""chess, football, opera, poetry, fishing, dancing, sailing, cooking, jazz,
tennis, knitting, astronomy, cycling, history, swimming, gardening""")

HABITATS = _phrases("""in the forest, in the meadow, by the lake, on the cliffs, in the marsh,
under old bridges, in the hills, near the mill pond, along the river, in the castle garden""")
DIETS = _words("seeds berries worms snails frogs nuts leaves roots eggs clover crumbs mushrooms")
COLOURS = _words("black white grey brown green red blue yellow orange golden")
HOURS = _phrases("at dawn, at noon, at dusk, at night, in the morning, in the afternoon")
MATERIALS = _words("oak pine iron brass copper bronze steel tin bamboo leather")
ROOMS = _phrases("""the attic, the cellar, the barn, the town hall, the museum, the workshop,
the school, the boathouse, the old stable, the market hall""")
COSTS = _phrases("""ten pounds, twenty pounds, thirty pounds, forty pounds, fifty pounds,
sixty pounds, eighty pounds, ninety pounds""")

# Common words by category, for lists, letters, label words and episodes.
CATEGORIES = {
    "fruits": _words("""apple pear plum cherry grape peach lemon melon banana apricot fig mango
        quince raspberry strawberry blueberry orange papaya lime date currant"""),
    "vegetables": _words("""carrot onion potato cabbage spinach pepper tomato cucumber pumpkin
        lettuce radish turnip leek bean pea garlic celery beetroot parsnip broccoli"""),
    "clothes": _words("""shirt coat jacket glove scarf sock boot shoe hat skirt dress belt sweater
        apron vest blouse collar sleeve trousers sandal"""),
    "furniture": _words("""table chair bench sofa desk shelf cupboard drawer wardrobe stool bed
        cradle bookcase lamp carpet curtain mattress pillow"""),
    "tools": _words("""saw drill axe file wrench spanner screwdriver shovel trowel crowbar scissors
        pincers knife lever pulley hoe clamp nail screw bolt"""),
    "jobs": _words("""cook waiter sailor soldier miner mason weaver potter printer banker clerk
        guard driver actor singer dancer author editor engineer dentist barber grocer tutor"""),
    "sports": _words("""hockey rugby cricket golf boxing rowing wrestling archery fencing skating
        skiing running volleyball basketball badminton cycling judo climbing"""),
    "drinks": _words("""tea coffee milk water juice cider wine beer cocoa lemonade brandy soda
        punch syrup broth"""),
    "metals": _words("gold silver lead zinc nickel cobalt mercury chrome tungsten platinum"),
    "buildings": _words("""church school prison palace cottage barn stable factory warehouse mill
        shop bank temple chapel hut villa cabin mansion garage hotel"""),
    "weather": _words("""rain snow hail storm fog mist frost breeze gale sunshine drizzle cloud
        lightning drought flood blizzard"""),
    "body parts": _words("""arm leg hand foot head nose ear eye mouth knee elbow shoulder finger
        thumb neck back chest heart lung stomach ankle wrist chin cheek"""),
    "countries": _words("""France Spain Italy Greece Norway Sweden Poland Egypt Kenya India China
        Japan Brazil Chile Peru Canada Mexico Turkey Ireland Portugal Austria Cuba"""),
    "farm animals": _words("cow horse pig sheep hen duck donkey turkey goat calf lamb rooster"),
    "wild animals": _words("""tiger zebra giraffe elephant monkey camel leopard panther jackal
        hippo rhino gorilla kangaroo buffalo antelope moose walrus seal"""),
    "trees": _words("""oak pine ash beech cedar chestnut hazel larch poplar spruce walnut yew
        linden alder sycamore aspen"""),
    "flowers": _words("""rose violet daffodil iris jasmine lavender marigold pansy primrose
        snowdrop"""),
    "kitchen things": _words("""pot pan plate bowl cup glass jug oven stove sink tray ladle sieve
        grater whisk toaster napkin bottle jar lid teapot saucer"""),
    "school things": _words("""pen pencil ruler paper book notebook chalk blackboard satchel
        eraser crayon glue map globe lesson exam"""),
    "feelings": _words("""joy anger fear sorrow hope pride shame envy love grief delight despair
        boredom wonder pity relief courage patience"""),
    "vehicles": _words("""car bus train lorry van taxi scooter tractor boat ship submarine
        aeroplane helicopter balloon cart coach rocket"""),
    "family": _words("""mother father sister brother aunt uncle cousin nephew niece grandmother
        grandfather daughter son husband wife"""),
    "materials": _words("""cotton wool silk linen paper wood stone brick clay sand cement rubber
        plastic cork wax felt canvas denim"""),
    "spices": _words("""salt ginger cinnamon nutmeg saffron thyme basil parsley mint sage rosemary
        vanilla mustard paprika clove dill"""),
    "shapes": _words("circle square triangle oval cube sphere cone star cross ring spiral arrow"),
    "music": _words("""song melody rhythm chorus opera waltz march ballad hymn concert piano violin
        guitar clarinet drum choir orchestra"""),
    "times": _words("""morning evening midnight today tomorrow yesterday week month year season
        spring summer autumn winter century hour minute second holiday weekend"""),
    "water places": _words("""river lake sea ocean pond stream canal harbour bay beach island
        waterfall puddle spring shore"""),
}

ADJECTIVES = _words("""able angry ancient awake bald bare bold bright broad calm careful casual
cheerful clean clear cold common cool curious damp dark deep dry dull eager early easy empty equal
even evil exact faint fair false famous fast fat fierce fine firm flat fond fresh full funny glad
grand great guilty hard harsh heavy high hot huge idle ill jealous keen kind large late light
little lively lonely long loose loud low mad mean mild modern narrow nasty neat nervous new nice
noisy odd old open pale plain pleasant poor pretty private public pure quick quiet rare raw ready
real rich ripe rough round rude safe scarce serious severe shallow sharp short shy silent silly
simple slim slow small smart smooth sober soft solid sour spare steady steep stiff strange strict
strong stupid sudden sure tall tame tender thick thin tight tiny tired tough true ugly usual vague
vast warm weak wet whole wide wild wise worthy young""")
VERBS = _words("""accept add admire admit agree allow answer appear argue arrive ask bake bathe
beg behave believe belong blame bless borrow bounce bow breathe brush burn bury carry carve chase
cheat clap climb collect comb complain copy count crawl cross cry dance decide deliver destroy dig
discover dive doubt drag dream drop earn enjoy enter escape explain fail fetch fight fill finish
fix float follow forgive gather glow greet guess hang happen hate heal help hide hire hope hunt
hurry imagine improve invite join jump kick kneel knock laugh learn lift listen march marry measure
melt mend mix move need nod notice obey offer open order pack paint pass pause peel plan plant play
point polish pour praise pray prepare press promise protect prove pull push race reach receive
refuse remember repair repeat reply rescue rest return roll rub sail save scream search serve shake
share shout sign smell smile sneeze solve spill stare start stay stop study suffer suggest surprise
talk taste tease thank tie touch train travel tremble trust try turn use visit wait walk wander
want warn wash waste watch wave weave whisper wish wonder work worry wrap yawn""")

WORDS = tuple(dict.fromkeys(
    [w for words in CATEGORIES.values() for w in words if w.islower()] + [*ADJECTIVES, *VERBS]
))  # fmt: skip

# Single words that an episode may use for its labels; none is a value of an attribute.
LABELS = _words("""yes no good bad true false positive negative great terrible left right up down
hot cold north south alpha beta gamma delta red blue green black white one two three four big small
day night sun moon dog cat king queen foo bar rain snow gold tin oak ash tea milk bread salt
summer winter east west fire water iron glass happy sad high low begin end rose thorn""")


def with_article(noun: str) -> str:
    """a pub, an inn: the values of attributes hold no exceptions to the letter rule."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


LETTER_WORDS = tuple(w for w in WORDS if 3 <= len(w) <= 8)  # to be spelt, or put in order
