"""The whole battery on one table: steps that write artefacts, and a page a part."""
