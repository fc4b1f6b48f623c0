"""Fables: an animal has a fault, and the fault has its price."""

from . import words
from .phrases import beast, cheerful, farewell, lesson, once, say, scared, sorry, the
from .story import Story, plot
from .world import World


@plot
def greedy_fox(world: World) -> Story:
    """A greedy animal takes too much and gets stuck, or gets nothing."""
    hero, friend = world.animal(("fox", "raccoon", "badger", "bear", "wolf")), world.animal()
    story = Story(world, hero)
    food = world.one(("grapes", "plums", "cheese", "honey cakes", "pears", "sausages"))
    place = world.one(("a cellar", "a vineyard with a stone wall", "a barn", "a smoke house"))
    story.add(beast(hero), f"{hero} always wanted more than {hero.he} had.")
    story.add(f"[One night|One evening], {hero} and {friend.full} found a narrow hole that led "
              f"into {place}. Inside were heaps of {food}.",
              say(friend, "[Let us eat a little and go|Take only what you need]."),
              f"{friend} ate a little and [slipped out|left]. But {hero} ate and ate.",
              say(hero, "[Just one more|More, more, more|It is all mine]!"))
    if world.chance(0.6):
        story.add(f"[A dog barked.|They heard steps outside.] {hero} ran to the hole, but "
                  f"{hero.his} belly was [too round|as fat as a drum]. {hero.he} was stuck!",
                  scared(hero), say(hero, f"[Help me, {friend}|Pull, {friend}, pull]!"),
                  f"{friend} pulled with all {friend.his} might. [Plop!|Pop!] Out came {hero}, "
                  "with the loss of [some fur|a few hairs], and they ran for their lives.")
        story.ask(f"Why did {hero} get stuck?", f"{hero} ate and ate too much.")
        story.ask(f"Who pulled {hero} out?", f"{friend.full} pulled {hero} out.")
    else:
        story.add(f"Then {hero} filled a sack with {food} and [dragged it|pulled it] home across "
                  f"the [bridge|log over the river]. In the water {hero.he} saw another "
                  f"{hero.noun} with another sack.", say(hero, "I want that one too!"),
                  f"{hero} snapped at it, and the sack fell into the river. It had been only "
                  f"{hero.his} own reflection. Now all of the food was gone.")
        story.ask(f"What did {hero} see in the water?", f"{hero} saw {hero.his} own reflection.")
        story.ask("Where did the sack fall?", "The sack fell into the river.")
    story.add(sorry(hero), lesson(hero, "the greedy often end up with nothing"), farewell(friend))
    story.ask(f"What did {hero} find in {the(place)}?", f"{hero} found heaps of {food}.")
    story.about(f"a greedy {hero.noun}", f"a {hero.noun} who wanted too much")
    return story


@plot
def boastful_rooster(world: World) -> Story:
    """A boaster says he brings the sun, and one day he oversleeps."""
    hero = world.animal(("rooster",))
    other = world.animal(("hen", "goose", "donkey", "sheepdog", "goat", "pig"))
    story = Story(world, hero)
    boast = world.one(("Without me, the sun would not rise", "The sun gets up when I tell it to",
                       "I am the one who brings the morning"))
    story.add("On a farm [by a wide road|at the edge of the woods|in a green valley], there "
              f"lived a proud rooster named {hero}. Every day {hero} flew up on the [fence|barn "
              "roof] and crowed.")
    story.add(say(hero, f"{boast}!"),
              f"The hens admired {hero.him}. Only {other.full} [shook {other.his} head|laughed].",
              say(other, "[Are you sure|And what if you sleep late]?"),
              say(hero, "[Then it would be night forever|Then you would all sit in the dark]."))
    if world.chance():
        story.add(f"One night there was a feast, and {hero} [sang and danced until late|stayed "
                  f"up much too long]. In the morning {hero} slept. The sky turned pink. The sun "
                  "rose, as on any day.",
                  say(other,
                      f"[Good morning, {hero}! Look who came without you|Wake up, {hero}! The "
                      "sun is here already]!"), sorry(hero))
        story.ask(f"Why did {hero} oversleep?", f"There was a feast, and {hero} stayed up late.")
    else:
        story.add(f"Then {hero} caught a cold and lost {hero.his} voice. {hero} wept.",
                  say(hero, "Now the sun will never come!", "whispered"),
                  f"But the sun came up, [round and warm|golden and bright]. {hero} blinked in "
                  "surprise.", sorry(hero))
        story.ask(f"What happened to {hero}'s voice?", f"{hero} caught a cold and lost it.")
    story.add(say(other,
                  "[We like your song. But you do not need to rule the sky|Sing because you are "
                  "glad. The sun can look after itself]."),
              f"From then on, {hero} crowed to greet the sun, [and it sounded better than "
              f"ever|and {hero.his} song was sweeter].",
              lesson(hero, "the world does not turn around one bird"), farewell(other))
    story.ask(f"What kind of animal was {other}?", f"{other} was a {other.noun}.")
    story.about("a boastful rooster", f"a rooster and a {other.noun}", "a rooster and the sun")
    return story


@plot
def proud_racer(world: World) -> Story:
    """A fast animal is sure to win a race."""
    fast = world.animal(("hare", "horse", "deer", "fox", "ostrich"))
    steady = world.animal(("turtle", "snail", "duck", "hedgehog", "ox"))
    story = Story(world, fast)
    goal = world.one(("the old mill", "the lone pine", "the far hill", "the lighthouse"))
    judge = world.one(("the owl", "the heron", "the old goat", "the raven"))
    story.add(beast(fast),
              f"{fast} was the fastest of all and [never stopped talking about it|told everyone "
              "every day].", say(fast, "[Nobody can beat me|Who dares to race me]!"),
              f"{steady.full} looked up.", say(steady, "[I will race you|I will try]."),
              f"All the animals [laughed|stared]. They agreed to run to {goal}, and {judge} was "
              "the judge.")
    story.add(say(judge, "Ready, set, go!"), f"{fast} was soon far ahead.")
    if world.chance():
        rest = world.one(("took a nap under a tree", "stopped to eat clover",
                          "stopped to look in a puddle and comb a whisker"))
        story.add(say(fast, "[I have so much time|I can rest a bit]."),
                  f"And so {fast} {rest}. {steady} went on and on, [without stopping|one step "
                  f"after another], past {fast}, up to {goal}. [A great cheer rang out. {fast} "
                  f"had lost.|When {fast} looked up, it was too late.]")
        story.add(sorry(fast), say(fast, "[You won, and you earned it|I was too sure of myself]."),
                  lesson(fast, "slow and steady can win the race"))
        story.ask("Who won the race?", f"{steady.full} won the race.")
        story.ask(f"Why did {fast} lose?", f"{fast} {rest}.")
    else:
        story.add(f"But then {fast} [slipped on a wet stone|tripped over a root] and hurt a leg. "
                  f"{fast} could not get up. Soon {steady} came along.",
                  say(steady, "[Lean on me|A race is not so important. Let me help you]."),
                  f"Side by side, they [limped|walked slowly] to {goal} and arrived together.")
        story.add(sorry(fast),
                  say(fast, "[I will never laugh at you again|You are the real winner]."),
                  lesson(fast, "kindness is better than speed"))
        story.ask("Who won the race?", "They arrived together.")
        story.ask(f"Who helped {fast}?", f"{steady.full} helped {fast}.")
    story.add(farewell(steady))
    story.ask("Where did the race end?", f"The race ended at {goal}.")
    story.ask("Who was the judge?", f"{judge} was the judge.")
    story.about(f"a race between a {fast.noun} and a {steady.noun}", f"a proud {fast.noun}")
    return story


@plot
def echo(world: World) -> Story:
    """A young animal quarrels with an echo, or with a mirror image."""
    hero = world.animal(("bear", "fox", "rabbit", "wolf", "badger", "goat", "kitten"))
    elder = world.animal(("owl", "turtle", "deer", "raven", "goose"))
    story = Story(world, hero)
    story.add(beast(hero), f"{hero} had never gone far from home alone.")
    if world.chance():
        story.add(once(), f"{hero} climbed to the [cliff|rocks].", say(hero, "Hello!"),
                  f"A voice from the mountain [said|called]: Hello! {hero} was surprised.",
                  say(hero, "Who are you? Go away!"), "The voice called: Go away!",
                  f"{hero} [stamped|got angry].", say(hero, "You are rude!"),
                  "And the voice called: Rude!", f"{hero} ran home, close to tears.")
        story.add(say(hero,
                      "[There is somebody in the mountain who hates me|The mountain is mean to "
                      "me]."), f"{elder.full} [smiled|chuckled].",
                  say(elder, "[Go back and say something kind|Try it with a friendly word]."),
                  f"So {hero} went back.", say(hero, "I like you!"),
                  "The voice called: I like you!", f"{hero} laughed, and the mountain laughed too.")
        story.ask("What was in the mountain?",
                  f"It was a voice, and it gave back the words of {hero}.")
        story.about("an echo in the mountain", f"a {hero.noun} and an echo")
    else:
        story.add(once(),
                  f"{hero} came to a [clear|still] pond. In the water was another {hero.noun}! "
                  f"{hero} [showed {hero.his} teeth|growled]. The other did the same.",
                  f"{hero} made an [ugly|angry] face. So did the other.", scared(hero),
                  f"{hero} ran home.")
        story.add(say(hero,
                      f"[There is a wild {hero.noun} in the pond|A {hero.noun} in the pond wants "
                      "to fight me]!"), f"{elder.full} [smiled|chuckled].",
                  say(elder, "[Go back and smile at it|Try it with a smile]."),
                  f"So {hero} went back, [bent over the water|leaned over the edge] and smiled. "
                  f"And the {hero.noun} in the pond smiled back.", say(hero, "Oh! It is me!"))
        story.ask("Who was in the pond?", f"It was {hero} {hero.himself}.")
        story.about("a face in the water", f"a {hero.noun} and a pond")
    story.add(cheerful(hero), lesson(hero, "what you give is what you get"), farewell(hero))
    story.ask(f"Who gave {hero} advice?", f"{elder.full} gave {hero} advice.")
    return story


@plot
def false_alarm(world: World) -> Story:
    """Somebody calls for help too often for fun."""
    hero = world.animal(("lamb", "rabbit", "piglet", "duckling", "kid goat", "magpie"))
    friend = world.animal()
    story = Story(world, hero)
    danger = world.one(("wolf", "hawk", "fire", "snake", "wild cat"))
    alarm = "Fire" if danger == "fire" else f"A {danger}"
    place = world.one(("the sheep meadow", "the clover field", "the top of the hill", "the pond"))
    story.add(beast(hero), f"{hero}'s job was to keep watch at {place}. It was [dull|boring].")
    story.add(once(), f"{hero} had an idea.", say(hero, f"Help! Help! {alarm}!"),
              f"All the animals came running. {friend.full} was the first. But there was no "
              f"{danger}. {hero} [rolled on the ground and laughed|laughed until it hurt].",
              say(friend, "[That is not funny|Do not do that again]."),
              f"The next day {hero} did it again. Again they all came, and again there was no "
              f"{danger}.")
    story.add(f"On the third day, there really was a {danger}!", scared(hero),
              say(hero, "Help! It is true this time!"))
    if world.chance():
        story.add(f"Nobody came. {hero} had to hide in a [hollow log|deep hole] the whole night, "
                  f"[cold and alone|with a beating heart]. In the morning {hero} crept home.",
                  say(hero, "[I will never lie again|I am sorry for my tricks]."))
        story.ask("Who came on the third day?", "Nobody came.")
    else:
        story.add(f"The others stayed home. Only {friend} [listened closely|pricked up "
                  f"{friend.his} ears].", say(friend, f"{hero}'s voice is different today."),
                  f"{friend} ran to {place} and [led {hero} to safety|helped {hero} get away] "
                  "just in time.", say(hero, "[Thank you for coming|You believed me]."),
                  f"{hero} went to everyone and said sorry.")
        story.ask("Who came on the third day?", f"{friend.full} came on the third day.")
    story.add(lesson(hero, "one who lies is not believed, even when it is true"), farewell(friend))
    story.ask(f"Why did {hero} call for help on the first day?", f"{hero} only did it to laugh.")
    story.ask(f"What did {hero} warn of?", f"{hero} warned of a {danger}.")
    story.about(f"a {hero.noun} who cried for help", "a false alarm", f"a {hero.noun} who lied")
    return story


@plot
def borrowed_coat(world: World) -> Story:
    """An animal wants to be another, and learns to like itself."""
    hero = world.animal(("crow", "donkey", "toad", "sparrow", "pig", "mouse"))
    model = world.animal(("peacock", "swan", "horse", "parrot", "flamingo", "lion"))
    friend = world.animal(words.SMALL_ANIMALS)
    story = Story(world, hero)
    disguise = world.one(("a fake tail", "a cape of leaves", "a paper mask", "a coat of flowers"))
    gift = world.one(("find the way in the dark", "carry heavy loads", "tell the best stories",
                      "hear the rain before it comes", "make everybody laugh"))
    story.add(beast(hero),
              f"{hero} did not like to be a {hero.noun}. {hero} wanted to be like {model.full}, "
              "whom everybody admired.")
    story.add(once(), f"{hero} put on {disguise} and went out.",
              say(hero, f"Look at me! I am a {model.noun}!"),
              f"But then it [rained|poured], and {the(disguise)} [came|fell] off.",
              f"The animals [giggled|stared], and {hero} hid behind a stump.", sorry(hero))
    story.add(f"{friend.full} came and sat beside {hero.him}.",
              say(friend,
                  f"[Why do you want to be a {model.noun}|What is wrong with a {hero.noun}]?"),
              say(hero, "[Nobody admires me|I am so plain]."),
              say(friend, f"But you can {gift}. No {model.noun} can do that."),
              f"Even {model} nodded.", say(model, f"It is true. I wish I could {gift}."))
    story.add(cheerful(hero), f"From that day on, {hero} was glad to be a {hero.noun}.",
              lesson(hero, "it is best to be yourself"), farewell(hero))
    story.ask(f"What did {hero} put on?", f"{hero} put on {disguise}.")
    story.ask(f"What could {hero} do?", f"{hero} could {gift}.")
    story.ask(f"Who did {hero} want to be like?", f"{hero} wanted to be like {model.full}.")
    story.about(f"a {hero.noun} who wanted to be a {model.noun}", "being yourself")
    return story
