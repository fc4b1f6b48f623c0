"""The lexicon: names, creatures, things, places and dishes that stories draw from."""

GIRLS = (
    "Lily Mia Anna Zoe Ruby Nora Ella Sue Amy Lucy Rosie Clara Jane Molly Grace Ivy Kate Poppy "
    "Tess Bella Hana Maya Lina Sara Emma Olive June Hazel Nina Leila Amina Priya Mei Rosa Elena "
    "Freya Ada Wendy Heidi Tara Yuki Zara Alice Flora Greta"
).split()
BOYS = (
    "Tom Ben Max Sam Leo Jack Tim Noah Finn Oscar Jake Dan Luke Peter Will Henry Joe Alex Owen "
    "Theo Ravi Omar Kofi Diego Hugo Milo Felix Arlo Ali Ken Pablo Marco Otto Emil Juan Adam Eli "
    "Toby George Simon Kai Nico Walter Rafi Anton"
).split()
ANIMAL_NAMES = (
    "Pip Dot Mossy Bramble Nutty Twig Clover Fern Hopper Whisker Tumble Pebble Acorn Willow "
    "Thistle Rusty Breezy Maple Patch Nibbles Bean Sorrel Tansy Ripple Burdock Juniper Tuft"
).split()
PET_NAMES = (
    "Spot Fluffy Coco Biscuit Daisy Pepper Sunny Bubbles Rex Snowy Pickle Button Muffin Ginger "
    "Shadow Waffle Teddy Cookie Socks Misty"
).split()
SURNAMES = "Bell Green Wood Lamb Marsh Hill Carter Bloom Frost Reed Finch Potts Honey Stone".split()

TRAITS = (
    "kind brave clever happy quiet curious gentle cheerful careful funny shy thoughtful lively "
    "polite patient helpful playful friendly hopeful dreamy"
).split()

PETS = ("dog", "cat", "puppy", "kitten", "rabbit", "pony", "duck", "parrot", "hamster", "goat")
INDOOR_PETS = ("dog", "cat", "puppy", "kitten", "rabbit", "hamster")
WALKED_PETS = ("dog", "puppy", "pony", "goat")
MALES, FEMALES = ("rooster", "peacock", "ox"), ("hen",)
SMALL_ANIMALS = (
    "mouse squirrel hedgehog frog sparrow rabbit mole robin bee cricket snail wren chipmunk "
    "ladybug dormouse kitten duckling"
).split()
LARGE_ANIMALS = "bear wolf deer horse moose lion elephant ox buffalo camel".split()
FOREST_ANIMALS = (
    "fox badger otter beaver raccoon hare squirrel hedgehog rabbit deer owl turtle mouse mole bear"
).split()

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

TOYS = (
    "ball, doll, kite, toy car, toy boat, teddy bear, drum, spinning top, toy train, puzzle, "
    "jump rope, paper plane, yo-yo, wagon, puppet, toy robot, hoop, toy castle, scooter"
).split(", ")
THINGS = (
    "ring, key, hat, scarf, bell, shell, coin, button, lamp, book, whistle, basket, mitten, "
    "umbrella, watch, feather, spoon, map, necklace, ribbon, marble, notebook, backpack, glove, "
    "pencil box, flute, locket, lunch box, magnet, compass"
).split(", ")
COLOURS = (
    "red blue green yellow purple orange pink white brown golden silver black gray violet".split()
)
LOOKS = (
    "shiny new old little big pretty bright striped spotted round tiny lovely plain fine special"
).split()
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
SEEDS = (
    "sunflower pumpkin rose tomato carrot bean tulip pea strawberry cucumber lavender melon".split()
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
SNACKS = (
    "sandwiches, cherries, crackers, grapes, pears, peaches, raisins, nuts, popcorn, buns, "
    "waffles, biscuits, cupcakes, doughnuts, oranges, bananas"
).split(", ")
SUPPERS = (
    "hot soup, warm bread and cheese, noodles, fried fish, baked potatoes, rice and beans, "
    "chicken pie, tomato soup, roasted corn, dumplings"
).split(", ")
TOWNS = (
    "Willow Hill, Greenford, Maple Bay, Stony Brook, Little Harbor, Oakwell, Sandy Point, "
    "Cherry Lane, Windmill End, Rosefield"
).split(", ")
WOODS = (
    "the Whispering Wood, the Green Wood, the old oak forest, the pine forest, the misty valley, "
    "the wide meadow, the reedy marsh, the hazel grove"
).split(", ")
NUMBERS = "two three four five six seven eight nine ten eleven twelve".split()

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
    if place[0].split()[1] in "park garden forest beach hill river lake meadow orchard".split()
)
JOBS = (
    "baker farmer teacher doctor fisherman mailman gardener shopkeeper firefighter painter "
    "carpenter tailor librarian blacksmith policeman nurse shoemaker potter"
).split()
INSTRUMENTS = "violin piano flute guitar trumpet drum harp cello".split()
