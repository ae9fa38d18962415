"""What scanners tell: progress, metadata, results. Over REST or bus, the same commands end in the same decisions here."""
