"""Packaged tables and map lines; README.md beside this file gives sources and licences."""
