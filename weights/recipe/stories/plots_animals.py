"""Plots about animals that talk and help each other."""

from . import words
from .phrases import (
    beast,
    cheerful,
    farewell,
    glad,
    lesson,
    once,
    opening,
    say,
    scared,
    thanks,
    the,
)
from .story import Story, plot
from .world import World


@plot
def hurt_animal(world: World) -> Story:
    """A child nurses a hurt animal and lets it go."""
    hero, parent, place, story = world.hero, world.parent, world.outdoors(), Story(world)
    noun, part = world.one(words.HURT_ANIMALS)
    carrier = world.one(("a basket", "a blanket", "a box", f"{hero.his} scarf"))
    days = world.one(words.NUMBERS)
    story.add(opening(hero), f"{hero} loved [all animals|birds and beasts|every living thing].")
    story.add(once(),
              f"{hero} was walking near {place}. {hero.he} heard a small [cry|sound]. It was a "
              f"little {noun}! Its {part} was hurt.",
              say(hero, f"[Do not be afraid. I will help you|You poor little {noun}]."),
              f"{hero} put the {noun} in {carrier} and carried it home [very gently|with care].")
    story.add(f"At home, {parent} [put a bandage on the {part}|washed the {part} with warm "
              f"water]. For {days} days, {hero} gave the {noun} [food and water|seeds and fresh "
              f"water] and [sang to it|talked to it softly|kept it warm]. Slowly, the {part} "
              "healed.")
    if world.chance(0.7):
        story.add(f"Then it was time to say goodbye. {hero} [opened the window|took the {noun} "
                  f"back to {place}]. The {noun} looked back once, and then it was gone.",
                  say(hero, "[Goodbye, little friend|Be safe, my friend]!"),
                  f"[{hero} was a little sad, but {hero.he} knew that it was right.|Every "
                  f"spring, a {noun} came back to look in at the window.]")
        story.ask(f"What did {hero} do when the {noun} was well?", f"{hero} let the {noun} go.")
    else:
        story.add(f"{hero} let it out into the garden. But the {noun} did not go away. It [made "
                  f"its home under the hedge|slept in the old shed] and came to {hero} every "
                  "evening.", glad(hero))
        story.ask(f"Did the {noun} go away?", f"No, the {noun} stayed in the garden.")
    story.add(lesson(hero, "a kind heart can heal many things"))
    story.ask(f"What animal did {hero} help?", f"{hero} helped a little {noun}.")
    story.ask("What was hurt?", f"The {part} of the {noun} was hurt.")
    story.ask(f"How long did {hero} take care of it?", f"{hero} took care of it for {days} days.")
    story.about(f"a hurt {noun}", f"a {hero.noun} who helped a {noun}")
    return story


@plot
def broken_bridge(world: World) -> Story:
    """A flood takes the bridge, and each animal gives what it can do."""
    hero = world.animal(("beaver", "otter", "mouse", "hedgehog", "rabbit"))
    strong = world.animal(words.LARGE_ANIMALS)
    small = world.animal(("spider", "ant", "mole", "woodpecker", "squirrel"))
    story = Story(world, hero)
    skill = {"spider": "spun strong ropes", "ant": "called a thousand cousins to carry clay",
             "mole": "dug deep holes for the posts", "woodpecker": "made holes for the pegs",
             "squirrel": "tied the beams with vines"}[small.noun]
    need = world.one(("the school", "the market", "the berry field", "the ferry", "the mill"))
    story.add(beast(hero),
              f"A wooden bridge crossed the stream. Everyone used it to get to {need}.")
    story.add("One spring the snow melted, and the water rose. In the night, the flood carried "
              "the bridge away.", say(hero, f"How shall we get to {need} now?"),
              "The animals began to [quarrel|shout]. [Each blamed the others.|Nobody listened.]",
              say(strong.full, "[I am the strongest, so I will do it alone|Leave it to me]."),
              f"{strong} pushed a great log into the stream. [It sank.|It floated away.]")
    story.add(f"Then {small.full}, the smallest of all, spoke up.",
              say(small, "[No one can do it alone, but together we can|Let each do one thing]."),
              f"So {strong} [dragged|carried] the heavy logs. {small} {skill}. And {hero} [drew "
              "the plan|counted the planks|told everyone where to stand].")
    story.add("[In three days|By the next full moon|Before the week was over], a new bridge "
              "stood over the stream. [It was stronger than the old one.|Even a cart could "
              "cross it.]",
              f"{strong} was the first to cross, with {small} [riding on {strong.his} "
              f"back|sitting between {strong.his} ears].", cheerful(hero),
              lesson(hero, "many hands make the work light"), farewell(hero))
    story.ask("What carried the bridge away?", "The flood carried the bridge away.")
    story.ask(f"What did {strong} do?", f"{strong} [dragged|moved] the heavy logs.")
    story.ask(f"How did {small} help?", f"{small} {skill}.")
    story.about("a broken bridge", "animals who worked together", f"a {small.noun} named {small}")
    return story


@plot
def lost_pet(world: World) -> Story:
    """A pet runs away, and is found by thinking of what it likes."""
    hero, friend, pet, story = world.hero, world.friend, world.pet(), Story(world)
    place, liking = world.one((
        ("the bakery", "the smell of fresh rolls"), ("the pond", "looking at the goldfish"),
        ("the school", "playing with children"), ("the hay barn", "sleeping in soft hay"),
        ("the church tower", "the sound of the bells"), ("the fish stall", "a bite of fish"),
        ("the train station", "watching the trains"), ("the pear tree", "sweet yellow pears"),
    ))
    color = world.one(("brown", "white", "black", "gray", "spotted", "golden"))
    story.add(opening(hero), f"{hero} had a {color} {pet.noun} named {pet}. {pet} loved {liking}.")
    story.add("One [morning|evening], [the gate was open|somebody left the door open], and "
              f"{pet} was gone. {hero} called and called, but {pet} did not come.",
              f"[{hero}'s eyes filled with tears.|{hero} was worried sick.]",
              f"{friend} came to help. They [put up posters|asked all the neighbors|rang at "
              f"every door]. They told everyone: Lost, a {color} {pet.noun}.")
    story.add(say(friend, f"[Where would you go if you were {pet}|What does {pet} like best]?"),
              f"{hero} thought hard.", say(hero, f"{pet} loves {liking}! Quick, to {place}!"),
              f"They ran to {place}. And who sat there, [happy as could be|quite pleased with "
              f"{pet.himself}]? It was {pet}!")
    story.add(f"{hero} [hugged {pet} tightly|stroked {pet}'s head].",
              say(hero, f"[Never run away again, {pet}|You gave me such a fright, {pet}]!"),
              f"[Since then, they visit {place} together.|Since then, {hero} always shuts the "
              "gate.]", glad(hero))
    story.ask(f"Where was {pet}?", f"{pet} was at {place}.")
    story.ask(f"What did {pet} love?", f"{pet} loved {liking}.")
    story.ask(f"Who helped {hero} look for {pet}?", f"{friend} helped {hero}.")
    story.about("a lost pet", f"a {pet.noun} named {pet}", f"a {hero.noun} who lost a {pet.noun}")
    return story


@plot
def ducklings(world: World) -> Story:
    """A duck family has to cross a road."""
    hero, story = world.hero, Story(world)
    number = world.one(words.NUMBERS[:7])
    helper = world.one(("a policeman", "a bus driver", "a milkman", "an old lady", "a mailman"))
    short = world.one(("the smallest one", "the last one", "the yellowest one"))
    trouble, rescue = world.one((("fallen into a drain", "lifted it out"),
                                 ("gotten stuck behind the curb", "lifted it up"),
                                 ("run the wrong way", "caught it")))
    story.add(opening(hero),
              f"One spring morning, {hero} saw a mother duck and {number} ducklings. They wanted "
              "to get from the park to the river. But between them lay a busy road.")
    story.add("[Cars roared by.|Trucks rumbled past.] The mother duck took one step and jumped "
              "back.", say(hero, "[They will be run over|Somebody must help them]!"),
              f"{hero} called to {helper}. {the(helper)} [held up a hand|blew a whistle|stepped "
              "into the road], and all the cars stopped.")
    story.add(f"The ducks [waddled|marched] across in a row. {hero} counted them. One was "
              f"missing! {short} had {trouble}. {hero} {rescue} and [carried|brought] it to its "
              "mother.", "[Quack, quack!|Peep, peep!]")
    story.add(f"Then they all swam away, {number} ducklings in a line. [The drivers "
              "clapped.|People waved from the cars.]", glad(hero),
              "[The next week, there was a new sign by the road: Slow, ducks.|]")
    story.ask("How many ducklings were there?", f"There were {number} ducklings.")
    story.ask("Who stopped the cars?", f"{helper} stopped the cars.")
    story.ask("Where did the ducks want to go?", "They wanted to go to the river.")
    story.about("ducklings crossing a road", f"a mother duck and {number} ducklings")
    return story


@plot
def small_helps_large(world: World) -> Story:
    """A large animal spares a small one, which pays it back."""
    large, small = world.animal(words.LARGE_ANIMALS), world.animal(("mouse", "wren", "cricket",
                                                                    "mole", "chipmunk", "frog"))
    story = Story(world, small)
    trap, means = world.one((("a net", "gnawed"), ("a pit", "fetched help"),
                             ("a thorn bush", "pulled"), ("deep mud", "fetched help")))
    means = {"gnawed": "bit through the ropes, one after the other",
             "fetched help": "called all the animals of the wood, and together they pulled",
             "pulled": "pulled out the thorns, one after the other"}[means]
    story.add(beast(small),
              f"A {large.noun} named {large} lived [there too|nearby]. {large} was [big and "
              "proud|the largest animal for miles around].")
    story.add(once(),
              f"{small} [ran over {large}'s nose|woke {large} from a nap|got under {large}'s "
              f"feet] by mistake. {large} was [angry|furious].",
              say(small,
                  "[Please let me go! One day I will help you|Spare me! I may be of use to you]!"),
              say(large, "[You? Help me? You are much too small|A tiny thing like you? Ha]!"),
              f"But {large} let {small.him} go.")
    story.add(f"[Weeks later|Not long after], {large} was caught in {trap}. [The more {large.he} "
              f"struggled, the worse it got.|{large.he} cried for help, but nobody dared to "
              "come.]",
              f"{small} heard it and came at once. {small} {means}, until {large} was free.")
    story.add(say(large,
                  "[I laughed at you, and you saved me|I was wrong. You are a great friend]."),
              cheerful(small),
              f"From then on, {large} and {small} were [friends|always seen together].",
              lesson(large, "nobody is too small to help"), farewell(small))
    story.ask(f"What was {large} caught in?", f"{large} was caught in {trap}.")
    story.ask(f"Who saved {large}?", f"{small.full} saved {large}.")
    story.about(f"a {large.noun} and a {small.noun}", f"a {small.noun} who saved a {large.noun}")
    return story


@plot
def winter_store(world: World) -> Story:
    """One animal stores food, another does not, and there are two ways for it to go."""
    busy, idle = world.animal(), world.animal(("grasshopper", "cricket", "jay", "raccoon", "frog"))
    story = Story(world, busy)
    food = world.one(("acorns", "seeds", "dried berries", "beechnuts", "roots", "corn"))
    pastime = world.one(("played the fiddle", "danced on the leaves", "slept in the sun",
                         "told jokes", "chased butterflies"))
    story.add(beast(busy),
              f"All summer, {busy} gathered {food} for the winter. {busy.his} friend {idle.full} "
              f"{pastime}.")
    story.add(say(busy, "[Winter is coming. You should store some food|Soon the snow will fall]."),
              say(idle, "[Winter is far away. Come and play|There is plenty of time]!"),
              f"The leaves fell, and {idle} still {pastime}.")
    story.add(f"Then the snow came. {idle} [looked for food, but everything was frozen|had "
              f"nothing to eat and shivered]. At last {idle.he} knocked at {busy}'s door.",
              say(idle, "[Please, may I come in? I am hungry|I was foolish. Can you help me]?"))
    if world.chance():
        story.add(say(busy, "[Come in and get warm|There is enough for two, if we are careful]."),
                  f"In the long evenings, {idle} [made music|told funny stories], and the winter "
                  f"was not dull at all. Next summer, {idle} gathered {food} too, and {busy} "
                  "learned to [dance|play].", cheerful(idle))
        story.ask(f"Did {busy} let {idle} in?", f"Yes, {busy} let {idle} in.")
    else:
        story.add(say(busy, f"I will give you {food} today. But tomorrow you must work."),
                  f"So every day, {idle} [cleared the snow from the door|carried firewood|mended "
                  f"the roof], and every evening there was supper. When spring came, {idle} was "
                  "[strong|proud] and not lazy any more.", cheerful(idle))
        story.ask(f"What did {idle} have to do?", f"{idle} had to work.")
    story.add(lesson(idle, "it is wise to think of tomorrow"), farewell(busy))
    story.ask(f"What did {busy} gather?", f"{busy} gathered {food}.")
    story.ask(f"Why was {idle} hungry?", f"All summer, {idle} {pastime}.")
    story.about(f"a {busy.noun} and a {idle.noun}", "getting ready for winter",
                f"a lazy {idle.noun} named {idle}")
    return story


@plot
def shy_hibernator(world: World) -> Story:
    """A sleepy animal wants to see the snow, and its friends bring it."""
    hero, friend = world.animal(("bear", "hedgehog", "dormouse", "badger")), world.animal()
    story = Story(world, hero)
    wish = world.one(("see the snow", "see the northern lights", "hear the winter songs",
                      "skate on the ice", "see the first star of the new year"))
    wake = world.one(("rang a little bell", "tickled", "knocked on the door of", "sang to"))
    deed = "rang a little bell beside" if wake.startswith("rang") else wake
    story.add(beast(hero),
              f"Every winter {hero} slept from the first frost until spring. So {hero.he} had "
              f"never been able to {wish}.")
    story.add(say(hero, f"[I wish I could {wish}|Oh, if only I could {wish}]!"),
              f"{friend.full} heard it.", say(friend, "[Go to sleep. I will wake you|Trust me]."),
              f"{hero} yawned, curled up and slept.")
    story.add(f"In the middle of winter, {friend} came through the [cold|deep snow] and {deed} "
              f"{hero}.",
              f"[At first {hero} only snored.|{hero} opened one eye.|It took a long time.]",
              say(hero, "[Is it spring|Is it time]?"),
              say(friend, f"[No, it is winter. Come and {wish}|Not yet. Now you can {wish}]!"),
              f"{hero} wrapped {hero.himself} in a quilt and stepped outside.")
    story.add(f"[The world was silent and white.|Everything glittered.] At last {hero} was able "
              f"to {wish}.", cheerful(hero),
              f"They stayed until {hero}'s nose was cold. Then {hero} went back to bed and "
              "[dreamed of it until spring|slept even better than before].", farewell(hero))
    story.ask(f"What did {hero} want to do?", f"{hero} wanted to {wish}.")
    story.ask(f"Who woke {hero}?", f"{friend.full} woke {hero}.")
    story.about(f"a sleepy {hero.noun}", f"a {hero.noun} who wanted to {wish}")
    return story


@plot
def two_ways(world: World) -> Story:
    """A quick friend is lost, and a slow and careful one knows the way."""
    quick, slow = world.animal(("hare", "squirrel", "fox", "deer")), world.animal(
        ("turtle", "snail", "hedgehog", "mole"))
    story = Story(world, slow)
    goal = world.one(("a dry cave", "the blackberry patch", "a warm barn", "the hidden spring"))
    danger = world.one(("a swamp", "a thicket", "a dead end", "a steep cliff"))
    sign = world.one(("the moss on the trees", "the flow of the brook", "the evening star",
                      "the smell of the wind"))
    story.add(beast(slow),
              f"{slow} was slow and careful. {quick.full} was quick and always in a hurry. They "
              f"were looking for {goal}.")
    story.add(say(quick, "[I will find it first. You are too slow|Catch me if you can]!"),
              f"{quick} raced off and ran [left and right|this way and that], until {quick.he} "
              f"came to {danger}. [The sun went down.|It began to rain.]", scared(quick))
    story.add(f"{slow} walked step by step and watched {sign}. Soon {slow.he} heard {quick} "
              "[crying|calling for help].",
              say(slow, "[Follow me, and do not run|I know the way. Come]."),
              f"Together they [crept|walked] on, and before night they came to {the(goal)}.")
    story.add(thanks(quick), say(quick, "How did you find the way?") if world.chance() else "",
              f"{slow} [explained how to follow {sign}|told {quick.him} about {sign}].",
              cheerful(quick), lesson(quick, "slow and careful can be faster than quick"),
              farewell(slow))
    story.ask("What were they looking for?", f"They were looking for {goal}.")
    story.ask(f"Where did {quick} get stuck?", f"{quick} came to {danger}.")
    story.ask(f"How did {slow} find the way?", f"{slow} watched {sign}.")
    story.about(f"a slow {slow.noun} and a quick {quick.noun}", f"a {quick.noun} who got lost")
    return story
