"""The ways in: the Sphinx extension and the command line."""
