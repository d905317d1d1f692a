"""The events of a run as typed records, and the reader of a run's evidence."""
