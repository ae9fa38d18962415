"""The progress service: scanners' reports of progress, metadata and results. Over REST or on the bus, the same decisions apply."""
