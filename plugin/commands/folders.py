"""Kinds of folders that commands leave, and no single call does."""

from graticule.hooks.kinds import FolderKind

SIM = FolderKind("simulation", "folder of a simulation", "sim.json", ("parts", "result", "report.html"))
"""What `sim` leaves."""
CERTIFICATE = FolderKind(
    "certificate_run", "folder of a certificate", "request.json", ("parts", "result", "report.html")
)
"""What `certify` leaves."""
DEMO = FolderKind("demo", "folder of the demo", "", ("world_cities", "historical_figures", "report.html"))
"""What `demo` leaves."""
WORDS = FolderKind("words_run", "folder of 'words'", "", ("words*", "languages*", "ambiguous*"))
"""What `words` leaves."""
