"""The flight_delay example's own code beside its features: expectations, contracts, model."""
