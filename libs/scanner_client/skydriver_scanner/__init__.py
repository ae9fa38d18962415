"""What a scanner server needs to talk to SkyDriver, and nothing else: importable without any other package of ours."""
