"""`python -m graticule`: the command line, where no script is on the path."""

import sys

from graticule.cli import main

sys.exit(main())
