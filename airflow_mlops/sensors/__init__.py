"""Sensors that look once and then wait in the triggerer."""
