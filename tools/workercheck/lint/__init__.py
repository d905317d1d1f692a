"""Findings about pages and scripts that nobody runs: their code is read and followed, name by name.

Pure: cells in, findings out. What cannot be told from the text counts as healthy.
"""
