"""The whole battery on one table: steps that write artefacts, and one page per part."""
