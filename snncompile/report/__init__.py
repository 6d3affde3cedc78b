"""The report: `build` makes report.json's content, `terminal` prints it."""
