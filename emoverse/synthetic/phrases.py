"""List the sample's invented phrases; `{thing}` and `{place}` come from a conversation's topic."""

from typing import Final

import numpy as np

BY_EMOTION: Final[dict[str, tuple[str, ...]]] = {
    "neutral": (
        "I put {thing} in {place} this morning.",
        "The meeting about {thing} is at four.",
        "I think {thing} costs about forty.",
        "We can take the bus to {place}.",
        "It is on a shelf in {place}.",
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
        "Wow, I did not see {thing} coming.",
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
        "Never shout at me about {thing}!",
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
        "{thing} turns my stomach, honestly.",
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
        "Lock {place}, they are coming.",
    ),
}

AMBIGUOUS: Final[dict[tuple[str, ...], tuple[str, ...]]] = {
    ("joy", "anger"): (
        "I will never forget what you did with {thing}.",
        "You really did that to {thing}.",
        "I told everyone in {place} what you did.",
        "So it was you who brought {thing}.",
        "Look me in the eye and say that about {thing} again.",
    ),
    ("joy", "sadness"): (
        "There were tears in my eyes because of {thing}.",
        "I thought about {thing} all night.",
        "We will not see a day like that in {place} again.",
        "That was the last time we had {thing}.",
        "I kept one picture of {thing} for you.",
    ),
    ("joy", "disgust"): (
        "I have never tasted anything like {thing}.",
        "I could tell {thing} from the whole of {place}.",
        "Nobody in {place} smells like you do today.",
    ),
    ("joy", "fear"): (
        "My heart was racing all the way to {place}.",
        "I could not breathe when I saw {thing}.",
        "My knees went weak in {place}.",
    ),
    ("joy", "surprise"): (
        "They gave {thing} to me, just like that.",
        "Guess who is in {place}.",
        "You did all this with {thing}?",
    ),
    ("surprise", "fear"): (
        "Did you hear that, over in {place}?",
        "{thing} was not there a minute ago.",
        "The door of {place} opened, and there was no one.",
        "Wait, what is that behind {thing}?",
    ),
    ("disgust", "fear"): (
        "I am not going into {place}.",
        "Please keep {thing} away from me.",
        "There is something in {thing}, I saw it crawl.",
    ),
    ("anger", "disgust"): (
        "Take {thing} out of {place} at once.",
        "Who left {thing} like this?",
        "I do not want to see {thing} again.",
    ),
    ("anger", "sadness"): (
        "You left me alone with {thing}.",
        "After all these years, {thing} means so little to you.",
        "You could have told me about {thing}.",
    ),
    ("surprise", "anger"): (
        "You sold {thing}?",
        "You were in {place} the whole time?",
        "What did you just say about {thing}?",
    ),
}
"""Phrases that fit several emotions, which the face tells apart."""

GENERIC: Final = (
    "So this is {thing}.",
    "Did you hear about {thing}?",
    "It happened in {place}, just now.",
    "I keep thinking about {thing}.",
    "Just look at {thing}.",
    "Tell me again about {place}.",
    "You know how it is with {thing}.",
    "People talk about {thing}.",
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
    ("the ladder", "the cellar"), ("the mirror", "the salon"), ("the sledge", "the barn"),
    ("the radio", "the lighthouse"), ("the statue", "the museum"), ("the carpet", "the market"),
)  # fmt: skip
"""(thing, place) of conversations among the cast."""

TEST_TOPICS: Final = (
    ("the violin", "the chapel"), ("the canoe", "the boathouse"), ("the birthday cake", "the bakery"),
    ("the passport", "the airport"), ("the tractor", "the farm"), ("the diploma", "the school"),
    ("the kitten", "the balcony"), ("the invitation", "the hotel lobby"), ("the rehearsal", "the ballroom"),
    ("the drum", "the basement"),
)  # fmt: skip
"""The same for test splits: else short dialogues about the same things would say the same words."""

REVIEWS: Final = (
    ("this film", "the cinema"), ("this phone", "the shop"), ("this novel", "the library"),
    ("the new album", "the club"), ("the last episode", "the living room"), ("this recipe", "the kitchen"),
    ("the lecture", "the campus"), ("this game", "the arcade"), ("the interview", "the newsroom"),
    ("the hotel", "the resort"), ("the insurance plan", "the clinic"), ("the concert", "the stadium"),
)  # fmt: skip
"""(thing, place) of monologues to a camera."""

TEST_REVIEWS: Final = (
    ("this laptop", "the warehouse"), ("the podcast", "the bedroom"), ("this restaurant", "the old town"),
    ("the musical", "the opera"), ("this jacket", "the boutique"),
)  # fmt: skip
"""The same for the test split."""


PLAIN_SHARE: Final = 0.42
"""Share of utterances whose words fit one emotion."""
AMBIGUOUS_SHARE: Final = 0.80
GENERIC_SHARE: Final = 0.12
"""Shares of the others whose words fit several emotions, or any; the rest fit another emotion."""
TAIL_SHARE: Final = 0.08
"""Share of utterances with a closing phrase where the emotion implies a valence."""
SURPRISE_TAIL_SHARE: Final = 0.65
"""The same for surprise, of which the face says, too, whether it is a good one."""
NEUTRAL_TAIL_SHARE: Final = 0.9
"""The same for a neutral emotion with a valence, which the words alone say."""
VALENCES: Final = {"neutral": 0, "joy": 1, "anger": -1, "sadness": -1, "disgust": -1, "fear": -1}
"""Valence an emotion implies; surprise implies none."""


def valence_of(emotion: str, rng: np.random.Generator) -> int:
    """Return 1, 0 or -1; two surprises of three are good."""
    if emotion == "surprise":
        return 1 if rng.random() < 2 / 3 else -1
    return VALENCES[emotion]


def make_text(
    emotion: str, valence: int, plain: bool, topic: tuple[str, str], used: set[str], rng: np.random.Generator
) -> str:
    """Return an utterance about a topic.

    Args:
        emotion: Its emotion.
        valence: 1 positive, 0 neither, -1 negative.
        plain: Whether the words fit this emotion alone; a neutral remark mostly does.
        topic: (thing, place).
        used: Phrases not to use again; those of the utterance are added.
        rng: Source of randomness.
    """
    parts = [_pick(_bank(emotion, plain, rng), used, rng)]
    if rng.random() < _tail_share(emotion, valence):
        parts.append(_pick(TAILS[valence], used, rng))
    text = " ".join(parts).format(thing=topic[0], place=topic[1])
    return text[0].upper() + text[1:]


def _tail_share(emotion: str, valence: int) -> float:
    if emotion == "surprise":
        return SURPRISE_TAIL_SHARE
    return TAIL_SHARE if valence == VALENCES[emotion] else NEUTRAL_TAIL_SHARE


def _bank(emotion: str, plain: bool, rng: np.random.Generator) -> tuple[str, ...]:
    """Draw a list of phrases; a neutral remark is never ambiguous."""
    if plain:
        return BY_EMOTION[emotion]
    draw = rng.random()
    # Twice where joy is meant, too: else the words would leave the emotion open and still tell its valence.
    shared = [
        bank for emotions, bank in AMBIGUOUS.items() if emotion in emotions for _ in range(1 + ("joy" in emotions))
    ]
    if draw < AMBIGUOUS_SHARE:
        return shared[int(rng.integers(len(shared)))] if shared else BY_EMOTION[emotion]
    if draw < AMBIGUOUS_SHARE + GENERIC_SHARE:
        return GENERIC
    others = [name for name in BY_EMOTION if name != emotion]
    return BY_EMOTION[others[int(rng.integers(len(others)))]]


def _pick(bank: tuple[str, ...], used: set[str], rng: np.random.Generator) -> str:
    fresh = [phrase for phrase in bank if phrase not in used] or list(bank)
    phrase = fresh[int(rng.integers(len(fresh)))]
    used.add(phrase)
    return phrase
