"""Reports of a comparison: an HTML page, Markdown, a picture and a summary sentence."""

from ibkd_retrieval.evaluation.report.sentence import summary_sentence
from ibkd_retrieval.evaluation.report.tables import main_table_html
from ibkd_retrieval.evaluation.report.write import write_report

__all__ = ["main_table_html", "summary_sentence", "write_report"]
