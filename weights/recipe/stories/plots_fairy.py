"""Fairy tales: kings, dragons, giants and wishes."""

from . import words
from .phrases import farewell, glad, lesson, opening, proud, sad, say, scared, thanks, the
from .story import Story, plot
from .world import World

KINGDOM = ("[Long ago, in a land beyond the mountains,|Once upon a time, in a small kingdom,|Many "
           "years ago, in a castle by the sea,|Once, when wishes still came true,]")
RIDDLES = (
    ("What has teeth but cannot bite?", "a comb"),
    ("What runs but has no legs?", "a river"),
    ("What gets wetter the more it dries?", "a towel"),
    ("What has one eye but cannot see?", "a needle"),
    ("What has hands but cannot clap?", "a clock"),
    ("What goes up but never comes down?", "your age"),
    ("What has a neck but no head?", "a bottle"),
    ("What can fill a room and weighs nothing?", "light"),
    ("What breaks when you say its name?", "silence"),
)


@plot
def honest_gardener(world: World) -> Story:
    """A ruler gives out seeds that cannot grow."""
    hero, story = world.hero, Story(world)
    ruler = world.one(("king", "queen"))
    he = "he" if ruler == "king" else "she"
    prize = world.one(("the royal garden", "the crown", "a golden spade", "a house by the lake"))
    months = world.one(("three", "six", "nine"))
    story.add(f"{KINGDOM} there lived an old {ruler} who loved flowers. {he} wanted to find the "
              f"most honest child in the land and give that child {prize}.",
              f"So the {ruler} gave a seed to every child.",
              say(f"the {ruler}", f"Come back in {months} months and show me your flowers."))
    story.add(f"A {hero.noun} named {hero} planted {hero.his} seed in the best soil. {hero} "
              f"watered it every day. But nothing grew. {hero} [changed the soil|put it in the "
              "sun|gave it a bigger pot]. Still nothing grew.", sad(hero))
    story.add(f"After {months} months, all the children came to the castle with "
              f"[roses|lilies|splendid flowers]. Only {hero} came with an empty pot.",
              say(f"the {ruler}", "[Why is your pot empty|And where is your flower]?"),
              say(hero,
                  "[I did my best, but nothing grew|I watered it every day, but it did not grow]."))
    story.add(f"The {ruler} [smiled|stood up from the throne].",
              say(f"the {ruler}",
                  "[All the seeds were boiled. None of them could grow|I had boiled every seed, "
                  "so no flower could grow]."),
              f"The others had bought new seeds. Only {hero} had told the truth. And so the "
              f"{ruler} gave {hero} {prize}.", proud(hero),
              f"{hero} ruled it well." if prize == "the crown" else "", farewell(hero))
    story.ask(f"Why did {hero}'s seed not grow?", "The seeds were boiled.")
    story.ask(f"What did the {ruler} give {hero}?", f"The {ruler} gave {hero} {prize}.")
    story.ask(f"What did {hero} bring to the castle?", f"{hero} brought an empty pot.")
    story.about(f"a {ruler} and an honest child", "an empty pot", f"an honest {hero.noun}")
    return story


@plot
def afraid_dragon(world: World) -> Story:
    """A dragon is afraid of something harmless."""
    hero, story = world.hero, Story(world)
    dragon = world.animal(("dragon",))
    fear = world.one(("mice", "the dark", "fire", "flying", "thunder", "butterflies", "bats"))
    cure = {"mice": "let a tiny mouse sleep in {his} warm ear",
            "the dark": "lit a lantern with one small breath",
            "fire": "learned to toast bread with a very small flame",
            "flying": "jumped from a low rock, then a higher one, and then from the tower",
            "thunder": "roared back at the clouds until they rolled away",
            "butterflies": "let a butterfly sit on {his} nose",
            "bats": "listened to the bats sing in the cave"}[fear].format(his=dragon.his)
    story.add(f"{KINGDOM} there lived a dragon named {dragon}. {dragon} was as big as a "
              "[church|ship|barn] and had [green scales|red wings|golden eyes]. Everyone was "
              f"afraid of {dragon.him}. But {dragon} had a secret: {dragon.he} was afraid of "
              f"{fear}.")
    story.add(f"One day, a {hero.trait} {hero.noun} named {hero} walked into the dragon's cave. "
              f"{hero} [was looking for a lost sheep|had lost the way|wanted to see a real "
              "dragon].", f"{dragon} was sitting in a corner and crying.",
              say(hero, "[What is the matter|Why is a dragon crying]?"),
              say(dragon, f"[Do not tell anyone, but|Well,] I am afraid of {fear}."))
    story.add(f"{hero} did not laugh.",
              say(hero,
                  "[I was afraid once too. I will help you|Let us try it together, bit by bit]."),
              f"They [practiced|tried] every day. And at last {dragon} {cure}!",
              say(dragon, "[I did it! I am not afraid any more|Look at me! I can do it]!"))
    story.add(f"{hero} took {dragon} to the village. First the people ran away, but [{dragon} "
              f"lit their stoves|{dragon} gave the children rides|{dragon} warmed the cold "
              "school], and soon they were all friends.", glad(hero),
              lesson(hero, "even the strong are afraid sometimes"), farewell(dragon))
    story.ask(f"What was {dragon} afraid of?", f"{dragon} was afraid of {fear}.")
    story.ask(f"Where did {hero} find the dragon?", f"{hero} found the dragon in the cave.")
    story.ask("Who helped the dragon?", f"{hero} helped the dragon.")
    story.about("a dragon who was afraid", f"a dragon who was afraid of {fear}",
                f"a dragon named {dragon}")
    return story


@plot
def three_questions(world: World) -> Story:
    """A wise old woman asks three riddles before she gives what is needed."""
    hero, story = world.hero, Story(world)
    riddles = list(RIDDLES)
    world.rng.shuffle(riddles)
    need, gift = world.one((("medicine for {his} sick brother", "a jar of bitter herbs"),
                            ("rain for the dry fields", "a small gray cloud in a bottle"),
                            ("a way to find {his} lost sister", "a thread that knew the way"),
                            ("a song to wake the sleeping king", "a silver flute")))
    need = need.format(his=hero.his)
    story.add(opening(hero),
              f"{hero} needed {need}. So {hero.he} climbed the mountain where a wise old woman "
              "lived.")
    story.add(say("the old woman", "Answer three questions, and I will help you."),
              say("the old woman", riddles[0][0]),
              f"{hero} [thought for a while|scratched {hero.his} head].",
              say(hero, f"It is {riddles[0][1]}."), say("the old woman", f"Good. {riddles[1][0]}"),
              f"That was harder. {hero} [walked up and down|closed {hero.his} eyes].",
              say(hero, f"It is {riddles[1][1]}."))
    story.add(say("the old woman", f"And now the last one. {riddles[2][0]}"))
    if world.chance():
        story.add(f"{hero} [looked at the sky|sat down on a stone]. Suddenly {hero.he} laughed.",
                  say(hero, f"It is {riddles[2][1]}!"), say("the old woman", "You are clever."))
        story.ask("What was the answer to the last question?", f"It was {riddles[2][1]}.")
    else:
        story.add(f"{hero} thought and thought, but found no answer.",
                  say(hero,
                      "[I do not know. Please, will you teach me|I do not know it. What is it]?"),
                  say("the old woman",
                      f"It is {riddles[2][1]}. You are wise, because you can say that you do not "
                      "know."))
        story.ask(f"Why did the old woman call {hero} wise?",
                  f"{hero} could say that {hero.he} did not know.")
    story.add(f"And the old woman gave {hero.him} {gift}.", thanks(hero),
              f"{hero} ran down the mountain, and it [worked|helped] at once.", farewell(hero))
    story.ask(f"What did {hero} need?", f"{hero} needed {need}.")
    story.ask(f"What did the old woman give {hero}?", f"She gave {hero} {gift}.")
    story.about("a wise old woman with three questions", "three riddles",
                f"a {hero.noun} who climbed a mountain")
    return story


@plot
def wasted_wish(world: World) -> Story:
    """A wish is granted, and it is not as nice as it seemed."""
    hero, story = world.hero, Story(world)
    giver = world.one(("a golden fish", "a tiny fairy", "an old wizard", "a talking frog",
                       "a silver bird"))
    save = {"a golden fish": "freed {0} from a net", "a tiny fairy": "freed {0} from a spider web",
            "an old wizard": "shared some bread with {0}", "a talking frog": "lifted {0} out of a "
            "bucket", "a silver bird": "freed {0} from a cage"}[giver].format(giver)
    wish, trouble, undo = world.one((
        ("everything {I} touched turned into candy",
         "even the water, the bed and the cat turned into candy", "the cat purred again"),
        ("it were summer all year", "the fields dried up and the flowers hung their heads",
         "cool rain fell"),
        ("{I} never had to sleep", "the nights were long and lonely", "a long yawn came"),
        ("{I} were as tall as a house", "no door and no bed was big enough", "the shoes fit again"),
        ("all animals could talk", "the flies, the mice and the chickens talked day and night",
         "it was quiet again"),
    ))
    story.add(opening(hero), f"One day, {hero} {save}.",
              say(the(giver),
                  "[You were kind to me. Make a wish|For that, you shall have one wish]."),
              say(hero, f"I wish that {wish.format(I='I')}!"),
              "[Puff!|Whoosh!|Ting!] And so it was.")
    story.add(glad(hero),
              f"But soon {trouble}. [It was not funny any more.|{hero} had not thought of that.]",
              sad(hero), f"So {hero} went back to {the(giver)}.",
              say(hero, "[Please take it back|Please undo my wish]!"))
    story.add(say(the(giver), "[Are you sure|Do you not like your wish]?"),
              say(hero, "[Yes. Things were good as they were|I am sure. I was foolish]."),
              f"[Puff!|Whoosh!|Ting!] All was as before, and {undo}.", glad(hero),
              lesson(hero, "you should be careful what you wish for"), farewell(hero))
    story.ask(f"Who gave {hero} a wish?", f"{giver} gave {hero} a wish.")
    story.ask(f"What did {hero} wish for?", f"{hero} wished that {wish.format(I=hero.he)}.")
    story.ask("What went wrong?", f"{trouble}.")
    story.about("a wish that went wrong", f"a {hero.noun} and {giver}", "one wish")
    return story


@plot
def lonely_giant(world: World) -> Story:
    """A giant is feared until a child finds out why he makes a noise."""
    hero, story = world.hero, Story(world)
    giant = world.one(("Boom", "Humphrey", "Grumble", "Bartholomew", "Rumble"))
    noise, reason, help_ = world.one((
        ("a loud groan", "he had a thorn in his foot", "pulled out the thorn"),
        ("a terrible howl", "he had a toothache", "brought him clove oil from the doctor"),
        ("a deep sob", "he had nobody to talk to", "sat down and talked with him"),
        ("a mighty sneeze", "he slept on a bed of dusty feathers", "made him a bed of fresh hay"),
        ("a long wail", "his only candle had gone out", "lit his candle again"),
    ))
    story.add(f"{KINGDOM} there lived a giant named {giant}. Every night the people [in the "
              f"valley|of the village] heard {noise} from his hill. They [locked their doors|hid "
              "under their beds].", "They thought that he was angry and wanted to eat them.")
    story.add(f"But {hero}, a {hero.trait} {hero.noun}, [could not believe it|wanted to know "
              f"why]. One evening {hero.he} [took a lantern and climbed the hill|went up the "
              "hill alone].", scared(hero),
              say(hero, "[Hello? Why do you make that noise|Mr. Giant, what is the matter]?"),
              f"The giant [wiped his eyes|looked down]. He told {hero.him} that {reason}.")
    story.add(say(hero, "[Then let me help you|I know what to do]!"),
              f"And {hero} {help_}. The giant [laughed so that the trees shook|smiled for the "
              "first time in years].",
              say("the giant", "[Nobody ever asked me before|You are the first who came]."))
    story.add(f"The next day, {giant} came down to the village and [carried water to the "
              "fields|lifted a cart out of the mud|mended the church roof without a ladder]. "
              "[Nobody locked the door any more.|The people were ashamed and made him a huge "
              "pie.]", lesson(hero, "it is better to ask than to be afraid"), farewell(hero))
    story.ask("What did the people hear every night?", f"They heard {noise}.")
    story.ask("Why did the giant make that noise?", f"The giant said that {reason}.")
    story.ask(f"What did {hero} do for the giant?", f"{hero} {help_}.")
    story.about("a lonely giant", f"a giant named {giant}", f"a {hero.noun} who helped a giant")
    return story


@plot
def three_gifts(world: World) -> Story:
    """Three brothers or sisters bring gifts, and the smallest counts most."""
    hero, story = world.hero, Story(world)
    second, third = world.child(), world.child()
    ruler = world.one(("queen", "king", "old princess"))
    he, him = ("he", "him") if ruler == "king" else ("she", "her")
    rich = world.one(("a chest of gold", "a white horse", "a robe of silk", "a ruby as big as "
                      "an egg"))
    fine = world.one(("a marble statue", "a carpet from far away", "a cage of rare birds",
                      "a clock with a hundred bells"))
    humble = world.one(("a loaf of warm bread", "a pot of soup", "a woolen blanket", "a song",
                        "a bunch of wild flowers"))
    story.add(f"{KINGDOM} the {ruler} was sad and [never smiled|would not leave the room]. "
              f"Whoever made the {ruler} smile would get a reward. {second}, {third} and {hero} "
              "set out for the castle.")
    story.add(f"{second} brought {rich}. The {ruler} only [nodded|yawned]. {third} brought {fine}.",
              say(f"the {ruler}", "[I have three of those|How dull]."),
              f"On the way, {hero} had met {poor_traveler(world)} and had given away half of "
              f"what {hero.he} had. Now {hero.he} brought only {humble}. The guards laughed.")
    story.add(say(hero,
                  f"It is not much, but {'I sing it' if humble == 'a song' else 'it is'} from "
                  "the heart."),
              f"The {ruler} looked at {hero} for a long time. [Long ago, {he} had been a poor "
              f"child too.|Nobody had been so kind to {him} for years.] And {he} smiled.",
              say(f"the {ruler}",
                  "[This is the best gift of all|Your gift is small, but your heart is big]."))
    story.add(f"{hero} got a bag of silver as a reward and shared it with {hero.his} friends.",
              proud(hero), lesson(hero, "a gift from the heart is the best one"), farewell(hero))
    story.ask(f"What did {hero} bring?", f"{hero} brought {humble}.")
    story.ask(f"What did {second} bring?", f"{second} brought {rich}.")
    story.ask(f"What did {third} bring?", f"{third} brought {fine}.")
    story.about(f"a sad {ruler}", "three gifts", f"a {hero.noun} who made a {ruler} smile")
    return story


def poor_traveler(world: World) -> str:
    """Draw somebody poor on the road."""
    return world.one(("a hungry beggar", "a lame soldier", "an old widow", "a lost child"))


@plot
def garden_seed(world: World) -> Story:
    """A seed is cared for day by day."""
    hero, friend, parent, story = world.hero, world.friend, world.parent, Story(world)
    seed = world.one(words.SEEDS)
    spot = world.one(("by the wall", "in an old boot", "in a clay pot", "behind the house",
                      "on the balcony", "next to the fence"))
    story.add(opening(hero), f"{parent} gave {hero.him} a [tiny|small] {seed} seed.",
              say(parent, "[It needs sun, water and time|If you wait, it will surprise you]."),
              f"{hero} planted it {spot}.")
    story.add(f"Every day {hero} [watered it|looked at it|talked to it]. A week went by, and "
              "nothing happened.",
              say(friend, "[It is dead. Throw it away|Nothing will come of it]."), sad(hero),
              say(parent, "[Under the ground, it is already working|Be patient]."))
    story.add(f"Then, after a night of rain, there was a tiny green [leaf|shoot]! {hero} [built "
              "a little fence around it|chased the snails away|shaded it from the hot sun]. It "
              "grew and grew.",
              f"By the end of summer, {hero} had a [splendid|strong] {seed} plant, the finest in "
              "the street.", glad(hero))
    story.add(f"{friend} [could not believe it|stared].",
              say(friend, "[How did you do it|Can you show me how]?"),
              f"{hero} gave {friend.him} a {seed} seed from the plant.",
              say(hero, "[You only have to wait|It needs sun, water and time]."),
              lesson(hero, "good things take time"), farewell(hero))
    story.ask(f"What seed did {hero} plant?", f"{hero} planted a {seed} seed.")
    story.ask(f"Where did {hero} plant it?", f"{hero} planted it {spot}.")
    story.ask(f"Who gave {hero} the seed?", f"{parent} gave {hero} the seed.")
    story.about(f"a {seed} seed", f"a {hero.noun} who planted a seed", "a garden")
    return story
