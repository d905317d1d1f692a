"""Starts and ends what is watched, and keeps its runs."""
