"""The text that activations are measured on where none is given.

Short, and of several kinds (tale, talk, prose, numbers, a list), because the maximum is what
counts: a kind of text that was not seen may be louder, and is then clipped. Whoever knows what a
model will read calibrates on that (`--calibrate FILE`).
"""

CALIBRATION_TEXT = """\
Once upon a time there was a little girl named Lily. She lived in a small house at the edge of a \
big forest. One day she found a red ball under a tree. "Whose ball is this?" she asked. A small \
brown dog came out from behind the tree and wagged his tail. "It must be yours!" said Lily, and \
she threw it as far as she could. The dog ran and ran, and when he came back they were friends.

Tom wanted to bake a cake for his grandmother. He took two eggs, some flour, sugar and milk, and \
stirred until his arm was tired. "Be careful, the oven is hot," said Mum. When the cake was done, \
it had fallen in on one side. Tom was sad. Then he had an idea: he put strawberries into the \
hole, so that it looked like a nest. Grandmother laughed. "That is the best cake I ever had."

The old lighthouse keeper climbed the stairs every evening, ninety-six of them, and lit the lamp. \
In winter the wind was so loud that he could not hear his own steps. He wrote down every ship: \
its name, the hour, and where it was going. In forty years not one of them had been lost.

A bear, a fox and a rabbit shared a garden. The bear dug, the fox watered, and the rabbit, who \
was the smallest, told the carrots stories so that they would grow. "That does not help," said \
the fox. But in autumn the carrots next to the rabbit's chair were the longest of all.

"Why is the sky dark at night?" asked Ben. "Because the sun is on the other side," said his \
father. "Then who switches on the stars?" His father thought for a while. "They are always on. \
We can only see them when it is dark enough." Ben nodded and closed his eyes.

There are 7 days in a week, 12 months in a year, and 365 days, or 366 in a leap year. If a train \
leaves at 9:40 and takes 2 hours and 35 minutes, it arrives at 12:15. Half of 250 is 125; three \
times 14 is 42; and 1,000 divided by 8 is 125.

Things to bring: a warm coat, one pair of boots, bread and cheese, a map, matches, a rope, and \
something to read. Water boils at 100 degrees, but on a high mountain it boils earlier, which is \
why potatoes take so long up there.

A gate decides which experts see a word. Each of them is a small network of its own, and only a \
few are asked at a time; the rest of them sleep. That is how a large model can answer quickly.
"""
