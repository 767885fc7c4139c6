"""Results for people and programs: report.json, text, HTML and pictures. Nothing here writes files."""
