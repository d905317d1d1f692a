"""Run the pages as their readers do, and note what came of it.

    nox -s readers -- [options] [PAGE …]

Every page is run as a notebook, in a kernel, and as a script, in a terminal, as downloaded: on
every Python that is there, under every start method. What each run came to is kept in
`docs/readers.json`, from which the site shows a table; a run of one page, or on one Python,
changes only its own entries.

A start method is set from outside: a line in the environment's site-packages makes it the default
before the page begins, as if that were the platform's.

Exits with 0 when all that ran works or is explained by the page, 1 otherwise.
"""
