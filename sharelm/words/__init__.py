"""Words, made last: sentences of findings from a catalogue, and the five lines a manager reads."""

from sharelm.words.headline import Line, headline
from sharelm.words.say import lack, listed, name_of, render, say, sentence, spoken, why

__all__ = ["Line", "headline", "lack", "listed", "name_of", "render", "say", "sentence", "spoken", "why"]
