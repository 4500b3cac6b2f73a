"""English sentences for synthetic speech: drawn from a small grammar, distinct, a pure function of the seed."""

import random
import re

# A name in braces is replaced by one of its phrases, which may hold further names.
GRAMMAR = {
    "sentence": [
        "{who} {did} {thing} {where}.",
        "{when}, {who} {did} {thing}.",
        "{when}, {who} {went} {where}, and {who} {did} {thing}.",
        "{who} {did} {thing} because {reason}.",
        "If {reason}, {who} always {does} {thing}.",
        "Why has {who} never {done} {thing} {where}?",
        "Could {who} bring {thing} {where} before {clock}?",
        "{number} {things} and {thing} are waiting {where}.",
        "Please put {thing} and {thing} {where}!",
        "There are {number} {things} {where}, yet {who} {did} only {few}.",
        "Nobody knows whether {who} {did} {thing} or {thing}.",
        "{reason}, so {who} {went} {where}.",
        '"{reason}," said {who}, "and {thing} is {how}."',
        "The {adjective} road {where} is {how}, but {reason}.",
        "At {clock} {who} {did} {thing}, and at {clock} everything was {how}.",
    ],
    "who": [
        "my younger sister",
        "the baker",
        "our neighbour Judith",
        "a tall engineer",
        "the whole orchestra",
        "Captain Moore",
        "the night nurse",
        "an old fisherman",
        "the chess teacher",
        "young Oliver",
        "Professor Zhang",
        "the woman in the yellow coat",
        "her uncle Hugh",
        "the gardener's boy",
        "each of the judges",
        "Vivian",
    ],
    "did": [
        "painted",
        "carried",
        "borrowed",
        "weighed",
        "sketched",
        "polished",
        "forgot",
        "measured",
        "chose",
        "wrapped",
    ],
    "does": [
        "paints",
        "carries",
        "borrows",
        "weighs",
        "sketches",
        "polishes",
        "forgets",
        "measures",
        "chooses",
        "wraps",
    ],
    "done": [
        "painted",
        "carried",
        "borrowed",
        "weighed",
        "sketched",
        "polished",
        "moved",
        "measured",
        "chosen",
        "wrapped",
    ],
    "went": ["walked", "hurried", "sailed", "wandered", "drove", "crept", "rode off", "returned"],
    "thing": [
        "the {adjective} {object}",
        "a {object} full of {stuff}",
        "the {object} from {place}",
        "the {adjective} {object} with its {part}",
        "a pound of {stuff}",
    ],
    "things": ["chairs", "violins", "jars of {stuff}", "ships", "letters", "pigeons", "boxes", "watches", "bridges"],
    "object": [
        "lantern",
        "kettle",
        "wheelbarrow",
        "telescope",
        "basket",
        "drum",
        "jewel case",
        "map",
        "bicycle",
        "umbrella",
        "clock",
        "violin",
        "suitcase",
        "thermometer",
        "ladder",
        "photograph",
    ],
    "adjective": [
        "broken",
        "purple",
        "unusually heavy",
        "smooth",
        "tiny",
        "foreign",
        "beautiful",
        "dusty",
        "square",
        "new",
        "thick",
        "half-finished",
    ],
    "part": [
        "loose hinge",
        "four brass feet",
        "woollen cover",
        "missing key",
        "long shadow",
        "rough edges",
        "blue ribbon",
    ],
    "stuff": [
        "honey",
        "sugar",
        "charcoal",
        "feathers",
        "orange peel",
        "wool",
        "oysters",
        "pepper",
        "flour",
        "cherry jam",
    ],
    "place": [
        "Iceland",
        "the upper floor",
        "Zanzibar",
        "the fish market",
        "Yorkshire",
        "the attic",
        "our village school",
    ],
    "where": [
        "behind the station",
        "under the oak tree",
        "across the frozen lake",
        "on the top shelf",
        "near the museum",
        "in the narrow passage",
        "between two quiet hills",
        "beside the southern gate",
        "along the canal",
        "at the edge of the forest",
        "through the vineyard",
        "outside the theatre",
    ],
    "when": [
        "Last Thursday",
        "On a foggy morning",
        "Just before noon",
        "During the long strike",
        "Every other week",
        "After the concert",
        "In the year nineteen {number}",
        "Once the storm had passed",
        "At the end of February",
    ],
    "clock": ["half past {number}", "a quarter to {number}", "{number} o'clock", "midnight", "dusk"],
    "reason": [
        "the river had risen overnight",
        "there was hardly any light",
        "the children asked for music",
        "the measure of it is simple",
        "the train is late again",
        "nothing else would fit",
        "the judge would not change his view",
        "it smelled of smoke and vinegar",
        "both engines were too hot",
        "the weather should stay fair",
        "we had enough to share",
    ],
    "number": ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"],
    "few": ["one", "half of them", "the largest", "a dozen"],
    "how": [
        "ready",
        "quite empty",
        "as cold as ice",
        "rather expensive",
        "perfectly still",
        "worth a visit",
        "far too loud",
    ],
}
TRIES = 100  # a sentence; a draw that was seen before is thrown away


def sentences(count: int, seed: int) -> list[str]:
    """`count` distinct sentences; the first ones of a longer list are those of a shorter one.

    Raises:
        ValueError: the grammar does not give so many.
    """
    rng = random.Random(seed)
    drawn: dict[str, None] = {}
    for _ in range(TRIES * count):
        if len(drawn) == count:
            break
        sentence = _expand("{sentence}", rng)
        drawn[re.sub("[a-z]", lambda letter: letter[0].upper(), sentence, count=1)] = None
    if len(drawn) < count:
        raise ValueError(f"{count} distinct sentences are too many: after {TRIES * count} draws there are {len(drawn)}")
    return list(drawn)


def _expand(template: str, rng: random.Random) -> str:
    """Fill the braces of `template`, and those within what fills them."""
    return re.sub(r"\{(\w+)\}", lambda name: _expand(rng.choice(GRAMMAR[name[1]]), rng), template)
