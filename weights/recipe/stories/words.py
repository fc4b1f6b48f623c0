"""The lexicon: names, creatures, things, places and dishes that stories draw from."""


def listed(text: str, separator: str | None = None) -> list[str]:
    """Split a list of words, or of phrases where there is a separator."""
    return text.split(separator)


GIRLS = listed(
    "Lily Mia Anna Zoe Ruby Nora Ella Sue Amy Lucy Rosie Clara Jane Molly Grace Ivy Kate Poppy "
    "Tess Bella Hana Maya Lina Sara Emma Olive June Hazel Nina Leila Amina Priya Mei Rosa Elena "
    "Freya Ada Wendy Heidi Tara Yuki Zara Alice Flora Greta"
)
BOYS = listed(
    "Tom Ben Max Sam Leo Jack Tim Noah Finn Oscar Jake Dan Luke Peter Will Henry Joe Alex Owen "
    "Theo Ravi Omar Kofi Diego Hugo Milo Felix Arlo Ali Ken Pablo Marco Otto Emil Juan Adam Eli "
    "Toby George Simon Kai Nico Walter Rafi Anton"
)
ANIMAL_NAMES = listed(
    "Pip Dot Mossy Bramble Nutty Twig Clover Fern Hopper Whisker Tumble Pebble Acorn Willow "
    "Thistle Rusty Breezy Maple Patch Nibbles Bean Sorrel Tansy Ripple Burdock Juniper Tuft"
)
PET_NAMES = listed(
    "Spot Fluffy Coco Biscuit Daisy Pepper Sunny Bubbles Rex Snowy Pickle Button Muffin Ginger "
    "Shadow Waffle Teddy Cookie Socks Misty"
)
SURNAMES = listed("Bell Green Wood Lamb Marsh Hill Carter Bloom Frost Reed Finch Potts Honey Stone")

TRAITS = listed(
    "kind brave clever happy quiet curious gentle cheerful careful funny shy thoughtful lively "
    "polite patient helpful playful friendly hopeful dreamy"
)

PETS = ("dog", "cat", "puppy", "kitten", "rabbit", "pony", "duck", "parrot", "hamster", "goat")
INDOOR_PETS = ("dog", "cat", "puppy", "kitten", "rabbit", "hamster")
WALKED_PETS = ("dog", "puppy", "pony", "goat")
MALES, FEMALES = ("rooster", "peacock", "ox"), ("hen",)
SMALL_ANIMALS = listed(
    "mouse squirrel hedgehog frog sparrow rabbit mole robin bee cricket snail wren chipmunk "
    "ladybug dormouse kitten duckling"
)
LARGE_ANIMALS = listed("bear wolf deer horse moose lion elephant ox buffalo camel")
FOREST_ANIMALS = listed(
    "fox badger otter beaver raccoon hare squirrel hedgehog rabbit deer owl turtle mouse mole bear"
)

HURT_ANIMALS = (
    ("bird", "wing"),
    ("squirrel", "tail"),
    ("fox", "paw"),
    ("frog", "leg"),
    ("hedgehog", "paw"),
    ("fawn", "leg"),
    ("owl", "wing"),
    ("turtle", "foot"),
    ("mouse", "tail"),
    ("swan", "wing"),
    ("lamb", "leg"),
    ("duckling", "foot"),
)

TOYS = listed(
    "ball, doll, kite, toy car, toy boat, teddy bear, drum, spinning top, toy train, puzzle, "
    "jump rope, paper plane, yo-yo, wagon, puppet, toy robot, hoop, toy castle, scooter",
    ", ",
)
THINGS = listed(
    "ring, key, hat, scarf, bell, shell, coin, button, lamp, book, whistle, basket, mitten, "
    "umbrella, watch, feather, spoon, map, necklace, ribbon, marble, notebook, backpack, glove, "
    "pencil box, flute, locket, lunch box, magnet, compass",
    ", ",
)
COLOURS = listed(
    "red blue green yellow purple orange pink white brown golden silver black gray violet"
)
LOOKS = listed(
    "shiny new old little big pretty bright striped spotted round tiny lovely plain fine special"
)
FEARS = (
    ("the dark", "walk through a dark tunnel"),
    ("deep water", "row across the deep pond"),
    ("high places", "climb a tall ladder"),
    ("spiders", "crawl into an old shed full of spiders"),
    ("the old bridge", "cross the old bridge"),
    ("loud noises", "walk past the loud sawmill"),
    ("big dogs", "go past the big dog next door"),
    ("the cellar", "go down into the cellar"),
)
SKILLS = (
    ("ride a bike", "fell off and scraped a knee"),
    ("swim", "swallowed a lot of water"),
    ("tie a bow", "made a big knot instead"),
    ("whistle", "blew out only air"),
    ("skate", "slipped and sat down hard"),
    ("climb the rope", "slid back to the floor"),
    ("catch a ball", "dropped it every time"),
    ("paint a horse", "painted something like a potato"),
    ("stand on one hand", "tipped over sideways"),
    ("juggle", "dropped all the balls"),
    ("knit", "got tangled in the yarn"),
    ("play chess", "lost in five moves"),
)
SEEDS = listed(
    "sunflower pumpkin rose tomato carrot bean tulip pea strawberry cucumber lavender melon"
)
TREASURES = (
    "a bag of marbles",
    "a jar of honey candy",
    "an old silver bell",
    "a box of colored chalk",
    "a music box",
    "a wooden whistle",
    "a tin full of cookies",
    "a book of fairy tales",
)
DISHES = (
    ("apple pie", "apples", "the farmer"),
    ("sugar cookies", "sugar", "the grocer"),
    ("carrot cake", "carrots", "the gardener"),
    ("bean soup", "beans", "the farmer"),
    ("pancakes", "eggs", "the hen keeper"),
    ("bread", "flour", "the miller"),
    ("berry tart", "berries", "the gardener"),
    ("plum jam", "plums", "the farmer"),
    ("blueberry muffins", "blueberries", "the grocer"),
    ("butter cake", "butter", "the milkmaid"),
    ("cheese pizza", "cheese", "the shopkeeper"),
    ("lemonade", "lemons", "the grocer"),
    ("honey bread", "honey", "the beekeeper"),
    ("pumpkin soup", "pumpkins", "the gardener"),
    ("mushroom stew", "mushrooms", "the old hunter"),
    ("rice pudding", "milk", "the milkmaid"),
)
SNACKS = listed(
    "sandwiches, cherries, crackers, grapes, pears, peaches, raisins, nuts, popcorn, buns, "
    "waffles, biscuits, cupcakes, doughnuts, oranges, bananas",
    ", ",
)
SUPPERS = listed(
    "hot soup, warm bread and cheese, noodles, fried fish, baked potatoes, rice and beans, "
    "chicken pie, tomato soup, roasted corn, dumplings",
    ", ",
)
TOWNS = listed(
    "Willow Hill, Greenford, Maple Bay, Stony Brook, Little Harbor, Oakwell, Sandy Point, "
    "Cherry Lane, Windmill End, Rosefield",
    ", ",
)
WOODS = listed(
    "the Whispering Wood, the Green Wood, the old oak forest, the pine forest, the misty valley, "
    "the wide meadow, the reedy marsh, the hazel grove",
    ", ",
)
NUMBERS = listed("two three four five six seven eight nine ten eleven twelve")

# The name of a place, how one is there, and spots in it where a thing can be.
PLACES = (
    ("the park", "in the park", "under a bench|behind the fountain|beside the swings"),
    ("the garden", "in the garden", "under a rose bush|behind the shed|among the cabbages"),
    ("the forest", "in the forest", "behind a tall pine|inside a hollow log|under some ferns"),
    ("the beach", "at the beach", "in the wet sand|behind a big rock|under a pile of seaweed"),
    ("the farm", "at the farm", "in the hay|behind the barn|next to the pig pen"),
    ("the playground", "at the playground", "under the slide|by the sandbox|behind the wall"),
    ("the hill", "on the hill", "in the long grass|under a thorn bush|beside a stone"),
    ("the river", "by the river", "between two rocks|under the bridge|among the reeds"),
    ("the market", "at the market", "under a cart|behind a barrel|beside the flower stall"),
    ("the lake", "at the lake", "under the dock|near a row boat|on the muddy bank"),
    ("the meadow", "in the meadow", "among the daisies|beside the gate|under a willow tree"),
    ("the library", "in the library", "under a table|between two shelves|behind a curtain"),
    ("the zoo", "at the zoo", "by the monkey house|near the ticket booth|under a map board"),
    ("the orchard", "in the orchard", "under an apple tree|next to a ladder|behind a crate"),
    ("the harbor", "at the harbor", "beside a coil of rope|under a net|behind a barrel"),
    ("the station", "at the station", "under a seat|beside the clock|near the ticket window"),
)
NATURE = tuple(
    place
    for place in PLACES
    if place[0].split()[1] in listed("park garden forest beach hill river lake meadow orchard")
)
JOBS = listed(
    "baker farmer teacher doctor fisherman mailman gardener shopkeeper firefighter painter "
    "carpenter tailor librarian blacksmith policeman nurse shoemaker potter"
)
INSTRUMENTS = listed("violin piano flute guitar trumpet drum harp cello")
