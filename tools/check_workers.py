"""Judge a finished build: ``python tools/check_workers.py OUTDIR``. Needs nothing installed."""

from workercheck.cli import main

raise SystemExit(main())
