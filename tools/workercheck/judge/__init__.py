"""Steps and events in, findings out. Pure: no files, no notebooks, no Sphinx."""
