"""Plots in town: the market, travel and work."""

from . import words
from .phrases import ending, glad, lesson, opening, proud, sad, say, scared, thanks
from .story import Story, plot
from .world import World


@plot
def market_coins(world: World) -> Story:
    """Coins are counted at the market, and the change is right or wrong."""
    hero, parent, story = world.hero, world.parent, Story(world)
    have, first_cost = world.rng.randint(9, 12), world.rng.randint(2, 4)
    second_cost = world.rng.randint(1, 3)
    left = have - first_cost - second_cost
    number = ["zero", "one", *words.NUMBERS]
    coins = [f"{word} coin{'' if word == 'one' else 's'}" for word in number]
    first, second = world.fresh(GOODS), world.fresh(GOODS)
    seller = world.one(("the farmer", "the market woman", "the grocer", "the old peddler"))
    story.add(opening(hero),
              f"{parent} sent {hero.him} to the market with {coins[have]} to buy {first} and "
              f"{second}.", say(parent, "[Count well|Bring back the rest]."))
    story.add(f"The market was full of [noise and color|people, carts and chickens]. {hero} "
              f"bought {first} for {coins[first_cost]} and {second} for {coins[second_cost]}. "
              f"That made {coins[first_cost + second_cost]}. So {hero.he} should have "
              f"{coins[left]} left.")
    if world.chance():
        extra = world.rng.randint(1, 2)
        story.add(f"But {seller} gave {hero.him} back {coins[left + extra]}. {hero} counted "
                  f"twice. It was {number[extra]} too many!",
                  f"[With that {hero.he} could buy a candy stick.|Nobody would know.] But {hero} "
                  "went back.", say(hero, f"You gave me {number[extra]} too many."),
                  say(seller, "[What an honest child|You are honest. Take a pear as a gift]."),
                  proud(hero))
        story.ask(f"How many coins too many did {hero} get?",
                  f"{hero} got {number[extra]} too many.")
    else:
        story.add(f"On the way home, {hero} put a hand in {hero.his} pocket. There was a hole in "
                  "it, and it was empty!", sad(hero),
                  f"{hero} went back step by step, [looking at the ground|between all the feet]. "
                  f"One coin lay by the well. The rest lay under the cart of {seller}.",
                  f"{hero} counted: all {coins[left]} were there.", glad(hero))
        story.ask(f"Why was {hero}'s pocket empty?", "There was a hole in the pocket.")
    story.add(f"At home, {hero} put {coins[left]} on the table.",
              say(parent, "[Not one is missing. Well done|Just right. I can trust you]."),
              ending(hero))
    story.ask(f"How many coins did {hero} take to the market?", f"{hero} took {coins[have]}.")
    story.ask("How many coins were left?", f"There were {coins[left]} left.")
    story.ask(f"What did {hero} buy?", f"{hero} bought {first} and {second}.")
    story.about("counting coins at the market", f"a {hero.noun} who went to the market", "coins")
    return story


GOODS = ("a melon", "a cabbage", "a loaf of bread", "a jar of honey", "a bag of onions",
         "a bunch of radishes", "a fat goose", "a candle", "a ball of yarn", "a bag of salt",
         "a basket of figs", "a bottle of vinegar")


@plot
def train_trip(world: World) -> Story:
    """A trip by train, where something is left behind or someone is met."""
    hero, parent, story = world.hero, world.family(), Story(world)
    town = world.one(FAR_TOWNS)
    relative = world.one(("grandma", "grandpa", "aunt", "uncle", "cousin"))
    sights = [world.fresh(SIGHTS) for _ in range(3)]
    thing = f"{world.look()} {world.one(LUGGAGE)}"
    noun = thing.split(" ", 1)[1]
    story.add(opening(hero),
              f"[One day|One summer day], {hero} and {parent} took the train to visit {hero.his} "
              f"{relative}, who lived in {town}. {hero} carried a {thing}.")
    story.add("The whistle blew, and [the wheels began to turn|the train rolled out of the "
              f"station]. {hero} [pressed {hero.his} nose to the window|sat by the window]. "
              f"{hero.he} saw {sights[0]}, {sights[1]} and {sights[2]}.",
              say(hero, "[How fast we are going|Everything flies by]!"))
    if world.chance():
        story.add(f"At {town} they got off. The train was just about to leave when {hero} cried "
                  "out.", say(hero, f"My {noun} is still on the train!"),
                  f"[{parent} waved both arms.|{parent} ran to the conductor.] The conductor "
                  f"[jumped back on|ran inside] and [threw|handed] the {noun} out of the window. "
                  f"{hero} caught it!", thanks(hero))
        story.ask(f"What did {hero} leave on the train?", f"{hero} left the {thing} on the train.")
        story.ask(f"Who brought the {noun} back?", "The conductor brought it back.")
    else:
        other = world.neighbor()
        story.add(f"Across from them sat {other}, who [looked sad|had never been on a train]. "
                  f"{hero} took a [sandwich|pear|cookie] out and gave {other.him} half.",
                  say(other, "[How kind of you|You have cheered me up]."),
                  f"{other} taught {hero} [a card trick|how to fold a paper frog|a song in "
                  f"another language], and the time went by quickly. Soon they were in {town}.")
        story.ask(f"Who sat across from {hero}?", f"{other} sat across from {hero}.")
    story.add(f"{hero.his} {relative} stood on the platform and waved.", glad(hero),
              say(hero, "[The trip was the best part|I have so much to tell you]!"), ending(hero))
    story.ask(f"Where did {hero}'s {relative} live?", f"{hero}'s {relative} lived in {town}.")
    story.ask(f"What did {hero} see from the window?",
              f"{hero} saw {sights[0]}, {sights[1]} and {sights[2]}.")
    story.about("a train trip", f"a {hero.noun} on a train", f"a visit to a {relative}")
    return story


FAR_TOWNS = ("Greyhaven", "Stonebridge", "Summerfield", "Silver Lake", "Northport")
LUGGAGE = ("backpack", "teddy bear", "umbrella", "hat", "lunch box")
SIGHTS = ("cows", "a castle", "a long tunnel", "fields of wheat", "a windmill", "wild geese",
          "a river with boats", "a herd of sheep", "factories", "a high bridge", "vineyards",
          "a tractor", "snowy peaks")


@plot
def job_helper(world: World) -> Story:
    """A child wants to help a grown-up at work and finds a way."""
    hero, story = world.hero, Story(world)
    worker = world.grown_up(world.one(words.JOBS))
    problem, idea = world.one((
        ("could not find the keys", "tied a bell to them"),
        ("had hurt an ankle", "did all the running"),
        ("had too much to do before the feast", "made a list and crossed things off"),
        ("had lost both pairs of glasses", "read everything aloud"),
        ("was so tired that it was hard to stay awake", "sang all the verses of a marching song"),
    ))
    reward = world.one(("a small set of tools", "a cap with a badge", "a warm bun", "a silver coin",
                        "an apron with pockets"))
    story.add(opening(hero),
              f"When {hero} grew up, {hero.he} wanted to be a {worker.noun}. So {hero.he} went "
              f"to see {worker} of the town.",
              say(hero, "[May I help you|Can I work with you today]?"),
              say(worker, "[You are still so small|I have no time to teach you]."),
              f"But {hero} stayed and watched.")
    story.add(f"That day {worker} {problem}.", say(worker, "[What a day|Nothing is going right]!"),
              f"{hero} had an idea. {hero.he} {idea}. [It worked very well.|Soon everything was "
              "much easier.]")
    story.add(f"In the evening, {worker} [sat down and smiled|wiped {worker.his} forehead].",
              say(worker, "[You are small, but you think big|Without you I would still be at it]."),
              f"{hero} got {reward}.", proud(hero),
              f"[{worker} let {hero.him} come every Saturday.|Many years later, {hero} became "
              f"the best {worker.noun} in town.]", ending(hero))
    story.ask(f"What did {hero} want to be?", f"{hero} wanted to be a {worker.noun}.")
    story.ask(f"What did {hero} get in the evening?", f"{hero} got {reward}.")
    story.ask(f"How did {hero} help?", f"{hero} {idea}.")
    story.about(f"a {hero.noun} who helped a {worker.noun}", f"a {worker.noun}", "helping at work")
    return story


@plot
def lighthouse(world: World) -> Story:
    """The light goes out, and a boat is at sea."""
    hero, story = world.hero, Story(world)
    keeper = world.family("grandpa grandma uncle aunt dad")
    sailor = world.one(("a fisherman", "the mail boat", "a ferry full of people", "a sailor"))
    cause = world.one(("the lamp ran out of oil", "the big bulb burst",
                       "the wind broke a pane and blew out the flame"))
    way = world.one(("rang the great bell", "lit a fire on the rocks", "waved a lantern",
                     "blew the fog horn"))
    steps = world.one(("ninety", "one hundred", "two hundred"))
    story.add(f"{hero} lived in a lighthouse with {keeper}. The tower had {steps} steps, and "
              f"{hero} knew every one of them. [Gulls nested under the roof.|On clear days one "
              "could see whales.]")
    story.add(f"One stormy evening {keeper} [was ill in bed|had gone to the village]. {hero} "
              f"looked out. {sailor} was coming home, close to the rocks. Just then, {cause}. "
              "All was black!", scared(hero),
              say(hero, "[They will hit the rocks|They cannot see]!"))
    story.add(f"There was no time to lose. {hero} ran down the {steps} steps, out into the rain, "
              f"and {way}. {hero.he} did not stop, though {hero.his} arms [hurt|grew heavy]. "
              "Slowly the boat turned. It came safely [past the rocks|into the harbor].")
    story.add(f"In the morning, people came to say thank you. {keeper} [hugged {hero.him}|put an "
              f"arm around {hero.him}].",
              say(keeper, "[You were the light last night|I could not have done it better]."),
              proud(hero), ending(hero))
    story.ask("How many steps did the tower have?", f"The tower had {steps} steps.")
    story.ask("Why did the light go out?", f"{cause}.")
    story.ask(f"What did {hero} do to warn the boat?", f"{hero} {way}.")
    story.about("a lighthouse", f"a {hero.noun} who lived in a lighthouse", "a boat in a storm")
    return story


@plot
def big_tower(world: World) -> Story:
    """Something is built, falls, and is built better."""
    hero, friend, story = world.hero, world.friend, Story(world)
    built, part, cause, fix = world.one((
        ("a tower of blocks", "blocks", "the cat jumped on it", "put the wide ones at the bottom"),
        ("a tree house", "boards", "a branch cracked", "chose a thicker branch"),
        ("a sand castle", "buckets of sand", "a wave washed it away", "built it farther up"),
        ("a raft", "logs", "the ropes came loose", "learned to tie better knots"),
        ("a go-kart", "planks", "a wheel came off", "fixed the wheels with bolts"),
        ("a bird house", "boards", "the nails were too short", "used longer nails"),
        ("a snow fort", "snowballs", "the roof caved in", "made the walls thicker"),
    ))
    story.add(opening(hero),
              f"[One day|One morning], {hero} and {friend} decided to build {built}.",
              say(friend, "[It will be the best in the world|Everyone will be amazed]!"),
              f"{hero} carried the {part}, and {friend} [put them together|made the plan].")
    story.add(f"It was almost done. But then {cause}! [All their work was ruined.|Crash!]",
              sad(hero), say(friend, "[Let us give up|It was all for nothing]."),
              f"{hero} looked at what was left and [thought|frowned].",
              say(hero, "[Now we know what was wrong|Next time it will be better]."))
    story.add(f"So they began again. This time they {fix}. [It took twice as long.|They worked "
              "until supper.] And this time it [held|worked].", glad(friend),
              "[The whole street came to look.|They gave it a name and painted a flag.]",
              lesson(hero, "a mistake can teach you something"), ending(hero))
    story.ask("What did they build?", f"They built {built}.")
    story.ask("What went wrong the first time?", f"{cause}.")
    story.ask("What did they do better the second time?", f"They {fix}.")
    story.about(f"two friends who built {built}", built, "trying again")
    return story


@plot
def wrong_bus(world: World) -> Story:
    """Somebody gets on the wrong bus and keeps calm."""
    hero, story = world.hero, Story(world)
    relative = world.family("mom dad grandma aunt")
    right, wrong = world.rng.sample(words.NUMBERS, 2)
    driver = world.one(("a beard", "a red cap", "a deep voice", "a friendly laugh"))
    end = world.one(("the harbor", "the zoo", "the big hospital", "the hills", "the airport"))
    he = world.one(("he", "she"))
    if driver == "a beard":
        he = "he"
    story.add(opening(hero),
              f"{hero} was allowed to take the bus alone for the first time, to meet {relative} "
              "at the library.", say(relative, f"Take bus number {right}."))
    story.add(f"But {hero} was [dreaming|thinking about lunch] and got on bus number {wrong}. "
              f"The streets looked [strange|different]. At last the bus stopped at {end}, and "
              "everyone got off.", scared(hero), say(hero, "This is not the library!"))
    story.add(f"{hero} did not cry. {hero.he} went to the driver, who had {driver}, and told the "
              "whole story.",
              say("the driver", "[You were right to ask|That happens to everyone once]."),
              f"The driver [called {relative} on the phone|wrote down the way] and let {hero} "
              f"[sit in front|press the door button]. Then {he} drove all the way back.")
    story.add(f"{relative} was waiting at the library.",
              say(hero, "[I took a little trip|I saw the whole town]!"), glad(hero),
              lesson(hero, "when you are lost, it is good to ask"), ending(hero))
    story.ask("Which bus was the right one?", f"Bus number {right} was the right one.")
    story.ask(f"Which bus did {hero} take?", f"{hero} took bus number {wrong}.")
    story.ask("Where did the bus stop at last?", f"The bus stopped at {end}.")
    story.about("the wrong bus", f"a {hero.noun} who took the wrong bus", "getting lost in town")
    return story
