"""Plots at home: the family, the house and the night."""

from . import words
from .phrases import choice, ending, glad, lesson, once, opening, proud, sad, say, scared, sorry
from .story import Story, plot
from .world import World


@plot
def lost_tooth(world: World) -> Story:
    """A tooth falls out, and may get lost."""
    hero, parent, story = world.hero, world.parent, Story(world)
    food = world.one(("an apple", "a carrot", "a crust of bread", "a pear", "an ear of corn"))
    coin = world.one(("silver coin", "gold coin", "new coin", "shiny coin"))
    story.add(opening(hero),
              f"{hero} had a loose tooth. It [wiggled|wobbled] [when|every time] {hero.he} "
              "[talked|ate|laughed].")
    story.add(once(),
              f"{hero} [bit into|was chewing] {food}. [Pop!|Snap!|Crunch!] The tooth fell out.",
              say(hero, "[Look, my tooth is out|My tooth! My tooth]!"))
    if world.chance():
        story.add("[But then the tooth slipped and rolled away.|But the tooth bounced on the "
                  f"floor and was gone.] {hero} looked under the [stove|sofa|rug], but it was "
                  "not there.", sad(hero), say(hero, "Now the tooth fairy will not come."))
        story.add(say(parent, f"[Then write her a letter|Why not write her a note], {hero}."),
                  f"So {hero} wrote: Dear fairy, I lost my tooth twice. Please believe me. "
                  f"{hero} put the letter under {hero.his} pillow.")
        story.ask(f"What did {hero} write?", f"{hero} wrote a letter to the tooth fairy.")
        story.ask(f"Why was {hero} sad?", f"{hero} could not find the tooth.")
    else:
        story.add(say(parent, "[Put it under your pillow tonight|Keep it safe until bedtime]."),
                  f"{hero} washed the tooth and wrapped it in a [napkin|tissue|bit of cloth]. At "
                  f"bedtime {hero.he} put it under {hero.his} pillow.")
        story.ask(f"Where did {hero} put the tooth?", f"{hero} put it under {hero.his} pillow.")
    story.add(f"In the morning, {hero} lifted the pillow. There lay a {coin}!", glad(hero),
              f"[{hero.he} ran to show {parent} the coin and the gap in {hero.his} teeth.|{hero} "
              "put the coin in a jar and smiled at the gap in the mirror.]", ending(hero))
    story.ask(f"What did {hero} find under the pillow?", f"{hero} found a {coin}.")
    story.about(f"a {hero.noun} who lost a tooth", "a loose tooth", "the tooth fairy")
    return story


@plot
def night_light(world: World) -> Story:
    """A shadow at night turns out to be an ordinary thing."""
    hero, parent, story = world.hero, world.family(), Story(world)
    shape = world.one(("a giant", "a dragon", "a wolf", "a witch", "a bear", "a monster"))
    cause = world.one(("a coat on a hook", "a pile of laundry", "a chair with a sweater on it",
                       "a plant by the window", "a tall lamp", "a robe on the door"))
    light = world.one(("moon", "star", "mushroom", "snail", "rabbit", "lighthouse"))
    story.add(opening(hero),
              f"{hero} [did not like the dark|was afraid of the dark|always slept with the door "
              "open].")
    story.add(f"[One night|One windy night|Late one night], {hero} woke up. [Everything was "
              f"quiet.|The clock ticked in the hall.] In the corner {hero.he} saw {shape}!",
              scared(hero), say(hero, f"[{parent.noun}, come quickly|Help, {parent.noun}]!"))
    story.add(f"{parent} came in [with a candle|and turned on the lamp|with a flashlight]. It "
              f"was not {shape} at all. It was only {cause}.",
              say(parent, "[The dark can play tricks on us|Things look strange at night]."),
              f"[{hero} had to laugh.|{hero} giggled.]" if world.chance() else "")
    if world.chance():
        story.add(f"The next day, {parent} brought home a night-light shaped like a {light}. It "
                  "[glowed softly|gave a soft yellow glow] beside the bed.",
                  say(hero, f"Good night, little {light}."),
                  f"{hero} slept [soundly|well] until morning.")
        story.about("a night-light")
        story.ask("What did the night-light look like?", f"The night-light looked like a {light}.")
    else:
        story.add(f"[They moved it to another room.|{parent} let {hero} touch it.] Then {hero} "
                  f"turned off the light {hero.himself}.",
                  say(hero, f"Good night. I know that you are just {cause}."),
                  lesson(hero, "shadows cannot hurt anyone"))
    story.add(ending(hero))
    story.ask(f"What did {hero} think {hero.he} saw?", f"{hero} thought {hero.he} saw {shape}.")
    story.ask("What was it really?", f"It was only {cause}.")
    story.about(f"a {hero.noun} who was afraid of the dark", "a scary shadow")
    return story


@plot
def new_baby(world: World) -> Story:
    """A new baby makes the older child feel left out, and then needed."""
    hero, parent, story = world.hero, world.family("mom mother"), Story(world)
    baby = world.child()
    kin = "sister" if baby.noun == "girl" else "brother"
    trick = world.one((f"sang {hero.his} favorite song", "made a silly face", "shook a rattle",
                       "played peekaboo", "clapped and danced", "made a sock puppet talk"))
    story.add(opening(hero),
              f"[There was big news at home.|Something new was about to happen.] {hero}'s mother "
              f"had a baby. {hero} had a little {kin} named {baby}!")
    story.add(f"[At first {hero} was excited.|{hero} wanted to play with {baby} right away.] But "
              f"{baby} [only slept and cried|was too small to play]. Everyone looked at the "
              f"baby, and nobody had time for {hero}.",
              f"[{hero} felt left out.|{hero} felt lonely.|{hero} felt jealous.]",
              say(hero, "Does anyone still love me?"))
    story.add(f"[One night|One afternoon], {baby} cried and cried. {parent} rocked {baby.him}, "
              f"but {baby.he} would not stop. Then {hero} {trick}. {baby} stopped crying and "
              "[smiled|looked up with big eyes|laughed]!",
              say(parent,
                  f"[{baby} loves you best of all|Nobody else could do that] . [You are a "
                  f"wonderful big {hero_kin(hero.noun)}|I need you so much]."))
    story.add(f"{parent} hugged {hero} [tightly|for a long time].", proud(hero),
              lesson(hero, "love grows when a family grows"), ending(hero))
    story.ask("What was the name of the baby?", f"The baby was named {baby}.")
    story.ask(f"How did {hero} make {baby} stop crying?", f"{hero} {trick}.")
    story.ask(f"Why did {hero} feel left out?", f"Nobody had time for {hero}.")
    story.about("a new baby", f"a {hero.noun} with a new baby {kin}", f"a baby named {baby}")
    return story


def hero_kin(noun: str) -> str:
    """Name what a child is to a brother or a sister."""
    return "sister" if noun == "girl" else "brother"


@plot
def moving_house(world: World) -> Story:
    """A family moves, and one thing makes the new house a home."""
    hero, friend, story = world.hero, world.friend, Story(world)
    parent, number = world.family(), world.one(words.NUMBERS[4:])
    treasure = f"{world.look()} {world.toy()}"
    story.add(opening(hero),
              f"[One day|One spring], {hero}'s family packed everything into {number} boxes. "
              "They were moving to a new house [far away|in another town].")
    story.add(f"{hero} did not want to go.", sad(hero),
              say(hero, "[I will miss my room|I like our old house better]."),
              f"[Before they left|On the last day], {hero} waved goodbye to [the apple tree|the "
              "old kitchen|the creaky stairs|the garden gate].")
    story.add(f"The new house was [big and empty|strange and quiet|cold and bare]. {hero} looked "
              f"for {hero.his} {treasure}, but it was [in none of the boxes|nowhere to be seen].",
              say(parent, "[We have not opened the last box|There is one more box]."),
              f"In the last box, under the [towels|plates|blankets], was the {treasure}!")
    story.add(f"{hero} put it next to the bed. [Just then|At that moment], there was a knock at "
              f"the door. A {friend.noun} [from next door|from across the street] stood there.",
              say(friend, f"Hello, I am {friend}. Do you want to play?"), glad(hero),
              "[By evening|By the end of the week], the new house felt like home.", ending(hero))
    story.ask("How many boxes did the family pack?", f"They packed {number} boxes.")
    story.ask(f"Where was the {treasure}?", "It was in the last box.")
    story.ask("Who knocked at the door?", f"A {friend.noun} named {friend} knocked at the door.")
    story.about("moving to a new house", f"a {hero.noun} who moved to a new house", "a new home")
    return story


@plot
def broken_vase(world: World) -> Story:
    """Something breaks; a lie makes it worse, or the truth makes it better."""
    hero, parent, story = world.hero, world.family(), Story(world)
    pet = world.pet(words.INDOOR_PETS)
    broken = world.one(("vase", "blue bowl", "teapot", "mirror", "flower pot", "window", "lamp",
                        "picture frame", "china plate", "clock"))
    toy = world.one(("ball", "hoop", "toy plane", "wooden sword", "yo-yo"))
    story.add(opening(hero), f"{hero} had a {pet.noun} named {pet}.")
    story.add(f"One rainy day, {hero} played with a {toy} inside, though {parent} [had said not "
              f"to|did not allow it]. [Crash!|Smash!|Bang!] The {toy} hit the {broken}, and it "
              "broke into [many|a hundred|little] pieces.", scared(hero), f"Soon {parent} came in.",
              say(parent, f"Who broke the {broken}?"))
    if world.chance(0.6):
        story.add(f"[{hero} did not dare to tell the truth.|{hero} was afraid to be punished.]",
                  say(hero, f"It was {pet}."),
                  f"So {pet} had to [stay out in the rain|go to bed without a treat|sit in the "
                  f"cold shed]. {pet} looked at {hero} with sad eyes.", sorry(hero),
                  f"That night {hero} could not [sleep|eat|enjoy {hero.his} book].")
        story.add(f"At last {hero} went to {parent}.",
                  say(hero, f"I told a lie. It was not {pet}. I broke the {broken}."),
                  say(parent, "[I am glad that you told me|A lie is heavier than a broken thing]."),
                  f"{hero} let {pet} in and [gave {pet.him} a big hug|dried {pet.him} with a "
                  "towel].", lesson(hero, "a lie makes a small trouble big"))
        story.ask("Who was blamed at first?", f"{pet} the {pet.noun} was blamed.")
        story.about(f"a {hero.noun} who told a lie", "a lie")
    else:
        story.add(f"{hero} wanted to say that {pet} did it. But that was not fair.",
                  say(hero, "It was me. I am very sorry."),
                  say(parent, "[Thank you for telling the truth|That was brave of you]."),
                  f"They [swept up the pieces|cleaned up] together. {hero} [saved {hero.his} "
                  f"coins to help buy|helped to pay for] a new {broken}.",
                  lesson(hero, "it is best to tell the truth"))
        story.about(f"a {hero.noun} who told the truth", "telling the truth")
    story.add(ending(hero))
    story.ask("What was broken?", f"The {broken} was broken.")
    story.ask(f"What did {hero} play with?", f"{hero} played with a {toy}.")
    story.about(f"a broken {broken}")
    return story


@plot
def missing_ingredient(world: World) -> Story:
    """Baking needs one more thing, which has to be earned."""
    hero, friend, parent, story = world.hero, world.friend, world.parent, Story(world)
    dish, needed, keeper = world.one(words.DISHES)
    chore = world.one(("sweep the yard", "feed the geese", "carry some water", "stack the wood",
                       "pull the weeds", "find the lost calf", "wash the windows"))
    done = {"sweep": "swept", "feed": "fed", "carry": "carried", "stack": "stacked",
            "pull": "pulled", "find": "found", "wash": "washed"}
    verb, rest = chore.split(" ", 1)
    was = "were" if needed.endswith("s") else "was"
    story.add(opening(hero), f"It was {friend}'s birthday, and {hero} wanted to make {dish}.")
    story.add(f"{hero} [washed {hero.his} hands|put on an apron|took out a big bowl]. But there "
              f"{was} no {needed} in the [kitchen|pantry|cupboard]!",
              say(hero, f"How can I make {dish} without {needed}?"),
              f"So {hero} took a basket and went to see {keeper}.")
    story.add(say(hero, f"Please, may I have some {needed}?"),
              say(keeper, f"[Gladly, if you {chore}|Yes, but first help me to {chore}]."),
              f"{hero} {done[verb]} {rest}. [It was hard work.|It took an hour.|It was soon "
              f"done.] Then {keeper} [filled the basket|gave {hero.him} all {hero.he} needed].")
    story.add(f"At home, {parent} helped with the [hot stove|hot fire]. Soon the whole house "
              "smelled [good|sweet|wonderful].", f"{hero} carried the {dish} to {friend}.",
              say(friend, f"You made {dish} for me!"), glad(friend),
              f"[They saved a piece for {keeper}.|{keeper} was invited too.]", ending(hero))
    story.ask("What was missing?", f"There {was} no {needed}.")
    story.ask(f"Who gave {hero} the {needed}?", f"{keeper} gave {hero} the {needed}.")
    story.ask(f"Why did {hero} make {dish}?", f"It was {friend}'s birthday.")
    story.about(dish, f"a {hero.noun} who made {dish}", "a birthday surprise for a friend")
    return story


@plot
def birthday(world: World) -> Story:
    """Everyone seems to have forgotten a birthday."""
    hero, friend, parent, story = world.hero, world.friend, world.parent, Story(world)
    pet, place = world.pet(words.WALKED_PETS), world.place
    gift = f"{world.look()} {world.thing()}"
    story.add(opening(hero),
              f"[Today|This morning] it was {hero}'s birthday, but nobody said a word about it.")
    story.add(f"{parent} [was busy with the laundry|read the newspaper|only said good morning]. "
              f"{hero} went to see {friend}.",
              say(friend, "[Sorry, I have no time today|I cannot play today]."), sad(hero),
              f"{hero} took {hero.his} {pet.noun}, {pet}, for a walk to {place}.",
              say(hero, f"[You are my only friend, {pet}|They all forgot my birthday, {pet}]."))
    story.add(f"When they came home, [all was dark|the house was very quiet]. {hero} opened the "
              "door.", say("everyone", "Surprise!", "shouted"),
              "There were [balloons|candles|paper stars|colored lanterns] and a "
              f"{choice(CAKES)}. {friend} gave {hero.him} a {gift}.",
              say(parent, "We could not let you see the cake before it was ready."))
    story.add(glad(hero), f"[Even {pet} got a piece of cake.|They sang and danced until bedtime.]",
              ending(hero))
    story.ask(f"Why was {hero} sad?", f"{hero} thought that everyone forgot the birthday.")
    story.ask(f"What did {friend} give {hero}?", f"{friend} gave {hero} a {gift}.")
    story.ask(f"Where did {hero} go with {pet}?", f"{hero} went to {place}.")
    story.about("a surprise party", f"a {hero.noun} whose birthday was forgotten", "a birthday")
    return story


CAKES = ("big cake", "chocolate cake", "cake with candles", "cake shaped like a train",
         "strawberry cake")
