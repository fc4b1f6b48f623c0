"""Plots about friends: sharing, quarrels, secrets and kindness."""

from .phrases import ending, glad, lesson, once, opening, proud, sad, say, sorry, thanks, the
from .story import Story, plot
from .world import World


@plot
def sharing(world: World) -> Story:
    """A toy is not shared, and playing alone is no fun."""
    hero, friend, place, story = world.hero, world.friend, world.place, Story(world)
    toy = world.toy()
    color = world.look()
    story.add(opening(hero),
              f"{hero} had a {color} {toy}. [It was a gift from {world.parent}.|It was the best "
              f"{toy} in the whole town.|{hero.he} took it everywhere.]")
    story.add(once(), f"{hero} took the {toy} to {place}. {friend} was there too.",
              say(friend, f"[Can I play with your {toy}|May I have a turn with the {toy}]?"),
              say(hero, "[No, it is mine|No! Go away|You might break it]!"),
              f"{friend} [walked away without a word|went to sit alone|turned away sadly].")
    story.add(f"{hero} played alone, but [soon it was boring|it was not much fun|there was "
              f"nobody to laugh with]. {hero.he} looked at {friend}, who sat {place.spot}.",
              sorry(hero))
    if world.chance(0.7):
        story.add(f"So {hero} walked over to {friend}.",
                  say(hero, "[I am sorry. Let us play together|I was mean. You can have a turn]."),
                  f"{friend} [smiled|jumped up|nodded]. They took turns with the {toy} until the "
                  "sun went down.", lesson(hero, "playing together is better than playing alone"))
        story.ask(f"What did {hero} learn?", f"{hero} learned that playing together is better.")
    else:
        story.add(f"Then the {toy} got stuck high in a [tree|hedge]. {hero} could not reach it. "
                  f"{friend} came back and [lifted {hero.him} up|fetched a long stick].",
                  say(hero, "You helped me even though I was mean to you."),
                  say(friend, "[That is what friends do|It is nothing]."),
                  f"{hero} gave {friend} the {toy} for the rest of the day.",
                  lesson(hero, "a friend is worth more than a toy"))
        story.ask(f"Who helped {hero} get the {toy} back?", f"{friend} helped {hero}.")
    story.add(ending(hero))
    story.ask(f"Who wanted to play with the {toy}?", f"{friend} wanted to play with the {toy}.")
    story.ask(f"Where did {friend} sit?", f"{friend} sat {place.spot}.")
    story.about("sharing", f"a {hero.noun} who did not want to share", f"a {color} {toy}")
    return story


@plot
def sick_friend(world: World) -> Story:
    """A friend is ill, and a window helps."""
    hero, friend, story = world.hero, world.friend, Story(world)
    illness = world.one(("a fever", "a bad cold", "a sore throat", "the chicken pox",
                         "a stomach ache", "the flu"))
    soup = world.one(("hot soup", "chicken soup", "carrot soup", "noodle soup"))
    show = world.one(("a puppet show", "a shadow play", "a funny dance", "a circus with toys",
                      "a play about a pirate"))
    story.add(opening(hero), f"Every day {hero} walked to school with {hero.his} friend {friend}.")
    story.add(f"One morning, {friend} was not at the gate.",
              say(f"{friend}'s mother", f"{friend} has {illness} and must stay in bed."),
              f"[{hero} missed {friend} all day.|The way to school felt long.|At lunch, {hero} "
              "sat alone.]", say(hero, "[What can I do to help|How can I cheer my friend up]?"))
    story.add(f"[{hero} could not go inside, because {hero.he} might get sick too.|The doctor "
              f"said that nobody could visit.] So {hero} stood outside {friend}'s window and put "
              f"on {show}. {friend} [laughed so hard that the bed shook|laughed for the first "
              "time in days|sat up and clapped].", f"{hero} also left a pot of {soup} at the door.")
    story.add(f"[After three days|After a week|On Friday], {friend} was well again.",
              say(friend, "[You were the best medicine|Your visit made me strong]."),
              "They walked to school [arm in arm|side by side].", ending(hero))
    story.ask(f"Why did {friend} stay in bed?", f"{friend} had {illness}.")
    story.ask(f"What did {hero} do at the window?", f"{hero} put on {show}.")
    story.ask(f"What did {hero} leave at the door?", f"{hero} left a pot of {soup}.")
    story.about("a sick friend", f"a {hero.noun} who cheered up a sick friend", show)
    return story


@plot
def the_secret(world: World) -> Story:
    """A secret is told, or kept."""
    hero, friend, third, story = world.hero, world.friend, world.child(), Story(world)
    hidden = world.one(("a nest with three eggs", "a tiny kitten", "a family of hedgehogs",
                        "a cave behind a waterfall", "a tree house", "a bush full of berries"))
    place = world.one(("by the mill", "behind the old church", "near the pond", "in the woods",
                       "beyond the corn field", "under the cliff"))
    story.add(opening(hero), once(), f"{friend} took {hero} by the hand.",
              say(friend, "[I will show you a secret|Come, but do not tell anyone]."),
              f"{place}, {friend} showed {hero.him} {hidden}.",
              say(hero, "[I promise to keep the secret|I will not say a word]."))
    story.add(f"The next day, {third} asked {hero} [where {hero.he} had been|why {hero.he} "
              "smiled so much].")
    if world.chance():
        story.add(f"[The secret tickled on {hero}'s tongue.|{hero} wanted to look important.] "
                  f"And so {hero.he} told {third} everything. Soon [half the school|a crowd of "
                  f"children] came running to see {the(hidden)}. It was noisy, and much got "
                  "trampled.", f"{friend} looked at {hero}.", say(friend, "I trusted you."),
                  sorry(hero))
        story.add(f"{hero} [sent the others away|asked the others to leave] and [made a sign "
                  "that said: Keep out|built a little fence].",
                  say(hero, f"I broke my promise. I am sorry, {friend}."),
                  f"{friend} was quiet for a while, and then [nodded|took {hero.his} hand].",
                  lesson(hero, "a promise must be kept"))
        story.ask(f"Who did {hero} tell the secret to?", f"{hero} told the secret to {third}.")
        story.about(f"a {hero.noun} who told a secret", "a broken promise")
    else:
        story.add(f"It was hard to say nothing. But {hero} [pressed {hero.his} lips "
                  f"together|thought of {hero.his} promise].",
                  say(hero, "I cannot tell you. I promised."),
                  f"{third} was cross, but {friend} heard it and [smiled|was glad].")
        story.add(say(friend, f"[Now I know that I can trust you|You are a true friend], {hero}."),
                  "From then on, they went there together every [week|Sunday|afternoon], and "
                  f"later they showed {third} too.", lesson(hero, "a friend can be trusted"))
        story.ask(f"Why did {hero} not tell {third}?", f"{hero} had made a promise.")
        story.about(f"a {hero.noun} who kept a secret", "keeping a promise")
    story.add(ending(hero))
    story.ask(f"What did {friend} show {hero}?", f"{friend} showed {hero} {hidden}.")
    story.about("a secret")
    return story


@plot
def saying_sorry(world: World) -> Story:
    """Two friends quarrel over something small, and one makes the first step."""
    hero, friend, parent, story = world.hero, world.friend, world.parent, Story(world)
    game = world.one(("tag", "hide and seek", "checkers", "marbles", "cards", "hopscotch",
                      "dominoes", "catch"))
    gift = world.one(("a paper heart", "a drawing of two friends", "a bunch of daisies",
                      "a bracelet of string", "half of a cookie", "a painted stone"))
    story.add(opening(hero), f"{hero} and {friend} were best friends.")
    story.add(once(), f"they played {game}. {friend} won [again|three times].",
              say(hero, "[You cheated|That is not fair|You always cheat]!"),
              say(friend,
                  "[I did not! I will never play with you again|That is not true! Go home]!"),
              f"{hero} [ran home|stamped off|slammed the gate] and {friend} [kicked a "
              f"stone|stayed behind|folded {friend.his} arms].")
    story.add(f"At home, {hero} sat [on the stairs|at the window|under the table] and said "
              "nothing.", say(parent, f"[What is wrong|Why do you look so gloomy], {hero}?"),
              say(hero, f"[I said a mean thing to {friend}|I got angry, because I lost]."),
              say(parent, "[Sorry is a small word that can do big things|Somebody must go first]."))
    story.add(f"{hero} made {gift}. Then {hero.he} knocked at {friend}'s door. {hero.his} voice "
              "was [small|shaky].", say(hero, f"I am sorry, {friend}. You did not cheat."),
              f"{friend} looked at {the(gift)} and [smiled|grinned].",
              say(friend, "[I am sorry too. I missed you|I forgive you. Come in]."),
              f"They played {game} again, and this time nobody cared who won.",
              lesson(hero, "saying sorry can mend a friendship"), ending(hero))
    story.ask("What game did they play?", f"They played {game}.")
    story.ask(f"Why did {hero} get angry?", f"{friend} won, and {hero} lost.")
    story.ask(f"What did {hero} make for {friend}?", f"{hero} made {gift}.")
    story.about("learning to say sorry", f"two friends who quarreled over {game}",
                f"a {hero.noun} who said sorry")
    return story


@plot
def the_letter(world: World) -> Story:
    """A letter goes to somebody who is alone."""
    hero, story = world.hero, Story(world)
    old = world.neighbor()
    place = world.one(("at the end of the lane", "on the top floor", "in the gray house",
                       "near the lighthouse", "behind the post office"))
    hobby = world.one(("sailing", "baking", "bees", "birds", "old clocks", "roses", "the stars"))
    story.add(opening(hero),
              f"{old} lived {place}. {old.he} was [eighty|seventy|ninety] years old and [never "
              "had any visitors|was often alone].")
    story.add(once(),
              f"{hero} wrote a letter in {hero.his} best writing. It said: Dear {old}, I live "
              f"near you. What do you like? Your friend, {hero}. {hero.he} drew a "
              f"[flower|sun|smiling cat|boat] and put the letter in {old.his} mailbox.")
    story.add(f"[The next day|Two days later|On Monday], an answer came. It said: Dear {hero}, "
              f"your letter made me [so happy|laugh and cry]. I like {hobby}. Please come to tea.",
              glad(hero))
    story.add(f"{hero} [ran there after school|put on clean shoes and went]. {old} told "
              f"{hero.him} all about {hobby}, and they ate [ginger cookies|buttered toast|plum "
              f"cake]. {hero} stayed for two cups of tea.",
              say(old, "[Nobody has written to me for years|You brought the sun in with you]."),
              f"From then on, {hero} visited {old} every [week|Sunday|Tuesday].",
              lesson(hero, "a few kind words can go a long way"), ending(hero))
    story.ask(f"Where did {old} live?", f"{old} lived {place}.")
    story.ask(f"What did {old} like?", f"{old} liked {hobby}.")
    story.ask(f"Who did {hero} write to?", f"{hero} wrote to {old}.")
    story.about("a letter", f"a {hero.noun} who wrote a letter", f"a lonely neighbor named {old}")
    return story


@plot
def the_contest(world: World) -> Story:
    """A contest is decided, and the prize is shared or given up."""
    hero, friend, story = world.hero, world.friend, Story(world)
    contest, made, flaw = world.one((
        ("sand castle contest", "sand castle", "a wave took one of its towers"),
        ("pie contest", "pie", "the crust burned on one side"),
        ("pumpkin contest", "pumpkin", "a goat took a bite of it"),
        ("drawing contest", "drawing", "a drop of ink fell on it"),
        ("snowman contest", "snowman", "its head rolled off"),
        ("kite contest", "kite", "its tail tore"),
        ("scarecrow contest", "scarecrow", "the wind stole its hat"),
    ))
    prize = world.one(("a gold ribbon", "a silver cup", "a box of paints", "a basket of fruit",
                       "a big bag of candy"))
    story.add(opening(hero),
              f"[There was going to be|The town held] a {contest}. The prize was {prize}. {hero} "
              f"and {friend} both wanted to win.")
    story.add(f"{hero} worked [from morning till night|for many hours|very hard]. {friend}'s "
              f"{made} was [splendid|very fine] too. But just before the judges came, something "
              f"happened to {friend}'s {made}: {flaw}!", sad(friend))
    if world.chance():
        story.add(f"{hero} could have [laughed|won easily]. Instead {hero.he} [ran over|came] to "
                  "help. Together they fixed it just in time.",
                  f"The judges looked for a long while. Then they gave {the(prize)} to {friend}!",
                  f"{friend} [held up the prize|blushed].",
                  say(friend,
                      f"[Half of this belongs to {hero}|I could not have done it without {hero}]."),
                  f"So they shared {the(prize)}.", proud(hero))
        story.ask("Who won the contest?", f"{friend} won the contest.")
    else:
        story.add(f"The judges gave {the(prize)} to {hero}. But {hero} saw {friend}'s [red "
                  "eyes|sad face], and the prize did not feel so good.",
                  say(hero,
                      f"[Without the accident, {friend} might have won|{friend} worked as hard "
                      "as I did]."), f"And {hero} [shared|divided] the prize with {friend.him}.",
                  thanks(friend))
        story.ask("Who won the contest?", f"{hero} won the contest.")
    story.add(lesson(hero, "winning is nicer with a friend"), ending(hero))
    story.ask("What was the prize?", f"The prize was {prize}.")
    story.ask(f"What happened to {friend}'s {made}?", f"{flaw}.")
    story.about(f"a {contest}", "a contest", f"a {hero.noun} who helped a rival")
    return story


@plot
def new_friend(world: World) -> Story:
    """A newcomer is shy until something rolls over."""
    hero, friend, place, story = world.hero, world.friend, world.place, Story(world)
    thing = world.one(("ball", "marble", "yo-yo", "hoop", "spool of thread", "button", "hat"))
    color = world.color()
    built = world.one(("a house out of sticks", "a dam of pebbles", "a tower of stones",
                       "a boat from bark", "a crown of leaves", "a bridge of planks"))
    story.add(opening(hero), f"{hero} was new in town and did not know anyone.")
    story.add(once(),
              f"{hero} went to {place} and sat down on a [bench|stone|crate]. A {friend.noun} "
              f"was there too, all alone. {hero} wanted to say hello, but {hero.he} was too shy.",
              "[The minutes went by.|A bird hopped past.|Neither of them spoke.]")
    story.add(f"Then [the wind blew|a dog ran by and pushed|a puff of wind moved] a {color} "
              f"{thing}, and it rolled right to {hero}'s feet.",
              say(friend, f"[That is mine|Oh, my {thing}]!"),
              say(hero, f"[Here you are. I am {hero}|Here it is. My name is {hero}]."),
              say(friend, f"I am {friend}. [I am new here|I do not know anybody either]."))
    story.add(f"They [laughed|looked at each other and smiled]. Then they built {built}. The "
              "time went by so fast.",
              say(friend, "[Will you come again tomorrow|Shall we meet again]?"),
              say(hero, "[Yes, I will come every day|Of course I will]!"), glad(hero),
              f"{hero} had a friend now.", ending(hero))
    story.ask(f"What rolled to {hero}'s feet?", f"A {color} {thing} rolled to {hero}'s feet.")
    story.ask(f"Where did {hero} go?", f"{hero} went to {place}.")
    story.ask("What did they build?", f"They built {built}.")
    story.about("making a new friend", f"a shy {hero.noun}", "two children who were new in town")
    return story
