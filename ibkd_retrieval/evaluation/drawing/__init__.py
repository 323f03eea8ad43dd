"""A comparison for people to read: a page, Markdown, a picture, and a sentence."""

from ibkd_retrieval.evaluation.drawing.files import write_report
from ibkd_retrieval.evaluation.drawing.sentence import summary_sentence

__all__ = ["summary_sentence", "write_report"]
