"""The flight_delay example's own code: expectations, features, model."""
