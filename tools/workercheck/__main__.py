"""``python -m workercheck`` is the command `workercheck`."""

from workercheck.fronts.commands.main import main

raise SystemExit(main())
