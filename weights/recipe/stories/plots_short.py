"""Short scenes of a paragraph or two."""

from . import words
from .phrases import beast, cheerful, glad, once, opening, proud, sad, say, thanks
from .story import Story, plot
from .world import World


@plot
def puddle(world: World) -> Story:
    """New boots and a puddle."""
    hero, parent, story = world.hero, world.family(), Story(world)
    color = world.color()
    story.add(f"It had rained all night. {hero} had new {color} boots. In front of the house was "
              "a [big|deep|wonderful] puddle.", say(hero, "[May I jump in|May I jump just once]?"),
              say(parent, "[Yes, but only with your boots on|Why not? Water dries]."),
              "[Splash!|Splish, splash!] The water flew high.",
              f"{parent} got wet too, and [laughed|jumped in as well].", glad(hero))
    story.ask(f"What color were {hero}'s boots?", f"The boots were {color}.")
    story.ask("Who got wet too?", f"{parent} got wet too.")
    story.about("a puddle", f"a {hero.noun} with new boots", "a rainy day")
    return story


@plot
def last_cookie(world: World) -> Story:
    """Two children and one cookie."""
    hero, friend, story = world.hero, world.friend, Story(world)
    treat = world.one(("cookie", "bun", "peach", "muffin", "plum", "pancake", "doughnut"))
    story.add(f"There was only one {treat} left on the plate. {hero} wanted it. {friend} wanted "
              "it too.", say(hero, "[I saw it first|It is mine]!"),
              say(friend, "[But I am hungry|That is not fair]!"))
    if world.chance():
        story.add(f"Then {hero} had an idea.", say(hero, "You cut it, and I choose."),
                  f"{friend} cut very carefully, so that both halves were the same. And so both "
                  "were [happy|content].")
        story.ask(f"Who cut the {treat}?", f"{friend} cut the {treat}.")
    else:
        thief = world.pet()
        story.add(f"While they argued, {thief} the {thief.noun} [jumped on the table|came "
                  f"closer]. [Snap!|Gulp!] The {treat} was gone. They looked at each other and "
                  "laughed.", say(friend, "Next time we share."))
        story.ask(f"Who ate the {treat}?", f"{thief} the {thief.noun} ate the {treat}.")
    story.ask("What was left on the plate?", f"There was one {treat} left.")
    story.about(f"the last {treat}", f"two children and one {treat}")
    return story


@plot
def cannot_sleep(world: World) -> Story:
    """A small animal cannot sleep."""
    hero = world.animal(words.SMALL_ANIMALS)
    story = Story(world, hero)
    parent = world.one(("mother", "father"))
    him = "her" if parent == "mother" else "him"
    counted = world.one(("stars", "raindrops", "fireflies", "clouds", "leaves"))
    number = world.one(words.NUMBERS)
    story.add(beast(hero),
              f"One night, {hero} could not sleep. {hero} turned to the left. {hero} turned to "
              "the right.", say(hero, f"{parent}, I am not tired."), f"{hero.his} {parent} yawned.",
              say(f"{hero.his} {parent}", f"Then count the {counted} with me."))
    story.add(f"They counted [slowly|together]. One, two, three. At {number}, it was "
              f"[quiet|still]. But it was not {hero} who slept. It was {hero.his} {parent}!",
              f"{hero} [giggled|smiled], pulled the blanket over {him} and lay down close to "
              f"{him}. And soon {hero} slept too.")
    story.ask("Who fell asleep first?", f"{hero}'s {parent} fell asleep first.")
    story.ask("What did they count?", f"They counted {counted}.")
    story.about(f"a {hero.noun} who could not sleep", "bedtime", "counting to fall asleep")
    return story


@plot
def lost_sock(world: World) -> Story:
    """A sock, a glove or a shoe has gone astray and is being worn."""
    hero, pet, story = world.hero, world.pet(words.INDOOR_PETS), Story(world)
    thing, color = world.one(("sock", "glove", "slipper", "shoe", "mitten", "cap")), world.color()
    use = world.one(("as a pillow", "as a bed for a mouse", "as a toy", "as a nest"))
    spot = world.one(("behind the stove", "in the basket", "under the sofa", "on the window sill"))
    story.add(opening(hero),
              f"{hero} could not find {hero.his} {color} {thing}. {hero.he} looked in the "
              "[drawer|closet] and under the bed.", say(hero, f"Who took my {thing}?"),
              f"Then {hero.he} heard a [soft|tiny] sound. {spot} lay {pet} the {pet.noun}. {pet} "
              f"was using the {thing} {use}!", f"{hero} had to laugh.",
              say(hero, f"[Keep it, {pet}|It looks better on you, {pet}]."),
              f"That day {hero} wore two different {thing}s."
              if thing != "cap" else
              f"That day {hero} wore a hat.")
    story.ask(f"Where was the {thing}?", f"The {thing} was {spot}.")
    story.ask(f"Who took the {thing}?", f"{pet} the {pet.noun} took the {thing}.")
    story.about(f"a lost {thing}", f"a {pet.noun} named {pet}", f"a {hero.noun} and a {pet.noun}")
    return story


@plot
def rainbow(world: World) -> Story:
    """Two animals look for the end of a rainbow."""
    hero, friend = world.animal(words.SMALL_ANIMALS), world.animal()
    story = Story(world, hero)
    found = world.one(("a bush full of ripe berries", "a family of frogs singing", "a wet little "
                       "bird", "a field of blue flowers"))
    story.add(beast(hero), "After the rain, a rainbow stood over the hills.",
              say(hero, "[They say that there is gold at its end|Let us find its end]!"),
              f"{hero} set out with {friend.full}. They walked and walked, but the rainbow was "
              "always [one hill away|a little farther]. Then it [faded|was gone].", sad(hero))
    story.add(f"But where it had stood, they found {found}.",
              say(friend, "This is better than gold."), cheerful(hero))
    story.ask("What were they looking for?", "They were looking for the end of the rainbow.")
    story.ask("What did they find?", f"They found {found}.")
    story.about("a rainbow", f"a {hero.noun} and a rainbow", "the end of the rainbow")
    return story


@plot
def lost_mother(world: World) -> Story:
    """A child is lost in a crowd for a moment."""
    hero, parent, place, story = world.hero, world.family(), world.place, Story(world)
    coat = world.color()
    worker = world.grown_up(world.one(words.JOBS))
    story.add(once(),
              f"{hero} and {parent} were {place.there}. {hero} stopped to look at a "
              f"[puppet|clown|balloon|snail]. When {hero.he} looked up, {parent} was gone. "
              f"{hero} saw a {coat} coat and ran to it, but it was a stranger!", sad(hero))
    story.add(f"{worker} [knelt down|bent down] beside {hero.him}.",
              say(worker, f"What does your {parent.noun} look like?"),
              say(hero, f"My {parent.noun} has a {coat} coat."),
              f"{worker} lifted {hero.him} up high. From there {hero.he} could see far. And "
              f"there, {place.spot}, was {parent}, looking for {hero.him} too!", thanks(hero),
              f"{parent} [kissed|hugged] {hero.him} and held on tight.")
    story.ask(f"Who helped {hero}?", f"{worker} helped {hero}.")
    story.ask("What color was the coat?", f"The coat was {coat}.")
    story.ask(f"Where was {parent}?", f"{hero}'s {parent.noun} was {place.spot}.")
    story.about(f"a {hero.noun} who got lost", "getting lost in a crowd")
    return story


@plot
def messy_room(world: World) -> Story:
    """A room is tidied, and something is found."""
    hero, parent, story = world.hero, world.family(), Story(world)
    first, second = world.toy(), world.thing()
    number = world.one(words.NUMBERS)
    story.add(opening(hero),
              f"{hero}'s room was a mess. [Nobody could see the floor.|There were dirty cups "
              "under the bed.]", say(parent, "[Please clean up your room|Today you must tidy up]."),
              f"{hero} [groaned|sighed] and began. {hero.he} found the {first} that {hero.he} "
              f"had missed for weeks. {hero.he} found {number} coins and a lost {second}.")
    story.add(say(hero, "[It is like a treasure hunt|Cleaning is not so bad]!"),
              "In the evening, the room was [neat|clean and bright].", proud(hero),
              f"With the {number} coins, {hero} [bought ice cream for {parent} too|bought a box "
              f"for {hero.his} toys].")
    story.ask(f"How many coins did {hero} find?", f"{hero} found {number} coins.")
    story.ask("What toy was found?", f"The {first} was found.")
    story.about("a messy room", f"a {hero.noun} who cleaned up")
    return story

