"""Plots of learning: school, lessons, fears and skills."""

from . import words
from .phrases import ending, glad, lesson, opening, proud, sad, say, scared, sorry, thanks, the
from .story import Story, plot
from .world import World


@plot
def first_day(world: World) -> Story:
    """The first day of school is frightening, and then it is not."""
    hero, friend, parent, story = world.hero, world.friend, world.family(), Story(world)
    teacher = world.neighbor()
    charm = world.one(("a smooth stone", "a button from {0}'s coat", "a little wooden horse",
                       "a ribbon", "an acorn")).format(parent)
    task = world.one(("sang a counting song", "drew their families", "built a city of blocks",
                      "planted beans in cups", "learned the letter A", "listened to a story"))
    story.add(opening(hero), f"Tomorrow was the first day of school. {hero} could not sleep.",
              say(hero,
                  "[What if nobody likes me|What if I get lost|What if I do not know anything]?"),
              f"{parent} gave {hero.him} {charm}.",
              say(parent, "[Hold it when you feel alone|It will remind you of me]."))
    story.add(f"In the morning, {hero} walked through the big door. The hall was [long|loud and "
              "full of children].", scared(hero), f"{hero} held {the(charm)} tight.",
              f"The teacher was called {teacher}. {teacher.he} had a [soft voice|kind smile] and "
              "knew all the names.")
    story.add(f"A {friend.noun} named {friend} sat next to {hero}. {friend.his} eyes were wet.",
              say(friend, "I want to go home.", "whispered"),
              f"{hero} [thought for a moment|took a deep breath]. Then {hero.he} let {friend} "
              f"hold {the(charm)}.", say(hero, "It helps. You can keep it until lunch."))
    story.add(f"That day they {task}. [At lunch they shared an orange.|At recess they played tag.]",
              f"When {parent} came, {hero} did not want to leave.",
              say(hero, "[Can I come back tomorrow|Is there school again tomorrow]?"), glad(hero),
              ending(hero))
    story.ask(f"What did {parent} give {hero}?", f"{parent} gave {hero} {charm}.")
    story.ask("What was the teacher called?", f"The teacher was called {teacher}.")
    story.ask(f"Who sat next to {hero}?", f"{friend} sat next to {hero}.")
    story.ask("What did the children do?", f"They {task}.")
    story.about("the first day of school", f"a {hero.noun} who was nervous about school")
    return story


@plot
def music_lesson(world: World) -> Story:
    """Practice is a bore until the right song comes along."""
    hero, story = world.hero, Story(world)
    instrument, elder = world.one(words.INSTRUMENTS), world.family("grandpa grandma aunt uncle")
    teacher = world.neighbor()
    sound = world.one(("a cat with a cold", "a rusty gate", "an angry goose", "a squeaky wheel"))
    song = world.one(("a lullaby", "a sailor song", "a slow waltz", "a harvest dance",
                      "a song about the moon"))
    story.add(opening(hero),
              f"Every Tuesday {hero} had a music lesson with {teacher}. {hero} played the "
              f"{instrument}. It sounded like {sound}.")
    story.add(say(teacher, "[Once more, please|Again, and not so fast]."),
              f"{hero} [sighed|groaned]. The same notes, up and down, up and down.",
              say(hero, "[I will never be good at this|I want to stop]."),
              f"{teacher} thought about it.", say(teacher, "What song do you love most?"))
    story.add(f"{hero} told {teacher.him} about {song} that {elder} used to hum. {teacher} "
              f"[found the notes|wrote down the notes]. Now {hero} wanted to practice. {hero.he} "
              f"played [before breakfast and after supper|until {hero.his} fingers ached]. [The "
              "dog stopped howling.|The neighbors opened their windows to listen.]")
    story.add(f"On {elder}'s birthday, {hero} stood up and played the {instrument}. [It was not "
              "perfect, but it was beautiful.|There was only one wrong note.]",
              f"{elder} had tears in {elder.his} eyes.",
              say(elder, "[That was my song|You gave me the best present]."), proud(hero),
              lesson(hero, "practice is easy when you love what you do"), ending(hero))
    story.ask(f"What did {hero} play?", f"{hero} played the {instrument}.")
    story.ask(f"What did the {instrument} sound like at first?", f"It sounded like {sound}.")
    story.ask(f"What song did {elder} use to hum?", f"It was {song}.")
    story.about("a music lesson", f"a {hero.noun} who played the {instrument}", f"a {instrument}")
    return story


@plot
def learning(world: World) -> Story:
    """Somebody learns a skill by trying again."""
    hero, friend, parent, story = world.hero, world.friend, world.parent, Story(world)
    skill, failure = world.one(words.SKILLS)
    tries = world.one(words.NUMBERS)
    story.add(opening(hero),
              f"[All of {hero}'s friends could {skill}, but {hero} could not.|{hero} wanted to "
              f"{skill}, but {hero.he} did not know how.]")
    story.add(f"[One day|One afternoon], {hero} tried to {skill}. {hero.he} {failure}.",
              say(hero, "[This is too hard|I cannot do it|I give up]!"),
              f"{parent} [sat down next to {hero.him}|heard it].",
              say(parent,
                  "[Nobody can do it the first time|I fell many times too|You cannot do it yet, "
                  "but you will]."))
    story.add(f"So {hero} tried again. [And again. And again.|Every day it went a little "
              f"better.] {friend} came to watch and [cheered|gave good advice].",
              say(friend, "[You almost had it|Keep going|Look straight ahead]!"),
              f"After {tries} tries, it worked. {hero} could {skill}!")
    story.add(glad(hero), say(hero, "[I did it! I did it|Look at me]!"),
              f"[The next day, {hero} showed a smaller child how to {skill}.|{parent} clapped "
              "the loudest.]", lesson(hero, "trying again is how we learn"), ending(hero))
    story.ask(f"What did {hero} want to learn?", f"{hero} wanted to {skill}.")
    story.ask(f"How many tries did {hero} need?", f"{hero} needed {tries} tries.")
    story.ask("Who came to watch?", f"{friend} came to watch.")
    story.about(f"a {hero.noun} who learned to {skill}", f"learning to {skill}", "not giving up")
    return story


@plot
def facing_fear(world: World) -> Story:
    """To help a pet, a fear has to be faced."""
    hero, friend, pet, story = world.hero, world.friend, world.pet(words.INDOOR_PETS), Story(world)
    fear, deed = world.one(words.FEARS)
    story.add(opening(hero), f"{hero} was not afraid of much, but {hero.he} was afraid of {fear}.")
    story.add(f"One day, {friend}'s {pet.noun}, {pet}, got lost. [They heard a small whimper|A "
              f"faint sound came from far off]. To reach {pet}, somebody had to {deed}.",
              say(friend, "[I am too scared to go|I do not dare to go]."), scared(hero))
    if world.chance():
        story.add(f"{hero} wanted to run home. But {hero.he} thought of {pet}, all alone.",
                  say(hero, "[I will count my steps|I am afraid, but I will go]."),
                  f"{hero} took a deep breath. One step, two steps, three steps. And so "
                  f"{hero.he} managed to {deed}. There sat {pet}, [shivering|wagging {pet.his} "
                  "tail]!")
        story.ask(f"Who found {pet}?", f"{hero} found {pet}.")
    else:
        story.add(say(hero,
                      "[Take my hand. Together we can do it|If we go together, it is not so bad]."),
                  f"Hand in hand, {hero} and {friend} managed to {deed}. [Their fingers were "
                  f"cold.|They sang loudly all the way.] There sat {pet}, safe and sound!")
        story.ask(f"Who went with {hero}?", f"{friend} went with {hero}.")
    story.add(f"{friend} hugged {pet}." if world.chance() else "", thanks(friend), proud(hero),
              lesson(hero, "being brave means to be afraid and go anyway"), ending(hero))
    story.ask(f"What was {hero} afraid of?", f"{hero} was afraid of {fear}.")
    story.ask(f"What did {hero} have to do?", f"{hero} had to {deed}.")
    story.about(f"a {hero.noun} who was afraid of {fear}", "being brave", f"a lost {pet.noun}")
    return story


@plot
def museum(world: World) -> Story:
    """A class visits a museum, and one child stays behind."""
    hero, friend, story = world.hero, world.friend, Story(world)
    teacher = world.neighbor()
    thing, question = world.one((
        ("the skeleton of a dinosaur", "What did it eat"), ("a golden mask", "Who wore it"),
        ("an old ship", "Where did it sail"), ("a suit of armor", "How heavy was it"),
        ("a painting of a stormy sea", "Who painted it"), ("a stuffed mammoth", "Was it cold"),
        ("a rock from the moon", "How did it get here"),
    ))
    room = world.one(("in the last room", "on the top floor", "in the main hall", "in the cellar"))
    story.add(opening(hero),
              f"One day, {hero}'s class went to the museum. {teacher}, their teacher, said to "
              f"stay together. {hero} walked [hand in hand|in line] with {friend}.")
    story.add(f"{room}, {hero} saw {thing}. [It was the most wonderful thing in the "
              f"world.|{hero.he} could not look away.] {hero.he} stood and stared. When "
              f"{hero.he} turned around, the class was gone!", scared(hero))
    if world.chance():
        story.add(f"{hero} remembered what {teacher} always said: If you are lost, stay where "
                  f"you are. So {hero} sat down and waited. [A guard came by and kept {hero.him} "
                  f"company.|The minutes were long.] Soon {friend} came running with {teacher}.",
                  say(friend,
                      f"[I knew that you would be here|I saw how you looked at {the(thing)}]!"))
        story.ask(f"What did {hero} do when the class was gone?", f"{hero} sat down and waited.")
    else:
        story.add(f"{hero} went to a guard in a blue uniform.",
                  say(hero, "[Please, I have lost my class|Excuse me, I am lost]."),
                  f"The guard [spoke into a radio|took {hero.his} hand] and brought {hero.him} "
                  f"to the others. {friend} [waved|was relieved].",
                  say(teacher, "[You did right. You asked for help|I am glad you asked]."))
        story.ask(f"Who helped {hero}?", f"A guard in a blue uniform helped {hero}.")
    story.add(say(hero, f"{question}?"),
              f"And so the whole class came back to look at {the(thing)}, and {teacher} [told "
              "them all about it|read the sign aloud].", ending(hero))
    story.ask(f"What did {hero} look at?", f"{hero} looked at {thing}.")
    story.ask("Where was it?", f"It was {room}.")
    story.about("a visit to the museum", f"a {hero.noun} who got lost in a museum", thing)
    return story


@plot
def library_book(world: World) -> Story:
    """A borrowed book is damaged."""
    hero, story = world.hero, Story(world)
    title = world.one(("whales", "pirates", "the planets", "trains", "knights", "volcanoes",
                       "mushrooms", "magic tricks"))
    accident = world.one(("fell into the bathtub", "was left out in the rain", "was chewed by the "
                          "dog", "got jam all over its pages"))
    days = world.one(words.NUMBERS)
    pay = world.one(("put books back on the shelves", "dusted the shelves", "read stories to the "
                     "little ones", "glued labels on new books"))
    story.add(opening(hero),
              f"{hero} loved books. In the library {hero.he} borrowed a big book about {title}.",
              say("the librarian", f"Bring it back in {days} days."))
    story.add(f"{hero} read it [at breakfast|on the bus|under the blanket with a flashlight]. "
              f"But then the book {accident}!", sad(hero),
              f"{hero} [hid it under the bed|put it in a drawer]. The {days} days went by, and "
              f"{hero} did not dare to go back.")
    story.add(f"[At night {hero} dreamed of the book.|Every time {hero} passed the library, "
              f"{hero.he} looked away.] At last {hero} took it and went in.",
              say(hero, f"I am sorry. The book {accident}."), sorry(hero),
              say("the librarian",
                  "[Thank you for telling me. You can help me here|Things happen. But you must "
                  "make up for it]."))
    story.add(f"So every afternoon {hero} {pay}. [It turned out to be fun.|{hero} liked it so "
              f"much that {hero.he} stayed on.]", lesson(hero, "it is better to own up at once"),
              ending(hero))
    story.ask("What was the book about?", f"The book was about {title}.")
    story.ask("What happened to the book?", f"The book {accident}.")
    story.ask(f"How did {hero} make up for it?", f"{hero} {pay}.")
    story.about("a library book", f"a {hero.noun} who damaged a book", f"a book about {title}")
    return story
