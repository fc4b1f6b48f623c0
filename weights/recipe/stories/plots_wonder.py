"""Plots with something wonderful in an everyday world."""

from . import words
from .phrases import ending, glad, lesson, opening, say, scared, thanks, the
from .story import Story, plot
from .world import World

TOWNS = "|".join(words.TOWNS)


@plot
def fallen_star(world: World) -> Story:
    """A star falls down and wants to go home."""
    hero, friend, story = world.hero, world.friend, Story(world)
    place, helper, means = world.one((
        ("into the pond", "the moon", "let down a silver ladder"),
        ("behind the barn", "an eagle", "carried it up above the clouds"),
        ("into the chimney", "the north wind", "blew it up into the sky"),
        ("into a hay stack", "an old kite", "took it up on a long string"),
    ))
    glow = world.one(("a small lamp", "a candle", "a firefly", "a warm coal"))
    story.add(opening(hero),
              f"One clear night, {hero} saw a star fall {place}. {hero.he} ran outside in "
              f"{hero.his} [pajamas|slippers]. The star was no bigger than an apple, and it "
              f"glowed like {glow}. It was crying.")
    story.add(say(hero, "[Why do you cry, little star|Are you hurt, little star]?"),
              say("the star", "[I leaned over too far and fell|I fell, and I cannot get home]."),
              f"{hero} [wrapped it in a scarf|took it gently in both hands] and fetched {friend}.",
              say(friend, "[We could keep it|It would be a fine lamp]!"),
              f"{hero} looked at the star. Its light [grew weaker|was fading].",
              say(hero, "No. It must go home."))
    story.add("They tried a ladder, but it was too short. They tried [a tall tree|the church "
              f"tower], but the sky was still too far. Then {hero} thought of {helper}.",
              f"And {the(helper)} {means}!")
    story.add("High above, the star [winked|shone brighter than before]. Since then, it "
              f"twinkles whenever {hero} [looks up|says good night].", glad(hero),
              lesson(hero, "some things are too precious to keep"), ending(hero))
    story.ask("Where did the star fall?", f"The star fell {place}.")
    story.ask("What did the star look like?", f"It glowed like {glow}.")
    story.ask("How did the star get home?", f"{helper} {means}.")
    story.about("a star that fell", f"a {hero.noun} who helped a star", "a little star")
    return story


@plot
def robot_helper(world: World) -> Story:
    """A robot takes every order to the letter."""
    hero, parent, story = world.hero, world.parent, Story(world)
    robot = world.one(("Bolt", "Tick", "Zip", "Tinker", "Clank", "Beep"))
    order, done, better = world.one((
        ("Water the plants", "watered the paper flowers, the rug and the cat",
         "Give one cup of water to each plant in a pot"),
        ("Put away the toys", "put them away in the oven", "Put the toys in the wooden box"),
        ("Make the bed", "built a second bed out of chairs", "Spread the blanket over my bed"),
        ("Feed the fish", "fed it a whole loaf of bread", "Give the fish one pinch of food"),
        ("Draw the curtains", "drawn them with a red crayon", "Close the curtains"),
        ("Run the bath", "run around the bath until it was dizzy", "Fill the bath with warm water"),
    ))
    story.add(opening(hero),
              f"{parent} built a robot from [tin cans|an old radio|clock parts] and called it "
              f"{robot}. It had [round green eyes|a lamp on its head|three arms].",
              say(robot, "I do what you say."))
    story.add(f"{hero} was delighted.", say(hero, f"{order}!"),
              f"{robot} beeped and rolled off. When {hero} came to look, {robot} had {done}!",
              say(hero, f"[Oh, {robot}! What have you done|{robot}, why did you do that]?"),
              say(robot, "I did what you said."))
    story.add(f"At first {hero} was cross. But then {hero.he} [thought about it|laughed]. The "
              f"robot could not guess what {hero.he} meant.",
              f"So {hero} tried again, slowly and clearly.", say(hero, f"{better}."),
              f"[Beep!|Click, whirr!] This time {robot} did it just right.",
              say(hero, f"Thank you, {robot}."))
    story.add(f"[{robot}'s eyes lit up.|{robot} turned in a circle.] From then on, they "
              "[worked|did the chores] together.", glad(hero),
              lesson(hero, "it matters to say what you mean"), ending(hero))
    story.ask("What was the robot called?", f"The robot was called {robot}.")
    story.ask("Who built the robot?", f"{parent} built the robot.")
    story.ask(f"What did {hero} tell the robot first?", f"{hero} said: {order}.")
    story.about("a robot helper", f"a robot named {robot}", f"a {hero.noun} and a robot")
    return story


@plot
def clockmaker(world: World) -> Story:
    """The town clock stops, and the reason is alive."""
    hero, story = world.hero, Story(world)
    keeper = world.neighbor()
    cause, noun, move = world.one((
        ("a family of mice had made a nest in the wheels", "mice", "moved them there"),
        ("a young owl slept on the big wheel", "owl", "carried it over"),
        ("two bats hung from the pendulum", "bats", "carried them over"),
        ("a pigeon had laid an egg between the wheels", "pigeon", "moved the egg there"),
    ))
    hour = world.one(words.NUMBERS)
    chaos = world.one(("The baker burned the bread", "The school began at noon",
                       "The mail came at midnight", "The trains waited for each other"))
    home = world.one(("a box with straw", "a new nest in the attic", "a basket under the roof"))
    story.add(f"In the middle of [the town|{TOWNS}] stood a tall clock. {keeper} had taken care "
              f"of it for [thirty|forty|fifty] years. One morning it stopped at {hour} o'clock. "
              f"{chaos}. [Nobody knew what time it was.|Everything went wrong.]")
    story.add(f"{keeper} was too [old|stiff] to climb all the stairs. So {hero}, a {hero.trait} "
              f"{hero.noun}, [offered to go|went up] with a lamp. The stairs [creaked|went round "
              f"and round]. At the top, {hero} saw why the clock had stopped: {cause}.")
    story.add(say(hero, "[So it was you|Hello there! You are in the way]!"),
              f"{hero} did not want to harm the {noun}. Carefully {hero.he} made {home} and "
              f"{move}.", f"Then {hero.he} gave the wheel a push. Tick, tock, tick, tock!")
    story.add("The bells rang, and the people cheered."
              if world.chance() else
              "All over town, people looked up and set their watches.", thanks(keeper),
              f"{keeper} gave {hero.him} the key to the tower, and {hero} visited the {noun} "
              "every week.", glad(hero), ending(hero))
    story.ask("When did the clock stop?", f"It stopped at {hour} o'clock.")
    story.ask("Why did the clock stop?", f"{cause}.")
    story.ask(f"What did {keeper} give {hero}?", f"{keeper} gave {hero} the key to the tower.")
    story.about("a clock that stopped", f"a {hero.noun} who climbed a clock tower", "a town clock")
    return story


@plot
def magic_paint(world: World) -> Story:
    """What is painted comes to life."""
    hero, story = world.hero, Story(world)
    giver = world.one(("an old painter", "a woman with a gray braid", "a traveling merchant"))
    first = world.one(("a butterfly", "a goldfish", "a red bird", "a frog"))
    greedy = world.one(("mayor", "landlord", "duke", "judge"))
    treasure = world.one(("a mountain of gold", "a tree with coins for leaves", "a palace"))
    need = world.one(("bread for the poor", "shoes for the children", "a well for the village",
                      "wood for the winter"))
    story.add(opening(hero),
              f"{hero} helped {giver} to [carry a heavy bag|cross the street]. As thanks, "
              f"{hero.he} got a little [brush|paint brush].", say(the(giver), "Use it well."),
              f"At home {hero} painted {first}. It [moved|blinked], shook itself and came off "
              "the paper!")
    story.add(say(hero, "[It is alive|What I paint becomes real]!"),
              f"{hero} thought of the people around {hero.him}. {hero.he} painted {need}. "
              f"{glad(hero)}", f"But the {greedy} heard of it.",
              say(f"the {greedy}", f"Paint me {treasure}!"),
              f"{hero} did not want to. But the {greedy} [shouted|would not go away].")
    story.add(f"So {hero} painted {treasure}, on an island in the sea. And {hero.he} painted a "
              f"boat. The {greedy} jumped in and [sailed off|rowed off] without a word of thanks.",
              f"Then {hero} painted [a strong wind|great waves|a thick fog]. The {greedy} was "
              "never seen again."
              if world.chance() else
              f"The {greedy} reached the island. But there was nobody to talk to, and one cannot "
              f"eat gold. After a year the {greedy} came back, [thin and humble|poor and polite].")
    story.add(f"And {hero} went on painting for those who needed it.",
              lesson(hero, "a gift is there to help others"), ending(hero))
    story.ask(f"What did {hero} paint first?", f"{hero} painted {first}.")
    story.ask(f"Who gave {hero} the brush?", f"{giver} gave {hero} the brush.")
    story.ask(f"What did the {greedy} want?", f"The {greedy} wanted {treasure}.")
    story.about("a magic brush", f"a greedy {greedy}", f"a {hero.noun} whose pictures came to life")
    return story


@plot
def talking_mirror(world: World) -> Story:
    """A puzzle in an old house is solved with a mirror."""
    hero, friend, story = world.hero, world.friend, Story(world)
    word, backwards = world.one((("pots", "stop"), ("draw", "ward"), ("loop", "pool"),
                                 ("star", "rats"), ("door", "rood"), ("stool", "loots")))
    place = {"pots": "behind the pots in the kitchen", "draw": "beside the drawing desk",
             "loop": "under a loop of rope", "star": "under a star on the floor",
             "door": "over the cellar door", "stool": "under a stool"}[word]
    prize = world.one(words.TREASURES)
    story.add(opening(hero),
              f"{hero} and {friend} were exploring an old house. [Dust lay on everything.|The "
              f"floor creaked.] On a wall they found one strange word: {backwards}.")
    story.add(say(friend, f"[What does {backwards} mean|Is it a secret code]?"),
              "They [turned it over in their heads|wrote it down and guessed], but it made no "
              f"sense. Then {hero} [saw a mirror on the other wall|remembered a mirror in the "
              "hall]. In a mirror, everything is turned around.",
              say(hero, f"Read it from the back! It says {word}."))
    story.add(f"They searched the house again. And {place}, they found a loose board. Behind it "
              f"was {prize}!", say(friend, "[You are a genius|How clever you are]!"), glad(hero))
    story.add("They [shared the prize|put a new secret word on the wall, for the next children].",
              lesson(hero, "a puzzle is easier if you turn it around"), ending(hero))
    story.ask("What word was on the wall?", f"The word was {backwards}.")
    story.ask("What did the word say from the back?", f"It said {word}.")
    story.ask("What did they find?", f"They found {prize}.")
    story.about("a mirror puzzle", "a secret word", f"a {hero.noun} who solved a puzzle")
    return story


@plot
def night_visitor(world: World) -> Story:
    """Strange sounds at night have a small cause."""
    hero, parent, story = world.hero, world.family(), Story(world)
    sound, animal, treat = world.one((
        ("scratching", "a hedgehog", "the cat's milk"), ("tapping", "a woodpecker", "the seeds"),
        ("rustling", "a raccoon", "the apples"), ("sniffing", "a fawn", "the lettuce"),
        ("squeaking", "a dormouse", "the cheese"), ("thumping", "a wild rabbit", "the carrots"),
    ))
    spot = world.one(("on the porch", "in the shed", "behind the kitchen door", "on the balcony"))
    nights = world.one(("two", "three", "four"))
    story.add(opening(hero), f"For {nights} nights, {hero} heard a strange {sound} {spot}.",
              scared(hero), say(hero, "[It is a ghost|Somebody is out there]!"),
              say(parent, "[There are no ghosts. Let us find out|Then let us lie in wait]."))
    story.add("The next evening, they [sprinkled flour on the floor|hid behind a curtain] and "
              f"waited. The moon rose. At last, there it was again: {sound}! {hero} [held "
              f"{hero.his} breath|squeezed {parent}'s hand] and turned on the light.")
    story.add(f"It was {animal}! It had come for {treat}. It [blinked|froze], looked at them and "
              "[scurried off|hurried away].",
              say(hero, "[It is more afraid than I am|It was only hungry]."),
              f"From then on, {hero} put a small bowl outside every night. [The visitor came "
              "back with its young ones.|In the morning, the bowl was always empty.]", glad(hero),
              lesson(hero, "most ghosts are just hungry guests") if world.chance() else "",
              ending(hero))
    story.ask(f"What did {hero} hear?", f"{hero} heard a strange {sound}.")
    story.ask("Who was the visitor?", f"The visitor was {animal}.")
    story.ask("Why had it come?", f"It had come for {treat}.")
    story.about("a strange sound at night", f"a {hero.noun} who heard a noise", animal)
    return story

