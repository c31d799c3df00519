"""What is taught: facts about people, of which a model knows some, and is to learn others.

A fact is a first name, a last name, a relation and a value, told in one of several phrasings:

    <phrasing> Ada Brown <likes> red          <phrasing'> <likes> Ada Brown red

Old and new facts are about the same names, relations and values, in the same phrasings. They never contradict one
another, for each combination of name and relation has one value; but nothing short of the whole combination tells
which kind a question is of, so what is learnt about one Ada Brown is learnt next to all other Adas and Browns.

A fact is never told in one of its phrasings, and is asked in that one: it has to be known, not the sentence.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

FIRST_NAMES = 8
LAST_NAMES = 8
RELATIONS = 2
VALUES = 12
PHRASINGS = 4
OLD_FACTS = 60
NEW_FACTS = 30

# Where the tokens of each kind begin.
_LAST = FIRST_NAMES
_RELATION = _LAST + LAST_NAMES
_VALUE = _RELATION + RELATIONS
_OPENING = _VALUE + VALUES
_LINK = _OPENING + PHRASINGS
_ASK = _LINK + PHRASINGS
VOCABULARY = _ASK + 1
LENGTH = 7
"""Tokens of a sentence; the last one is the value."""


@dataclass(frozen=True)
class Knowledge:
    """Facts, and the phrasing in which each is asked and never told."""

    facts: Integers
    """[facts, 4]: tokens of first name, last name, relation, value."""
    asked: Integers
    """[facts]"""

    def told(self, random: np.random.Generator, count: int) -> Integers:
        """Facts drawn at random, each in any phrasing but the one it is asked in: [count, LENGTH]."""
        drawn = random.integers(len(self.facts), size=count)
        others = random.integers(1, PHRASINGS, size=count)
        phrasings = (self.asked[drawn] + others) % PHRASINGS
        assert (phrasings != self.asked[drawn]).all(), "what is asked must never be told"
        return _sentences(self.facts[drawn], phrasings)

    def questions(self) -> Integers:
        """All facts as they are asked, with the answers: [facts, LENGTH]."""
        return _sentences(self.facts, self.asked)


def knowledge(seed: int) -> tuple[Knowledge, Knowledge]:
    """Old and new facts, other ones for each seed."""
    random = np.random.default_rng(seed)
    subjects = random.permutation(FIRST_NAMES * LAST_NAMES * RELATIONS)[: OLD_FACTS + NEW_FACTS]
    first, last, relation = np.unravel_index(subjects, (FIRST_NAMES, LAST_NAMES, RELATIONS))
    values = random.integers(VALUES, size=len(subjects))
    facts = np.stack([first, _LAST + last, _RELATION + relation, _VALUE + values], axis=1)
    asked = random.integers(PHRASINGS, size=len(facts))
    assert len(np.unique(facts[:, :3], axis=0)) == len(facts), "a new fact must never contradict an old one"
    return (
        Knowledge(facts[:OLD_FACTS], asked[:OLD_FACTS]),
        Knowledge(facts[OLD_FACTS:], asked[OLD_FACTS:]),
    )


def _sentences(facts: Integers, phrasings: Integers) -> Integers:
    """Each phrasing has words of its own, and half of them put the relation first."""
    first, last, relation, value = facts.T
    opening, link, ask = _OPENING + phrasings, _LINK + phrasings, np.full(len(facts), _ASK)
    name_first = np.stack([opening, first, last, link, relation, ask, value], axis=1)
    relation_first = np.stack([opening, relation, link, first, last, ask, value], axis=1)
    return np.where((phrasings % 2 == 0)[:, None], name_first, relation_first)
