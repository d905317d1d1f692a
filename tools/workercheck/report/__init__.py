"""Findings for people and machines, and the judgement of a finished build."""
