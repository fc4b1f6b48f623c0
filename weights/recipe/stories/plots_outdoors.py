"""Plots outdoors: the weather, the woods and the water."""

from . import words
from .phrases import choice, ending, glad, lesson, once, opening, proud, sad, say, scared, thanks
from .story import Story, plot
from .world import World


@plot
def lost_thing(world: World) -> Story:
    """Something loved is lost and looked for."""
    hero, friend, parent, story = world.hero, world.friend, world.parent, Story(world)
    place = world.place
    thing = world.toy() if world.chance() else world.thing()
    look = world.look()
    story.add(opening(hero),
              f"[{hero} had a {look} {thing} and took it everywhere.|{hero} loved {hero.his} "
              f"{look} {thing} more than anything.|{hero}'s [dearest|favorite] thing was a "
              f"{look} {thing}.]")
    story.add(once(),
              f"{hero} went to {place} with {parent}. [The sky was blue.|There were many people "
              f"there.|They had a lovely time.] But when it was time to go home, the {thing} was "
              "[gone|missing]!", sad(hero),
              say(parent, "[Do not worry. We will look for it together|Let us go back and look]."))
    story.add("They looked [here and there|high and low|everywhere]. [They asked "
              f"{choice(WORKERS)}, who had not seen it.|No {thing}!|They found an old shoe, but "
              f"no {thing}.]", f"Then {friend} came by.",
              say(friend, "[What are you looking for|What is wrong]?"),
              say(hero, f"I lost my {look} {thing}."))
    story.add(f"{friend} had sharp eyes.", say(friend, "[Look over there|I see something]!"),
              f"There, {place.spot}, lay the {look} {thing}.", glad(hero), thanks(hero),
              f"[{hero} held the {thing} tight all the way home.|From that day on, {hero} took "
              f"good care of the {thing}.]", ending(hero))
    story.ask(f"What did {hero} lose?", f"{hero} lost the {look} {thing}.")
    story.ask(f"Where was the {thing}?", f"The {thing} was {place.spot}.")
    story.ask(f"Who found the {thing}?", f"{friend} found the {thing}.")
    story.about(f"a {hero.noun} who lost a {thing}", f"a lost {thing}", f"a {look} {thing}")
    return story


WORKERS = ("an old man", "a mailman", "a woman with a dog", "a gardener", "a boy on a bike")
LANDMARKS = ("the crooked tree", "the old well", "the stone lion", "the broken gate",
             "the black rock", "the empty tower", "the little waterfall", "the red barn")


@plot
def kite_in_tree(world: World) -> Story:
    """A kite is caught in a tree, and there are several ways to get it down."""
    hero, friend, story = world.hero, world.friend, Story(world)
    color = world.color()
    shape = world.one(("dragon", "fish", "bird", "butterfly", "star", "diamond"))
    tree = world.one(("oak", "pine", "chestnut tree", "maple", "poplar", "birch"))
    story.add(opening(hero), f"{hero} had a {color} kite that looked like a {shape}.")
    story.add(f"One windy day, {hero} and {friend} [went up the hill|ran across the meadow] to "
              "fly it. The kite [danced in the sky|climbed higher and higher|pulled at the "
              "string]. Then [the string snapped|a gust came], and the kite got stuck in a tall "
              f"{tree}.", say(hero, "[Oh no, my kite|Come down, kite]!"))
    way = world.one(("ladder", "wait", "neighbor"))
    if way == "ladder":
        story.add(f"{friend} threw a stick, but [it missed|the stick got stuck too]. {hero} "
                  "tried to climb, but the branches were too high. At last they [borrowed a "
                  f"ladder from the farmer|carried a ladder from the barn]. {friend} held it, "
                  f"and {hero} climbed up slowly and freed the kite.")
        story.ask("How did they get the kite down?", "They used a ladder.")
    elif way == "wait":
        story.add("They tried a stick and a rope, but nothing worked.", sad(hero),
                  say(friend, "The wind put it there. Maybe the wind will bring it back."),
                  "So they sat down and [told riddles|ate plums|looked at the clouds]. All at "
                  "once, the wind turned. The kite shook, slipped and sailed down into the "
                  "grass.")
        story.ask("What brought the kite down?", "The wind brought the kite down.")
    else:
        helper = world.neighbor()
        story.add(f"Just then {helper} came by with a long fishing rod.",
                  say(helper, "[I have caught many fish, but never a kite|Let me try]."),
                  f"With one throw, {helper} hooked the string and pulled the kite down.",
                  thanks(hero))
        story.ask("Who got the kite down?", f"{helper} got the kite down with a fishing rod.")
    story.add("The kite had a [small tear|broken stick], so they mended it with [tape|glue and "
              f"paper]. Soon it flew again, high over the {tree}.", glad(hero), ending(hero))
    story.ask("What did the kite look like?", f"The {color} kite looked like a {shape}.")
    story.ask("Where did the kite get stuck?", f"The kite got stuck in a tall {tree}.")
    story.about("a kite in a tree", f"a {hero.noun} whose kite got stuck", f"a {color} kite")
    return story


@plot
def storm(world: World) -> Story:
    """A storm at night is waited out."""
    hero, parent, story = world.hero, world.parent, Story(world)
    pet = world.pet(words.INDOOR_PETS)
    power = world.chance()
    game = world.one(("told stories", "sang old songs", "made shadow animals on the wall",
                      "counted the seconds", "played a guessing game", "built a tent of blankets"))
    hideout = world.one(("under the bed", "in the closet", "behind the stove", "in a laundry "
                         "basket", "under the stairs"))
    story.add(opening(hero),
              f"{hero} had a {pet.noun} named {pet}, who slept at the foot of the bed.")
    story.add("One night there was a storm. The wind howled, and rain beat on the "
              "[roof|windows]. [Lightning flashed|Thunder rolled|Thunder boomed].", scared(hero),
              f"[{hero} pulled the blanket up to {hero.his} chin.|{hero} called for {parent}.]",
              f"Then {hero.he} saw that {pet} was gone!")
    story.add(f"{hero} forgot to be afraid. {hero.he} [took a flashlight|lit a lantern] and "
              f"[looked in every room|searched the house]. At last {hero.he} found {pet} "
              f"{hideout}, [shaking|trembling] from nose to tail.",
              say(hero, f"[Do not be scared, {pet}. I am here|It is only noise, {pet}]."))
    story.add("All the lights had gone out, so they lit candles." if power else "",
              f"{parent} came too, and they {game} until the storm [passed|moved away]. [{hero} "
              f"did not jump at the thunder any more.|{pet} fell asleep on {hero}'s lap.]",
              "In the morning, the sun shone on [wet leaves|big puddles|broken branches], and "
              "[a rainbow stood over the roofs|the air smelled fresh].",
              lesson(hero, "helping someone smaller makes you brave"), ending(hero))
    story.ask(f"Where was {pet}?", f"{pet} was {hideout}.")
    story.ask("What did they do until the storm was over?", f"They {game}.")
    story.ask(f"Why did {hero} get out of bed?", f"{hero} looked for {pet}.")
    story.about("a storm at night", f"a {hero.noun} and a storm", f"a {pet.noun} who hid")
    return story


@plot
def snow_day(world: World) -> Story:
    """School is closed, and the snow is put to use."""
    hero, friend, story = world.hero, world.friend, Story(world)
    old = world.neighbor()
    nose = world.one(("a carrot", "a potato", "a pine cone", "a red button"))
    hat = world.one(("a bucket", "an old hat", "a flower pot", "a woolly cap", "a saucepan"))
    story.add(opening(hero),
              f"One winter morning, {hero} looked out of the window. [Everything was white.|The "
              "whole street was covered in snow.] There was no school!",
              say(hero, "[Snow! Snow|Hurray, it snowed]!"))
    story.add(f"{hero} put on [boots, mittens and a scarf|two sweaters and a warm coat] and ran "
              f"to fetch {friend}. They [slid down the hill on a sled|threw snowballs|made snow "
              f"angels]. Then they built a snowman with {nose} for a nose and {hat} on its head.")
    story.add(f"On the way home they saw {old}. The path to {old.his} door was deep in snow, and "
              f"{old.he} could not get out to buy [bread|milk|firewood|medicine].",
              say(friend, "[Let us clear the path|We have strong arms]."),
              "They [shoveled and shoveled|worked for an hour], until the path was clear.",
              thanks(old))
    story.add(f"{old} gave them [hot chocolate|warm apple cider|hot milk with honey] by the "
              "fire. Their [noses|cheeks|fingers] were red and their hearts were warm.",
              proud(hero),
              "[The next day, somebody had put a scarf on the snowman.|That night it snowed "
              "again.|From the window, the snowman seemed to wink.]", ending(hero))
    story.ask("What was the nose of the snowman?", f"The nose was {nose}.")
    story.ask("What was on the head of the snowman?", f"There was {hat} on its head.")
    story.ask(f"Why did they help {old}?", f"The path to {old}'s door was deep in snow.")
    story.about("a snow day", "a snowman", f"two friends who helped a neighbor named {old}")
    return story


@plot
def fishing(world: World) -> Story:
    """Waking early to go fishing, with a catch that is let go, or none."""
    hero, story = world.hero, Story(world)
    elder = world.family("grandpa grandma dad uncle")
    lunch = world.one(words.SNACKS)
    fish = world.one(("trout", "perch", "carp", "catfish", "bass"))
    hour = world.one(("four", "five"))
    story.add(opening(hero), say(elder, "[Tomorrow|In the morning] we will go fishing."),
              f"{hero} was so excited that {hero.he} could hardly sleep.")
    story.add(f"{elder} woke {hero.him} at {hour} o'clock. It was still dark, and [the stars "
              "were out|an owl hooted]. They walked through the [wet|cold] grass to the lake "
              f"and pushed the boat out. Mist lay on the water. For lunch they had {lunch}.",
              say(hero, "[Where are the fish|When will they bite]?"),
              say(elder, "[Shh. Fishing is mostly waiting|Be patient, little one]."))
    if world.chance(0.6):
        story.add(f"They waited and waited. Then {hero}'s rod bent! {hero} pulled, and {elder} "
                  f"helped. Up came a big {fish}. [It glittered like silver.|It looked at them "
                  "with round eyes.]",
                  say(hero, "[It is so beautiful. May I let it go|Can we let it swim home]?"),
                  f"{elder} [smiled and nodded|was surprised, but nodded]. {hero} lowered the "
                  f"{fish} into the water, and with one splash it was gone.")
        story.ask(f"What did {hero} catch?", f"{hero} caught a big {fish}.")
        story.ask(f"What did {hero} do with the {fish}?", f"{hero} let it go.")
    else:
        story.add("They waited all morning, but no fish came. Instead they saw [a heron|an "
                  "otter|two deer] on the shore, and the sun came up red and gold over the "
                  "water.", say(hero, "We caught nothing!"),
                  say(elder, "[We caught the morning|We caught a sunrise. That is better]."))
        story.ask("How many fish did they catch?", "They caught no fish.")
    story.add(f"[On the way home, {hero} fell asleep on {elder}'s shoulder.|They rowed back and "
              "made plans for the next time.]",
              lesson(hero, "some things are worth waking early for"), ending(hero))
    story.ask(f"When did {hero} wake up?", f"{hero} woke up at {hour} o'clock.")
    story.ask("What did they have for lunch?", f"They had {lunch}.")
    story.about("going fishing", f"a {hero.noun} who woke up early", f"fishing with {elder.noun}")
    return story


@plot
def picnic(world: World) -> Story:
    """Ants come to a picnic."""
    hero, friend, parent, story = world.hero, world.friend, world.parent, Story(world)
    first, second = world.fresh(words.SNACKS), world.fresh(words.SNACKS)
    place = world.one(("under a big oak", "on the river bank", "by the windmill", "on the hill",
                       "beside a brook"))
    story.add(opening(hero), once(),
              f"{hero}, {friend} and {parent} went on a picnic. They packed {first}, {second} "
              "and a [bottle of juice|jug of lemonade]. They spread the [checkered|woolen] "
              f"blanket {place}.")
    story.add("First they [played ball|picked flowers|waded in the water]. When they came back, "
              f"{hero} [stared|cried out].",
              say(hero, f"Look! [The {first} are moving|Ants are carrying the {first} away]!"),
              "A long line of ants marched over the blanket. [Each one carried a crumb.|They "
              "did not even look up.]")
    if world.chance():
        story.add(f"{friend} wanted to stamp on them.",
                  say(hero, "[Wait! They are only hungry|No, they have children to feed too]!"),
                  f"{hero} laid a trail of crumbs that led away from the blanket. The ants "
                  f"followed it, [one by one|in a neat row], and the rest of the {second} were "
                  "safe.")
        story.ask("How did the ants leave the blanket?", "They followed a trail of crumbs.")
    else:
        story.add(f"{parent} [laughed|shook {parent.his} head].",
                  say(parent, "[We put our blanket on their street|We are guests in their house]."),
                  "So they picked everything up and moved to [a flat rock|the other side of the "
                  f"tree]. They left the {first} for the ants and ate the {second}.")
        story.ask("What did they leave for the ants?", f"They left the {first}.")
    story.add("They lay down and watched the ants work.",
              say(friend, "[So small and so strong|They never stop to rest]!"),
              lesson(hero, "even the smallest creature has work to do"), ending(hero))
    story.ask("Where was the picnic?", f"The picnic was {place}.")
    story.ask("Who came to the picnic?", "Ants came to the picnic.")
    story.about("a picnic with ants", "a picnic", f"a {hero.noun} who was kind to ants")
    return story


@plot
def treasure_map(world: World) -> Story:
    """A map leads by landmarks to a treasure."""
    hero, friend, story = world.hero, world.friend, Story(world)
    found = world.one(("in the attic", "inside an old book", "in a bottle on the beach",
                       "behind a loose brick", "in a dusty trunk"))
    marks = world.rng.sample(LANDMARKS, 3)
    steps, treasure = world.one(words.NUMBERS), world.one(words.TREASURES)
    story.add(opening(hero),
              f"One [rainy|gray] day, {hero} found a map {found}. It was [yellow and torn|drawn "
              "in blue ink]. A red cross marked a spot.",
              say(hero, "[A treasure map|This must be a treasure]!"),
              f"When the rain stopped, {hero} ran to {friend}."
              if world.chance() else
              f"The next day {hero} showed it to {friend}.")
    story.add(f"They followed the map. First they went to {marks[0]}. From there the path led to "
              f"{marks[1]}. [A crow watched them.|Thorns tore at their sleeves.|It was farther "
              f"than they thought.] At last they came to {marks[2]}.",
              say(friend, f"[Now we must take {steps} steps|It says: {steps} steps] to the north."),
              "They counted the steps and began to dig.")
    story.add(f"[Clunk!|Thud!] The shovel hit [a chest|a box]. {hero}'s hands shook as {hero.he} "
              f"opened it. Inside was {treasure} and a note. The note said: Well done! Your "
              "grandpa hid this when he was a boy."
              if world.chance() else
              f"[Clunk!|Thud!] The shovel hit [a chest|a box]. Inside was {treasure} and a note. "
              "The note said: Take half, and leave something for the next finder.")
    generous = "Take half" in story.text or "leave something" in story.text
    if generous:
        story.add(f"They [looked at each other|thought for a moment]. {friend} put in [a blue "
                  f"marble|a feather|a shell], and {hero} added [a button|a drawing|a coin]. "
                  "Then they buried the rest again.")
        story.ask("What did the note say?", "It said to leave something for the next finder.")
    else:
        story.add(f"{hero} [laughed out loud|ran home to tell everyone].",
                  say(hero, "So grandpa was a pirate!"), "Grandpa only winked.")
        story.ask("Who hid the treasure?", "Grandpa hid it when he was a boy.")
    story.add(glad(hero), "They made a new map, for [other children to find|another day].",
              ending(hero))
    story.ask(f"Where did {hero} find the map?", f"{hero} found the map {found}.")
    story.ask("What was the treasure?", f"The treasure was {treasure}.")
    story.ask("How many steps did they take?", f"They took {steps} steps.")
    story.about("a treasure map", f"a {hero.noun} who found a map", "a hidden treasure")
    return story
