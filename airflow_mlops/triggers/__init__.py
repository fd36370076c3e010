"""Triggers: what the triggerer polls for the sensors."""
