"""Embedded, endless prompts with verifiable instructions, to train on what IFEval measures without its prompts.

Topics, requests and the words of each instruction are our own and belong to one split each, so that a policy is judged on
sentences it never saw. Every prompt can be followed in about 60 tokens. The verifiers and the metadata are those of `ifeval`;
the four instruction types that need a package of the extra `tasks` (language, case in English, number of sentences) are left
out.
"""

import itertools
import random
from collections.abc import Callable
from typing import Any

from adaptive_jax.tasks.problem import Problem

DEFAULT_LIMIT = 1000
PAIRS = 0.5

# the wordings of an instruction, in the order of `_WORDINGS`: two for training, one each for the other splits
SPLITS = {"train": (0, 1), "validation": (2,), "test": (3,)}
TOPICS = {
    "train": (
        "rain", "bread", "bicycles", "owls", "winter", "tea", "maps", "rivers", "trains", "chess", "honey", "clouds", "shoes",
        "libraries", "mountains", "soup", "candles", "football", "whales", "bridges", "potatoes", "kites", "clocks", "sleep",
        "islands", "paint", "horses", "snow", "cheese", "radios", "forests", "pianos",
    ),
    "validation": ("lakes", "pencils", "apples", "bees", "kitchens", "buses", "moonlight", "gloves", "jazz", "deserts"),
    "test": ("windmills", "coffee", "turtles", "gardens", "letters", "thunder", "museums", "bakeries", "foxes", "sailing"),
}  # fmt: skip
REQUESTS = {
    "train": (
        "Tell me something about {}.", "Write one short remark on {}.", "Why do people like {}?",
        "Make up a tiny story about {}.",
        "Give a piece of advice that has to do with {}.", "Describe {} to a child.",
        "What comes to your mind when you hear of {}?",
        "Write a line about {} for a postcard.",
    ),
    "validation": ("State a fact about {} in brief.", "Invent a slogan for a club of friends of {}.",
    "How would you explain {}?"),
    "test": ("Share a quick thought on {}.", "What makes {} interesting?", "Write a short note to a friend who loves {}."),
}  # fmt: skip
WORDS = {
    "train": ("blue", "morning", "quiet", "simple", "together", "window", "green", "travel", "music", "stone", "warm", "road"),
    "validation": ("silver", "evening", "gentle", "basket", "corner", "yellow"),
    "test": ("bright", "season", "wooden", "village", "laughter", "river"),
}
AVOIDED = {
    "train": ("very", "good", "because", "always", "many", "people", "really", "great"),
    "validation": ("often", "nice", "never", "also"),
    "test": ("some", "love", "every", "well"),
}
ENDINGS = {
    "train": ("That is all for now.", "So it goes.", "I hope this helps.", "And there you have it."),
    "validation": ("That sums it up.", "More on this another day."),
    "test": ("This is where I stop.", "Now you know."),
}

Arguments = dict[str, Any]
Draw = Callable[[random.Random, str, str], Arguments]
_NUMBERS = ("no", "one", "two", "three", "four")

# type -> the four wordings, and what draws the arguments from (rng, split, request)
_WORDINGS: dict[str, tuple[str, str, str, str]] = {
    "keywords:existence": (
        "Use the word {0}.", "The word {0} has to be in your answer.", "Work in the word {0}.", "Your text must contain {0}.",
    ),
    "keywords:frequency": (
        "Use the word {keyword} {relation} {frequency} times.", "The word {keyword} must appear {relation} {frequency} times.",
        "Let {keyword} occur {relation} {frequency} times.", "Say {keyword} {relation} {frequency} times.",
    ),
    "keywords:forbidden_words": (
        "Do not use the words {0} and {1}.", "The words {0} and {1} are not allowed.", "Avoid both {0} and {1}.",
        "Write without {0} and without {1}.",
    ),
    "keywords:letter_frequency": (
        "Use the letter {letter} {let_relation} {let_frequency} times.",
        "The letter {letter} should appear {let_relation} {let_frequency} times.",
        "Let there be {let_relation} {let_frequency} letters {letter}.", "Write {letter} {let_relation} {let_frequency} times.",
    ),
    "length_constraints:number_words": (
        "Answer in {relation} {num_words} words.", "Your answer must have {relation} {num_words} words.",
        "Write {relation} {num_words} words.", "The whole reply is {relation} {num_words} words long.",
    ),
    "length_constraints:number_paragraphs": (
        "Write {number} paragraphs with *** between them.", "Give {number} very short paragraphs and separate them with ***.",
        "Divide the answer into {number} parts by the line ***.", "Put *** between your {number} paragraphs.",
    ),
    "length_constraints:nth_paragraph_first_word": (
        "Write {number} short paragraphs with an empty line between them; number {nth_paragraph} starts with {first_word}.",
        "Give {number} paragraphs, parted by a blank line. Paragraph {nth_paragraph} must begin with {first_word}.",
        "There are {number} paragraphs, each after an empty line, and {first_word} opens paragraph {nth_paragraph}.",
        "Start paragraph {nth_paragraph} of {number} with {first_word}; leave one line empty between paragraphs.",
    ),
    "detectable_content:number_placeholders": (
        "Leave at least {number} blanks in square brackets, such as [name].",
        "Put at least {number} placeholders like [place] in it.", "Have {number} or more gaps written as [day].",
        "Include {number} or more fields in square brackets, for instance [color].",
    ),
    "detectable_content:postscript": (
        "Add a postscript that starts with {postscript_marker}",
        "After it comes a note that begins with {postscript_marker}",
        "Close with an afterthought marked {postscript_marker}", "Append one more remark after {postscript_marker}",
    ),
    "detectable_format:number_bullet_lists": (
        "Answer with exactly {number} bullet points that start with *.",
        "Make a list of exactly {number} bullets, such as: * item",
        "Your reply is a list with {number} lines that begin with *.",
        "Give {number} points, no more and no less, each after a *.",
    ),
    "detectable_format:constrained_response": (
        "Decide whether you would recommend it: say 'My answer is yes.', 'My answer is no.' or 'My answer is maybe.'",
        "Do you care for it? Include one of: 'My answer is yes.', 'My answer is no.', 'My answer is maybe.'",
        "Take a stand with 'My answer is yes.', 'My answer is no.' or 'My answer is maybe.'",
        "Is it worth your time? Choose 'My answer is yes.', 'My answer is no.' or 'My answer is maybe.'",
    ),
    "detectable_format:number_highlighted_sections": (
        "Highlight at least {number} phrases with stars, like *this*.", "Set {number} or more parts in *stars*.",
        "Mark at least {number} pieces of the text as *important*.", "Emphasise {number} or more bits of it with *asterisks*.",
    ),
    "detectable_format:multiple_sections": (
        "Write {number} sections, headed {section_spliter} 1, {section_spliter} 2 and so on.",
        "Use {number} headings: {section_spliter} 1 and what follows.",
        "Number its {number} pieces as {section_spliter} 1 etc.",
        "It has {number} portions that start with {section_spliter} 1, {section_spliter} 2 ...",
    ),
    "detectable_format:json_format": (
        "Give the answer as JSON only.", "The whole answer must be one valid JSON object.", "Reply in JSON and nothing else.",
        "Output a JSON value, without any text around it.",
    ),
    "detectable_format:title": (
        "Put a title in double angular brackets, such as <<My day>>.", "Start with a title like <<A title>>.",
        "Give it a heading written <<so>>.", "It needs a name between << and >>.",
    ),
    "combination:two_responses": (
        "Give two different answers and put ****** between them.", "I want two distinct answers, parted by ******.",
        "Answer twice, in different ways, with ****** in the middle.", "Offer a second version after the line ******.",
    ),
    "combination:repeat_prompt": (
        "First repeat the request above word for word, then answer it.",
        "Before you answer, copy the sentence above unchanged.",
        "Begin by restating the line above exactly.", "Your reply opens with the exact words of my first sentence.",
    ),
    "startend:end_checker": (
        "End with the exact words: {end_phrase}", "The last words must be: {end_phrase}", "Finish by saying: {end_phrase}",
        "Nothing may follow this closing sentence: {end_phrase}",
    ),
    "startend:quotation": (
        "Wrap the whole answer in double quotation marks.", "Put your entire answer between double quotes.",
        "Enclose everything you write in double quotation marks.", "Open and close the reply with a double quote.",
    ),
    "change_case:capital_word_frequency": (
        "Write {capital_relation} {capital_frequency} words in capital letters.",
        "Use {capital_relation} {capital_frequency} words in which every letter is a capital.",
        "Have {capital_relation} {capital_frequency} fully capitalised words.",
        "Let {capital_relation} {capital_frequency} words be all in capitals.",
    ),
    "punctuation:no_comma": ("Do not use commas.", "There must be no comma in it.", "Leave out all commas.",
    "Write it comma-free."),
}  # fmt: skip


def _nothing(rng: random.Random, split: str, request: str) -> Arguments:
    return {}


def _counted(name: str, counts: tuple[int, ...], **fixed: Any) -> Draw:
    return lambda rng, split, request: {name: rng.choice(counts), **fixed}


def _number_words(rng: random.Random, split: str, request: str) -> Arguments:
    if rng.random() < 0.5:
        return {"relation": "less than", "num_words": rng.randrange(20, 40)}
    return {"relation": "at least", "num_words": rng.randrange(8, 28)}


def _letter_frequency(rng: random.Random, split: str, request: str) -> Arguments:
    if rng.random() < 0.5:
        return {"letter": rng.choice("bgkmpw"), "let_relation": "less than", "let_frequency": rng.randrange(2, 5)}
    return {"letter": rng.choice("aeinorst"), "let_relation": "at least", "let_frequency": rng.randrange(4, 9)}


_DRAWS: dict[str, Draw] = dict.fromkeys(_WORDINGS, _nothing) | {
    "keywords:existence": lambda rng, split, request: {"keywords": [rng.choice(WORDS[split])]},
    "keywords:frequency": lambda rng, split, request: {
        "relation": "at least",
        "keyword": rng.choice(WORDS[split]),
        "frequency": rng.choice((2, 3)),
    },
    "keywords:forbidden_words": lambda rng, split, request: {"forbidden_words": sorted(rng.sample(AVOIDED[split], 2))},
    "keywords:letter_frequency": _letter_frequency,
    "length_constraints:number_words": _number_words,
    "length_constraints:number_paragraphs": _counted("num_paragraphs", (2, 3)),
    "length_constraints:nth_paragraph_first_word": lambda rng, split, request: {
        "num_paragraphs": 2,
        "nth_paragraph": rng.choice((1, 2)),
        "first_word": rng.choice(WORDS[split]),
    },
    "detectable_content:number_placeholders": _counted("num_placeholders", (1, 2, 3)),
    "detectable_content:postscript": lambda rng, split, request: {"postscript_marker": rng.choice(("P.S.", "P.P.S"))},
    "detectable_format:number_bullet_lists": _counted("num_bullets", (2, 3, 4)),
    "detectable_format:number_highlighted_sections": _counted("num_highlights", (1, 2, 3)),
    "detectable_format:multiple_sections": lambda rng, split, request: {
        "section_spliter": rng.choice(("Section", "Part", "Step")),
        "num_sections": rng.choice((2, 3)),
    },
    "combination:repeat_prompt": lambda rng, split, request: {"prompt_to_repeat": request},
    "startend:end_checker": lambda rng, split, request: {"end_phrase": rng.choice(ENDINGS[split])},
    "change_case:capital_word_frequency": _counted("capital_frequency", (2, 3, 4), capital_relation="at least"),
}

# What may not stand together: two that shape the whole text, and pairs in which one may force what the other forbids
_SHAPES = (
    "length_constraints:number_paragraphs", "length_constraints:nth_paragraph_first_word",
    "detectable_format:number_bullet_lists", "detectable_format:multiple_sections", "detectable_format:json_format",
    "detectable_format:title", "combination:two_responses", "combination:repeat_prompt", "startend:quotation",
)  # fmt: skip
_APART = {frozenset(pair) for pair in itertools.combinations(_SHAPES, 2)} | {
    frozenset((left, right))
    for left, rights in {
        # the star of a bullet pairs with the first of a highlight
        "detectable_format:number_bullet_lists": ("detectable_format:number_highlighted_sections",),
        "detectable_format:json_format": ("detectable_content:postscript", "startend:end_checker"),
        "combination:repeat_prompt": ("keywords:forbidden_words", "length_constraints:number_words"),
        "keywords:letter_frequency": (
            "keywords:existence", "keywords:frequency", "startend:end_checker", "detectable_content:postscript",
            "detectable_format:constrained_response", *_SHAPES,
        ),
    }.items()
    for right in rights
}  # fmt: skip


def problems(split: str = "test", limit: int | None = None) -> list[Problem]:
    """The first problems of a split, in an order that never changes: single instructions and pairs, no question twice.

    Args:
      split: "train", "validation" or "test"; they differ in topics, requests and wordings.
      limit: how many; `DEFAULT_LIMIT` without.

    Raises:
      ValueError: an unknown split, or a limit below 1.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: the instructions task has {', '.join(sorted(SPLITS))}")
    limit = DEFAULT_LIMIT if limit is None else limit
    if limit < 1:
        raise ValueError(f"limit {limit}: give at least 1")
    found: dict[str, Problem] = {}
    for number in itertools.count():
        problem = _problem(split, number)
        found.setdefault(problem.question, problem)
        if len(found) == limit:
            return list(found.values())
    raise AssertionError("unreachable: the numbers never end")


def _problem(split: str, number: int) -> Problem:
    rng = random.Random(f"instructions/{split}/{number}")  # a text seeds it by its SHA-512: the same everywhere
    request = rng.choice(REQUESTS[split]).format(rng.choice(TOPICS[split]))
    names = [rng.choice(list(_WORDINGS))]
    if rng.random() < PAIRS:
        names.append(rng.choice([name for name in _WORDINGS if name != names[0] and frozenset((name, names[0])) not in _APART]))
    kwargs = [_DRAWS[name](rng, split, request) for name in names]
    asked = [_worded(rng, split, name, arguments) for name, arguments in zip(names, kwargs, strict=True)]
    if names[0] in ("startend:end_checker", "detectable_content:postscript"):
        asked.reverse()  # its sentence ends with what must be copied, which another sentence would blur
    question = "\n".join([request, *asked])
    metadata = {"instruction_id_list": names, "kwargs": kwargs}
    return Problem(f"instructions/{split}/{number}", question, "", "instructions", metadata=metadata)


def _worded(rng: random.Random, split: str, name: str, arguments: Arguments) -> str:
    wording = _WORDINGS[name][rng.choice(SPLITS[split])]
    listed = next((value for value in arguments.values() if isinstance(value, list)), [])
    count = next((value for key, value in arguments.items() if key.startswith("num_") and key != "num_words"), 0)
    return wording.format(*listed, number=_NUMBERS[count], **arguments)
