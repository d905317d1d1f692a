"""Judge a finished build: ``python tools/check_workers.py OUTDIR``. Needs nothing installed."""

from workercheck.fronts.commands.main import main

raise SystemExit(main())
