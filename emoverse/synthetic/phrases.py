"""List the sample's invented phrases; `{thing}` and `{place}` come from a conversation's topic."""

from typing import Final

import numpy as np

BY_EMOTION: Final[dict[str, tuple[str, ...]]] = {
    "neutral": (
        "I put {thing} in {place} this morning.",
        "The meeting about {thing} is at four.",
        "I think {thing} costs about forty.",
        "We can take the bus to {place}.",
        "It is on the second shelf in {place}.",
        "I will check {place} after lunch.",
        "It says here that {place} opens at nine.",
        "They asked for the number of {place}.",
        "I usually bring {thing} on Tuesdays.",
    ),
    "joy": (
        "I am so happy about {thing}!",
        "Yes! It worked, {thing} is wonderful!",
        "You made my day with {thing}.",
        "This is the best news about {thing} all year.",
        "I could dance around {place} right now.",
        "Ha, {thing} is brilliant, well done!",
        "I love how {thing} looks in {place}.",
        "We did it, hurray for {thing}!",
        "I cannot stop smiling about {thing}.",
    ),
    "surprise": (
        "Wait, {thing} was here all along?",
        "What? I had no idea about {thing}!",
        "No way, {thing} in {place}?",
        "I never expected {thing} today.",
        "You did what with {thing}?",
        "Wow, look at the size of {thing}!",
        "Wait, since when is {thing} in {place}?",
        "Wow, I did not see that coming.",
        "Hold on, {thing} moved by itself?",
    ),
    "anger": (
        "How dare you touch {thing}!",
        "I told you to keep out of {place}!",
        "You never listen, not even about {thing}.",
        "I have had enough of {thing} and of you.",
        "Stop lying to me about {thing}!",
        "Who gave you the right to sell {thing}?",
        "I am furious, get out of {place}!",
        "You ruined {thing} and you blame me?",
        "Do not shout at me about {thing}!",
    ),
    "sadness": (
        "I miss {thing} so much already.",
        "It hurts to see {place} so empty.",
        "I cried over {thing} last night.",
        "There is nothing left of {thing} now.",
        "I feel so lonely in {place} these days.",
        "I wish {thing} had not ended like this.",
        "Everyone is gone, {thing} is all I have left.",
        "My heart sinks when I think of {thing}.",
        "I lost {thing}, I am so sorry.",
    ),
    "disgust": (
        "Ugh, what is that smell in {place}?",
        "Yuck, {thing} is covered in slime.",
        "I would not touch {thing} with gloves.",
        "That is revolting, take {thing} away.",
        "Ugh, there is mould all over {thing}.",
        "Yuck, did something rot in {place}?",
        "It turns my stomach, honestly.",
        "Ugh, {thing} is sticky and it reeks.",
        "I cannot look at {thing}, it is revolting.",
    ),
    "fear": (
        "Something is moving behind {thing}.",
        "Please do not leave me alone in {place}.",
        "I am scared to open {thing}.",
        "Run, get away from {place}!",
        "My hands shake when I get near {thing}.",
        "What if {thing} falls on us?",
        "I heard footsteps in {place}.",
        "I am too scared to go near {thing}.",
        "Lock the door, they are coming to {place}.",
    ),
}

GENERIC: Final = (
    "So this is {thing}.",
    "Did you hear about {thing}?",
    "It happened in {place}, just now.",
    "I keep thinking about {thing}.",
    "Just look at {thing}.",
    "Tell me again about {place}.",
    "You know how it is with {thing}.",
    "I do not know what to say.",
    "And then I saw {thing} in {place}.",
)

TAILS: Final[dict[int, tuple[str, ...]]] = {
    1: (
        "That is great.", "It feels good.", "I am glad.", "What a treat.", "Things are looking up.",
        "It is a good day.",
    ),
    0: ("That is all.", "Anyway.", "So it goes.", "As usual."),
    -1: (
        "This is awful.", "It is a mess.", "Nothing good comes of it.", "I hate this.", "What a terrible day.",
        "It only gets worse.",
    ),
}  # fmt: skip
"""Closing phrases by valence: 1 positive, 0 neither, -1 negative."""

TOPICS: Final = (
    ("the piano", "the stairwell"), ("the sailing boat", "the harbour"), ("the wedding cake", "the kitchen"),
    ("the spare key", "the hallway"), ("the old van", "the garage"), ("the exam paper", "the office"),
    ("the puppy", "the garden"), ("the landlord's letter", "the lobby"), ("the school play", "the town hall"),
    ("the guitar", "the attic"), ("the night train", "the station"), ("the lasagne", "the canteen"),
    ("the painting", "the gallery"), ("the parcel", "the post office"), ("the tent", "the campsite"),
    ("the soup", "the diner"), ("the contract", "the bank"), ("the treehouse", "the orchard"),
    ("the camera", "the studio"), ("the costume", "the theatre"), ("the aquarium", "the waiting room"),
    ("the bicycle", "the courtyard"), ("the trophy", "the gym"), ("the jukebox", "the bar"),
)  # fmt: skip
"""(thing, place) of conversations among the cast."""

REVIEWS: Final = (
    ("this film", "the cinema"), ("this phone", "the shop"), ("this novel", "the library"),
    ("the new album", "the club"), ("the last episode", "the living room"), ("this recipe", "the kitchen"),
    ("the lecture", "the campus"), ("this game", "the arcade"), ("the interview", "the newsroom"),
    ("the hotel", "the resort"), ("the insurance plan", "the clinic"), ("the concert", "the stadium"),
)  # fmt: skip
"""(thing, place) of monologues to a camera."""


OWN_SHARE: Final = 0.62
GENERIC_SHARE: Final = 0.24
TAIL_SHARE: Final = 0.60
VALENCES: Final = {"neutral": 0, "joy": 1, "anger": -1, "sadness": -1, "disgust": -1, "fear": -1}
"""Valence an emotion implies; surprise implies none."""


def valence_of(emotion: str, rng: np.random.Generator) -> int:
    """Return 1, 0 or -1; surprise is drawn either way with equal odds."""
    if emotion == "surprise":
        return 1 if rng.random() < 0.5 else -1
    return VALENCES[emotion]


def make_text(emotion: str, valence: int, topic: tuple[str, str], used: set[str], rng: np.random.Generator) -> str:
    """Return an utterance about a topic (thing, place) without phrases in `used`, to which it adds its own."""
    draw = rng.random()
    if draw < OWN_SHARE:
        bank = BY_EMOTION[emotion]
    elif draw < OWN_SHARE + GENERIC_SHARE:
        bank = GENERIC
    else:
        others = [name for name in BY_EMOTION if name != emotion]
        bank = BY_EMOTION[others[int(rng.integers(len(others)))]]
    parts = [_pick(bank, used, rng)]
    if rng.random() < TAIL_SHARE:
        parts.append(_pick(TAILS[valence], used, rng))
    return " ".join(parts).format(thing=topic[0], place=topic[1])


def _pick(bank: tuple[str, ...], used: set[str], rng: np.random.Generator) -> str:
    fresh = [phrase for phrase in bank if phrase not in used] or list(bank)
    phrase = fresh[int(rng.integers(len(fresh)))]
    used.add(phrase)
    return phrase
