# From a bare checkout: brings nox and uv into .tools and runs a session of noxfile.py.
PYTHON = python3

.PHONY: docs test

docs:
	$(PYTHON) tools/bootstrap.py
	.tools/bin/nox -s docs

test:
	$(PYTHON) tools/bootstrap.py
	.tools/bin/nox -s tests
