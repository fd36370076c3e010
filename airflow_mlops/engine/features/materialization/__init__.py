"""From the offline to the online store, in chunks, without losing a day."""
